"""Volatility of daily returns: EWMA and rolling residual quantiles, what most models stand on.

Every function works row by row: a series gets the same bits alone as in a batch.
"""

from collections.abc import Sequence

import numpy as np
from scipy.signal import lfilter

from registry.contract import Floats

DECAY = 0.94  # J.P. Morgan/Reuters, RiskMetrics Technical Document, 4th ed. (1996), daily data
WARMUP = 60  # sessions that seed an average; what it says before their end is not to be used
WINDOW = 500  # residuals in an empirical quantile
FLOOR = 1e-8  # volatility of a series that does not move, so that residuals stay finite


def ewma(values: Floats, decay: float) -> Floats:
    """Exponentially weighted mean s[t] = decay s[t-1] + (1 - decay) x[t] of each row [n, T], seeded with the
    mean of its first WARMUP values."""
    seed = values[:, :WARMUP].mean(axis=1, keepdims=True)
    smoothed, _ = lfilter([1.0 - decay], [1.0, -decay], values, axis=1, zi=decay * seed)
    result: Floats = smoothed
    return result


def half_life(sessions: float) -> float:
    """Decay of an average that halves a weight after so many sessions."""
    return float(0.5 ** (1.0 / sessions))


def ewma_volatility(y: Floats, decay: float = DECAY) -> Floats:
    """Volatility [n, T] per session, known at its close: the root of the EWMA of squared returns [n, T]."""
    return np.maximum(np.sqrt(ewma(y * y, decay)), FLOOR)


def residuals(y: Floats, scale: Floats, step: int) -> Floats:
    """The last WINDOW matured residuals [n, <= WINDOW]: y[t + step] / scale[t] of returns and scales [n, T].

    The newest is of origin T - 1 - step: a later one has no outcome yet. None is taken from the warm-up.
    """
    matured = y[:, step:] / scale[:, :-step]
    return matured[:, WARMUP - 1 :][:, -WINDOW:]


def empirical_quantiles(values: Floats, levels: Sequence[float]) -> Floats:
    """Quantiles [n, Q] of each row [n, W], linear between order statistics (Hyndman-Fan type 7)."""
    quantiles: Floats = np.quantile(values, np.asarray(levels), axis=1).T
    return quantiles
