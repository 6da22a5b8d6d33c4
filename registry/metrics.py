"""Scores of quantile forecasts and their significance. y [...], quantiles [..., Q] in the same unit.

Sources: Gneiting and Raftery, Strictly proper scoring rules, JASA 102 (2007); Winkler, JASA 67 (1972);
Diebold and Mariano, JBES 13 (1995); Harvey, Leybourne and Newbold, IJF 13 (1997); Newey and West,
Econometrica 55 (1987); Pesaran and Timmermann, JBES 10 (1992); Spearman, American Journal of Psychology 15 (1904);
Grinold, Journal of Portfolio Management 15 (1989).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import t as student

from registry.contract import Floats

BARTLETT_LAGS = 20
ROUNDING = 1e-12  # of a return; a mean forecast this near to 0 is 0: weights that cancel leave such a rest
MIN_SERIES = 5  # fewer have hardly any ranks to correlate: two are always +1 or -1


def pinball(y: Floats, quantiles: Floats, levels: Sequence[float]) -> Floats:
    """Pinball loss [..., Q]: rho_u(e) = max(u e, (u - 1) e) with e = y - quantile."""
    error = y[..., None] - quantiles
    u = np.asarray(levels)
    loss: Floats = np.maximum(u * error, (u - 1) * error)
    return loss


def crps(y: Floats, quantiles: Floats, levels: Sequence[float]) -> Floats:
    """CRPS [...] on the grid of levels: twice the mean pinball loss (Gneiting and Raftery, eq. 21 discretised).

    It depends on the grid: compare only scores on the same levels.
    """
    score: Floats = 2 * pinball(y, quantiles, levels).mean(axis=-1)
    return score


def inside(y: Floats, lower: Floats, upper: Floats) -> Floats:
    """1.0 where lower <= y <= upper, else 0.0; its mean is the coverage."""
    return ((lower <= y) & (y <= upper)).astype(np.float64)


def winkler(y: Floats, lower: Floats, upper: Floats, coverage: float) -> Floats:
    """Interval score [...] of a central band: width plus 2/alpha times the miss, alpha = 1 - coverage."""
    alpha = 1 - coverage
    return (upper - lower) + 2 / alpha * (np.maximum(lower - y, 0) + np.maximum(y - upper, 0))


def direction(y: Floats, mean: Floats) -> Floats:
    """1.0 where the mean forecast has the sign of the outcome, 0.0 where it has the other one; its mean is the hit rate
    of Pesaran and Timmermann. They count a 0 as a miss; here an outcome of 0 has no direction to be found and is NaN,
    and a mean forecast of 0 (within ROUNDING) earns 0.5, what tossing a coin would.
    """
    hit = 0.5 + 0.5 * np.sign(y) * np.sign(_without_rounding(mean))
    return np.where(y == 0, np.nan, hit)


def rank_correlation(mean: Floats, y: Floats) -> Floats:
    """Spearman's correlation [T] of mean forecasts [T, N] and outcomes [T, N] across series, ties sharing their mean
    rank: Grinold's information coefficient, on ranks.

    NaN marks a series that takes no part in a row. A row is NaN with fewer than MIN_SERIES series, or where one side
    says the same of all.
    """
    known = ~(np.isnan(mean) | np.isnan(y))
    ranks = [pd.DataFrame(np.where(known, side, np.nan)).rank(axis=1) for side in (_without_rounding(mean), y)]
    a, b = (np.nan_to_num(r.sub(r.mean(axis=1), axis=0).to_numpy()) for r in ranks)
    spread = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    enough = (known.sum(axis=1) >= MIN_SERIES) & (spread > 0)
    return np.where(enough, (a * b).sum(axis=1) / np.where(enough, spread, 1.0), np.nan)


def _without_rounding(mean: Floats) -> Floats:
    return np.where(np.abs(mean) <= ROUNDING, 0.0, mean)


@dataclass(frozen=True)
class DieboldMariano:
    """Two-sided p-values of 'both forecast equally well'. The larger one counts."""

    p_hln: float  # rectangular window of h - 1 lags, small-sample factor of Harvey, Leybourne and Newbold
    p_bartlett: float  # Bartlett window of 20 lags: volatility clusters beyond h - 1 lags

    @property
    def p(self) -> float:
        return max(self.p_hln, self.p_bartlett)


def diebold_mariano(differences: Floats, horizon: int) -> DieboldMariano:
    """Test of a loss difference per date [T] (average a panel over its series first).

    A long-run variance that is not positive (possible with the rectangular window) gives p = 1: no evidence.
    """
    d = np.asarray(differences, dtype=np.float64)
    n, h = len(d), horizon
    if n <= h:
        return DieboldMariano(1.0, 1.0)
    factor = np.sqrt(max(n + 1 - 2 * h + h * (h - 1) / n, 0.0) / n)
    rectangular = np.ones(h)
    bartlett = 1 - np.arange(min(BARTLETT_LAGS, n - 1) + 1) / (BARTLETT_LAGS + 1)
    return DieboldMariano(_p_value(d, rectangular, factor), _p_value(d, bartlett, 1.0))


def _p_value(d: Floats, weights: Floats, factor: float) -> float:
    """p of the mean of `d`, its variance from autocovariances weighted from lag 0 on; t with T - 1 degrees."""
    n = len(d)
    centred = d - d.mean()
    covariance = np.array([centred[lag:] @ centred[: n - lag] / n for lag in range(len(weights))])
    variance = (covariance[0] + 2 * (weights[1:] * covariance[1:]).sum()) / n
    if variance <= 0:
        return 1.0
    return float(2 * student.sf(abs(factor * d.mean() / np.sqrt(variance)), n - 1))
