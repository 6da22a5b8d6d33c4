"""The folder of a registered version: what goes in, its manifest, and the check before anything is loaded.

MLmodel, requirements.txt, ...       MLflow's own
loader.py                            three lines that hand our wrapper to MLflow
code/registry, code/mlprojects       the code this version runs: the family, blocks, what inference needs
artifacts/model/spec.json            the ModelSpec; beside it whatever the family saved (safetensors, JSON)
manifest.json                        sha256 and size of every other file
"""

import hashlib
import importlib.util
import json
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from registry.contract import ModelSpec
from registry.errors import CodeMismatch, Corrupt
from registry.loading import save_spec

MANIFEST = "manifest.json"
FORMAT = 1
MODEL_DIR = "artifacts/model"
INFERENCE = ("__init__", "wire", "errors", "bars", "contract", "calendars", "volatility", "loading", "artifacts",
             "pyfunc")  # fmt: skip
SHARED = "blocks"  # the folder of mlprojects that every version holds beside its families
MLFLOWS = "registered_model_meta"  # MLflow writes it into the folder when it resolves models:/
CACHE = "__pycache__"  # Python writes it when plain MLflow imports the version's code from its folder

LOADER = '''"""Hands this version's forecaster to MLflow (models from code)."""

from mlflow.models import set_model

from registry.pyfunc import ForecastModel

set_model(ForecastModel())
'''


def stage(directory: Path, checkout: Path, spec: ModelSpec, save: Callable[[Path], None]) -> dict[str, Any]:
    """Lay out loader, code and model under `directory`; returns what `mlflow.pyfunc.save_model` takes.

    `save(path)` writes the family's own files. Only Python sources are copied as code.
    """
    code, model = directory / "code", directory / "model"
    model.mkdir(parents=True)
    for name in INFERENCE:
        _copy(checkout / "registry" / f"{name}.py", code / "registry" / f"{name}.py")
    for folder in (spec.family, *spec.uses, SHARED):
        for source in sorted((checkout / "mlprojects" / folder).glob("*.py")):
            _copy(source, code / "mlprojects" / folder / source.name)
    (directory / "loader.py").write_text(LOADER)
    save(model)
    save_spec(spec, model)
    return {
        "python_model": str(directory / "loader.py"),
        "code_paths": [str(code / "registry"), str(code / "mlprojects")],
        "artifacts": {"model": str(model)},
    }


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(files: Mapping[str, str]) -> str:
    """One sha256 over sorted 'path sha256' lines."""
    return hashlib.sha256("".join(f"{p} {files[p]}\n" for p in sorted(files)).encode()).hexdigest()


def code_digest(checkout: Path, *families: str) -> str:
    """Digest of the code that a version of these families would hold if it were staged from `checkout` now."""
    names = [f"registry/{name}.py" for name in INFERENCE]
    for folder in (*families, SHARED):
        names += [f"mlprojects/{folder}/{p.name}" for p in (checkout / "mlprojects" / folder).glob("*.py")]
    return digest({f"code/{name}": sha256(checkout / name) for name in names})


def build_manifest(root: Path) -> dict[str, Any]:
    """Manifest of a logged version: every file under `root` but the manifest and MLflow's litter."""
    hashes = {p: sha256(root / p) for p in _files(root)}
    files = {p: {"sha256": hashes[p], "size": (root / p).stat().st_size} for p in hashes}
    code = {p: hashes[p] for p in hashes if p.startswith("code/")}
    return {"format": FORMAT, "code_digest": digest(code), "files": files}


def seal(root: Path) -> str:
    """Write the manifest of the version at `root`, which is complete but for it; returns the manifest's sha256."""
    _drop_caches(root)
    (root / MANIFEST).write_text(json.dumps(build_manifest(root), indent=1, sort_keys=True) + "\n")
    return sha256(root / MANIFEST)


def read_manifest(root: Path) -> dict[str, Any]:
    """Manifest of a version that was verified before."""
    manifest: dict[str, Any] = json.loads((root / MANIFEST).read_bytes())
    return manifest


def _files(root: Path) -> list[str]:
    found = [p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file() or p.is_symlink()]
    return sorted(p for p in found if p not in (MANIFEST, MLFLOWS) and CACHE not in p.split("/"))


def _drop_caches(root: Path) -> None:
    """Remove the bytecode that Python left beside the version's sources: it would run it unchecked."""
    for cache in root.rglob(CACHE):
        shutil.rmtree(cache, ignore_errors=True)


def verify(root: Path, *, manifest_sha256: str | None = None) -> dict[str, Any]:
    """Manifest of the version at `root`, after every byte was compared with it.

    `manifest_sha256` is what the registry recorded, so that the manifest itself cannot be exchanged. Bytecode caches
    are no part of a version and are removed.
    Raises Corrupt naming the first file that is missing, unexpected or different.
    """
    _drop_caches(root)
    path = root / MANIFEST
    if not path.is_file():
        raise Corrupt(f"{path} is missing: this version was not logged by Kronos Registry, or is damaged")
    if manifest_sha256 is not None and sha256(path) != manifest_sha256:
        raise Corrupt(f"{path} is not the manifest that was registered; do not load this version, train it again")
    try:
        manifest: dict[str, Any] = json.loads(path.read_bytes())
        files: dict[str, dict[str, Any]] = manifest["files"]
        if manifest["format"] != FORMAT:
            raise Corrupt(f"{path} has format {manifest['format']}, this code reads {FORMAT}")
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt(f"{path} cannot be read as a manifest") from error
    found = _files(root)
    for name in sorted(set(files) | set(found)):
        if name not in files:
            raise Corrupt(f"{root / name} does not belong to this version: it is not in {MANIFEST}")
        if name not in found:
            raise Corrupt(f"{root / name} is missing; {MANIFEST} lists it")
        if (root / name).is_symlink() or sha256(root / name) != files[name]["sha256"]:
            raise Corrupt(f"{root / name} differs from what was registered (sha256); do not load this version")
    return manifest


def check_code(manifest: Mapping[str, Any]) -> None:
    """Raise CodeMismatch unless this process would run exactly the code that the version holds.

    Python imports a name once per process: a second version with other code would silently run the first one's.
    """
    for name, entry in manifest["files"].items():
        if not name.startswith("code/"):
            continue
        module = name.removeprefix("code/").removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        origin = _origin(module)
        if origin is None or sha256(origin) != entry["sha256"]:
            where = origin or "nowhere"
            raise CodeMismatch(f"{module} would run from {where}, which is not the code this version was logged with")


def _origin(module: str) -> Path | None:
    """File that `import module` runs in this process."""
    loaded = sys.modules.get(module)
    if loaded is not None and getattr(loaded, "__file__", None):
        return Path(str(loaded.__file__))
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return None
    return Path(spec.origin) if spec is not None and spec.origin else None
