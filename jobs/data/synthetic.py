"""News and tweet counts that are made up: no installed package holds real ones. Labelled wherever they go."""

import hashlib

import numpy as np
import pandas as pd

from registry.forecast import names, volatility
from registry.forecast.arrays import Floats

RATES = {
    names.NEWS_COUNT: 6.0,
    names.TWEET_COUNT: 40.0,
}  # of a quiet session, on average over the symbols
STIR = (
    0.5  # the rate grows by this share for each volatility that the session's return is away from 0
)
SHAPE = 4.0  # of the gamma that mixes the rates: the variance is mean + mean^2 / SHAPE


def counts(panel: pd.DataFrame) -> pd.DataFrame:
    """unique_id, ds, news_count, tweet_count of every row of a panel; whole numbers as float64.

    Negative binomial around a rate of the symbol that rises with the size of the same session's return. A count
    depends on its symbol, its place in the series and the returns up to it, and on nothing later.
    """
    series = [_of_one(str(name), one) for name, one in panel.groupby(names.UNIQUE_ID, sort=False)]
    return pd.concat(series, ignore_index=True)


def _of_one(name: str, one: pd.DataFrame) -> pd.DataFrame:
    y = one[names.Y].to_numpy()
    size = _size(y)
    drawn = {}
    for column, rate in RATES.items():
        seed = int.from_bytes(hashlib.sha256(f"{name} {column}".encode()).digest()[:8], "little")
        level = rate * np.exp(np.random.default_rng(seed).normal(scale=0.5))
        # A generator for each session: what is drawn for one never shifts what is drawn for the next.
        draws = (np.random.default_rng([seed, i]) for i in range(len(y)))
        mean = level * (1 + STIR * size)
        drawn[column] = np.array(
            [
                draw.poisson(m * draw.gamma(SHAPE) / SHAPE)
                for draw, m in zip(draws, mean, strict=True)
            ],
            np.float64,
        )
    return one[[names.UNIQUE_ID, names.DS]].assign(**drawn)


def _size(y: Floats) -> Floats:
    """|return| in volatilities known before it; 0 for the sessions that seed the first volatility."""
    size = np.zeros(len(y))
    known = volatility.ewma_volatility(y[None])[0, volatility.WARMUP - 1 : -1]
    size[volatility.WARMUP :] = np.abs(y[volatility.WARMUP :]) / known
    return np.minimum(size, 10.0)
