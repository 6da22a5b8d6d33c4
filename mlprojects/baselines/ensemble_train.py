"""Training of the ensemble: its members are fitted, nothing beyond them."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import pandas as pd

from mlprojects.baselines.ensemble import Ensemble
from registry import training
from registry.errors import BadConfig
from registry.forecast import names
from registry.forecast.spec import ModelSpec
from registry.training import Trained, TrainRun


@dataclass(frozen=True, kw_only=True)
class EnsembleConfig(training.Config):
    """`members` are <family>/<model>, each fitted with its own config, or its tiny one."""

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


def spec(name: str, config: EnsembleConfig, members: Sequence[ModelSpec]) -> ModelSpec:
    """What all members need together; until they are fitted, `members` is empty."""
    columns = dict.fromkeys(names.HISTORY)
    for member in members:
        columns |= dict.fromkeys(member.columns)
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
    """Fit every member; figures and tables carry the member's name."""
    shared = {field.name: getattr(config, field.name) for field in fields(training.Config)}
    own = training.Config(**shared)
    members: dict[str, Trained] = {}
    for member in config.members:
        model = member.split("/")[1]
        members[model] = run.fit_member(model, history, own, seed, tiny=config.tiny_members)
    forecasters = tuple(trained.forecaster for trained in members.values())
    figures: dict[str, Any] = {}
    tables: dict[str, pd.DataFrame] = {}
    for model, trained in members.items():
        figures |= {f"{model}_{stem}": figure for stem, figure in trained.figures.items()}
        tables |= {f"{model}_{stem}": table for stem, table in trained.tables.items()}
    return Trained(
        Ensemble(spec(name, config, [one.spec for one in forecasters]), forecasters),
        params={"parameters": sum(int(one.params["parameters"]) for one in members.values())},
        figures=figures,
        tables=tables,
    )
