"""Quantiles that cannot cross: a centre, and gaps outwards that are always positive."""

from collections.abc import Sequence

import torch
from scipy.special import ndtri
from torch import Tensor
from torch.nn import functional as F


def centre(levels: Sequence[float]) -> int:
    """Index of the level nearest to one half, from which the gaps are counted."""
    return min(range(len(levels)), key=lambda i: abs(levels[i] - 0.5))


def spread(raw: Tensor, levels: Sequence[float]) -> Tensor:
    """Strictly increasing quantiles [..., Q] of unbounded numbers [..., Q].

    The number at the centre is the quantile there. Each other number, made positive by softplus, is
    the gap to the next quantile towards the centre.
    """
    middle = centre(levels)
    gaps = F.softplus(raw)
    below = gaps[..., :middle].flip(-1).cumsum(-1).flip(-1)
    above = gaps[..., middle + 1 :].cumsum(-1)
    central = raw[..., middle : middle + 1]
    return torch.cat([central - below, central, central + above], dim=-1)


def normal_start(levels: Sequence[float], deviation: float = 1.0) -> Tensor:
    """Start of a network: numbers [Q] (float32) whose `spread` gives normal quantiles."""
    quantiles = torch.tensor(ndtri(levels) * deviation)
    middle = centre(levels)
    gaps = quantiles[1:] - quantiles[:-1]
    raw = torch.log(torch.expm1(gaps))
    return torch.cat([raw[:middle], quantiles[middle : middle + 1], raw[middle:]]).float()


def pinball(y: Tensor, quantiles: Tensor, levels: Sequence[float]) -> Tensor:
    """Mean pinball loss of outcomes [...] and quantiles [..., Q].

    Twice this loss is the CRPS on the grid of levels.
    """
    error = y[..., None] - quantiles
    u = torch.tensor(levels, dtype=quantiles.dtype)
    return torch.maximum(u * error, (u - 1) * error).mean()
