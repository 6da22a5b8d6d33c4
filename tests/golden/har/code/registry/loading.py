"""A forecaster and its model folder, by the family that its spec names."""

import importlib
import json
from pathlib import Path

from registry.contract import Forecaster, ModelSpec

SPEC = "spec.json"  # beside it lies whatever the family saved


def load_forecaster(model_dir: Path) -> Forecaster:
    """The family's own load, on the code that this process runs."""
    spec = read_spec(model_dir)
    family = importlib.import_module(f"mlprojects.{spec.family}.model")
    forecaster: Forecaster = family.load(model_dir)
    return forecaster


def read_spec(model_dir: Path) -> ModelSpec:
    """What `save_spec` wrote."""
    return ModelSpec.from_json(json.loads((model_dir / SPEC).read_text()))


def save_forecaster(forecaster: Forecaster, model_dir: Path) -> None:
    """Write what `load_forecaster` reads, into an empty folder: the family's own files and the spec."""
    model_dir.mkdir(parents=True)
    importlib.import_module(f"mlprojects.{forecaster.spec.family}.model").save(forecaster, model_dir)
    save_spec(forecaster.spec, model_dir)


def save_spec(spec: ModelSpec, model_dir: Path) -> None:
    """Write what `read_spec` reads."""
    (model_dir / SPEC).write_text(json.dumps(spec.to_json(), indent=2, sort_keys=True) + "\n")
