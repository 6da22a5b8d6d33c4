"""Schemas of source prices and processed files (pandera), and one clear line for a broken one."""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
import pandera.pandas as pa

from jobs.data import processed
from jobs.data.sources.builtin import OHLC
from registry.errors import BadHistory
from registry.forecast import calendars, names
from registry.forecast.history import MAX_ABS_RETURN


def close_source(calendar: str) -> pa.DataFrameSchema:
    """unique_id, ds, close."""
    return _series(calendar, {"close": _price()})


def bar_source(calendar: str) -> pa.DataFrameSchema:
    """unique_id, ds and an unadjusted bar with its adjusted close."""
    columns = {name: _price() for name in OHLC} | {"volume": _amount(), "adj_close": _price()}
    return _series(calendar, columns, _ohlc_order())


def returns(calendar: str) -> pa.DataFrameSchema:
    """nbeats_global_daily.parquet: one log return a stock and session."""
    return _series(calendar, {names.Y: _log_return()})


def market(calendar: str) -> pa.DataFrameSchema:
    """market_daily.parquet: what every series of a session shares."""
    columns = {
        names.DS: _session(calendar),
        names.MARKET_ABS_RETURN: pa.Column("float64", [_finite(), _between(0.0, MAX_ABS_RETURN)]),
        names.INDEX_RETURN: _log_return(),
        "universe": pa.Column("str", _filled()),
    }
    return _frame(columns, _ascending([names.DS]), _once([names.DS]))


def bars(calendar: str) -> pa.DataFrameSchema:
    """bars.parquet: adjusted bars, the log returns that follow from them, the close as quoted."""
    columns = {names.Y: _log_return(), **{name: _price() for name in OHLC}}
    columns |= {"volume": _amount(), "amount": _amount(), "close_unadjusted": _price()}
    return _series(calendar, columns, _ohlc_order())


def aux(calendar: str) -> pa.DataFrameSchema:
    """aux_features_daily.parquet: sector and counts of a stock and session."""
    counts = {name: _amount() for name in names.COUNTS}
    return _series(calendar, {names.SECTOR: pa.Column("str", _filled()), **counts})


# Schemas of the processed files, each for a calendar.
PROCESSED: Mapping[str, Callable[[str], pa.DataFrameSchema]] = {
    processed.RETURNS: returns,
    processed.MARKET: market,
    processed.AUX: aux,
    processed.BARS: bars,
}


def check(frame: pd.DataFrame, schema: pa.DataFrameSchema, source: str) -> None:
    """Raise BadHistory if `frame` breaks `schema`.

    The message gives source and column, the value found and the one expected.
    """
    if frame.empty:
        raise BadHistory(f"{source}: found no rows", code="BAD_SOURCE")
    try:
        schema.validate(frame, lazy=True)
    except pa.errors.SchemaErrors as error:
        problem = _sentence(error.failure_cases, frame, schema)
        raise BadHistory(f"{source}: {problem}", code="BAD_SOURCE") from error


def _sentence(cases: pd.DataFrame, frame: pd.DataFrame, schema: pa.DataFrameSchema) -> str:
    """Describe the first broken rule.

    `cases` has a row for each offending cell; pandera lists rules over the whole frame first.
    """
    if list(frame.columns) != list(schema.columns):
        return f"found columns {list(frame.columns)}, expected {list(schema.columns)}"
    in_column = cases["schema_context"] == "Column"
    of_column = bool(in_column.any())  # report wrong values first: they may cause the other errors
    first = cases[in_column].iloc[0] if of_column else cases.iloc[0]
    expected = "no missing value" if first["check"] == "not_nullable" else first["check"]
    column = f"{first['column']}: " if of_column else ""
    if pd.isna(first["index"]):
        return f"{column}found {first['failure_case']}, expected {expected}"
    same_rule = (cases["check"] == first["check"]) & (cases["column"] == first["column"])
    rows = cases.loc[same_rule, "index"].astype(int)
    problem = f"found {first['failure_case']} in" if of_column else "broken in"
    keys = [name for name in (names.UNIQUE_ID, names.DS) if name in frame.columns]
    values = frame.loc[rows.iloc[0], keys]
    where = " ".join(str(value).removesuffix(" 00:00:00") for value in values)
    count = f"{rows.nunique()} of {len(frame)} rows"
    return f"{column}{problem} {count}, first {where}; expected {expected}"


# --- rules --------------------------------------------------------------------------------------


def _frame(columns: dict[str, pa.Column], *rules: pa.Check) -> pa.DataFrameSchema:
    return pa.DataFrameSchema(columns, checks=list(rules), strict=True, ordered=True, coerce=False)


def _series(calendar: str, numbers: dict[str, pa.Column], *rules: pa.Check) -> pa.DataFrameSchema:
    """A long frame: unique_id, ds and `numbers`, sorted by (unique_id, ds), each session once."""
    keys = [names.UNIQUE_ID, names.DS]
    columns = {
        names.UNIQUE_ID: pa.Column("str", _filled()),
        names.DS: _session(calendar),
        **numbers,
    }
    return _frame(columns, _once(keys), _ascending(keys), *rules)


def _rule(holds: Callable[[pd.Series], pd.Series], expected: str) -> pa.Check:
    return pa.Check(holds, error=expected, ignore_na=False)


def _session(calendar: str) -> pa.Column:
    def holds(ds: "pd.Series[pd.Timestamp]") -> "pd.Series[bool]":
        closed = calendars.not_sessions(calendar, ds.dropna().to_numpy())
        return ~ds.isin(closed) & (ds == ds.dt.normalize())

    return pa.Column("datetime64[ns]", _rule(holds, f"a session of {calendar}"))


def _price() -> pa.Column:
    return pa.Column("float64", [_finite(), _rule(lambda price: price > 0, "a price above 0")])


def _amount() -> pa.Column:
    return pa.Column("float64", [_finite(), _rule(lambda amount: amount >= 0, "at least 0")])


def _log_return() -> pa.Column:
    return pa.Column("float64", [_finite(), _between(-MAX_ABS_RETURN, MAX_ABS_RETURN)])


def _finite() -> pa.Check:
    return _rule(np.isfinite, "a finite number")


def _between(low: float, high: float) -> pa.Check:
    return _rule(lambda values: values.between(low, high), f"{low:g}..{high:g}")


def _filled() -> pa.Check:
    return _rule(lambda text: text.str.len() > 0, "a name")


def _once(keys: list[str]) -> pa.Check:
    return pa.Check(lambda frame: ~frame.duplicated(keys), error=f"each ({', '.join(keys)}) once")


def _ascending(keys: list[str]) -> pa.Check:
    """Every row stands where a stable sort by `keys` would put it."""

    def holds(frame: pd.DataFrame) -> "pd.Series[bool]":
        sorted_index = frame.sort_values(keys, kind="stable").index
        return pd.Series(sorted_index == frame.index, index=frame.index)

    return pa.Check(holds, error=f"rows sorted by {', '.join(keys)}")


def _ohlc_order() -> pa.Check:
    def holds(bar: pd.DataFrame) -> "pd.Series[bool]":
        body = bar[["open", "close"]]
        return (bar["low"] <= body.min(axis=1)) & (body.max(axis=1) <= bar["high"])

    return pa.Check(holds, error="low <= open, close <= high")
