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
REACH = 1.5  # |log| of the factor on the EWMA volatility
BLOCK = 64  # sessions a block of the recurrence; of 16 to 128 the fastest for 64 series of 512

States = tuple[Tensor, ...]  # of every layer, [n, D, N] complex


@dataclass(frozen=True)
class Shape:
    """Sizes of a network."""

    features: int  # F, of a session
    season: int  # G, features of each step's season
    horizon: int  # H
    levels: tuple[float, ...]  # Q
    width: int  # D channels
    states: int  # N, of each channel and layer
    layers: int
    start: Start
    dropout: float


class Layer(nn.Module):
    """x + GLU(W GELU(S4D(norm(x)))): S4D mixes sessions, the gated linear layer channels."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(shape.width)
        self.s4d = S4D(shape.width, shape.states, shape.start)
        self.mix = nn.Linear(shape.width, 2 * shape.width)
        self.dropout = nn.Dropout(shape.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(x, self.s4d(self.norm(x)))

    def after(self, x: Tensor, y: Tensor) -> Tensor:
        """The layer's output, from its input x and the S4D output y; all [..., D]."""
        out: Tensor = x + self.dropout(F.glu(self.mix(F.gelu(y)), dim=-1))
        return out


class Network(nn.Module):
    """Quantiles of the next H returns, in the series' EWMA volatility, after every session.

    They are exp(u) (m + c). The median m and the non-crossing gaps c are parameters of each step; u
    depends on the input. u starts at 0 and c at the normal quantiles, so an untrained network
    forecasts EWMA volatility x normal quantiles.
    """

    centre: Tensor
    deviation: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.register_buffer("centre", torch.zeros(shape.features + shape.horizon * shape.season))
        self.register_buffer("deviation", torch.ones_like(self.centre))
        self.enter = nn.Linear(shape.features, shape.width)
        layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.layers = cast(Sequence[Layer], layers)
        self.norm = nn.LayerNorm(shape.width)
        self.scale = nn.Linear(shape.width, shape.horizon)
        self.skip = nn.Linear(shape.features, shape.horizon, bias=False)
        self.gaps = nn.Parameter(head.normal_start(shape.levels).repeat(shape.horizon, 1))
        self.season = nn.Linear(shape.season, 1, bias=False)
        for parameter in (self.season.weight, self.scale.weight, self.scale.bias, self.skip.weight):
            nn.init.zeros_(parameter)

    def forward(self, inputs: Tensor) -> Tensor:
        """Quantiles [n, L, H, Q] after every session of inputs [n, L, F + H G].

        Each layer is one convolution.
        """
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
        """One session of the recurrence.

        Takes inputs [n, F + H G], returns the next states and quantiles [n, H, Q].
        """
        x, season = self._standard(inputs)
        h = self.enter(x)
        next_states = []
        for layer, state in zip(self.layers, states, strict=True):
            next_state, y = layer.s4d.step(state, layer.norm(h))
            h = layer.after(h, y)
            next_states.append(next_state)
        return tuple(next_states), self._quantiles(h, x, season)

    def blocks(self) -> tuple[Blocks, ...]:
        """Blocks for `last`, computed once; the weights must not change afterwards."""
        return tuple(layer.s4d.blocks(BLOCK) for layer in self.layers)

    def last(self, inputs: Tensor, blocks: Sequence[Blocks]) -> tuple[States, Tensor]:
        """States and quantiles [n, H, Q] after the last session of inputs [n, L, F + H G].

        They are those of L times `step`.
        """
        x, season = self._standard(inputs)
        h = self.enter(x)
        states = []
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
        factor = torch.exp(REACH * torch.tanh(u / REACH))
        return factor[..., None] * head.spread(self.gaps, self.shape.levels)
