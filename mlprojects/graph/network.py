"""The network: a GRU of graph convolutions; its quantiles begin as EWMA volatility x normal.

Seo, Defferrard, Vandergheynst and Bresson, Structured Sequence Modeling with Graph Convolutional
Recurrent Networks, ICONIP 2018 (arXiv 1612.07659): every product of a recurrent cell becomes a
graph convolution. Their Chebyshev filters are replaced by PyTorch Geometric's DenseGraphConv
(Morris et al., AAAI 2019, arXiv 1810.02244), W1 x_i + W2 sum_j a_ij x_j.
"""

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mlprojects.blocks import features, head

# On import, PyTorch Geometric compiles a class with a function that torch 2.13 deprecates.
with warnings.catch_warnings():
    warnings.filterwarnings(
        "ignore", message="`torch.jit.script` is deprecated", category=DeprecationWarning
    )
    from torch_geometric.nn.dense import DenseGraphConv

CLIP = 4.0  # standard deviations of a feature over the sessions to fit
MOST = 1.5  # |log| of the factor on the EWMA volatility

# Features that differ between series. Only these go through the recurrence and over the edges; the
# market's features are the same for all series.
OWN = [
    i
    for i, name in enumerate(features.NAMES)
    if not name.startswith(("market_", "index_")) and "day" not in name
]


def heard(weights: Tensor, present: Tensor) -> Tensor:
    """Each neighbour's share [N, N] in what a series receives: its weight divided by the row's sum.

    Only neighbours that are `present` [N] count; a series that is its own neighbour always does. A
    row without neighbours is 0.
    """
    masked = weights * torch.maximum(present.expand_as(weights), torch.eye(len(weights)))
    total = masked.sum(dim=1, keepdim=True)
    return masked / torch.where(total > 0, total, 1.0)


class FixedGraph(nn.Module):
    """Weights [N, N] that are not trained."""

    weights: Tensor

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.register_buffer("weights", weights)

    def forward(self) -> Tensor:
        return self.weights


class LearnedGraph(nn.Module):
    """Weights [N, N] = softmax(relu(E1 E2^T)) of two embeddings [N, D] of the series.

    They begin near 1/N, and a series may be its own neighbour. This is the self-adaptive adjacency
    of Wu, Pan, Long, Jiang and Zhang, Graph WaveNet, IJCAI 2019 (arXiv 1906.00121); with E1 = E2 it
    is that of Bai, Yao, Li, Wang and Wang, AGCRN, NeurIPS 2020 (arXiv 2007.02842).
    """

    def __init__(self, series: int, width: int) -> None:
        super().__init__()
        self.source = nn.Parameter(torch.randn(series, width) / width)
        self.target = nn.Parameter(torch.randn(series, width) / width)

    def forward(self) -> Tensor:
        return torch.softmax(torch.relu(self.source @ self.target.T), dim=1)


class GraphGRU(nn.Module):
    """A GRU in which every product with a matrix is a graph convolution."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.input = DenseGraphConv(inputs, 3 * hidden)
        self.gates = DenseGraphConv(hidden, 2 * hidden, bias=False)
        self.candidate = DenseGraphConv(hidden, hidden, bias=False)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        """State [B, N, hidden] after sessions x [B, L, N, F]."""
        b, length, n, _ = x.shape
        driven = self.input(x.flatten(0, 1), adjacency).view(b, length, n, 3 * self.hidden)
        state = x.new_zeros(b, n, self.hidden)
        for session in driven.unbind(dim=1):
            gates, new = session.split([2 * self.hidden, self.hidden], dim=2)
            update, reset = torch.sigmoid(gates + self.gates(state, adjacency)).chunk(2, dim=2)
            new = torch.tanh(new + self.candidate(reset * state, adjacency))
            state = update * state + (1 - update) * new
        return state


@dataclass(frozen=True)
class Shape:
    """Sizes of a network."""

    horizon: int
    levels: tuple[float, ...]
    hidden: int
    dropout: float


class Network(nn.Module):
    """Quantiles of the next H returns, in the series' EWMA volatility: exp(u) x free quantiles.

    The free quantiles are parameters of the step; they begin as those of the standard normal. u is
    the log of a factor on the EWMA volatility. It is linear in the recurrent state and in all
    features of the last session, and begins at 0.
    """

    centre: Tensor  # [F] of the features over the sessions to fit
    deviation: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.register_buffer("centre", torch.zeros(len(features.NAMES)))
        self.register_buffer("deviation", torch.ones(len(features.NAMES)))
        self.recurrent = GraphGRU(len(OWN), shape.hidden)
        self.dropout = nn.Dropout(shape.dropout)
        self.readout = nn.Linear(shape.hidden, shape.horizon)
        self.direct = nn.Linear(len(features.NAMES), shape.horizon, bias=False)
        for parameter in (self.readout.weight, self.readout.bias, self.direct.weight):
            nn.init.zeros_(parameter)
        self.quantiles = nn.Parameter(head.normal_start(shape.levels).repeat(shape.horizon, 1))

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        """Quantiles [B, N, H, Q] after features [B, L, N, F] of L sessions.

        `adjacency` [N, N] are the shares that `heard` returns.
        """
        z = ((x - self.centre) / self.deviation).clamp(-CLIP, CLIP)
        state = self.dropout(self.recurrent(z[..., OWN], adjacency))
        u = MOST * torch.tanh((self.readout(state) + self.direct(z[:, -1])) / MOST)
        return u.exp()[..., None] * head.spread(self.quantiles, self.shape.levels)
