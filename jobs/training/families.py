"""Registered models and their families: mlprojects/<family>/configs/<model>.yaml."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from jobs.training import needs
from registry import training
from registry.errors import BadConfig, NotFound
from registry.forecast import names
from registry.forecast.forecast import Forecaster
from registry.forecast.model_folder import family_module
from registry.forecast.spec import ModelSpec
from registry.settings import CHECKOUT
from registry.training import Family, Space, Trained, TrainRun

TINY = "tiny"  # section of a config file: settings for training in tests


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

    def inherited(self, start_dir: Path) -> Mapping[str, Any]:
        inherited: Mapping[str, Any] = self._module("settings").inherited(start_dir)
        return inherited

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

    def columns(self, config: training.Config) -> tuple[str, ...]:
        """Columns that training or forecasting needs."""
        return (*self.spec(config).columns, *config.training_columns)

    def stored(self) -> dict[str, Any]:
        """The content of the config file, its `tiny` section included."""
        settings: dict[str, Any] = yaml.safe_load(self.config.read_text())
        return settings

    def config_type(self, settings: Mapping[str, Any]) -> type[training.Config]:
        """The type of these settings. Raises BadConfig for an unknown `kind`."""
        return self.family.configs[self.kind(settings)]

    def searched(self, settings: Mapping[str, Any] | None = None) -> Space:
        """Settings of the model that a study searches; those of the file have a kind by default."""
        kind = self.kind(self.stored() if settings is None else settings)
        return self.family.search.get(kind, {})

    def kind(self, settings: Mapping[str, Any]) -> str:
        """Key of these settings' type in the family's CONFIGS. Raises BadConfig for an unknown one.

        A family with one type needs no `kind` in its settings.
        """
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
    models = all_models()
    if model not in models:
        raise NotFound(f"no model {model!r}; mlprojects/*/configs/ has {', '.join(models)}")
    return models[model]


def families_of(spec: ModelSpec) -> tuple[Family, ...]:
    """Families whose code a version runs: its own, then those that it uses."""
    return tuple(Folder(name) for name in (spec.family, *spec.uses))


def fit(
    model: Model, config: training.Config, history: pd.DataFrame, *, seed: int, run: TrainRun
) -> Trained:
    """Train on the sessions up to config.choose_until; the family gets nothing later.

    Series that the family would refuse are left out, unless it fits all series together.
    """
    until_choice = history[history[names.DS] <= pd.Timestamp(config.choose_until)]
    spec = model.spec(config)
    left_out = {} if spec.joint else needs.unfit(until_choice, config, spec)
    fitted = until_choice[~until_choice[names.UNIQUE_ID].isin(left_out)].reset_index(drop=True)
    trained = model.family.train(fitted, config, name=model.name, seed=seed, run=run)
    return replace(trained, left_out={**trained.left_out, **left_out})
