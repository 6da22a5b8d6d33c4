"""Scores of quantile forecasts. y [...], quantiles [..., Q] in the same unit.

Sources: Gneiting and Raftery, Strictly proper scoring rules, JASA 102 (2007); Winkler, JASA 67
(1972); Dawid, JRSS A 147 (1984); Pesaran and Timmermann, JBES 10 (1992); Spearman, American Journal
of Psychology 15 (1904); Grinold, Journal of Portfolio Management 15 (1989).
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from registry.forecast.arrays import Floats

ROUNDING = 1e-12  # of a return; a mean forecast this close to 0 counts as 0
MIN_SERIES = 5  # with fewer, a rank correlation says little: of two it is always +1 or -1


def pinball(y: Floats, quantiles: Floats, levels: Sequence[float]) -> Floats:
    """Pinball loss [..., Q]: rho_u(e) = max(u e, (u - 1) e) with e = y - quantile."""
    error = y[..., None] - quantiles
    u = np.asarray(levels)
    loss: Floats = np.maximum(u * error, (u - 1) * error)
    return loss


def crps(y: Floats, quantiles: Floats, levels: Sequence[float]) -> Floats:
    """CRPS [...] on a grid of levels: twice the mean pinball loss.

    Gneiting and Raftery, eq. 21, discretised. It depends on the grid: compare only scores on the
    same levels.
    """
    score: Floats = 2 * pinball(y, quantiles, levels).mean(axis=-1)
    return score


def pit(y: Floats, quantiles: Floats, levels: Sequence[float]) -> Floats:
    """Probability integral transform [...]: the level at which the forecast has the outcome.

    Dawid, JRSS A 147 (1984). Linear between levels. Beyond the outer levels it is the middle of
    what remains: u / 2 below the lowest level u, (1 + u) / 2 above the highest. If the outcome
    equals several quantiles, it is the middle of their levels.
    """
    u = np.asarray(levels)
    below = (quantiles < y[..., None]).sum(axis=-1)
    up_to = (quantiles <= y[..., None]).sum(axis=-1)
    padded = np.concatenate([[0.0], u, [1.0]])
    # With a quantile of its own the outcome is at one level, else within the gap above `below`.
    middle = (padded[below + 1] + padded[np.maximum(up_to, below + 1)]) / 2
    left = np.clip(below - 1, 0, len(u) - 1)
    right = np.clip(below, 0, len(u) - 1)
    low = np.take_along_axis(quantiles, left[..., None], axis=-1)[..., 0]
    high = np.take_along_axis(quantiles, right[..., None], axis=-1)[..., 0]
    gap = np.where(high > low, high - low, 1.0)
    between = u[left] + (y - low) / gap * (u[right] - u[left])
    outside = (below == 0) | (below == len(u))
    beyond = (padded[below] + padded[below + 1]) / 2
    level: Floats = np.where(up_to > below, middle, np.where(outside, beyond, between))
    return level


def inside(y: Floats, lower: Floats, upper: Floats) -> Floats:
    """1.0 where lower <= y <= upper, else 0.0; its mean is the coverage."""
    return ((lower <= y) & (y <= upper)).astype(np.float64)


def winkler(y: Floats, lower: Floats, upper: Floats, coverage: float) -> Floats:
    """Interval score [...] of a central band: width + 2/alpha x miss, with alpha = 1 - coverage."""
    alpha = 1 - coverage
    return (upper - lower) + 2 / alpha * (np.maximum(lower - y, 0) + np.maximum(y - upper, 0))


def direction(y: Floats, mean: Floats) -> Floats:
    """1.0 where the mean forecast has the sign of the outcome, 0.0 where it has the other sign.

    The mean of the scores is the hit rate of Pesaran and Timmermann. They count a 0 as a miss. Here
    the score of an outcome of 0 is NaN, because it has no direction. A mean forecast of 0 (within
    ROUNDING) scores 0.5, like a coin toss.
    """
    hit = 0.5 + 0.5 * np.sign(y) * np.sign(_without_rounding(mean))
    return np.where(y == 0, np.nan, hit)


def rank_correlation(mean: Floats, y: Floats) -> Floats:
    """Spearman's correlation [T] across series of mean forecasts and outcomes [T, N].

    It is Grinold's information coefficient, on ranks; ties share their mean rank. NaN in an input
    excludes a series from a row. The result of a row is NaN if it has fewer than MIN_SERIES series,
    or if all its forecasts or all its outcomes are equal.
    """
    present = ~(np.isnan(mean) | np.isnan(y))
    a = _centred_ranks(_without_rounding(mean), present)
    b = _centred_ranks(y, present)
    spread = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    enough = (present.sum(axis=1) >= MIN_SERIES) & (spread > 0)
    return np.where(enough, (a * b).sum(axis=1) / np.where(enough, spread, 1.0), np.nan)


def _centred_ranks(values: Floats, present: npt.NDArray[np.bool_]) -> Floats:
    """Ranks [T, N] within each row minus their mean; 0 where a value is not present."""
    ranks = pd.DataFrame(np.where(present, values, np.nan)).rank(axis=1)
    centred: Floats = ranks.sub(ranks.mean(axis=1), axis=0).to_numpy()
    return np.nan_to_num(centred)


def _without_rounding(mean: Floats) -> Floats:
    return np.where(np.abs(mean) <= ROUNDING, 0.0, mean)
