"""Stock splits and dividends: what the prices and volumes before them are multiplied by.

As CRSP and Yahoo do: before a split of `ratio` new shares for one old share, prices are multiplied
by 1 / ratio and volumes by ratio; before a dividend of D per share, prices are multiplied by
1 - D / close of the session before its ex-date. A session's factor is the product over all later
events. Sources: Yahoo help SLN28256, "What is the adjusted close?"; CRSP, "Factor to adjust
prices". On a session with both, D is per new share.
"""

import duckdb
import pandas as pd

from jobs.data.own.basis import ADJ_CLOSE, DIVIDEND, SPLIT, Basis
from registry.errors import BadHistory


def create(connection: duckdb.DuckDBPyConnection, basis: Basis, adjusted: bool | None) -> None:
    """Make the table `events` from `clean`: symbol, ds, factor of prices, shares.

    Both are for the sessions before `ds` and after the event before. Raises BadHistory.
    """
    events = _read(connection, basis)
    beside_adjusted = ADJ_CLOSE in basis.needed
    if beside_adjusted:
        events = events[_as_traded(events)]
    else:
        _check_closes(events)
        _check_said(events, adjusted)
        _check_dividends(events)
    of_event = pd.DataFrame({"symbol": events["symbol"], "ds": events["ds"]})
    of_event["factor"] = (1 - _paid(events) / events["before"]) / events["split"]
    of_event["shares"] = events["split"]
    last_first = of_event.iloc[::-1]
    products = last_first.groupby("symbol")[["factor", "shares"]].cumprod()
    of_event[["factor", "shares"]] = products
    connection.register("events_frame", of_event)
    connection.execute(
        "CREATE TABLE events AS SELECT symbol::symbol AS symbol, ds::DATE AS ds, "
        "factor::DOUBLE AS factor, shares::DOUBLE AS shares FROM events_frame"
    )
    connection.unregister("events_frame")


def _read(connection: duckdb.DuckDBPyConnection, basis: Basis) -> pd.DataFrame:
    """symbol, ds, split, dividend, close, before (the close before), factor, factor_before.

    Sorted by (symbol, ds). An event on a symbol's first session concerns no row.
    """
    split = f"CASE WHEN {SPLIT} > 0 THEN {SPLIT} ELSE 1.0 END" if SPLIT in basis.events else "1.0"
    dividend = f"coalesce({DIVIDEND}, 0.0)" if DIVIDEND in basis.events else "0.0"
    factor = basis.factor if ADJ_CLOSE in basis.needed else "1.0"
    frame: pd.DataFrame = connection.execute(
        f"""
        SELECT symbol::VARCHAR AS symbol, ds, split, dividend, close, before, factor, factor_before
        FROM (
            SELECT symbol, ds, close, {split} AS split, {dividend} AS dividend, {factor} AS factor,
                lag(close) OVER w AS before, lag({factor}) OVER w AS factor_before
            FROM clean WINDOW w AS (PARTITION BY symbol ORDER BY ds)
        )
        WHERE before IS NOT NULL AND (split <> 1 OR dividend > 0)
        ORDER BY symbol, ds
        """
    ).df()
    return frame


def _paid(events: pd.DataFrame) -> "pd.Series[float]":
    """Dividends per share of the session before."""
    return events["dividend"] * events["split"]


def _as_traded(events: pd.DataFrame) -> "pd.Series[bool]":
    """Whether the closes show a split: then adj_close / close moves by its ratio.

    Yahoo's `Close` and `Volume` are adjusted for splits already; there it does not move.
    """
    step = events["factor"] / events["factor_before"]
    return _nearer(step, events["split"])


def _nearer(move: "pd.Series[float]", ratio: "pd.Series[float]") -> "pd.Series[bool]":
    """Whether moves are nearer to `ratio` than to 1, in logarithms."""
    low = ratio.pow(0.5).clip(upper=1.0)
    high = ratio.pow(0.5).clip(lower=1.0)
    return ((ratio > 1) & (move > high)) | ((ratio < 1) & (move < low))


def _check_closes(events: pd.DataFrame) -> None:
    """Raise BadHistory (PRICE_BASIS) if the closes do not move at a clear split."""
    fall = events["before"] / events["close"]
    adjusted = _clear(events) & ~_nearer(fall, events["split"])
    if adjusted.any():
        first = events[adjusted].iloc[0]
        move = first["close"] / first["before"]
        raise BadHistory(
            f"{first['symbol']} {first['ds']:%Y-%m-%d}: a split of {first['split']:g} is given, "
            f"but close / close before is {move:.3g}, expected about {1 / first['split']:.3g}; "
            "closes seem to be adjusted for splits already: say --adjusted yes if they are "
            "adjusted for dividends, too, or leave out the split column",
            code="PRICE_BASIS",
        )


def _check_said(events: pd.DataFrame, adjusted: bool | None) -> None:
    """Raise BadHistory (PRICE_BASIS) if nothing shows whether closes contain the dividends."""
    if adjusted is None and len(events) and not _clear(events).any():
        raise BadHistory(
            f"{len(events)} dividends or splits are given, first {events['symbol'].iloc[0]} "
            f"{events['ds'].iloc[0]:%Y-%m-%d}, and no split shows whether closes are adjusted for "
            "them; say --adjusted no if they are as traded, --adjusted yes if they are adjusted",
            code="PRICE_BASIS",
        )


def _clear(events: pd.DataFrame) -> "pd.Series[bool]":
    ratio = events["split"]
    larger = ratio.where(ratio >= 1, 1 / ratio)
    return larger >= 1.5


def _check_dividends(events: pd.DataFrame) -> None:
    """Raise BadHistory (BAD_SOURCE) for a dividend that leaves nothing of the price."""
    beyond = _paid(events) >= events["before"]
    if beyond.any():
        first = events[beyond].iloc[0]
        raise BadHistory(
            f"{first['symbol']} {first['ds']:%Y-%m-%d}: the dividend is {first['dividend']:g}, "
            f"not below the close before, {first['before']:g}; dividends are per share",
            code="BAD_SOURCE",
        )
