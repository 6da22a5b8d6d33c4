"""Features of daily returns for volatility: own, market's and idiosyncratic level, leverage, season. Past only.

Everything known at the close of a session is a function of the returns up to it. Rows are computed series by series: a
series gets the same bits alone as in a batch.
"""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from registry.forecast import names, volatility
from registry.forecast.arrays import Floats
from registry.forecast.volatility import ewma, half_life

COLUMNS = (names.Y, *names.MARKET)  # of `values`, in this order
LEVEL_LIVES = (1.5, 3.0, 6.0, 11.0, 22.0, 45.0, 90.0, 180.0)  # half-lives in sessions
ROOT_LIVES = (6.0, 22.0, 90.0)
INDEX_LIVES = (1.5, 6.0, 22.0, 90.0)
SIGNED_LIVES = (1.5, 5.0, 20.0, 60.0)
LOSS_LIVES = (1.5, 5.0, 20.0)
SLOW = 180.0
ALONE_LIVES = (3.0, 11.0, 45.0)  # of what the index does not explain
BETA_LIFE = 90.0
CORRELATION_LIVES = (22.0, 90.0)
SHAPE_LIVES = (60.0, 120.0)
LEAST_BETA = 0.1  # betas are floored here so that the logarithm stays finite
LITTLE = 0.05  # deviations: keeps the logarithm of an average size finite
TO_SIGMA = float(np.sqrt(np.pi / 2))  # E|r| of a normal return is its deviation divided by this
SMALL = 1e-5  # log return: a tenth of a basis point keeps the logarithm of a still series finite
CLIP = 6.0  # deviations
SHOCK, CALM = 3.0, 130  # deviations that are a shock; sessions after which it is forgotten
QUARTER, AROUND = 63, 2  # sessions between earnings; sessions about one
YEAR, YEARS = 4, 12  # quarters of two averages; the longer one uses as many as exist

NAMES = (
    *(f"own_{hl:g}" for hl in LEVEL_LIVES),
    *(f"own_root_{hl:g}" for hl in ROOT_LIVES),
    *(f"market_{hl:g}" for hl in LEVEL_LIVES),
    *(f"index_{hl:g}" for hl in INDEX_LIVES),
    "index_to_market",
    "own_to_market",
    *(f"{who}_signed_{hl:g}" for who in ("own", "index") for hl in SIGNED_LIVES),
    *(f"{who}_loss_{hl:g}" for who in ("own", "index") for hl in LOSS_LIVES),
    *(f"{who}_{what}" for who in ("own", "index") for what in ("shock", "shock_size")),
    "since_shock",
    *(f"own_alone_{hl:g}" for hl in ALONE_LIVES),
    *(f"correlation_{hl:g}" for hl in CORRELATION_LIVES),
    *("beta", "explained"),
    *(f"own_{what}_{hl:g}" for hl in SHAPE_LIVES for what in ("evenness", "loss_share")),
    *("monday", "tuesday", "wednesday", "thursday"),
)
SEASON_NAMES = ("quarters_year", "quarters")

WARMUP = (
    volatility.WARMUP + QUARTER * YEAR + AROUND
)  # sessions before the first row with every feature


def daily(values: Floats, ds: npt.NDArray[np.datetime64], keep: int) -> Floats:
    """Features [n, keep, F] (see NAMES) known at the close of each of the last `keep` sessions.

    `values` [n, T, 3] are COLUMNS, `ds` [n, T] their sessions. Levels are logs against the own EWMA volatility (or the
    market's, the index's), so that they carry no unit. The first WARMUP - 1 sessions are not to be used.
    """
    y, market, index = (np.ascontiguousarray(values[:, :, i]) for i in range(3))
    own, wide, narrow = (volatility.ewma_volatility(x) for x in (y, market, index))
    log_own, log_wide, log_narrow = (np.log(x)[:, -keep:] for x in (own, wide, narrow))
    z = standardised(y, own), standardised(index, narrow)
    against_market = np.log(own) - np.log(wide)
    beta = _beta(y, index)
    alone = _alone(y, index, beta)
    beta = beta[:, -keep:]
    parts = [
        *(_level(y, hl, keep) - log_own for hl in LEVEL_LIVES),
        *(_root(y, hl, keep) - log_own for hl in ROOT_LIVES),
        *(_level(market, hl, keep, TO_SIGMA) - log_wide for hl in LEVEL_LIVES),
        *(_level(index, hl, keep) - log_narrow for hl in INDEX_LIVES),
        log_narrow - log_wide,
        against_market[:, -keep:] - _average(against_market, SLOW, keep),
        *(_average(x, hl, keep) for x in z for hl in SIGNED_LIVES),
        *(_average(np.maximum(-x, 0), hl, keep) for x in z for hl in LOSS_LIVES),
        *(part[:, -keep:] for x in z for part in (x, np.abs(x))),
        _since_shock(z[0])[:, -keep:],
        *(_level(alone, hl, keep) - log_own for hl in ALONE_LIVES),
        *(_correlation(y, index, hl, keep) for hl in CORRELATION_LIVES),
        beta,
        np.log(np.maximum(beta, LEAST_BETA)) + log_narrow - log_own,
        *(part for hl in SHAPE_LIVES for part in _shape(z[0], hl, keep)),
        *_weekdays(ds[:, -keep:]),
    ]
    return np.stack(parts, axis=2)


def season(values: Floats, horizon: int, keep: int) -> Floats:
    """Season of the session h ahead, [n, keep, H, 2] (see SEASON_NAMES), at the close of the last `keep` sessions.

    Earnings come every 63 sessions: the largest |z| within AROUND sessions of k quarters before the forecast session,
    averaged over k = 1..YEAR, and over k = 1..YEARS as far as the history reaches. z is of the part of the return that
    the index does not explain. `values` as for `daily`; the horizon is at most QUARTER - AROUND - 1.
    """
    y, _, index = (np.ascontiguousarray(values[:, :, i]) for i in range(3))
    alone = _alone(y, index, _beta(y, index))
    size = np.abs(standardised(alone, volatility.ewma_volatility(alone)))
    length = size.shape[1]
    around = np.maximum.reduce(
        [size[:, i : length - 2 * AROUND + i] for i in range(2 * AROUND + 1)]
    )  # [n, T - 4]
    target = np.arange(length - keep, length)[:, None] + np.arange(1, horizon + 1)  # [keep, H]
    total, count, means = np.zeros((len(size), keep, horizon)), np.zeros((keep, horizon)), {}
    for k in range(1, YEARS + 1):
        first = target - k * QUARTER - AROUND
        known = first >= volatility.WARMUP
        total += np.where(known, around[:, np.maximum(first, 0)], 0.0)
        count += known
        means[k] = total / np.maximum(count, 1)
    return np.stack([means[YEAR], means[YEARS]], axis=3)


def standardised(y: Floats, sigma: Floats) -> Floats:
    """Return [n, T] in volatilities known before it, within CLIP; 0 for the first session."""
    z = np.zeros_like(y)
    z[:, 1:] = np.clip(y[:, 1:] / sigma[:, :-1], -CLIP, CLIP)
    return z


def _average(x: Floats, hl: float, keep: int) -> Floats:
    """The last `keep` values of an exponentially weighted mean; a single one is a weighted sum, five times as fast."""
    if keep > 1:
        return ewma(x, half_life(hl))[:, -keep:]
    mean: Floats = (x * _weights(x.shape[1], hl)).sum(axis=1, keepdims=True)
    return mean


@lru_cache(maxsize=1024)
def _weights(length: int, hl: float) -> Floats:
    """Weights [T] of the sessions in the last value of `ewma`, the seed's share among the first WARMUP."""
    decay = half_life(hl)
    weights: Floats = (1 - decay) * decay ** np.arange(length - 1, -1, -1, dtype=np.float64)
    weights[: volatility.WARMUP] += decay**length / min(length, volatility.WARMUP)
    weights.setflags(write=False)
    return weights


def _level(x: Floats, hl: float, keep: int, factor: float = TO_SIGMA) -> Floats:
    """Log of the volatility that the mean absolute return stands for."""
    return np.log(_average(np.abs(x), hl, keep) * factor + SMALL)


def _root(x: Floats, hl: float, keep: int) -> Floats:
    """Log of the root mean square return."""
    return 0.5 * np.log(_average(x * x, hl, keep) + SMALL**2)


def _beta(y: Floats, index: Floats) -> Floats:
    """Slope [n, T] of the return on the index's, known at the close; 0 where the index does not move."""
    decay = half_life(BETA_LIFE)
    return ewma(y * index, decay) / (ewma(index * index, decay) + SMALL**2)


def _alone(y: Floats, index: Floats, beta: Floats) -> Floats:
    """What is left of the return [n, T] by the slope known before it."""
    return y - np.concatenate([beta[:, :1], beta[:, :-1]], axis=1) * index


def _correlation(y: Floats, index: Floats, hl: float, keep: int) -> Floats:
    """Correlation of returns whose mean is taken as 0."""
    size = np.sqrt(_average(y * y, hl, keep) * _average(index * index, hl, keep))
    return _average(y * index, hl, keep) / (size + SMALL**2)


def _shape(z: Floats, hl: float, keep: int) -> list[Floats]:
    """Log of mean to root mean square size (low: rare large sessions), and of losses to gains."""
    mean, square = _average(np.abs(z), hl, keep), _average(z * z, hl, keep)
    losses, gains = (_average(np.maximum(side, 0), hl, keep) for side in (-z, z))
    return [
        np.log(mean + LITTLE) - 0.5 * np.log(square + LITTLE**2),
        np.log(losses + LITTLE) - np.log(gains + LITTLE),
    ]


def _since_shock(z: Floats) -> Floats:
    """Log of 1 + sessions since the last shock, at most CALM."""
    place = np.where(np.abs(z) > SHOCK, np.arange(z.shape[1]), -CALM)
    ago = np.arange(z.shape[1]) - np.maximum.accumulate(place, axis=1)
    return np.log1p(np.minimum(ago, CALM))


def _weekdays(ds: npt.NDArray[np.datetime64]) -> list[Floats]:
    """Monday to Thursday as 0 or 1; Friday is none of them."""
    weekday = (ds.astype("datetime64[D]").astype(np.int64) + 3) % 7  # 1970-01-01 was a Thursday
    return [(weekday == day).astype(np.float64) for day in range(4)]
