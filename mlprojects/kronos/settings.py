"""Settings of Kronos and its simulator, the search space of a study, and specs of the models."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from mlprojects.kronos import specs
from mlprojects.kronos.shapes import CONFIG
from registry import training
from registry.errors import BadConfig
from registry.forecast.model_folder import read_spec
from registry.forecast.spec import ModelSpec
from registry.training import Count, Range, Space

FINE_TUNING: Literal["fine_tuning"] = "fine_tuning"
TARGETS = 16  # bars


@dataclass(frozen=True, kw_only=True)
class Shared(training.Config):
    """What training from scratch and fine-tuning share.

    A training window has `context` bars, as many as a forecast uses, and then `targets` bars. Mean
    and deviation of the context scale the whole window. Only targets are learnt, because later bars
    affect the scale of a bar in the context.

    start_from: version to fine-tune, such as kronos/3. It decides the shape; window, horizon,
      levels, clip, anchor and num_samples are its own unless they are set.
    max_context: the window in bars.
    targets: bars of a training window that are learnt.
    steps: most training steps of the predictor.
    learning_rate: its learning rate; 1e-5 with start_from.
    batch: windows in a training step; 16 with start_from.
    check_every: steps between two checks of the choice loss.
    patience: training stops after this many checks without a lower loss.
    clip: standard deviations at which the input is clipped.
    anchor: default of the option anchor.
    num_samples: default of the option num_samples: paths per series.
    """

    start_from: str = ""
    max_context: int = 37
    targets: int = TARGETS
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
        shortest = specs.MIN_CONTEXT + self.horizon
        if self.max_context < shortest:
            raise BadConfig(f"max_context is {self.max_context}, expected {shortest} or more bars")
        if self.targets < self.horizon:
            raise BadConfig(
                f"targets is {self.targets}, expected the horizon ({self.horizon}) or more"
            )

    @property
    def context(self) -> int:
        """Bars of history that a forecast of the whole horizon uses."""
        return self.max_context - self.horizon

    @property
    def fit_sessions(self) -> int:
        return self.context + self.targets

    @property
    def choice_sessions(self) -> int:
        return self.targets


@dataclass(frozen=True, kw_only=True)
class Config(Shared):
    """Shapes and training of tokenizer and predictor, from scratch.

    s1_bits: bits of a bar's first token.
    s2_bits: bits of a bar's second token.
    group_size: bits whose entropy is taken together.
    tokenizer_width: width of the tokenizer's layers.
    tokenizer_layers: layers of the tokenizer's encoder, and of its decoder.
    tokenizer_steps: training steps of the tokenizer.
    tokenizer_rate: its learning rate.
    width: width of the predictor's layers.
    layers: its layers.
    heads: attention heads of both.
    dropout: share of hidden units left out in a training step.
    """

    kind: Literal["kronos"] = "kronos"
    s1_bits: Count = 8
    s2_bits: Count = 8
    group_size: Count = 4
    tokenizer_width: Count = 64
    tokenizer_layers: Count = 2
    tokenizer_steps: Count = 500
    tokenizer_rate: float = 2e-3
    width: Count = 96
    layers: Count = 3
    heads: Count = 4
    dropout: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start_from:
            raise BadConfig(f"start_from is {self.start_from!r}, which goes with {FINE_TUNING}")
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
    def max_steps(self) -> int:
        """Steps of both trainings together, for the progress bar."""
        return self.steps + self.tokenizer_steps


@dataclass(frozen=True, kw_only=True)
class FineTuning(Shared):
    """Training of the predictor of a version, which keeps its tokenizer and its shape.

    What `inherited` gives is that of the version, unless it is set. `targets` 0 is 16, or the
    horizon if that is longer.
    """

    kind: Literal["fine_tuning"] = FINE_TUNING
    targets: int = 0
    learning_rate: float = 1e-5
    batch: Count = 16  # a window may be many times longer than those of a training from scratch

    def __post_init__(self) -> None:
        if not self.targets:
            # The run logs the number, not the 0.
            object.__setattr__(self, "targets", max(TARGETS, self.horizon))
        super().__post_init__()
        if not self.start_from:
            raise BadConfig(f"kind is {FINE_TUNING}, expected start_from=MODEL/VERSION with it")

    @property
    def max_steps(self) -> int:
        """Steps of the training, for the progress bar."""
        return self.steps


def inherited(start_dir: Path) -> Mapping[str, Any]:
    """Settings that a fine-tune takes from the version in `start_dir`, if they are not set.

    Raises BadConfig for a simulator, which has no weights.
    """
    start = json.loads((start_dir / CONFIG).read_text())
    if start["kind"] != "kronos":
        raise BadConfig(
            "start_from names a simulator, which has no weights to start from; "
            "expected a version of kronos"
        )
    spec = read_spec(start_dir)
    options = {option.name: option.default for option in spec.options}
    return {
        "kind": FINE_TUNING,
        "horizon": spec.max_horizon,
        "levels": spec.levels,
        # Versions from before 2026-11-27 state one bar less for the same history and horizon.
        "max_context": max(spec.max_context, specs.MIN_CONTEXT + spec.max_horizon),
        "clip": start["clip"],
        "anchor": options["anchor"],
        "num_samples": options["num_samples"],
        "targets": 0,
    }


@dataclass(frozen=True, kw_only=True)
class SimulatedConfig(training.Config):
    """Nothing is fitted; the dates only set what is reported."""

    kind: Literal["simulated"]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind != "simulated":
            raise BadConfig(f"kind is {self.kind!r}, expected 'simulated'")


CONFIGS: Mapping[str, type[training.Config]] = {
    "kronos": Config,
    FINE_TUNING: FineTuning,
    "simulated": SimulatedConfig,
}

# Settings of the tokenizer are not searched: the choice loss is in nats per token, so losses under
# different tokenizers cannot be compared.
SEARCH: Mapping[str, Space] = {
    "kronos": {
        "width": (64, 96, 128),
        "layers": Range(2, 4),
        "learning_rate": Range(5e-4, 5e-3, log=True),
        "dropout": Range(0.0, 0.3),
        "batch": (32, 64, 128),
    },
    FINE_TUNING: {"learning_rate": Range(1e-6, 1e-3, log=True), "batch": (8, 16, 32)},
}


def spec(name: str, config: Shared | SimulatedConfig) -> ModelSpec:
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
