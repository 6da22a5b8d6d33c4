"""GJR-GARCH(1,1) with frozen parameters: conditional variance along a history, and its expectation.

y[t] = mu + e[t],  e[t] = sigma[t] z[t],  z Student-t with nu degrees of freedom and variance 1,
sigma^2[t + 1] = omega + (alpha + gamma 1{e[t] < 0}) e[t]^2 + beta sigma^2[t].

Glosten, Jagannathan and Runkle, Journal of Finance 48 (1993). Without gamma it is the GARCH of
Bollerslev, Journal of Econometrics 31 (1986), with the errors of Bollerslev, Review of Economics
and Statistics 69 (1987).
"""

from collections.abc import Sequence

import numpy as np
from scipy.signal import lfilter
from scipy.special import stdtrit

from registry.forecast import volatility
from registry.forecast.arrays import Floats

# Names of parameters [n, 6], in units of log returns.
NAMES = ("mu", "omega", "alpha", "gamma", "beta", "nu")
# Names of a pool [5]; drift is mu in unconditional volatilities.
POOLED = ("drift", "alpha", "gamma", "beta", "nu")


def persistence(parameters: Floats) -> Floats:
    """Share [n] of a deviation of the variance that remains a session later.

    z is symmetric, so gamma counts half.
    """
    _, _, alpha, gamma, beta, _ = parameters.T
    share: Floats = alpha + gamma / 2 + beta
    return share


def unconditional_volatility(parameters: Floats) -> Floats:
    """Long-run volatility [n] per session of parameters with a persistence below 1."""
    return np.sqrt(parameters[:, 1] / (1 - persistence(parameters)))


def pool(parameters: Floats) -> Floats:
    """Parameters [5] of a typical series: means of alpha, gamma and beta, medians of drift and nu.

    The conditions on alpha, gamma and beta (positive, stationary) are linear. So means of valid
    parameters are valid; medians need not be.
    """
    drift = np.median(parameters[:, 0] / unconditional_volatility(parameters))
    return np.array([drift, *parameters[:, 2:5].mean(axis=0), np.median(parameters[:, 5])])


def targeted(pooled: Floats, y: Floats) -> Floats:
    """Parameters [n, 6] of returns [n, T] that were not fitted, from pooled ones.

    mu and omega are scaled so that the unconditional variance is the sample's (variance targeting;
    Engle and Mezrich, Risk 9, 1996).
    """
    drift, alpha, gamma, beta, nu = pooled
    deviation = y.std(axis=1)
    omega = deviation**2 * (1 - alpha - gamma / 2 - beta)
    rest = np.broadcast_to([alpha, gamma, beta, nu], (len(y), 4))
    return np.column_stack([drift * deviation, omega, rest])


def next_variance(y: Floats, parameters: Floats) -> Floats:
    """Variance [n, T] of the session after each of the returns [n, T], known at the return's close.

    The recursion starts from the mean of the first WARMUP squared errors.
    """
    mu, omega, alpha, gamma, beta, _ = parameters.T[:, :, None]
    error = y - mu
    seed = np.mean(error[:, : volatility.WARMUP] ** 2, axis=1)
    news = omega + (alpha + gamma * (error < 0)) * error**2
    rows = []
    for row, b, start in zip(news, beta[:, 0], seed, strict=True):
        variance, _ = lfilter([1.0], [1.0, -b], row, zi=[b * start])
        rows.append(variance)
    return np.stack(rows)


def scale(y: Floats, parameters: Floats, horizon: int) -> Floats:
    """Expected volatility [n, T, H] of the H sessions after each session, at its close.

    Its square is the exact conditional expectation:
    E sigma^2[t + h + 1] = omega + persistence E sigma^2[t + h].
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
