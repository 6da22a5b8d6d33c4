"""Settings of the tft, what a study searches of them, and what the model needs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from mlprojects.blocks import features
from registry import training
from registry.errors import BadConfig
from registry.forecast import names
from registry.forecast.spec import ModelSpec
from registry.training import Count, Range, Rate, Share, Space

CONTEXT = 1000  # sessions used, for the slow averages of the state


@dataclass(frozen=True, kw_only=True)
class Config(training.Config):
    """The network and its training.

    context: sessions that the network reads one by one.
    width: hidden size, a multiple of 8 and of heads.
    inner: size of a number's embedding, a multiple of 4 below width.
    heads: attention heads.
    dropout: share of hidden units left out in a training step.
    covariates: counts that a history must have.
    unknown_share: share of training windows with a hidden sector.
    max_steps: most training steps.
    learning_rate: of AdamW.
    batch: windows in a training step.
    check_every: steps between two checks of the choice loss.
    patience: training stops after this many checks without a lower loss.
    """

    context: Annotated[int, Field(ge=1, le=features.WARMUP)] = 60
    width: Count = 16
    inner: Count = 8
    heads: Count = 4
    dropout: Share = 0.3
    covariates: tuple[str, ...] = ()
    unknown_share: Share = 0.1
    max_steps: Count = 400
    learning_rate: Rate = 2e-3
    batch: Count = 256
    check_every: Count = 40
    patience: Count = 6

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % 8 or self.width % self.heads:
            raise BadConfig(
                f"width is {self.width}, expected a multiple of 8 and of heads ({self.heads})"
            )
        if self.inner % 4 or self.inner >= self.width:
            raise BadConfig(
                f"inner is {self.inner}, expected a multiple of 4 below width ({self.width})"
            )
        chosen = set(self.covariates)
        if len(chosen) < len(self.covariates) or not chosen <= set(names.COUNTS):
            raise BadConfig(
                f"covariates are {list(self.covariates)}, "
                f"expected some of {list(names.COUNTS)}, each once"
            )

    @property
    def training_columns(self) -> tuple[str, ...]:
        return (names.SECTOR,)

    @property
    def fit_sessions(self) -> int:
        return features.WARMUP + self.horizon

    @property
    def choice_sessions(self) -> int:
        return self.horizon

    @property
    def fits_each(self) -> bool:
        return True

    @property
    def moving_sessions(self) -> int:
        return self.context

    @property
    def screens(self) -> bool:
        return True


CONFIGS: Mapping[str, type[training.Config]] = {"tft": Config}
SEARCH: Mapping[str, Space] = {
    "tft": {
        "learning_rate": Range(3e-4, 5e-3, log=True),
        "dropout": Range(0.1, 0.5),
        "width": (16, 24, 32),
        "context": (20, 40, 60),
        "batch": (128, 256, 512),
    }
}


def spec(name: str, config: Config) -> ModelSpec:
    return ModelSpec(
        name=name,
        family="tft",
        min_context=features.WARMUP,
        max_context=CONTEXT,
        max_horizon=config.horizon,
        levels=config.levels,
        calendar=config.calendar,
        columns=(*names.HISTORY, *names.MARKET, *config.covariates),
    )
