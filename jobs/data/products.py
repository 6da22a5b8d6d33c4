"""From source prices to the processed frames: returns, adjusted bars, sectors. Pure functions."""

import numpy as np
import pandas as pd

from jobs.data import synthetic
from jobs.data.sources import builtin
from registry.forecast import names


def log_returns(prices: pd.DataFrame) -> pd.DataFrame:
    """unique_id, ds, y = log(close_t / close_t-1) of sorted prices.

    The first price of a series has no return and is left out.
    """
    previous = prices.groupby(names.UNIQUE_ID)["close"].shift()
    returns = prices[[names.UNIQUE_ID, names.DS]].copy()
    returns[names.Y] = np.log(prices["close"] / previous)
    return returns[previous.notna()].reset_index(drop=True)


def adjusted_bars(raw: pd.DataFrame) -> pd.DataFrame:
    """unique_id, ds, y, open high low close volume amount, close_unadjusted: on one price basis.

    `raw` bars are sorted. Prices are multiplied by adj_close / close of their session, so that
    y = log(close_t / close_t-1). Volume counts shares of the series' last session (see SPLITS).
    amount = mean of the four adjusted prices x volume. adj_close includes splits and dividends
    after the end of the series, so prices and amount are right up to one constant factor a series.
    The first bar of a series has no return and is left out.
    """
    factor = raw["adj_close"] / raw["close"]
    prices = raw[list(builtin.OHLC)].mul(factor, axis=0)
    previous = prices["close"].groupby(raw[names.UNIQUE_ID]).shift()
    volume = raw["volume"] * _later_splits(raw)
    bars = raw[[names.UNIQUE_ID, names.DS]].assign(
        y=np.log(prices["close"] / previous),
        **prices,
        volume=volume,
        amount=prices.mean(axis=1) * volume,
        close_unadjusted=raw["close"],
    )
    return bars[bars[names.Y].notna()].reset_index(drop=True)


def together(*frames: pd.DataFrame) -> pd.DataFrame:
    """Long frames of different series as one, sorted by (unique_id, ds)."""
    return pd.concat(frames).sort_values([names.UNIQUE_ID, names.DS], ignore_index=True)


def sector_map() -> pd.DataFrame:
    """unique_id, sector of the panel's stocks."""
    symbols, sectors = list(builtin.SECTORS), list(builtin.SECTORS.values())
    return pd.DataFrame({names.UNIQUE_ID: symbols, names.SECTOR: sectors}, dtype="str")


def aux_features(panel: pd.DataFrame) -> pd.DataFrame:
    """unique_id, ds, sector, news_count, tweet_count of every panel row; counts are synthetic."""
    sector = panel[names.UNIQUE_ID].map(builtin.SECTORS).astype("str").array
    columns = [names.UNIQUE_ID, names.DS, names.SECTOR, *names.COUNTS]
    return synthetic.counts(panel).assign(**{names.SECTOR: sector})[columns]


def split_table() -> pd.DataFrame:
    """unique_id, ds, ratio of the splits within the bars' spans."""
    symbols, days = zip(*builtin.SPLITS, strict=True)
    ratios = list(builtin.SPLITS.values())
    return pd.DataFrame({names.UNIQUE_ID: symbols, names.DS: pd.to_datetime(days), "ratio": ratios})


def _later_splits(raw: pd.DataFrame) -> "pd.Series[float]":
    """Shares on the series' last session for one share on each row's session."""
    shares = pd.Series(1.0, index=raw.index)
    for (name, day), ratio in builtin.SPLITS.items():
        before_split = (raw[names.UNIQUE_ID] == name) & (raw[names.DS] < day)
        shares = shares.mask(before_split, shares * ratio)
    return shares
