"""Windows of returns in units of their own EWMA volatility at the cutoff."""

from functools import lru_cache

import torch

from registry.forecast import volatility


def ewma_scale(y: torch.Tensor) -> torch.Tensor:
    """EWMA volatility [n, 1, ...] at the end of windows [n, L, ...]."""
    variance = torch.einsum("nl...,l->n...", y * y, ewma_weights(y.shape[1]).to(y))
    return variance.sqrt().clamp_min(volatility.FLOOR)[:, None]


@lru_cache
def ewma_weights(length: int) -> torch.Tensor:
    """EWMA weights [L] of a window's sessions, oldest first; their sum is 1."""
    weights = volatility.DECAY ** torch.arange(length - 1, -1, -1, dtype=torch.float64)
    return weights / weights.sum()
