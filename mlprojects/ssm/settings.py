"""Settings of the S4D network, what a study searches of them, and what the model needs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from pydantic import Field

from mlprojects.blocks import features
from registry import training
from registry.errors import BadConfig
from registry.forecast import names
from registry.forecast.spec import ModelSpec
from registry.training import Count, Range, Rate, Share, Space

Start = Literal["lin", "inv", "real"]  # of a layer's modes: blocks/s4d.py
SETTLED = 64  # sessions in a state before its forecasts count, in training and in a history


@dataclass(frozen=True, kw_only=True)
class Config(training.Config):
    """The network and its training.

    context: sessions in the recurrence.
    width: channels of a layer.
    states: states of each channel.
    layers: number of S4D layers.
    start: first values of a layer's modes: lin, inv or real.
    dropout: share of hidden units left out in a training step.
    max_steps: most training steps.
    learning_rate: of AdamW.
    weight_decay: of AdamW.
    batch: windows in a training step.
    check_every: steps between two checks of the choice loss.
    patience: training stops after this many checks without a lower loss.
    """

    context: Annotated[int, Field(ge=SETTLED)] = 512
    width: Count = 16
    states: Count = 8
    layers: Count = 2
    start: Start = "real"
    dropout: Share = 0.3
    max_steps: Count = 200
    learning_rate: Rate = 2e-3
    weight_decay: Share = 0.01
    batch: Count = 32
    check_every: Count = 20
    patience: Count = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start not in get_args(Start):
            raise BadConfig(f"start is {self.start!r}, expected one of {list(get_args(Start))}")

    @property
    def sessions(self) -> int:
        """Sessions of a window: `context` sessions, and before them the warm-up of the features."""
        return features.WARMUP - 1 + self.context

    @property
    def fit_sessions(self) -> int:
        return self.sessions + self.horizon

    @property
    def choice_sessions(self) -> int:
        return self.horizon + 1


CONFIGS: Mapping[str, type[training.Config]] = {"ssm": Config}
SEARCH: Mapping[str, Space] = {
    "ssm": {
        "learning_rate": Range(3e-4, 1e-2, log=True),
        "width": (8, 16, 32),
        "states": (4, 8, 16),
        "start": get_args(Start),
        "dropout": Range(0.0, 0.5),
        "weight_decay": Range(1e-3, 0.3, log=True),
    }
}


def spec(name: str, config: Config) -> ModelSpec:
    return ModelSpec(
        name=name,
        family="ssm",
        min_context=features.WARMUP - 1 + SETTLED,
        max_context=config.sessions,
        max_horizon=config.horizon,
        levels=config.levels,
        calendar=config.calendar,
        columns=(*names.HISTORY, *names.MARKET),
    )
