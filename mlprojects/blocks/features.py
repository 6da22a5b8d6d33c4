"""Features of daily returns for volatility: level, leverage, shocks, season; of the past only.

The features of a session depend on the returns up to its close. Each series is computed by itself,
so it gets the same bits alone as in a batch.
"""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from registry.forecast import names, volatility
from registry.forecast.arrays import Floats
from registry.forecast.volatility import ewma, half_life

COLUMNS = (names.Y, *names.MARKET)  # columns of `values`, in this order
LEVEL_LIVES = (1.5, 3.0, 6.0, 11.0, 22.0, 45.0, 90.0, 180.0)  # half-lives in sessions
ROOT_LIVES = (6.0, 22.0, 90.0)
INDEX_LIVES = (1.5, 6.0, 22.0, 90.0)
SIGNED_LIVES = (1.5, 5.0, 20.0, 60.0)
LOSS_LIVES = (1.5, 5.0, 20.0)
SLOW = 180.0
ALONE_LIVES = (3.0, 11.0, 45.0)  # for the part of the return that the index does not explain
BETA_LIFE = 90.0
CORRELATION_LIVES = (22.0, 90.0)
SHAPE_LIVES = (60.0, 120.0)
LEAST_BETA = 0.1  # betas are floored here so that the logarithm stays finite
LITTLE = 0.05  # deviations; keeps the logarithm of an average size finite
TO_SIGMA = float(np.sqrt(np.pi / 2))  # E|r| of a normal return is its deviation divided by this
SMALL = 1e-5  # log return, a tenth of a basis point; keeps the logarithm of a still series finite
CLIP = 6.0  # deviations
SHOCK = 3.0  # deviations that make a shock
CALM = 130  # sessions after which a shock is forgotten
QUARTER = 63  # sessions between earnings
AROUND = 2  # sessions before and after the expected earnings
YEAR, YEARS = 4, 12  # quarters in the two averages; the longer average uses as many as exist

NAMES = (
    *(f"own_{hl:g}" for hl in LEVEL_LIVES),
    *(f"own_root_{hl:g}" for hl in ROOT_LIVES),
    *(f"market_{hl:g}" for hl in LEVEL_LIVES),
    *(f"index_{hl:g}" for hl in INDEX_LIVES),
    "index_to_market",
    "own_to_market",
    *(f"{source}_signed_{hl:g}" for source in ("own", "index") for hl in SIGNED_LIVES),
    *(f"{source}_loss_{hl:g}" for source in ("own", "index") for hl in LOSS_LIVES),
    *("own_shock", "own_shock_size", "index_shock", "index_shock_size"),
    "since_shock",
    *(f"own_alone_{hl:g}" for hl in ALONE_LIVES),
    *(f"correlation_{hl:g}" for hl in CORRELATION_LIVES),
    *("beta", "explained"),
    *(f"own_{shape}_{hl:g}" for hl in SHAPE_LIVES for shape in ("evenness", "loss_share")),
    *("monday", "tuesday", "wednesday", "thursday"),
)
SEASON_NAMES = ("quarters_year", "quarters")

# Sessions up to the first row with every feature.
WARMUP = volatility.WARMUP + QUARTER * YEAR + AROUND


def daily(values: Floats, ds: npt.NDArray[np.datetime64], keep: int) -> Floats:
    """Features [n, keep, F] (see NAMES) known at the close of each of the last `keep` sessions.

    `values` [n, T, 3] are COLUMNS, `ds` [n, T] their sessions. A level is a log less the log of the
    EWMA volatility of the series (or the market, the index), so it has no unit. The first
    WARMUP - 1 sessions lack some features; do not use them.
    """
    y, market, index = (np.ascontiguousarray(values[:, :, i]) for i in range(3))
    sigma = volatility.ewma_volatility(y)
    market_sigma = volatility.ewma_volatility(market)
    index_sigma = volatility.ewma_volatility(index)
    log_sigma = np.log(sigma)
    log_market = np.log(market_sigma)
    to_market = log_sigma - log_market
    log_sigma, log_market = log_sigma[:, -keep:], log_market[:, -keep:]
    log_index = np.log(index_sigma)[:, -keep:]

    own_levels = [_level(y, hl, keep) - log_sigma for hl in LEVEL_LIVES]
    own_roots = [_root(y, hl, keep) - log_sigma for hl in ROOT_LIVES]
    market_levels = [_level(market, hl, keep) - log_market for hl in LEVEL_LIVES]
    index_levels = [_level(index, hl, keep) - log_index for hl in INDEX_LIVES]
    own_to_market = to_market[:, -keep:] - _average(to_market, SLOW, keep)

    z, index_z = standardised(y, sigma), standardised(index, index_sigma)
    signed = [_average(x, hl, keep) for x in (z, index_z) for hl in SIGNED_LIVES]
    losses = [_average(np.maximum(-x, 0), hl, keep) for x in (z, index_z) for hl in LOSS_LIVES]
    shocks = [x[:, -keep:] for x in (z, np.abs(z), index_z, np.abs(index_z))]
    shapes = [part for hl in SHAPE_LIVES for part in _shape(z, hl, keep)]

    beta = _beta(y, index)
    alone = _alone(y, index, beta)
    alone_levels = [_level(alone, hl, keep) - log_sigma for hl in ALONE_LIVES]
    correlations = [_correlation(y, index, hl, keep) for hl in CORRELATION_LIVES]
    beta = beta[:, -keep:]
    explained = np.log(np.maximum(beta, LEAST_BETA)) + log_index - log_sigma

    parts = [
        *own_levels,
        *own_roots,
        *market_levels,
        *index_levels,
        log_index - log_market,
        own_to_market,
        *signed,
        *losses,
        *shocks,
        _since_shock(z)[:, -keep:],
        *alone_levels,
        *correlations,
        beta,
        explained,
        *shapes,
        *_weekdays(ds[:, -keep:]),
    ]
    return np.stack(parts, axis=2)


def season(values: Floats, horizon: int, keep: int) -> Floats:
    """Season of the sessions ahead, [n, keep, H, 2] (see SEASON_NAMES), at the last `keep` closes.

    Earnings come every 63 sessions. So take the session k quarters before the forecast session, and
    the largest |z| within AROUND sessions of it. Average this over k = 1..YEAR, and over
    k = 1..YEARS as far as the history reaches. z is the part of the return that the index does not
    explain, in volatilities. `values` are as in `daily`; the horizon is at most
    QUARTER - AROUND - 1.
    """
    y, _, index = (np.ascontiguousarray(values[:, :, i]) for i in range(3))
    alone = _alone(y, index, _beta(y, index))
    size = np.abs(standardised(alone, volatility.ewma_volatility(alone)))
    length = size.shape[1]
    shifted = [size[:, i : length - 2 * AROUND + i] for i in range(2 * AROUND + 1)]
    around = np.maximum.reduce(shifted)  # [n, T - 4]
    target = np.arange(length - keep, length)[:, None] + np.arange(1, horizon + 1)  # [keep, H]
    total = np.zeros((len(size), keep, horizon))
    count = np.zeros((keep, horizon))
    means = {}
    for k in range(1, YEARS + 1):
        first = target - k * QUARTER - AROUND
        in_history = first >= volatility.WARMUP
        total += np.where(in_history, around[:, np.maximum(first, 0)], 0.0)
        count += in_history
        means[k] = total / np.maximum(count, 1)
    return np.stack([means[YEAR], means[YEARS]], axis=3)


def standardised(y: Floats, sigma: Floats) -> Floats:
    """Returns [n, T] over the volatility of the session before, within CLIP; 0 for the first."""
    z = np.zeros_like(y)
    z[:, 1:] = np.clip(y[:, 1:] / sigma[:, :-1], -CLIP, CLIP)
    return z


def _average(x: Floats, hl: float, keep: int) -> Floats:
    """The last `keep` values of an exponentially weighted mean.

    A single value is computed as a weighted sum, which is five times as fast.
    """
    if keep > 1:
        return ewma(x, half_life(hl))[:, -keep:]
    mean: Floats = (x * _weights(x.shape[1], hl)).sum(axis=1, keepdims=True)
    return mean


@lru_cache(maxsize=1024)
def _weights(length: int, hl: float) -> Floats:
    """Weights [T] of the sessions in the last value of `ewma`.

    The first WARMUP sessions share the weight of the seed.
    """
    decay = half_life(hl)
    weights: Floats = (1 - decay) * decay ** np.arange(length - 1, -1, -1, dtype=np.float64)
    weights[: volatility.WARMUP] += decay**length / min(length, volatility.WARMUP)
    weights.setflags(write=False)
    return weights


def _level(x: Floats, hl: float, keep: int) -> Floats:
    """Log of the volatility that a normal return with this mean absolute value has."""
    return np.log(_average(np.abs(x), hl, keep) * TO_SIGMA + SMALL)


def _root(x: Floats, hl: float, keep: int) -> Floats:
    """Log of the root mean square return."""
    return 0.5 * np.log(_average(x * x, hl, keep) + SMALL**2)


def _beta(y: Floats, index: Floats) -> Floats:
    """Slope [n, T] of the return on the index return, known at the close.

    It is 0 where the index does not move.
    """
    decay = half_life(BETA_LIFE)
    return ewma(y * index, decay) / (ewma(index * index, decay) + SMALL**2)


def _alone(y: Floats, index: Floats, beta: Floats) -> Floats:
    """Returns [n, T] less the index return times the slope of the session before."""
    slope = np.concatenate([beta[:, :1], beta[:, :-1]], axis=1)
    return y - slope * index


def _correlation(y: Floats, index: Floats, hl: float, keep: int) -> Floats:
    """Correlation of returns, assuming a mean of 0."""
    size = np.sqrt(_average(y * y, hl, keep) * _average(index * index, hl, keep))
    return _average(y * index, hl, keep) / (size + SMALL**2)


def _shape(z: Floats, hl: float, keep: int) -> list[Floats]:
    """Two logs: mean over root mean square of |z| (low: rare large sessions), losses over gains."""
    mean = _average(np.abs(z), hl, keep)
    square = _average(z * z, hl, keep)
    losses = _average(np.maximum(-z, 0), hl, keep)
    gains = _average(np.maximum(z, 0), hl, keep)
    evenness = np.log(mean + LITTLE) - 0.5 * np.log(square + LITTLE**2)
    loss_share = np.log(losses + LITTLE) - np.log(gains + LITTLE)
    return [evenness, loss_share]


def _since_shock(z: Floats) -> Floats:
    """Log of 1 + sessions since the last shock, which count as CALM at most."""
    sessions = np.arange(z.shape[1])
    shock = np.where(np.abs(z) > SHOCK, sessions, -CALM)
    ago = sessions - np.maximum.accumulate(shock, axis=1)
    return np.log1p(np.minimum(ago, CALM))


def _weekdays(ds: npt.NDArray[np.datetime64]) -> list[Floats]:
    """0 or 1 for each of Monday to Thursday; Friday is 0 in all four."""
    weekday = (ds.astype("datetime64[D]").astype(np.int64) + 3) % 7  # 1970-01-01 was a Thursday
    return [(weekday == day).astype(np.float64) for day in range(4)]
