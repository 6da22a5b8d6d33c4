"""A model's folder: its spec and what its family saved. Families are reached by name here only."""

import importlib
import json
from pathlib import Path
from typing import Any

from registry.forecast.forecast import Forecaster
from registry.forecast.spec import ModelSpec

SPEC = "spec.json"  # beside it lies what the family saved


def family_module(family: str, part: str) -> Any:
    """A module of a family, as `model` of kronos."""
    return importlib.import_module(f"mlprojects.{family}.{part}")


def load_forecaster(folder: Path) -> Forecaster:
    """The family's own `load`, by the code that this process runs."""
    forecaster: Forecaster = family_module(read_spec(folder).family, "model").load(folder)
    return forecaster


def save_forecaster(forecaster: Forecaster, folder: Path) -> None:
    """Write what `load_forecaster` reads into a new folder."""
    folder.mkdir(parents=True)
    family_module(forecaster.spec.family, "model").save(forecaster, folder)
    write_spec(forecaster.spec, folder)


def read_spec(folder: Path) -> ModelSpec:
    """The spec of a model's folder, by the contract that it was written under."""
    return ModelSpec.from_json(json.loads((folder / SPEC).read_text()))


def write_spec(spec: ModelSpec, folder: Path) -> None:
    """Write what `read_spec` reads."""
    (folder / SPEC).write_text(json.dumps(spec.to_json(), indent=2, sort_keys=True) + "\n")
