"""Registered models and their families, found by folder: mlprojects/<family>/configs/<model>.yaml."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from pydantic import TypeAdapter, ValidationError

from registry import training
from registry.errors import BadConfig, BadParameter, NotFound
from registry.forecast import names
from registry.forecast.forecast import Forecaster
from registry.forecast.model_folder import family_module
from registry.forecast.spec import ModelSpec
from registry.settings import CHECKOUT
from registry.training import Family, Space, Trained, TrainRun

TINY = "tiny"


@dataclass(frozen=True)
class Folder:
    """The family in mlprojects/<name>; each of its modules is imported when it is first needed."""

    name: str

    @property
    def configs(self) -> Mapping[str, type[training.Config]]:
        configs: Mapping[str, type[training.Config]] = self._module("settings").CONFIGS
        return configs

    @property
    def search(self) -> Mapping[str, Space]:
        search: Mapping[str, Space] = self._module("settings").SEARCH
        return search

    @property
    def requirements(self) -> tuple[str, ...]:
        requirements: tuple[str, ...] = self._module("model").REQUIREMENTS
        return requirements

    def spec(self, name: str, config: Any) -> ModelSpec:
        spec: ModelSpec = self._module("settings").spec(name, config)
        return spec

    def train(
        self, history: pd.DataFrame, config: Any, *, name: str, seed: int, run: TrainRun
    ) -> Trained:
        trained: Trained = self._module("train").train(
            history, config, name=name, seed=seed, run=run
        )
        return trained

    def save(self, forecaster: Any, directory: Path) -> None:
        self._module("model").save(forecaster, directory)

    def load(self, directory: Path) -> Forecaster:
        forecaster: Forecaster = self._module("model").load(directory)
        return forecaster

    def _module(self, part: str) -> Any:
        return family_module(self.name, part)


@dataclass(frozen=True)
class Model:
    """One registered model: its config file and its family."""

    name: str
    config: Path
    family: Family

    @classmethod
    def of(cls, config: Path) -> "Model":
        """The model of mlprojects/<family>/configs/<model>.yaml."""
        return cls(config.stem, config, Folder(config.parents[1].name))

    @property
    def card(self) -> str:
        return (self.config.parents[1] / "README.md").read_text()

    def spec(self, config: training.Config) -> ModelSpec:
        return self.family.spec(self.name, config)

    def stored(self) -> dict[str, Any]:
        """What the config file says, its `tiny` section included."""
        settings: dict[str, Any] = yaml.safe_load(self.config.read_text())
        return settings

    def searched(self) -> Space:
        """What a study searches of the model."""
        return self.family.search.get(self.kind(self.stored()), {})

    def kind(self, settings: Mapping[str, Any]) -> str:
        """Which of the family's configs these settings are of. Raises BadConfig for none of them."""
        kinds = sorted(self.family.configs)
        kind = settings.get("kind", kinds[0] if len(kinds) == 1 else None)
        if kind not in kinds:
            raise BadConfig(f"{self.name}: kind is {kind!r}, expected one of {kinds}")
        return str(kind)


def all_models() -> dict[str, Model]:
    """Every model that can be trained, by registered name."""
    paths = sorted((CHECKOUT / "mlprojects").glob("*/configs/*.yaml"))
    return {path.stem: Model.of(path) for path in paths}


def find(model: str) -> Model:
    """A model by its registered name. Raises NotFound."""
    known = all_models()
    if model not in known:
        raise NotFound(f"no model {model!r}; mlprojects/*/configs/ has {', '.join(known)}")
    return known[model]


def load_config(
    model: Model,
    overrides: Mapping[str, Any],
    *,
    tiny: bool = False,
    defaults: Mapping[str, Any] | None = None,
) -> training.Config:
    """The model's Config: its file, its `tiny` section if asked for, then `overrides` (text is read as YAML).

    `defaults` replace what the file says, where the Config has such a setting. Raises BadParameter
    for an unknown key, BadConfig for a value of the wrong type, and whatever the Config itself checks.
    """
    stored = model.stored()
    small = stored.pop(TINY)
    config_type = model.family.configs[model.kind({**stored, **overrides})]
    types = {field.name: field.type for field in dataclasses.fields(config_type)}
    replaced = {key: value for key, value in (defaults or {}).items() if key in types}
    values = stored | (small if tiny else {}) | replaced
    values |= {key: _parse(key, value) for key, value in overrides.items()}
    unknown = sorted(set(values) - set(types))
    if unknown:
        raise BadParameter(
            f"{model.name} has no setting {', '.join(unknown)}; it has {', '.join(types)}",
            code="UNKNOWN_PARAM",
        )
    for key, value in values.items():
        if isinstance(value, bool) and types[key] is not bool:  # pydantic would read true as 1
            raise BadConfig(f"{model.name}: {key} cannot be true or false")
    try:
        config: training.Config = TypeAdapter(config_type).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        bounds = training.bounds_of(config_type).get(where)
        if bounds is not None and set(first.get("ctx", {})) & set(training.LIMITS):
            raise BadConfig(f"{where} is {first['input']}, expected {bounds}") from error
        raise BadConfig(f"{model.name}: {where}: {first['msg']}") from error
    return config


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


def families_of(spec: ModelSpec) -> tuple[Family, ...]:
    """Families whose code a version runs: its own, and those it uses."""
    return tuple(Folder(name) for name in (spec.family, *spec.uses))


def fit_member(
    name: str,
    history: pd.DataFrame,
    config: training.Config,
    seed: int,
    *,
    tiny: bool,
    run: TrainRun,
) -> Trained:
    """Another model, fitted on this history with the settings that `config` shares with it."""
    family, settings = find(name).family, member_config(name, config, tiny=tiny)
    return family.train(history, settings, name=name, seed=seed, run=run)


def member_config(name: str, config: training.Config, *, tiny: bool) -> training.Config:
    """The settings of another model, those that every family shares as `config` has them."""
    shared = {
        field.name: getattr(config, field.name) for field in dataclasses.fields(training.Config)
    }
    return load_config(find(name), shared, tiny=tiny)


def members(config: training.Config) -> dict[str, training.Config]:
    """Settings of an ensemble's members by model; of another model there are none.

    Raises BadConfig for a member of another family than it says, or that does not forecast each
    series by itself.
    """
    configs = {}
    for member in getattr(config, "members", ()):
        model = find(member.split("/")[1])
        full_name = f"{model.family.name}/{model.name}"
        if member != full_name:
            raise BadConfig(
                f"member {member!r} is of family {model.family.name}; name it {full_name}"
            )
        settings = member_config(model.name, config, tiny=getattr(config, "tiny_members", False))
        spec = model.spec(settings)
        if (
            spec.joint
            or spec.universe
            or spec.options
            or spec.optional
            or hasattr(settings, "members")
        ):
            raise BadConfig(
                f"member {member!r} is joint, an ensemble itself, or takes options or optional columns; an average "
                "takes models that forecast each series by itself"
            )
        configs[model.name] = settings
    return configs


def fit(
    model: Model, config: training.Config, history: pd.DataFrame, *, seed: int, run: TrainRun
) -> Trained:
    """Hand the family the sessions that it may see, and nothing later."""
    known = history[history[names.DS] <= pd.Timestamp(config.choose_until)].reset_index(drop=True)
    return model.family.train(known, config, name=model.name, seed=seed, run=run)


def recipe(name: str, config: training.Config, seed: int, **inputs: str) -> str:
    """sha256 of everything that decides what training gives: same recipe, same weights on one machine."""
    content = {"model": name, "config": dataclasses.asdict(config), "seed": seed, **inputs}
    if configs := members(config):
        content["members"] = {
            name: dataclasses.asdict(settings) for name, settings in configs.items()
        }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
