"""Scores of quantile forecasts and their significance. y [...], quantiles [..., Q] in the same unit.

Sources: Gneiting and Raftery, Strictly proper scoring rules, JASA 102 (2007); Winkler, JASA 67 (1972);
Diebold and Mariano, JBES 13 (1995); Harvey, Leybourne and Newbold, IJF 13 (1997); Newey and West,
Econometrica 55 (1987).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from registry.contract import Floats

BARTLETT_LAGS = 20


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
