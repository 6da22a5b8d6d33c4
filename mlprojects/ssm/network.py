"""The network: S4D layers over the features of every session, and quantiles that cannot cross."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlprojects.blocks import head
from mlprojects.blocks.s4d import S4D, Blocks, Start

CLIP = 4.0  # standard deviations of a feature
REACH = 1.5  # of the logarithm by which the network may change the EWMA volatility
BLOCK = 64  # sessions that the recurrence takes at once; the fastest of 16 to 128 for 64 series of 512 sessions

States = tuple[Tensor, ...]  # of every layer, [n, D, N] complex


@dataclass(frozen=True)
class Shape:
    """Sizes of a network: F features of a session and G of each step's season in, D channels, N states a channel and
    layer, H steps of Q levels out."""

    features: int
    season: int
    horizon: int
    levels: tuple[float, ...]
    width: int
    states: int
    layers: int
    start: Start
    dropout: float


class Layer(nn.Module):
    """x + GLU(W GELU(S4D(norm(x)))): the S4D layer mixes sessions, the gated linear one channels."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(shape.width)
        self.s4d = S4D(shape.width, shape.states, shape.start)
        self.mix = nn.Linear(shape.width, 2 * shape.width)
        self.dropout = nn.Dropout(shape.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(x, self.s4d(self.norm(x)))

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        """What follows the S4D layer's output y; shapes [..., D]."""
        out: Tensor = x + self.dropout(F.glu(self.mix(F.gelu(y)), dim=-1))
        return out


class Network(nn.Module):
    """Quantiles of the returns at the next H sessions in own EWMA volatilities, after every session of a window.

    exp(u) (m + c): c are non-crossing gaps and m a median, both of each step and not of the input; u is the input's.
    It starts at 0, and c at the normal quantiles: an untrained network says EWMA volatility x normal quantiles.
    """

    centre: Tensor
    deviation: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.register_buffer("centre", torch.zeros(shape.features + shape.horizon * shape.season))
        self.register_buffer("deviation", torch.ones_like(self.centre))
        self.enter = nn.Linear(shape.features, shape.width)
        self.layers = cast(
            Sequence[Layer], nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        )
        self.norm = nn.LayerNorm(shape.width)
        self.scale = nn.Linear(shape.width, shape.horizon)
        self.skip = nn.Linear(shape.features, shape.horizon, bias=False)
        self.gaps = nn.Parameter(head.normal_start(shape.levels).repeat(shape.horizon, 1))
        self.season = nn.Linear(shape.season, 1, bias=False)
        for parameter in (self.season.weight, self.scale.weight, self.scale.bias, self.skip.weight):
            nn.init.zeros_(parameter)

    def forward(self, inputs: Tensor) -> Tensor:
        """Quantiles [n, L, H, Q] after every session of inputs [n, L, F + H G]: each layer is one convolution."""
        x, season = self._standard(inputs)
        h = self.enter(x)
        for layer in self.layers:
            h = layer(h)
        return self._quantiles(h, x, season)

    def start(self, n: int) -> States:
        """States of n series before their first session."""
        return tuple(
            torch.view_as_complex(layer.s4d.c.new_zeros(n, *layer.s4d.c.shape))
            for layer in self.layers
        )

    def step(self, states: States, inputs: Tensor) -> tuple[States, Tensor]:
        """One session of the recurrence: inputs [n, F + H G] to the next states and quantiles [n, H, Q]."""
        x, season = self._standard(inputs)
        h, following = self.enter(x), []
        for layer, state in zip(self.layers, states, strict=True):
            after, y = layer.s4d.step(state, layer.norm(h))
            h = layer.after(h, y)
            following.append(after)
        return tuple(following), self._quantiles(h, x, season)

    def blocks(self) -> tuple[Blocks, ...]:
        """What `last` runs on; for weights that do not change any more."""
        return tuple(layer.s4d.blocks(BLOCK) for layer in self.layers)

    def last(self, inputs: Tensor, blocks: Sequence[Blocks]) -> tuple[States, Tensor]:
        """States and quantiles [n, H, Q] after the last session of inputs [n, L, F + H G]: as L times `step`."""
        x, season = self._standard(inputs)
        h, states = self.enter(x), []
        for layer, block in zip(self.layers, blocks, strict=True):
            y, state = block.scan(layer.norm(h))
            h = layer.after(h, y)
            states.append(state)
        return tuple(states), self._quantiles(h[:, -1], x[:, -1], season[:, -1])

    def _standard(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Features [..., F] and season [..., H, G] in standard deviations."""
        standard = ((inputs - self.centre) / self.deviation).clamp(-CLIP, CLIP)
        x, season = standard.split(
            [self.shape.features, self.shape.horizon * self.shape.season], dim=-1
        )
        return x, season.unflatten(-1, (self.shape.horizon, self.shape.season))

    def _quantiles(self, h: Tensor, x: Tensor, season: Tensor) -> Tensor:
        u = self.scale(self.norm(h)) + self.skip(x) + self.season(season).squeeze(-1)
        return torch.exp(REACH * torch.tanh(u / REACH))[..., None] * head.spread(
            self.gaps, self.shape.levels
        )
