"""Synthetic news and tweet counts: no installed package has real ones. Every use is labelled."""

import hashlib

import numpy as np
import pandas as pd

from registry.forecast import names, volatility
from registry.forecast.arrays import Floats

# Counts of a session without a price move; the median over symbols.
RATES = {names.NEWS_COUNT: 6.0, names.TWEET_COUNT: 40.0}
STIR = 0.5  # growth of the rate for each volatility of the session's |return|
SHAPE = 4.0  # of the gamma mixture; the variance of a count is mean + mean^2 / SHAPE


def counts(panel: pd.DataFrame) -> pd.DataFrame:
    """unique_id, ds, news_count, tweet_count of every row of a panel; whole numbers as float64.

    Counts are negative binomial. Each symbol has a rate, which rises with the size of the same
    session's return. A count depends on its symbol, its place in the series and the returns up to
    it, and on nothing later.
    """
    groups = panel.groupby(names.UNIQUE_ID, sort=False)
    series = [_series_counts(str(name), frame) for name, frame in groups]
    return pd.concat(series, ignore_index=True)


def _series_counts(name: str, series: pd.DataFrame) -> pd.DataFrame:
    """The counts of one series."""
    size = _size(series[names.Y].to_numpy())
    columns = {}
    for column, rate in RATES.items():
        digest = hashlib.sha256(f"{name} {column}".encode()).digest()
        seed = np.frombuffer(digest[:8], "<u4")
        level = rate * np.exp(np.random.default_rng(seed).normal(scale=0.5))
        draws = []
        entropy = np.append(seed, np.uint32(0))  # an array, which NumPy takes as it is: fast
        for session, mean in enumerate(level * (1 + STIR * size)):
            # One generator a session, so that no session shifts the draws of the next.
            entropy[-1] = session
            generator = np.random.default_rng(entropy)
            draws.append(generator.poisson(mean * generator.gamma(SHAPE) / SHAPE))
        columns[column] = np.array(draws, np.float64)
    return series[[names.UNIQUE_ID, names.DS]].assign(**columns)


def _size(y: Floats) -> Floats:
    """|return| / volatility of the sessions before it, at most 10; 0 within the warm-up."""
    size = np.zeros(len(y))
    previous_volatility = volatility.ewma_volatility(y[None])[0, volatility.WARMUP - 1 : -1]
    size[volatility.WARMUP :] = np.abs(y[volatility.WARMUP :]) / previous_volatility
    return np.minimum(size, 10.0)
