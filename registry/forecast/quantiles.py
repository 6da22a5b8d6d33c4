"""Quantiles of a forecast: of its paths, at other levels, and their mean. NumPy only."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from registry.errors import BadParameter
from registry.forecast.arrays import Floats, Places


def path_quantiles(paths: Floats, levels: Sequence[float]) -> Floats:
    """Empirical quantiles [N, H, Q] of paths [N, S, H], linear between order statistics."""
    quantiles: Floats = np.moveaxis(np.quantile(paths, np.asarray(levels), axis=1), 0, 2)
    return quantiles


def interpolated(
    quantiles: Floats, trained_levels: Sequence[float], levels: Sequence[float]
) -> Floats:
    """Quantiles [..., Q] at other levels, linear in the level.

    Raises BadParameter (code BAD_LEVELS) for a level outside `trained_levels`.
    """
    if tuple(levels) == tuple(trained_levels):
        return quantiles
    left, right, weight = _between(tuple(trained_levels), tuple(levels))
    low = quantiles[..., left]
    high = quantiles[..., right]
    # Rounding must not lift a quantile above the next trained one: the two would cross.
    between = np.minimum(low + weight * (high - low), high)
    return np.where(weight == 1.0, high, between)


@lru_cache(maxsize=64)
def _between(
    trained_levels: tuple[float, ...], levels: tuple[float, ...]
) -> tuple[Places, Places, Floats]:
    """For each level its neighbours' places on the trained grid, and the weight of the right one.

    Raises BadParameter (code BAD_LEVELS) for a level outside the grid.
    """
    grid = np.asarray(trained_levels)
    u = np.asarray(levels, dtype=np.float64)
    if u[0] < grid[0] or u[-1] > grid[-1]:
        raise BadParameter(
            f"levels {u[0]:g}..{u[-1]:g} reach outside the trained {grid[0]:g}..{grid[-1]:g}",
            code="BAD_LEVELS",
        )
    if len(grid) == 1:
        only = np.zeros(len(u), dtype=np.int64)
        return only, only, np.ones(len(u))
    right = np.clip(np.searchsorted(grid, u), 1, len(grid) - 1)
    left = right - 1
    weight = (u - grid[left]) / (grid[right] - grid[left])
    return left, right, weight


def quantile_mean(quantiles: Floats, levels: Sequence[float]) -> Floats:
    """Integral [...] of the quantile function [..., Q]: trapezes, constant beyond the outer levels.

    The weight of a level is the width of its cell, which reaches halfway to the level before and
    halfway to the level after.
    """
    mean: Floats = (quantiles * _cells(tuple(levels))).sum(axis=-1)
    return mean


@lru_cache(maxsize=64)
def _cells(levels: tuple[float, ...]) -> Floats:
    """Widths [Q] of the levels' cells; they add up to 1."""
    u = np.asarray(levels, dtype=np.float64)
    return np.diff(np.concatenate([[0.0], (u[1:] + u[:-1]) / 2, [1.0]]))
