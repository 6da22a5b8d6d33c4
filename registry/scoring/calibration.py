"""Calibrated forecasts: quantiles, mean and paths corrected by a bias, a scale and offsets.

A state of one series and step holds a bias b, a scale s and an offset o for each level. It moves a
quantile q to

    q' = m + b w + s (q - m) + o w

where m is the raw median and w the raw q0.95 - q0.05. A grid without one of these three levels is
interpolated between its neighbours; a grid that does not reach from 0.05 to 0.95 is refused. The q'
are sorted, and only then interpolated to other levels (`quantiles.interpolated`).

The identity (b = 0, s = 1, o = 0) leaves every number as it is, bit for bit. NumPy only.
"""

from collections.abc import Sequence

import numpy as np

from registry.forecast.arrays import Floats, Places
from registry.forecast.quantiles import interpolated, quantile_mean
from registry.scoring.calibration_table import ANCHORS, States

# A piece between two quantiles that is narrower than this share of the forecast counts as flat.
_FLAT = 1e-9


def calibrated(quantiles: Floats, levels: Sequence[float], states: States) -> Floats:
    """Calibrated quantiles [N, H, Q] of raw ones at `levels`, sorted.

    Raises BadParameter (code BAD_LEVELS) if the states are of other levels.
    """
    states.check_levels(levels)
    identity = states.identity()
    if identity.all():
        return quantiles
    anchors = interpolated(quantiles, levels, ANCHORS)
    median = anchors[..., 1:2]
    width = anchors[..., 2:] - anchors[..., :1]
    bias = states.bias[..., None]
    scale = states.scale[..., None]
    moved = median + bias * width + scale * (quantiles - median) + states.offsets * width
    return np.where(identity[..., None], quantiles, np.sort(moved, axis=-1))


def calibrated_mean(mean: Floats, before: Floats, after: Floats, levels: Sequence[float]) -> Floats:
    """Mean [N, H] moved by the integral of q' - q; `before` and `after` are [N, H, Q].

    The integral is `quantile_mean`, so a mean that was the integral of the raw quantiles is the
    integral of the calibrated ones, up to rounding.
    """
    if after is before:
        return mean
    # In C order, a series is summed in one order whether it is alone or among others.
    moved = np.subtract(after, before, order="C")
    shift = quantile_mean(moved, levels)
    return np.where(shift == 0.0, mean, mean + shift)


# --- paths ------------------------------------------------------------------------------------


def calibrated_paths(paths: Floats, before: Floats, after: Floats) -> Floats:
    """Paths [N, S, H], each step sent through the piecewise linear map from q to q'.

    `before` and `after` are quantiles [N, H, Q] at two or more levels, raw and calibrated. The map
    goes on with the outer slopes beyond the outer quantiles, and never descends. The returns stay
    those of single sessions: cumulate them afterwards.

    Equal raw quantiles whose calibrated ones differ are a jump of the map. Below them it ends at
    the lowest of these q', above them it starts at the highest, and it sends their own value to the
    middle of both. If an outer piece is flat, the slope beyond it is 1.
    """
    if after is before:
        return paths
    unmoved = (before == after).all(axis=-1)
    if unmoved.all():
        return paths
    x = np.ascontiguousarray(np.swapaxes(paths, 1, 2))  # [N, H, S]
    mapped = np.where(unmoved[..., None], x, _mapped(x, before, after))
    return np.ascontiguousarray(np.swapaxes(mapped, 1, 2))


def _mapped(x: Floats, before: Floats, after: Floats) -> Floats:
    """Values [N, H, S] of the map at x."""
    node = _nodes(x, before)
    distance = x - _take(before, node)
    y = _take(after, node) + _take(_slopes(before, after), node) * distance
    # Rounding, or a piece that counts as flat, must not lift a value above the next quantile.
    top = np.full_like(after[..., :1], np.inf)
    ceiling = np.concatenate([after[..., 1:], top], axis=-1)
    y = np.minimum(y, _take(ceiling, node))
    return np.where(distance == 0.0, _take(_middles(before, after), node), y)


def _nodes(x: Floats, before: Floats) -> Places:
    """Places [N, H, S] of the last quantiles that are not above x; 0 where all are above."""
    node = np.zeros(x.shape, dtype=np.int64)
    for level in range(1, before.shape[-1]):
        node += x >= before[..., level, None]
    return node


def _slopes(before: Floats, after: Floats) -> Floats:
    """Slopes [N, H, Q] of the pieces to the right of each quantile; the last one goes on."""
    widths = np.diff(before, axis=-1)
    spread = before[..., -1:] - before[..., :1]
    slopes = np.ones_like(widths)
    np.divide(np.diff(after, axis=-1), widths, out=slopes, where=widths > _FLAT * spread)
    return np.concatenate([slopes, slopes[..., -1:]], axis=-1)


def _middles(before: Floats, after: Floats) -> Floats:
    """For each quantile the middle [N, H, Q] of q' over the equal ones before it, and itself."""
    new = np.diff(before, axis=-1, prepend=-np.inf) > 0
    places = np.arange(before.shape[-1])
    first = np.maximum.accumulate(np.where(new, places, 0), axis=-1)
    lowest = np.take_along_axis(after, first, axis=-1)
    return np.where(first == places, after, (lowest + after) / 2)


def _take(values: Floats, node: Places) -> Floats:
    return np.take_along_axis(values, node, axis=-1)
