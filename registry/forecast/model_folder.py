"""A model's folder: its spec and its family's files. Only this module imports families by name."""

import importlib
import json
from pathlib import Path
from typing import Any

from registry.forecast.forecast import Forecaster
from registry.forecast.spec import ModelSpec

SPEC = "spec.json"  # the family saves its files beside it


def family_module(family: str, part: str) -> Any:
    """A module of a family, for example `model` of kronos."""
    return importlib.import_module(f"mlprojects.{family}.{part}")


def load_forecaster(folder: Path) -> Forecaster:
    """The model in a folder, loaded by its family's `load` in the code of this process."""
    forecaster: Forecaster = family_module(read_spec(folder).family, "model").load(folder)
    return forecaster


def save_forecaster(forecaster: Forecaster, folder: Path) -> None:
    """Write a model into a new folder, for `load_forecaster`."""
    folder.mkdir(parents=True)
    family_module(forecaster.spec.family, "model").save(forecaster, folder)
    write_spec(forecaster.spec, folder)


def read_spec(folder: Path) -> ModelSpec:
    """The spec of a model's folder, which this or an older contract wrote."""
    return ModelSpec.from_json(json.loads((folder / SPEC).read_text()))


def write_spec(spec: ModelSpec, folder: Path) -> None:
    """Write a spec into a model's folder, for `read_spec`."""
    (folder / SPEC).write_text(json.dumps(spec.to_json(), indent=2, sort_keys=True) + "\n")
