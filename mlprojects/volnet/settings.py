"""Settings of linear, mlp and lightgbm; their search spaces; their specs."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from mlprojects.blocks import features
from registry import training
from registry.forecast import names
from registry.forecast.spec import ModelSpec
from registry.training import Count, Range, Rate, Share, Space

# Sessions of context: enough for twelve quarters of seasons, and slow averages forget their seed.
CONTEXT = 1000


@dataclass(frozen=True, kw_only=True)
class Shared(training.Config):
    """What training needs of a history."""

    @property
    def fit_sessions(self) -> int:
        return features.WARMUP + self.horizon

    @property
    def choice_sessions(self) -> int:
        return self.horizon + 1

    @property
    def fits_each(self) -> bool:
        return True

    @property
    def screens(self) -> bool:
        return True


@dataclass(frozen=True, kw_only=True)
class LinearConfig(Shared):
    """A network without hidden units.

    steps: training steps.
    learning_rate: of AdamW.
    weight_decay: of AdamW.
    batch: rows in a training step, with all their steps ahead.
    check_every: steps between two checks of the choice loss.
    """

    kind: Literal["linear"]
    steps: Count = 600
    learning_rate: Rate = 0.02
    weight_decay: Share = 0.0
    batch: Count = 800
    check_every: Count = 50
    width: ClassVar[int] = 0
    seeds: ClassVar[int] = 1
    dropout: ClassVar[float] = 0.0

    @property
    def max_steps(self) -> int:
        """Training steps of all members together, for the progress bar."""
        return self.steps * self.seeds


@dataclass(frozen=True, kw_only=True)
class MlpConfig(LinearConfig):
    """Networks with one hidden layer beside the linear part, averaged.

    steps: training steps of each network.
    width: units of the hidden layer.
    seeds: number of networks.
    dropout: share of hidden units left out in a training step.
    """

    kind: Literal["mlp"]  # type: ignore[assignment]
    learning_rate: Rate = 0.002
    weight_decay: Share = 0.05
    batch: Count = 400
    width: Count = 32  # type: ignore[misc]
    seeds: Count = 5  # type: ignore[misc]
    dropout: Share = 0.1  # type: ignore[misc]


@dataclass(frozen=True, kw_only=True)
class TreesConfig(Shared):
    """LightGBM's settings.

    rounds: most rounds; each adds a tree.
    learning_rate: share of a tree that is added.
    leaves: most leaves of a tree.
    least_rows: fewest training rows in a leaf.
    share: share of features per tree, and of rows per round.
    penalty: L2 penalty of the leaves' values.
    patience: training stops after this many rounds without a lower choice loss.
    """

    kind: Literal["lightgbm"]
    rounds: Count = 400
    learning_rate: Rate = 0.03
    leaves: Annotated[int, Field(ge=2)] = 15
    least_rows: Count = 2000
    share: Annotated[float, Field(gt=0, le=1)] = 0.5  # of features per tree, and of rows per round
    penalty: Annotated[float, Field(ge=0, lt=math.inf)] = 10.0
    patience: Count = 50

    @property
    def max_steps(self) -> int:
        return self.rounds


CONFIGS: Mapping[str, type[training.Config]] = {
    "linear": LinearConfig,
    "mlp": MlpConfig,
    "lightgbm": TreesConfig,
}
SEARCH: Mapping[str, Space] = {
    "linear": {
        "learning_rate": Range(3e-3, 5e-2, log=True),
        "weight_decay": (0.0, 0.01, 0.1),
        "batch": (200, 400, 800, 1600),
    },
    "mlp": {
        "learning_rate": Range(5e-4, 1e-2, log=True),
        "width": (16, 32, 64),
        "dropout": (0.0, 0.1, 0.2),
        "weight_decay": (0.0, 0.05, 0.5),
        "batch": (200, 400, 800),
    },
    "lightgbm": {
        "learning_rate": Range(0.01, 0.1, log=True),
        "leaves": (4, 8, 15, 31),
        "least_rows": Range(500, 4000, log=True),
        "share": (0.3, 0.5, 0.8),
        "penalty": (1.0, 10.0, 100.0),
    },
}


def spec(name: str, config: training.Config) -> ModelSpec:
    """The model's spec, given by the features."""
    return ModelSpec(
        name=name,
        family="volnet",
        min_context=features.WARMUP,
        max_context=CONTEXT,
        max_horizon=config.horizon,
        levels=config.levels,
        calendar=config.calendar,
        columns=(*names.HISTORY, *names.MARKET),
    )
