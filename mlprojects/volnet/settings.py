"""Settings of linear, mlp and lightgbm, what a study searches of them, and what they need."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from mlprojects.blocks import features
from registry import training
from registry.errors import BadConfig
from registry.forecast import names
from registry.forecast.spec import ModelSpec
from registry.training import Range, Space

CONTEXT = 1000  # sessions looked at: twelve quarters of seasons, and slow averages forget their seed


@dataclass(frozen=True, kw_only=True)
class LinearConfig(training.Config):
    """A network without hidden units. `batch` rows (all steps of each) a step of training."""

    kind: Literal["linear"]
    steps: int = 600
    learning_rate: float = 0.02
    weight_decay: float = 0.0
    batch: int = 800
    check_every: int = 50
    width: ClassVar[int] = 0
    seeds: ClassVar[int] = 1
    dropout: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_counts(self, "steps", "batch", "check_every")
        _check_share(self, "learning_rate", "dropout")
        if not 0 <= self.weight_decay < 1:
            raise BadConfig(f"weight_decay is {self.weight_decay}, expected 0 or more and less than 1")

    @property
    def max_steps(self) -> int:
        """Of all members together, for the progress bar."""
        return self.steps * self.seeds


@dataclass(frozen=True, kw_only=True)
class MlpConfig(LinearConfig):
    """`seeds` networks with one hidden layer of `width` units beside the linear part, averaged."""

    kind: Literal["mlp"]  # type: ignore[assignment]
    learning_rate: float = 0.002
    weight_decay: float = 0.05
    batch: int = 400
    width: int = 32  # type: ignore[misc]
    seeds: int = 5  # type: ignore[misc]
    dropout: float = 0.1  # type: ignore[misc]

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_counts(self, "width", "seeds")


@dataclass(frozen=True, kw_only=True)
class TreesConfig(training.Config):
    """LightGBM's own terms; `patience` rounds without a better choice loss end it."""

    kind: Literal["lightgbm"]
    rounds: int = 400
    learning_rate: float = 0.03
    leaves: int = 15
    least_rows: int = 2000
    share: float = 0.5  # of features a tree, and of rows a round
    penalty: float = 10.0
    patience: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_counts(self, "rounds", "least_rows", "patience")
        _check_share(self, "learning_rate", "share")
        if self.leaves < 2:
            raise BadConfig(f"leaves is {self.leaves}, expected 2 or more")
        if not 0 <= self.penalty < float("inf"):
            raise BadConfig(f"penalty is {self.penalty}, expected 0 or more")

    @property
    def max_steps(self) -> int:
        return self.rounds


CONFIGS: Mapping[str, type[training.Config]] = {"linear": LinearConfig, "mlp": MlpConfig, "lightgbm": TreesConfig}
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
    """What the features need."""
    return ModelSpec(
        name=name,
        family="volnet",
        min_context=features.WARMUP,
        max_context=CONTEXT,
        max_horizon=config.horizon,
        levels=config.levels,
        columns=(*names.HISTORY, *names.MARKET),
    )


def _check_counts(config: training.Config, *settings: str) -> None:
    for name in settings:
        if getattr(config, name) < 1:
            raise BadConfig(f"{name} is {getattr(config, name)}, expected 1 or more")


def _check_share(config: training.Config, *settings: str) -> None:
    for name in settings:
        value = getattr(config, name)
        if not 0 <= value <= 1 or value == (1 if name == "dropout" else 0):
            raise BadConfig(f"{name} is {value}, expected a number between 0 and 1")
