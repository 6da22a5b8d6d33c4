"""The settings of a model: from its config file, the user and its data set's defaults."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from jobs.data import catalog
from jobs.data.catalog import Catalog
from jobs.data.dataset import Dataset
from jobs.training.families import TINY, Model
from registry import training
from registry.errors import BadConfig, BadParameter
from registry.training import Range

# Settings that a data set decides unless the user does, and those that it bounds, too.
DECIDED = ("calendar", "fit_until", "choose_until")
OF_DATASET = (*DECIDED, "report_until")


def load_config(
    model: Model,
    overrides: Mapping[str, Any],
    *,
    tiny: bool = False,
    defaults: Mapping[str, Any] | None = None,
    start_dir: Path | None = None,
    datasets: Catalog | None = None,
) -> training.Config:
    """The model's Config: its file, its `tiny` section with `tiny`, then `overrides`.

    Text in `overrides` is read as YAML. `defaults` replace values of the file; keys that the Config
    lacks are ignored. With `start_dir`, the model folder of the version to fine-tune, settings of
    that version replace both. If no data set is named, the first with the model's columns is used;
    `datasets` default to the built-in ones.
    Calendar and dates default to those of the data set. Those of the file count only for the data
    set of the file: a user who names a data set gets the dates of that.
    Raises BadParameter for an unknown key, BadConfig for a wrong type or calendar, and the errors
    of the Config's own checks.
    """
    values = _stored(model, tiny=tiny)
    types = _types(model, {**values, **overrides})
    values |= {key: value for key, value in (defaults or {}).items() if key in types}
    if start_dir is not None:
        values = _inheriting(model, values, overrides, start_dir)
    if "data" in overrides:
        values = {key: value for key, value in values.items() if key not in DECIDED}
    config_type = model.config_type({**values, **overrides})
    types = _types(model, {**values, **overrides})
    values |= {key: _parse(key, value) for key, value in overrides.items()}
    for key in training.DATES:  # YAML makes dates of unquoted ones
        if isinstance(values.get(key), date):
            values[key] = values[key].isoformat()
    unknown = sorted(set(values) - set(types))
    if unknown:
        raise BadParameter(
            f"{model.name} has no setting {', '.join(unknown)}; it has {', '.join(types)}",
            code="UNKNOWN_PARAM",
        )
    for key, value in values.items():
        if isinstance(value, bool) and types[key] is not bool:  # pydantic would read true as 1
            raise BadConfig(f"{model.name}: {key} cannot be true or false")
    datasets = datasets or Catalog()
    if "data" in values:
        dataset = datasets.find(str(values["data"]))
    else:
        undated = {key: value for key, value in values.items() if key not in OF_DATASET}
        config = _of_dataset(model, config_type, undated, catalog.DATASETS[0])
        dataset = datasets.first_with(model.columns(config), model.name)
    return _of_dataset(model, config_type, values, dataset)


def with_shared(model: Model, config: training.Config, *, tiny: bool = False) -> training.Config:
    """The model's Config with the settings that all families share from `config`."""
    shared = {
        field.name: getattr(config, field.name) for field in dataclasses.fields(training.Config)
    }
    values = {**_stored(model, tiny=tiny), **shared}
    return _validated(model, model.config_type(values), values)


def _stored(model: Model, *, tiny: bool) -> dict[str, Any]:
    """The settings of the model's file, with `tiny` those of its section for tests."""
    values = model.stored()
    tiny_values = values.pop(TINY)
    return values | tiny_values if tiny else values


def _types(model: Model, values: Mapping[str, Any]) -> dict[str, Any]:
    """Type by setting, for values with a `kind`."""
    return {field.name: field.type for field in dataclasses.fields(model.config_type(values))}


def _inheriting(
    model: Model, values: Mapping[str, Any], overrides: Mapping[str, Any], start_dir: Path
) -> dict[str, Any]:
    """`values` for a fine-tune: without those that the version in `start_dir` decides, and with its
    own settings. Raises BadConfig if `overrides` set what that version decides.
    """
    inherited = model.family.inherited(start_dir)
    types = _types(model, inherited)
    decided = set(_types(model, values)) - set(types)
    refused = sorted(decided & set(overrides))
    if refused:
        raise BadConfig(
            f"{', '.join(refused)} cannot be set with start_from: the version that it names "
            f"decides that; set {', '.join(types)}, or train without start_from"
        )
    kept = {key: value for key, value in values.items() if key not in decided}
    return {**kept, **inherited}


@dataclass(frozen=True)
class Setting:
    """One key of a model's config: what a training takes, what tests take, what a study tries."""

    key: str
    default: Any
    tiny: Any  # None: as the default
    searched: Range | tuple[Any, ...] | None
    meaning: str


def settings_of(model: Model) -> list[Setting]:
    """Every key that can be set, its own before those of all families; `kind` is the model."""
    config = load_config(model, {})
    meanings = training.meanings_of(type(config))
    tiny, searched = model.stored()[TINY], model.searched()
    shared = {field.name for field in dataclasses.fields(training.Config)}
    keys = [field.name for field in dataclasses.fields(config) if field.name != "kind"]
    keys.sort(key=lambda key: key in shared)
    settings = []
    for key in keys:
        default, values = getattr(config, key), searched.get(key)
        meaning = meanings.get(key, "")
        if key in DECIDED:
            meaning += " Default: that of the data set."
        settings.append(Setting(key, default, tiny.get(key), values, meaning))
    return settings


def _of_dataset(
    model: Model, config_type: type[training.Config], values: Mapping[str, Any], dataset: Dataset
) -> training.Config:
    """`values` as a Config, completed by the data set's calendar and dates."""
    defaults = {
        "data": dataset.name,
        "calendar": dataset.calendar,
        "fit_until": dataset.splits.fit_until,
        "choose_until": dataset.splits.choose_until,
    }
    config = _validated(model, config_type, {**defaults, **values})
    if config.calendar != dataset.calendar:
        raise BadConfig(
            f"calendar is {config.calendar!r}, that of {dataset.name} is {dataset.calendar}; "
            "leave it out"
        )
    return config


def _validated(
    model: Model, config_type: type[training.Config], values: Mapping[str, Any]
) -> training.Config:
    try:
        config: training.Config = TypeAdapter(config_type).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        bounds = training.bounds_of(config_type).get(key)
        if bounds is not None and set(first.get("ctx", {})) & set(training.LIMITS):
            raise BadConfig(f"{key} is {first['input']}, expected {bounds}") from error
        raise BadConfig(f"{model.name}: {key}: {first['msg']}") from error
    return config


def _parse(key: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if key in training.DATES:
        return None if value in ("none", "null") else value
    if key == "levels":
        return [part.strip() for part in value.strip("[]").split(",")]
    try:
        parsed = yaml.safe_load(value)
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        raise BadConfig(f"{key} cannot be read: {value[:64]!r}") from error
    return str(parsed) if isinstance(parsed, date) else parsed
