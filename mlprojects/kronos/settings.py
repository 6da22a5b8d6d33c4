"""Settings of Kronos and of its simulator, what a study searches of them, and what the models need."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from mlprojects.kronos import specs
from registry import training
from registry.errors import BadConfig
from registry.forecast.spec import ModelSpec
from registry.training import Count, Range, Space


@dataclass(frozen=True, kw_only=True)
class Config(training.Config):
    """Shapes and training of tokenizer and predictor.

    `max_context` is the window. A training window holds as many bars as a forecast looks at (`context`), whose mean and
    deviation scale all of it, and `targets` bars after them, which alone are learnt: what is scaled by later bars is
    never a target. `anchor` and `num_samples` are those options' defaults. `start_from` names a version to fine-tune,
    as in kronos/3: shapes and clip are then its own, and only the predictor is trained.
    """

    kind: Literal["kronos"] = "kronos"
    start_from: str = ""
    max_context: int = 36
    targets: Count = 16
    s1_bits: Count = 8
    s2_bits: Count = 8
    group_size: Count = 4
    tokenizer_width: Count = 64
    tokenizer_layers: Count = 2
    tokenizer_steps: int = 500
    tokenizer_rate: float = 2e-3
    width: Count = 96
    layers: Count = 3
    heads: Count = 4
    dropout: float = 0.1
    steps: Count = 500
    learning_rate: float = 2e-3
    batch: Count = 64
    check_every: Count = 50
    patience: Count = 6
    clip: float = 5.0
    anchor: bool = True
    num_samples: Count = 200

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.data != "bars":
            raise BadConfig(f"data is {self.data!r}; Kronos is trained on bars")
        if self.tokenizer_steps < 1 and not self.start_from:
            raise BadConfig(
                "tokenizer_steps is 0, and without start_from there is no tokenizer to start from"
            )
        if self.context < specs.MIN_CONTEXT:
            raise BadConfig(
                f"max_context is {self.max_context}, expected {specs.MIN_CONTEXT + self.horizon - 1} or more bars"
            )
        if self.targets < self.horizon:
            raise BadConfig(
                f"targets is {self.targets}, expected the horizon ({self.horizon}) or more"
            )
        if (self.s1_bits + self.s2_bits) % self.group_size:
            raise BadConfig(
                f"group_size is {self.group_size}, expected a divisor of the {self.s1_bits + self.s2_bits} bits"
            )
        for width in (self.width, self.tokenizer_width):
            if width % (2 * self.heads) or width % 8:
                raise BadConfig(
                    f"widths are multiples of 8 and of 2 heads ({2 * self.heads}), found {width}"
                )

    @property
    def context(self) -> int:
        """Bars of history that a forecast of the whole horizon looks at."""
        return self.max_context - self.horizon + 1

    @property
    def max_steps(self) -> int:
        """Of both trainings together, for the progress bar."""
        return self.steps + (0 if self.start_from else self.tokenizer_steps)


@dataclass(frozen=True, kw_only=True)
class SimulatedConfig(training.Config):
    """Nothing is fitted: the dates only say what is reported."""

    kind: Literal["simulated"]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind != "simulated":
            raise BadConfig(f"kind is {self.kind!r}, expected 'simulated'")


CONFIGS: Mapping[str, type[training.Config]] = {"kronos": Config, "simulated": SimulatedConfig}

# Nothing of the tokenizer: the choice loss counts nats of its tokens and means another thing with another one.
SEARCH: Mapping[str, Space] = {
    "kronos": {
        "width": (64, 96, 128),
        "layers": Range(2, 4),
        "learning_rate": Range(5e-4, 5e-3, log=True),
        "dropout": Range(0.0, 0.3),
        "batch": (32, 64, 128),
    }
}


def spec(name: str, config: Config | SimulatedConfig) -> ModelSpec:
    """What the model needs and answers."""
    if isinstance(config, SimulatedConfig):
        return specs.simulator_spec(name, config.horizon, config.levels)
    return specs.spec(
        name,
        max_context=config.max_context,
        max_horizon=config.horizon,
        levels=config.levels,
        anchor=config.anchor,
        num_samples=config.num_samples,
    )
