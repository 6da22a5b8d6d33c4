"""Cumulative returns: the sum of the next h single-session returns, for every step h.

A quantile of a sum is not the sum of quantiles. A model with paths has the sums in its paths. For
the others, PATHS paths are drawn: each step has the model's own distribution, and the steps are
independent, because returns of different sessions are hardly correlated. On the panel after 2019,
90 % bands made so hold 89 % of the 5-session returns, for `har` and for `fhs`.

Between its levels a quantile function is linear, as in `Forecast.at`. Beyond the outer levels it is
linear in the normal score, with the slope between the two outer levels.
"""

from functools import lru_cache

import numpy as np
from scipy.special import ndtri
from scipy.stats import qmc

from registry.forecast.arrays import Floats, Places
from registry.forecast.forecast import Forecast
from registry.forecast.quantiles import path_quantiles

PATHS = 2048  # a power of 2, as Sobol' points need
BLOCK = 50  # series that are drawn at a time
OF_PATHS = "cumulative by the model's own paths"
OF_DRAWS = f"cumulative by {PATHS} drawn paths, steps independent"


def method(forecast: Forecast) -> str:
    """How `quantiles` gets cumulative returns from this forecast, in words."""
    return OF_DRAWS if forecast.paths is None else OF_PATHS


def quantiles(forecast: Forecast, levels: tuple[float, ...], seed: int = 0) -> Floats:
    """Quantiles [N, H, Q] of the log return from the cutoff to each step.

    `forecast` is at the levels of its model. Those of step 1 are the model's own.
    """
    if forecast.paths is not None:
        return path_quantiles(forecast.paths.cumsum(axis=2), levels)
    ranks = ranks_of(forecast.horizon, seed)
    blocks = []
    for start in range(0, len(forecast.unique_id), BLOCK):
        marginals = forecast.quantiles[start : start + BLOCK]
        paths = drawn(marginals, forecast.levels, ranks)
        blocks.append(_empirical(paths.cumsum(axis=1), levels))
    cumulative = np.concatenate(blocks)
    cumulative[:, 0] = forecast.at(levels).quantiles[:, 0]
    return cumulative


def drawn(marginals: Floats, levels: tuple[float, ...], ranks: Places) -> Floats:
    """Paths [N, H, S] of single-session returns whose steps have these quantiles [N, H, Q].

    The S draws of a step are its quantiles at S evenly spread levels, so none is left to chance.
    Path s takes the draw number `ranks[s, h]` at step h.
    """
    number = len(ranks)
    even = (np.arange(number) + 0.5) / number
    values = quantile_function(marginals, levels, even)  # [N, H, S]
    paths: Floats = np.take_along_axis(values, ranks.T[None], axis=2)
    return paths


def quantile_function(marginals: Floats, levels: tuple[float, ...], at: Floats) -> Floats:
    """Quantiles [..., K] at the levels `at` [K], also beyond the outer `levels`."""
    if len(levels) == 1:
        return np.repeat(marginals, len(at), axis=-1)
    grid = np.asarray(levels)
    right = np.clip(np.searchsorted(grid, at), 1, len(grid) - 1)
    left = right - 1
    weight = (at - grid[left]) / (grid[right] - grid[left])
    score, scores = ndtri(at), ndtri(grid)
    beyond = (at < grid[0]) | (at > grid[-1])
    of_scores = (score - scores[left]) / (scores[right] - scores[left])
    weight = np.where(beyond, of_scores, weight)
    low, high = marginals[..., left], marginals[..., right]
    function: Floats = low + weight * (high - low)
    return function


def _empirical(draws: Floats, levels: tuple[float, ...]) -> Floats:
    """Quantiles [..., Q] of draws [..., S], as np.quantile in a fifth of its time."""
    ascending = np.sort(draws, axis=-1)
    places = np.asarray(levels) * (draws.shape[-1] - 1)
    left = places.astype(np.int64)
    low, high = ascending[..., left], ascending[..., left + 1]
    empirical: Floats = low + (places - left) * (high - low)
    return empirical


@lru_cache(maxsize=8)
def ranks_of(horizon: int, seed: int) -> Places:
    """A permutation of 0 .. S - 1 for each step [S, H]: ranks of scrambled Sobol' points.

    They fill the cube of steps more evenly than random permutations.
    """
    points = qmc.Sobol(horizon, rng=np.random.default_rng(seed)).random(PATHS)
    ranks: Places = points.argsort(axis=0).argsort(axis=0)
    return ranks
