"""Settings of the networks, one dataclass per kind; their search spaces; their specs."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

from registry import training
from registry.errors import BadConfig
from registry.forecast.spec import ModelSpec
from registry.training import Count, Range, Rate, Share, Space


@dataclass(frozen=True, kw_only=True)
class Training(training.Config):
    """Settings of every kind of network.

    context: sessions in a window.
    max_steps: most training steps.
    learning_rate: of AdamW.
    weight_decay: of AdamW; with 0 it is Adam.
    windows_batch_size: windows in a batch; a network of all series takes as many of each series.
    val_check_steps: steps between two checks of the loss on the choice period.
    patience: training stops after this many checks without a lower loss.
    """

    joint: ClassVar[bool] = False  # a network of all series
    context: Count = 60
    max_steps: Count = 300
    learning_rate: Rate = 1e-3
    weight_decay: float = 0.0
    windows_batch_size: Count = 256
    val_check_steps: Count = 20
    patience: Count = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.weight_decay < 1 / self.learning_rate:
            raise BadConfig(
                f"weight_decay is {self.weight_decay}, expected 0 or more and less than "
                f"{1 / self.learning_rate:g}: a step shrinks every weight by the fraction "
                "learning_rate * weight_decay"
            )

    @property
    def fit_sessions(self) -> int:
        return self.context + self.horizon

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
    def shape(self) -> dict[str, Any]:
        """The settings that make the network: its kind and the settings of that kind."""
        of_training = {field.name for field in fields(Training)}
        of_shape = [field.name for field in fields(self) if field.name not in of_training]
        return {name: getattr(self, name) for name in of_shape}


@dataclass(frozen=True, kw_only=True)
class NBeatsConfig(Training):
    """A stack has one block.

    width: units per layer.
    stacks: number of stacks.
    """

    kind: Literal["nbeats"] = "nbeats"
    width: Count = 32
    stacks: Count = 3


@dataclass(frozen=True, kw_only=True)
class NHitsConfig(Training):
    """The settings of a block have its place in the lists.

    width: units per layer.
    pools: a block pools every so many sessions to their largest.
    downsample: a block forecasts one of every so many steps.
    """

    kind: Literal["nhits"] = "nhits"
    width: Count = 32
    pools: tuple[int, ...] = (2, 2, 1)
    downsample: tuple[int, ...] = (4, 2, 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, sizes in (("pools", self.pools), ("downsample", self.downsample)):
            if min(sizes, default=0) < 1:
                raise BadConfig(f"{name} is {sizes}, expected 1 or more")
        if len(self.pools) != len(self.downsample):
            raise BadConfig(
                f"pools has {len(self.pools)} blocks and downsample {len(self.downsample)}, "
                "expected the same number"
            )
        if max(self.pools) > self.context:
            raise BadConfig(
                f"pools are {self.pools}, expected at most the context ({self.context})"
            )


@dataclass(frozen=True, kw_only=True)
class Transformer(Training):
    """The feed-forward layers are twice as wide as a token.

    width: width of a token, a multiple of heads.
    heads: attention heads.
    layers: encoder layers.
    dropout: share of hidden units left out in a training step.
    """

    width: Count = 32
    heads: Count = 4
    layers: Count = 2
    dropout: Share = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % self.heads:
            raise BadConfig(f"width is {self.width}, expected a multiple of the {self.heads} heads")


@dataclass(frozen=True, kw_only=True)
class PatchTSTConfig(Transformer):
    """A token is a patch of sessions.

    patch: sessions of a patch.
    stride: sessions between the beginnings of two patches.
    """

    kind: Literal["patchtst"] = "patchtst"
    patch: Count = 16
    stride: Count = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.patch > self.context:
            raise BadConfig(f"patch is {self.patch}, expected at most the context ({self.context})")


@dataclass(frozen=True, kw_only=True)
class ITransformerConfig(Transformer):
    """A token is a series."""

    joint: ClassVar[bool] = True
    kind: Literal["itransformer"] = "itransformer"
    windows_batch_size: Count = 32


@dataclass(frozen=True, kw_only=True)
class StemGNNConfig(Training):
    """A network of all series.

    multiplier: layers in the frequency domain are 4 * context * multiplier wide; the library's
      default is 5.
    """

    joint: ClassVar[bool] = True
    kind: Literal["stemgnn"] = "stemgnn"
    multiplier: Count = 1
    windows_batch_size: Count = 32


CONFIGS: Mapping[str, type[training.Config]] = {
    "nbeats": NBeatsConfig,
    "nhits": NHitsConfig,
    "patchtst": PatchTSTConfig,
    "itransformer": ITransformerConfig,
    "stemgnn": StemGNNConfig,
}
RATE, DECAY = Range(3e-4, 1e-2, log=True), (0.0, 0.3, 1.0, 3.0, 5.0)
SEARCH: Mapping[str, Space] = {
    "nbeats": {
        "learning_rate": RATE, "weight_decay": DECAY, "width": (16, 32, 64), "stacks": Range(1, 4),
    },
    "nhits": {
        "learning_rate": RATE, "weight_decay": DECAY, "width": (16, 32, 64),
        "context": (60, 120, 250),
    },
    "patchtst": {
        "learning_rate": RATE, "weight_decay": DECAY, "width": (16, 32),
        "dropout": (0.1, 0.3, 0.5), "patch": (8, 16),
    },
    "itransformer": {
        "learning_rate": RATE, "weight_decay": DECAY, "width": (16, 32, 64), "layers": Range(1, 3),
        "dropout": (0.1, 0.3, 0.5),
    },
    "stemgnn": {"learning_rate": RATE, "weight_decay": DECAY, "context": (30, 60)},
}  # fmt: skip


def spec(name: str, config: Training) -> ModelSpec:
    """The model's spec. Training adds the universe of a network of all series."""
    return ModelSpec(
        name=name,
        family="nixtla",
        min_context=config.context,
        max_context=config.context,
        max_horizon=config.horizon,
        levels=config.levels,
        calendar=config.calendar,
        joint=config.joint,
    )
