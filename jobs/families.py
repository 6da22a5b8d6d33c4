"""Registered models and their families, found by folder: mlprojects/<family>/configs/<model>.yaml."""

import dataclasses
import hashlib
import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import yaml
from pydantic import TypeAdapter, ValidationError

from registry import training
from registry.errors import BadConfig, BadParameter, NotFound
from registry.forecast import names
from registry.forecast.spec import ModelSpec
from registry.settings import CHECKOUT
from registry.training import Trained, TrainRun

TINY = "tiny"


@dataclass(frozen=True)
class Family:
    """A model's config file and the two modules of its family, imported when asked for."""

    model: str
    config: Path

    @property
    def name(self) -> str:
        return self.config.parents[1].name

    @property
    def card(self) -> str:
        return (self.config.parents[1] / "README.md").read_text()

    @property
    def training(self) -> ModuleType:
        return importlib.import_module(f"mlprojects.{self.name}.train")

    @property
    def models(self) -> ModuleType:
        return importlib.import_module(f"mlprojects.{self.name}.model")


def all_models() -> dict[str, Family]:
    """Every model that can be trained, by registered name."""
    paths = sorted((CHECKOUT / "mlprojects").glob("*/configs/*.yaml"))
    return {path.stem: Family(path.stem, path) for path in paths}


def find(model: str) -> Family:
    """The family of a model. Raises NotFound."""
    known = all_models()
    if model not in known:
        raise NotFound(f"no model {model!r}; mlprojects/*/configs/ has {', '.join(known)}")
    return known[model]


def load_config(
    family: Family, overrides: Mapping[str, Any], *, tiny: bool = False, defaults: Mapping[str, Any] | None = None
) -> training.Config:
    """The model's Config: its file, its `tiny` section if asked for, then `overrides` (text is read as YAML).

    `defaults` replace what the file says, where the Config has such a setting.

    Raises BadConfig for an unknown key or a value of the wrong type, and whatever the Config itself checks.
    """
    stored = yaml.safe_load(family.config.read_text())
    small = stored.pop(TINY)
    kind = _config_type(family, stored | overrides)
    known = {f.name: f.type for f in dataclasses.fields(kind)}
    told = {key: value for key, value in (defaults or {}).items() if key in known}
    values = stored | (small if tiny else {}) | told | {key: _parse(key, value) for key, value in overrides.items()}
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise BadParameter(
            f"{family.model} has no setting {', '.join(unknown)}; it has {', '.join(known)}", code="UNKNOWN_PARAM"
        )
    for key, value in values.items():
        if isinstance(value, bool) and known[key] is not bool:  # pydantic would read true as 1
            raise BadConfig(f"{family.model}: {key} cannot be true or false")
    try:
        config: training.Config = TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadConfig(f"{family.model}: {where}: {first['msg']}") from error
    return config


def _config_type(family: Family, values: Mapping[str, Any]) -> type[training.Config]:
    """The dataclass of a model's settings: its family's Config, or that of its `kind` in a family with CONFIGS."""
    kinds: Mapping[str, type[training.Config]] | None = getattr(family.training, "CONFIGS", None)
    if kinds is None:
        single: type[training.Config] = family.training.Config
        return single
    found = kinds.get(str(values.get("kind")))
    if found is None:
        raise BadConfig(f"{family.model}: kind is {values.get('kind')!r}, expected one of {sorted(kinds)}")
    return found


def _parse(key: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if key == "levels":
        return [part.strip() for part in value.split(",")]
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise BadConfig(f"{key} cannot be read: {value[:64]!r}") from error
    return str(parsed) if hasattr(parsed, "isoformat") else parsed


def families_of(spec: ModelSpec) -> tuple[ModuleType, ...]:
    """The model modules whose code a version runs: its own family's, and those it uses."""
    return tuple(importlib.import_module(f"mlprojects.{name}.model") for name in (spec.family, *spec.uses))


def fit_member(
    model: str, history: pd.DataFrame, config: training.Config, seed: int, *, tiny: bool, run: TrainRun
) -> Trained:
    """Another model, fitted on this history with the settings that `config` shares with it."""
    own = member_config(model, config, tiny=tiny)
    trained: Trained = find(model).training.train(history, own, name=model, seed=seed, run=run)
    return trained


def member_config(model: str, config: training.Config, *, tiny: bool) -> training.Config:
    """The settings of another model, those that every family shares as `config` has them."""
    shared = {f.name: getattr(config, f.name) for f in dataclasses.fields(training.Config)}
    return load_config(find(model), shared, tiny=tiny)


def members(config: training.Config) -> dict[str, training.Config]:
    """Settings of an ensemble's members by model; of another model there are none.

    Raises BadConfig for a member of another family than it says, or that does not forecast each series by itself.
    """
    found = {}
    for member in getattr(config, "members", ()):
        family = find(member.split("/")[1])
        if member != f"{family.name}/{family.model}":
            raise BadConfig(f"member {member!r} is of family {family.name}; name it {family.name}/{family.model}")
        own = member_config(family.model, config, tiny=getattr(config, "tiny_members", False))
        spec = family.training.spec(family.model, own)
        if spec.joint or spec.universe or spec.options or spec.optional or hasattr(own, "members"):
            raise BadConfig(
                f"member {member!r} is joint, an ensemble itself, or takes options or optional columns; an average "
                "takes models that forecast each series by itself"
            )
        found[family.model] = own
    return found


def fit(family: Family, config: training.Config, history: pd.DataFrame, *, seed: int, run: TrainRun) -> Trained:
    """Hand the family the sessions that it may see, and nothing later."""
    seen = history[history[names.DS] <= pd.Timestamp(config.choose_until)].reset_index(drop=True)
    trained: Trained = family.training.train(seen, config, name=family.model, seed=seed, run=run)
    return trained


def recipe(model: str, config: training.Config, seed: int, **inputs: str) -> str:
    """sha256 of everything that decides what training gives: same recipe, same weights on one machine."""
    content = {"model": model, "config": dataclasses.asdict(config), "seed": seed, **inputs}
    if own := members(config):
        content["members"] = {name: dataclasses.asdict(settings) for name, settings in own.items()}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
