"""The contents of a registered version's folder.

MLmodel, requirements.txt, ...       written by MLflow
loader.py                            a few lines that hand our wrapper to MLflow
code/registry, code/mlprojects       the code that the version runs: the import closure of its
                                     family's model.py and of the wrapper; no training code
artifacts/model/spec.json            the ModelSpec; beside it the files that the family saved
manifest.json                        sha256 and size of every other file
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from registry.forecast.model_folder import write_spec
from registry.forecast.spec import ModelSpec
from registry.versions.closure import closure
from registry.versions.manifest import CODE, digest, sha256

WRAPPER = "registry.versions.pyfunc"
LOADER = f'''"""Hands this version's forecaster to MLflow (models from code)."""

from mlflow.models import set_model

from {WRAPPER} import ForecastModel

set_model(ForecastModel())
'''


def stage(
    directory: Path, checkout: Path, spec: ModelSpec, save: Callable[[Path], None]
) -> dict[str, Any]:
    """Lay out loader, code and model under `directory`, for `mlflow.pyfunc.save_model`.

    `save(path)` writes the family's files. Returns the arguments that name the paths.
    """
    code = directory / "code"
    model = directory / "model"
    model.mkdir(parents=True)
    for path in code_files(checkout, spec.family, *spec.uses):
        target = code / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(checkout / path, target)
    (directory / "loader.py").write_text(LOADER)
    save(model)
    write_spec(spec, model)
    return {
        "python_model": str(directory / "loader.py"),
        "code_paths": [str(code / "registry"), str(code / "mlprojects")],
        "artifacts": {"model": str(model)},
    }


def code_files(checkout: Path, *families: str) -> tuple[Path, ...]:
    """Files that a version of these families runs, relative to `checkout`."""
    models = [f"mlprojects.{family}.model" for family in families]
    return closure(checkout, WRAPPER, *models)


def code_digest(checkout: Path, *families: str) -> str:
    """Digest of the code that a version of these families would hold if it were logged now."""
    files = code_files(checkout, *families)
    hashes = {f"{CODE}{path.as_posix()}": sha256(checkout / path) for path in files}
    return digest(hashes)


def training_digest(checkout: Path, *families: str) -> str:
    """Digest of all repository code that affects the result of training these families."""
    modules = [f"mlprojects.{family}.{part}" for family in families for part in ("train", "model")]
    files = closure(checkout, WRAPPER, *modules)
    hashes = {path.as_posix(): sha256(checkout / path) for path in files}
    return digest(hashes)
