"""Settings of the graph network, what a study searches of them, and what the model needs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from mlprojects.blocks import features
from registry import training
from registry.errors import BadConfig
from registry.forecast import names
from registry.forecast.spec import ModelSpec
from registry.training import Count, Range, Rate, Share, Space

CONTEXT = 1000  # sessions used; an average with a half-life of 180 then keeps 3 % of its seed
Kind = Literal["correlation", "partial", "sector", "learned", "none"]
Isolated = Literal["refuse", "loop"]


@dataclass(frozen=True, kw_only=True)
class Config(training.Config):
    """The network and its training. Series are left out so that part of a universe can be forecast.

    graph: how neighbours are found: correlation, partial, sector, learned or none.
    k: neighbours in a correlation graph.
    embedding: width of the embeddings of a learned graph.
    isolated: a series without a neighbour is refused (refuse) or its own neighbour (loop).
    context: sessions in the recurrence.
    hidden: units of its state.
    dropout: share of hidden units left out in a training step.
    series_dropout: share of the series left out of the graph in a training step.
    max_steps: most training steps.
    learning_rate: of AdamW.
    weight_decay: of AdamW.
    batch: origins in a training step.
    check_every: steps between two checks of the choice loss.
    patience: training stops after this many checks without a lower loss.
    """

    graph: Kind = "learned"
    k: Count = 4
    embedding: Count = 8
    isolated: Isolated = "refuse"
    context: Count = 40
    hidden: Count = 16
    dropout: Share = 0.1
    series_dropout: Share = 0.2
    max_steps: Count = 1200
    learning_rate: Rate = 2e-3
    weight_decay: Share = 0.01
    batch: Count = 32
    check_every: Count = 25
    patience: Count = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, kind in (("graph", Kind), ("isolated", Isolated)):
            if getattr(self, name) not in get_args(kind):
                raise BadConfig(
                    f"{name} is {getattr(self, name)!r}, expected one of {list(get_args(kind))}"
                )

    @property
    def training_columns(self) -> tuple[str, ...]:
        return (names.SECTOR,) if self.graph == "sector" else ()

    @property
    def fit_sessions(self) -> int:
        return features.WARMUP - 1 + self.context + self.horizon

    @property
    def choice_sessions(self) -> int:
        return self.horizon


CONFIGS: Mapping[str, type[training.Config]] = {"graph": Config}
SEARCH: Mapping[str, Space] = {
    "graph": {
        "graph": ("correlation", "partial", "learned"),
        "k": Range(2, 8),
        "context": Range(20, 60),
        "hidden": (8, 16, 32),
        "series_dropout": Range(0.0, 0.5),
        "learning_rate": Range(5e-4, 5e-3, log=True),
    }
}


def spec(name: str, config: Config) -> ModelSpec:
    """The spec without its universe; training sets that to its series."""
    return ModelSpec(
        name=name,
        family="graph",
        min_context=features.WARMUP - 1 + config.context,
        max_context=max(CONTEXT, features.WARMUP - 1 + config.context),
        max_horizon=config.horizon,
        levels=config.levels,
        calendar=config.calendar,
        columns=(*names.HISTORY, *names.MARKET),
        joint=True,
        subset=True,
    )
