"""Summary of a source and its product, JSON-ready."""

from typing import Any

import pandas as pd

from registry.forecast import calendars, names


def describe_source(source: pd.DataFrame, product: pd.DataFrame, calendar: str) -> dict[str, Any]:
    """Rows in and out, dropped rows by reason, spans, zero and extreme returns, missing sessions.

    `source` holds prices by (unique_id, ds); `product`, made of them, has `y`. A source row that
    the product lacks is older than the product, or the first price of its series.
    """
    series = product.groupby(names.UNIQUE_ID)[names.DS]
    earlier = int((source[names.DS] < source[names.UNIQUE_ID].map(series.min())).sum())
    largest = product.iloc[int(product[names.Y].abs().argmax())]
    spans = {}
    for name, ds in series:
        first, last = f"{ds.min():%Y-%m-%d}", f"{ds.max():%Y-%m-%d}"
        spans[str(name)] = {"first": first, "last": last, "sessions": len(ds)}
    summary: dict[str, Any] = {
        "rows_in": len(source),
        "rows_out": len(product),
        "dropped": {
            "before the first price used": earlier - len(series),
            "first price of a series: no return": len(series),
        },
        "series": spans,
        "zero_return_share": round(float((product[names.Y] == 0).mean()), 6),
        "max_abs_return": {
            "value": round(abs(float(largest[names.Y])), 6),
            "unique_id": str(largest[names.UNIQUE_ID]),
            "ds": f"{largest[names.DS]:%Y-%m-%d}",
        },
        "missing_sessions": _missing_sessions(product, calendar),
    }
    if "volume" in product.columns:
        summary["zero_volume"] = _rows(product[product["volume"] == 0])
    return summary


def _missing_sessions(product: pd.DataFrame, calendar: str) -> list[str]:
    """`AAPL 2001-09-11` for every session between a series' first and last that has no row."""
    missing = []
    for name, ds in product.groupby(names.UNIQUE_ID)[names.DS]:
        expected = calendars.sessions(calendar, ds.iloc[0], ds.iloc[-1])
        missing += [f"{name} {day:%Y-%m-%d}" for day in expected.difference(pd.DatetimeIndex(ds))]
    return missing


def _rows(frame: pd.DataFrame) -> list[str]:
    """`AAPL 2001-09-11` for every row."""
    keys = zip(frame[names.UNIQUE_ID], frame[names.DS], strict=True)
    return [f"{name} {day:%Y-%m-%d}" for name, day in keys]
