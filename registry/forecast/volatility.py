"""Volatility of daily returns: EWMA and rolling residual quantiles, what most models stand on.

Every function works row by row: a series gets the same bits alone as in a batch.
"""

from collections.abc import Sequence

import numpy as np

from registry.forecast.arrays import Floats

DECAY = 0.94  # RiskMetrics Technical Document, 4th ed. (J.P. Morgan/Reuters 1996), daily data
WARMUP = 60  # sessions that seed an average; its values before their end are not used
WINDOW = 500  # residuals in an empirical quantile
FLOOR = 1e-8  # volatility of a series that does not move, so that residuals stay finite


def ewma(values: Floats, decay: float) -> Floats:
    """Exponentially weighted mean s[t] = decay s[t-1] + (1 - decay) x[t] of each row [n, T].

    It starts at the mean of the row's first WARMUP values.
    """
    from scipy.signal import lfilter  # importing a history's checks costs no scipy

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
    """The last WINDOW matured residuals [n, <= WINDOW]: y[t + step] / scale[t] of [n, T].

    The newest is of origin T - 1 - step: a later one has no outcome yet. None is taken from the
    warm-up.
    """
    matured = y[:, step:] / scale[:, :-step]
    return matured[:, WARMUP - 1 :][:, -WINDOW:]


def empirical_quantiles(values: Floats, levels: Sequence[float]) -> Floats:
    """Quantiles [n, Q] of each row [n, W], linear between order statistics (Hyndman-Fan type 7).

    The bits of `np.quantile`, which selects: for several levels sorting is four times as fast.
    """
    ordered = np.sort(values, axis=1)
    place = np.asarray(levels) * (values.shape[1] - 1)
    below = np.floor(place).astype(np.int64)
    above = np.minimum(below + 1, values.shape[1] - 1)
    low, high, share = ordered[:, below], ordered[:, above], place - below
    step = high - low
    # From the nearer of both, so that equal values give exactly that value.
    quantiles: Floats = np.where(share < 0.5, low + step * share, high - step * (1 - share))
    return quantiles
