"""GJR-GARCH(1,1) with frozen parameters: the conditional variance along a history and its expectation further on.

y[t] = mu + e[t],  e[t] = sigma[t] z[t],  z Student-t with nu degrees of freedom and variance 1,
sigma^2[t + 1] = omega + (alpha + gamma 1{e[t] < 0}) e[t]^2 + beta sigma^2[t].

Glosten, Jagannathan and Runkle, Journal of Finance 48 (1993); without gamma it is the GARCH of Bollerslev, Journal of
Econometrics 31 (1986), with the errors of Bollerslev, Review of Economics and Statistics 69 (1987).
"""

from collections.abc import Sequence

import numpy as np
from scipy.signal import lfilter
from scipy.special import stdtrit

from registry.forecast import volatility
from registry.forecast.arrays import Floats

NAMES = (
    "mu",
    "omega",
    "alpha",
    "gamma",
    "beta",
    "nu",
)  # of parameters [n, 6], in units of log returns
POOLED = (
    "drift",
    "alpha",
    "gamma",
    "beta",
    "nu",
)  # of a pool [5]; drift is mu in unconditional volatilities


def persistence(parameters: Floats) -> Floats:
    """Share [n] of a deviation of the variance that is left a session later; z is symmetric, so gamma counts half."""
    _, _, alpha, gamma, beta, _ = parameters.T
    share: Floats = alpha + gamma / 2 + beta
    return share


def unconditional_volatility(parameters: Floats) -> Floats:
    """Volatility [n] per session in the long run, of parameters with a persistence below 1."""
    return np.sqrt(parameters[:, 1] / (1 - persistence(parameters)))


def pool(parameters: Floats) -> Floats:
    """Parameters [5] of a typical series: means of alpha, gamma and beta, medians of drift and nu.

    Means of admissible alpha, gamma and beta are admissible (positive, stationary): the conditions are linear. Their
    medians need not be.
    """
    drift = np.median(parameters[:, 0] / unconditional_volatility(parameters))
    return np.array([drift, *parameters[:, 2:5].mean(axis=0), np.median(parameters[:, 5])])


def targeted(pooled: Floats, y: Floats) -> Floats:
    """Parameters [n, 6] of returns [n, T] that were not fitted: pooled ones, with omega (and mu) such that the
    unconditional variance is the sample's (variance targeting; Engle and Mezrich, Risk 9, 1996)."""
    drift, alpha, gamma, beta, nu = pooled
    deviation = y.std(axis=1)
    omega = deviation**2 * (1 - alpha - gamma / 2 - beta)
    rest = np.broadcast_to([alpha, gamma, beta, nu], (len(y), 4))
    return np.column_stack([drift * deviation, omega, rest])


def next_variance(y: Floats, parameters: Floats) -> Floats:
    """Variance [n, T] of the session after each of returns [n, T], known at its close.

    The recursion starts from the mean of the first WARMUP squared errors.
    """
    mu, omega, alpha, gamma, beta, _ = parameters.T[:, :, None]
    error = y - mu
    seed = np.mean(error[:, : volatility.WARMUP] ** 2, axis=1)
    news = omega + (alpha + gamma * (error < 0)) * error**2
    rows = zip(news, beta[:, 0], seed, strict=True)
    return np.stack([lfilter([1.0], [1.0, -b], row, zi=[b * start])[0] for row, b, start in rows])


def scale(y: Floats, parameters: Floats, horizon: int) -> Floats:
    """Volatility [n, T, H] that is expected, at the close of each session, of the 1st .. H-th after it.

    Its square is the exact conditional expectation: E sigma^2[t + h + 1] = omega + persistence E sigma^2[t + h].
    """
    omega, share = parameters[:, 1, None], persistence(parameters)[:, None]
    steps = [next_variance(y, parameters)]
    for _ in range(horizon - 1):
        steps.append(omega + share * steps[-1])
    return np.maximum(np.sqrt(np.stack(steps, axis=2)), volatility.FLOOR)


def student_quantiles(levels: Sequence[float], nu: Floats) -> Floats:
    """Quantiles [n, Q] of Student's t with nu [n] > 2 degrees of freedom, scaled to variance 1."""
    quantiles: Floats = stdtrit(nu[:, None], np.asarray(levels)) * np.sqrt((nu - 2) / nu)[:, None]
    return quantiles
