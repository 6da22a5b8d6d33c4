"""Own data sets for tests, written as a compile writes them: simulated prices, or given returns."""

from collections.abc import Mapping, Sequence
from typing import Any

import duckdb
import numpy as np
import pandas as pd

from jobs.data import sets
from jobs.data.dataset import Splits
from jobs.data.market import MEMBERS, Universe
from jobs.data.sets import Facts
from registry.forecast import calendars, names
from registry.settings import Settings


def simulated(
    spans: Mapping[str, tuple[str, str]], calendar: str = "XNYS", seed: int = 0
) -> pd.DataFrame:
    """Returns and closes of each symbol over its own span, with a common and clustered volatility.

    Columns: unique_id, ds, y, close.
    """
    rng = np.random.default_rng(seed)
    first = min(start for start, _ in spans.values())
    last = max(end for _, end in spans.values())
    sessions = calendars.sessions(calendar, first, last)
    walk = np.cumsum(rng.normal(0.0, 0.1, len(sessions)))
    volatility = 0.01 * np.exp(np.tanh(walk))
    market = volatility * rng.standard_normal(len(sessions))
    parts = []
    for symbol, (start, end) in sorted(spans.items()):
        y = 0.6 * market + 0.8 * volatility * rng.standard_normal(len(sessions))
        part = pd.DataFrame({names.UNIQUE_ID: symbol, names.DS: sessions, names.Y: y})
        part["close"] = 100 * np.exp(np.cumsum(y))
        parts.append(part[part[names.DS].between(start, end)])
    return pd.concat(parts, ignore_index=True)


def with_bars(frame: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """`frame` with the rest of the bars around its closes, and volume."""
    rng = np.random.default_rng(seed)
    opened = frame["close"] * np.exp(rng.normal(0.0, 0.003, len(frame)))
    wick = np.abs(rng.normal(0.0, 0.003, len(frame)))
    bars = frame.assign(open=opened, volume=rng.integers(1000, 9000, len(frame)).astype(float))
    bars["high"] = bars[["open", "close"]].max(axis=1) * np.exp(wick)
    bars["low"] = bars[["open", "close"]].min(axis=1) * np.exp(-wick)
    bars["amount"] = bars[list(names.OHLC)].mean(axis=1) * bars["volume"]
    return bars.assign(close_unadjusted=bars["close"])


def with_market(frame: pd.DataFrame) -> pd.DataFrame:
    """`frame` with market columns over the members that trade each session."""
    by_session = frame.groupby(names.DS)[names.Y]
    return frame.assign(
        market_abs_return=frame[names.Y].abs().groupby(frame[names.DS]).transform("mean"),
        index_return=by_session.transform("mean"),
        **{MEMBERS: by_session.transform("size")},
    )


def write(
    settings: Settings,
    name: str,
    frame: pd.DataFrame,
    *,
    splits: Splits,
    kind: str = "closes",
    calendar: str = "XNYS",
    universe: Sequence[str] = (),
    **facts: Any,
) -> Facts:
    """Write a set of these rows; market columns are added unless `frame` has them."""
    if names.MARKET_ABS_RETURN not in frame:
        frame = with_market(frame)
    columns = (*names.HISTORY, *(c for c in frame.columns if c not in names.HISTORY))
    symbols = tuple(universe or sorted(frame[names.UNIQUE_ID].unique()))
    stated = Facts(
        name, kind, columns, calendar, Universe(f"{name}-{len(symbols)}", symbols), splits, **facts
    )
    with duckdb.connect() as connection:
        connection.register("frame", frame)
        connection.execute("CREATE TABLE rows AS SELECT * REPLACE (ds::DATE AS ds) FROM frame")
        return sets.write(settings, stated, connection, "rows")
