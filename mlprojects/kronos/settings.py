"""Settings of Kronos and its simulator, the search space of a study, and specs of the models."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from mlprojects.kronos import specs
from registry import training
from registry.errors import BadConfig
from registry.forecast.spec import ModelSpec
from registry.training import Count, Range, Space


@dataclass(frozen=True, kw_only=True)
class Config(training.Config):
    """Shapes and training of tokenizer and predictor.

    `max_context` is the window in bars. A training window has `context` bars, as many as a forecast
    uses, and then `targets` bars. Mean and deviation of the context scale the whole window. Only
    targets are learnt, because later bars affect the scale of a bar in the context. `anchor` and
    `num_samples` are defaults of the options with these names. `start_from` names a version to
    fine-tune, such as kronos/3: its shapes and clip are used, and only the predictor is trained.
    """

    kind: Literal["kronos"] = "kronos"
    start_from: str = ""
    max_context: int = 37
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
        if self.tokenizer_steps < 1 and not self.start_from:
            raise BadConfig(
                "tokenizer_steps is 0, and without start_from there is no tokenizer to start from"
            )
        shortest = specs.MIN_CONTEXT + self.horizon
        if self.max_context < shortest:
            raise BadConfig(f"max_context is {self.max_context}, expected {shortest} or more bars")
        if self.targets < self.horizon:
            raise BadConfig(
                f"targets is {self.targets}, expected the horizon ({self.horizon}) or more"
            )
        bits = self.s1_bits + self.s2_bits
        if bits % self.group_size:
            raise BadConfig(
                f"group_size is {self.group_size}, expected a divisor of the {bits} bits"
            )
        for key, width in (("width", self.width), ("tokenizer_width", self.tokenizer_width)):
            if width % (2 * self.heads) or width % 8:
                raise BadConfig(
                    f"{key} is {width}, expected a multiple of 8 and of 2 * heads = "
                    f"{2 * self.heads}"
                )

    @property
    def context(self) -> int:
        """Bars of history that a forecast of the whole horizon uses."""
        return self.max_context - self.horizon

    @property
    def max_steps(self) -> int:
        """Steps of both trainings together, for the progress bar."""
        return self.steps + (0 if self.start_from else self.tokenizer_steps)


@dataclass(frozen=True, kw_only=True)
class SimulatedConfig(training.Config):
    """Nothing is fitted; the dates only set what is reported."""

    kind: Literal["simulated"]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind != "simulated":
            raise BadConfig(f"kind is {self.kind!r}, expected 'simulated'")


CONFIGS: Mapping[str, type[training.Config]] = {"kronos": Config, "simulated": SimulatedConfig}

# Settings of the tokenizer are not searched: the choice loss is in nats per token, so losses under
# different tokenizers cannot be compared.
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
        simulator = specs.simulator_spec(name, config.horizon, config.levels)
        return replace(simulator, calendar=config.calendar)
    sampler = specs.spec(
        name,
        max_context=config.max_context,
        max_horizon=config.horizon,
        levels=config.levels,
        anchor=config.anchor,
        num_samples=config.num_samples,
    )
    return replace(sampler, calendar=config.calendar)
