"""Volatility of daily returns: EWMA and rolling residual quantiles. Most models build on it.

Every function works row by row: a series gets the same bits alone and in a batch.
"""

from collections.abc import Sequence

import numpy as np

from registry.forecast.arrays import Floats

DECAY = 0.94  # RiskMetrics Technical Document, 4th ed. (J.P. Morgan/Reuters 1996), daily data
WARMUP = 60  # sessions that seed an average; its values within them are not used
WINDOW = 500  # residuals in an empirical quantile
FLOOR = 1e-8  # volatility of a series that does not move, so that residuals stay finite


def ewma(values: Floats, decay: float) -> Floats:
    """Exponentially weighted mean s[t] = decay s[t-1] + (1 - decay) x[t] of each row [n, T].

    It starts at the mean of the row's first WARMUP values.
    """
    from scipy.signal import lfilter  # imported here: the checks of a history need no scipy

    seed = values[:, :WARMUP].mean(axis=1, keepdims=True)
    smoothed, _ = lfilter([1.0 - decay], [1.0, -decay], values, axis=1, zi=decay * seed)
    result: Floats = smoothed
    return result


def half_life(sessions: float) -> float:
    """Decay of an average whose weights halve after `sessions` sessions."""
    return float(0.5 ** (1.0 / sessions))


def ewma_volatility(y: Floats, decay: float = DECAY) -> Floats:
    """Volatility [n, T] at each close: the root of the EWMA of squared returns [n, T]."""
    return np.maximum(np.sqrt(ewma(y * y, decay)), FLOOR)


def residuals(y: Floats, scale: Floats, step: int) -> Floats:
    """The last WINDOW matured residuals [n, <= WINDOW]: y[t + step] / scale[t] of [n, T].

    The newest has origin T - 1 - step: a later origin has no outcome yet. Residuals of the warm-up
    are left out.
    """
    matured = y[:, step:] / scale[:, :-step]
    return matured[:, WARMUP - 1 :][:, -WINDOW:]


def empirical_quantiles(values: Floats, levels: Sequence[float]) -> Floats:
    """Quantiles [n, Q] of each row [n, W], linear between order statistics (Hyndman-Fan type 7).

    The result has the bits of `np.quantile`. For several levels, sorting is four times as fast as
    its selection.
    """
    ordered = np.sort(values, axis=1)
    position = np.asarray(levels) * (values.shape[1] - 1)
    below = np.floor(position).astype(np.int64)
    above = np.minimum(below + 1, values.shape[1] - 1)
    low = ordered[:, below]
    high = ordered[:, above]
    share = position - below
    step = high - low
    # Interpolate from the nearer of the two, so that equal values give exactly that value.
    quantiles: Floats = np.where(share < 0.5, low + step * share, high - step * (1 - share))
    return quantiles
