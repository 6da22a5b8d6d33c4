"""The manifest of a version: sha256 and size of every file, checked before anything is loaded.

It also lists the version's code, so that a process can check whether it would run that very code.
"""

import hashlib
import importlib.util
import json
import re
import shutil
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from registry.errors import CodeMismatch, Corrupt

MANIFEST = "manifest.json"
MANIFEST_TAG = "manifest_sha256"  # of a version
FORMAT = 1
CODE = "code/"  # the code that the version runs, under its import names
MODEL_DIR = "artifacts/model"
MLFLOWS = "registered_model_meta"  # MLflow writes it into the folder when it resolves models:/
BYTECODE = re.compile(r"\.pyc(\.\d+)?$")  # with digits while Python writes it
CACHE = "__pycache__"  # Python writes it when plain MLflow imports the version's code


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(files: Mapping[str, str]) -> str:
    """One sha256 over sorted 'path sha256' lines."""
    lines = [f"{path} {files[path]}\n" for path in sorted(files)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def seal(root: Path) -> str:
    """Write the manifest of the otherwise complete version at `root`. Returns its sha256."""
    _drop_caches(root)
    (root / MANIFEST).write_text(json.dumps(_build(root), indent=1, sort_keys=True) + "\n")
    return sha256(root / MANIFEST)


def _build(root: Path) -> dict[str, Any]:
    """Manifest of the version's files."""
    hashes = {path: sha256(root / path) for path in _files(root)}
    files = {}
    for path, value in hashes.items():
        files[path] = {"sha256": value, "size": (root / path).stat().st_size}
    code = {path: value for path, value in hashes.items() if path.startswith(CODE)}
    return {"format": FORMAT, "code_digest": digest(code), "files": files}


def read(root: Path) -> dict[str, Any]:
    """Manifest of a version that is already verified."""
    manifest: dict[str, Any] = json.loads((root / MANIFEST).read_bytes())
    return manifest


def _files(root: Path) -> list[str]:
    """Files of a version: all but the manifest and what MLflow and Python add to the folder.

    Raises Corrupt for an entry that is neither a regular file nor a folder of such files.
    """
    paths = [path.relative_to(root).as_posix() for path in _regular_files(root)]
    return sorted(path for path in paths if path not in (MANIFEST, MLFLOWS))


def _regular_files(folder: Path) -> list[Path]:
    """Every file below a folder. Bytecode is left out, since no process of ours reads it."""
    files: list[Path] = []
    for path in sorted(folder.iterdir()):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise Corrupt(f"{path} does not belong to this version: it is no regular file")
        if path.is_file():
            files.append(path)
        elif path.name == CACHE:
            _check_cache(path)
        else:
            inside = _regular_files(path)
            if not inside:
                raise Corrupt(f"{path} does not belong to this version: it is an empty folder")
            files += inside
    return files


def _check_cache(cache: Path) -> None:
    """Raise Corrupt unless a folder holds bytecode only, as Python leaves it.

    Another process may be writing there, so a file may be temporary, or gone by now.
    """
    for path in sorted(cache.iterdir()):
        strange = path.is_symlink() or (path.exists() and not path.is_file())
        if strange or not BYTECODE.search(path.name):
            raise Corrupt(f"{path} does not belong to this version: it is no bytecode")


def _drop_caches(root: Path) -> None:
    """Remove bytecode from a folder that is being made."""
    for cache in root.rglob(CACHE):
        shutil.rmtree(cache)


# --- checks -----------------------------------------------------------------------------------


def verify(root: Path, *, manifest_sha256: str | None = None) -> dict[str, Any]:
    """Manifest of the version at `root`, after every byte was compared with it.

    `manifest_sha256` is the hash that the registry recorded; it protects the manifest itself
    against replacement. Nothing is changed. Raises Corrupt, which names the first file that is
    missing, unexpected or different.
    """
    path = root / MANIFEST
    if not path.is_file():
        raise Corrupt(
            f"{path} is missing: this version was not logged by Kronos Registry, or is damaged"
        )
    if manifest_sha256 is not None and sha256(path) != manifest_sha256:
        raise Corrupt(
            f"{path} is not the manifest that was registered; "
            "do not load this version, train it again"
        )
    manifest = _parsed(path)
    _compare(root, manifest["files"])
    return manifest


def _parsed(path: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads(path.read_bytes())
        version = manifest["format"]
        for entry in manifest["files"].values():
            entry["sha256"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Corrupt(f"{path} cannot be read as a manifest") from error
    if version != FORMAT:
        raise Corrupt(f"{path} has format {version}, this code reads {FORMAT}")
    return manifest


def _compare(root: Path, listed: Mapping[str, Mapping[str, Any]]) -> None:
    present = set(_files(root))
    for name in sorted(present | set(listed)):
        path = root / name
        if name not in listed:
            raise Corrupt(f"{path} does not belong to this version: it is not in {MANIFEST}")
        if name not in present:
            raise Corrupt(f"{path} is missing; {MANIFEST} lists it")
        if sha256(path) != listed[name]["sha256"]:
            raise Corrupt(
                f"{path} differs from what was registered (sha256); do not load this version"
            )


def private_copy(root: Path, folder: Path, manifest_sha256: str) -> None:
    """Copy the files that a version's manifest names, and nothing else, and verify the copy.

    So the bytes that run are those that were verified, and no bytecode is among them. `folder` is
    empty. Raises Corrupt.
    """
    for name in [MANIFEST, *_parsed(root / MANIFEST)["files"]]:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / name, target)
    verify(folder, manifest_sha256=manifest_sha256)


def check_code(manifest: Mapping[str, Any]) -> None:
    """Raise CodeMismatch unless this process would run exactly the version's code.

    Python imports a module name once per process. So a second version with other code would
    silently run the code of the first. The same holds for a file that was edited after this process
    first hashed it.
    """
    for name, entry in manifest["files"].items():
        if not name.startswith(CODE):
            continue
        module = _module(name)
        origin = _origin(module)
        if origin is None or _first_sha256(origin) != entry["sha256"]:
            raise CodeMismatch(
                f"{module} would run from {origin or 'nowhere'}, "
                "which is not the code this version was logged with"
            )


@lru_cache(maxsize=4096)
def _first_sha256(source: Path) -> str:
    """sha256 of a source file at the first call: an imported module stays as it was then."""
    return sha256(source)


def _module(name: str) -> str:
    """code/registry/errors.py -> registry.errors"""
    stem = name.removeprefix(CODE).removesuffix(".py").removesuffix("/__init__")
    return stem.replace("/", ".")


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
