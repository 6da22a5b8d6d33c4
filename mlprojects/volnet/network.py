"""The network in training: a log scale per step from features, and quantiles that cannot cross."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlprojects.blocks import head
from mlprojects.volnet.scales import REACH, Member


class ScaleNet(nn.Module):
    """Quantiles [n, H, Q] in EWMA volatilities: exp(u) times quantiles of each step.

    Training learns u and these quantiles together. The untrained network gives normal quantiles,
    since u begins at 0. With `width` 0 only the linear part remains.
    """

    def __init__(
        self,
        features: int,
        season: int,
        horizon: int,
        levels: Sequence[float],
        *,
        width: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.split = features
        self.levels = tuple(levels)
        self.dropout = dropout
        inputs = features + season
        self.direct = nn.Parameter(torch.zeros(inputs))
        self.step = nn.Parameter(torch.zeros(horizon))
        self.hidden = nn.Parameter((2 * torch.rand(inputs, width) - 1) / inputs**0.5)
        self.hidden_step = nn.Parameter(torch.zeros(horizon, width))
        self.out = nn.Parameter(torch.zeros(width))
        self.raw = nn.Parameter(head.normal_start(levels).repeat(horizon, 1))

    def log_scale(self, daily: Tensor, season: Tensor) -> Tensor:
        """u [n, H] of scaled features [n, F] and [n, H, G]."""
        first = self.split
        linear = (daily @ self.direct[:first])[:, None] + season @ self.direct[first:] + self.step
        z = (daily @ self.hidden[:first])[:, None] + season @ self.hidden[first:] + self.hidden_step
        total = linear + F.dropout(F.silu(z), self.dropout, self.training) @ self.out
        return REACH * torch.tanh(total / REACH)

    def forward(self, daily: Tensor, season: Tensor) -> Tensor:
        scale = torch.exp(self.log_scale(daily, season))
        return scale[..., None] * head.spread(self.raw, self.levels)

    def member(self) -> Member:
        """The same scale in float64 numpy, for serving."""
        parts = self.direct, self.step, self.hidden, self.hidden_step, self.out
        return Member(*(part.detach().double().numpy() for part in parts))
