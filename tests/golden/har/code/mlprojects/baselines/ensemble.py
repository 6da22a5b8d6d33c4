"""ensemble: the equal-weight average of its members' quantiles, level by level."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from registry import contract, wire
from registry.contract import Forecast, Forecaster, History, ModelSpec, Trained, TrainRun, at_levels, quantile_mean
from registry.errors import BadConfig
from registry.loading import load_forecaster, read_spec, save_forecaster

FOLDER = "members"


@dataclass(frozen=True, kw_only=True)
class EnsembleConfig(contract.Config):
    """`members` are <family>/<model>, each fitted with its own config; `tiny_members` with its tiny one."""

    kind: Literal["ensemble"] = "ensemble"
    members: tuple[str, ...] = ()
    tiny_members: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.members) < 2 or len(set(self.members)) < len(self.members):
            raise BadConfig(f"members are two or more different models, found {list(self.members)}")
        wrong = [member for member in self.members if member.count("/") != 1]
        if wrong:
            raise BadConfig(f"members are named <family>/<model>, as in baselines/gjr; found {wrong[0]!r}")

    @property
    def uses(self) -> tuple[str, ...]:
        """Families of the members, each once, but for this one."""
        families = dict.fromkeys(member.split("/")[0] for member in self.members)
        return tuple(name for name in families if name != "baselines")


@dataclass(frozen=True)
class Ensemble:
    """The average of quantile functions (Lichtendahl, Grushka-Cockayne and Winkler, Is It Better to Average
    Probabilities or Quantiles?, Management Science 59, 2013): averages of sorted quantiles stay sorted."""

    spec: ModelSpec
    members: tuple[Forecaster, ...]

    def predict(
        self,
        history: History,
        horizon: int,
        levels: Sequence[float],
        seed: int,
        options: Mapping[str, Any],  # noqa: ARG002
    ) -> Forecast:
        forecasts = [member.predict(history, horizon, self.spec.levels, seed, {}) for member in self.members]
        quantiles = np.mean([forecast.quantiles for forecast in forecasts], axis=0)
        return Forecast(
            unique_id=history.ids,
            cutoffs=history.cutoffs,
            levels=tuple(levels),
            quantiles=at_levels(quantiles, self.spec.levels, levels),
            mean=quantile_mean(quantiles, self.spec.levels),
            notes={key: said for forecast in forecasts for key, said in forecast.notes.items()},
        )


def together(name: str, config: EnsembleConfig, members: Sequence[ModelSpec]) -> ModelSpec:
    """The spec of an average: what all of its members need."""
    columns = dict.fromkeys((*wire.HISTORY, *(column for member in members for column in member.columns)))
    return ModelSpec(
        name=name,
        family="baselines",
        min_context=max((member.min_context for member in members), default=1),
        max_context=max((member.max_context for member in members), default=1),
        max_horizon=config.horizon,
        levels=config.levels,
        columns=tuple(columns),
        uses=config.uses,
    )


def train(history: pd.DataFrame, config: EnsembleConfig, *, name: str, seed: int, run: TrainRun) -> Trained:
    """Fit every member; nothing is fitted beyond them."""
    names = [member.split("/")[1] for member in config.members]
    shared = contract.Config(**{f.name: getattr(config, f.name) for f in fields(contract.Config)})
    trained = {member: run.fit_member(member, history, shared, seed, tiny=config.tiny_members) for member in names}
    forecasters = tuple(found.forecaster for found in trained.values())
    return Trained(
        Ensemble(together(name, config, [f.spec for f in forecasters]), forecasters),
        params={"parameters": sum(int(found.params["parameters"]) for found in trained.values())},
        figures={
            f"{member}_{stem}": figure for member, found in trained.items() for stem, figure in found.figures.items()
        },
        tables={f"{member}_{stem}": table for member, found in trained.items() for stem, table in found.tables.items()},
    )


def save(forecaster: Ensemble, directory: Path) -> None:
    """Write every member's model folder."""
    for member in forecaster.members:
        save_forecaster(member, directory / FOLDER / member.spec.name)
    names = [member.spec.name for member in forecaster.members]
    (directory / "config.json").write_text(json.dumps({"kind": "ensemble", "members": names}) + "\n")


def load(directory: Path) -> Ensemble:
    """The forecaster that `save` wrote beside spec.json."""
    names = json.loads((directory / "config.json").read_text())["members"]
    return Ensemble(read_spec(directory), tuple(load_forecaster(directory / FOLDER / name) for name in names))
