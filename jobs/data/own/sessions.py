"""Sessions of the rows: each is one of the calendar, and none is in the future."""

from datetime import UTC, date, datetime, timedelta

import duckdb
import numpy as np
import pandas as pd
from exchange_calendars import get_calendar

from jobs.data.own.findings import one
from registry.errors import BadHistory
from registry.forecast import calendars

MANY = 0.05  # share of rows on days without a session, above which the calendar is wrong
# Tried as better ones, the most used first. Each costs 0.1 s or more; XKRX costs 3 s.
EXCHANGES = (
    "XNYS", "XLON", "XETR", "XPAR", "XAMS", "XMIL", "XSWX", "XTKS", "XHKG", "XSHG", "XBOM", "XASX",
    "XTSE", "BVMF",
)  # fmt: skip


def create(
    connection: duckdb.DuckDBPyConnection, calendar: str, span: tuple[date, date] | None = None
) -> None:
    """Check the days of `staged` and make the table `sessions`: ds, n (number of the session).

    It is from the first day to the last, and over `span`. Raises BadHistory (EMPTY,
    OUTSIDE_CALENDAR, NOT_A_SESSION) and NotFound.
    """
    days = connection.execute(
        "SELECT ds::TIMESTAMP AS ds, count(*) AS rows FROM staged GROUP BY ds ORDER BY ds"
    ).df()
    if days.empty:
        raise BadHistory("there are no rows", code="EMPTY")
    _check_span(connection, calendar)
    _check_days(connection, calendar, days)
    first, last = days["ds"].iloc[0], days["ds"].iloc[-1]
    if span is not None:
        first, last = min(first, pd.Timestamp(span[0])), max(last, pd.Timestamp(span[1]))
    sessions = calendars.sessions(calendar, first, last)
    frame = pd.DataFrame({"ds": sessions, "n": np.arange(len(sessions))})
    connection.register("sessions_frame", frame)
    connection.execute(
        "CREATE TABLE sessions AS SELECT ds::DATE AS ds, n::INTEGER AS n FROM sessions_frame"
    )
    connection.unregister("sessions_frame")


def _check_span(connection: duckdb.DuckDBPyConnection, calendar: str) -> None:
    """Raise BadHistory (OUTSIDE_CALENDAR) for a day in the future, or that the calendar lacks."""
    begin, end = calendars.span(calendar)
    today = datetime.now(UTC).date()
    future = f"ds > DATE '{today + timedelta(days=1)}'"
    outside = f"ds < DATE '{begin}' OR ds > DATE '{end}'"
    spans = {
        f"is in the future, today is {today}": future,
        f"is outside the calendar {calendar}, known from {begin} to {end}": outside,
    }
    for problem, condition in spans.items():
        (count,) = one(connection, f"SELECT count(*) FROM staged WHERE {condition}")
        if count:
            place, symbol, ds = one(
                connection,
                "SELECT file || ' row ' || row, unique_id, ds FROM staged "
                f"WHERE {condition} ORDER BY unique_id, ds, file, row LIMIT 1",
            )
            raise BadHistory(
                f"{place}: {symbol} {ds} {problem}; {count} such rows; correct or remove them",
                code="OUTSIDE_CALENDAR",
            )


def _check_days(connection: duckdb.DuckDBPyConnection, calendar: str, days: pd.DataFrame) -> None:
    """Raise BadHistory (NOT_A_SESSION) for rows on days without a session.

    `days` has ds and the number of rows.
    """
    closed = pd.DatetimeIndex(calendars.not_sessions(calendar, days["ds"].to_numpy()))
    if closed.empty:
        return
    on_closed = days["ds"].isin(closed)
    count, total = int(days.loc[on_closed, "rows"].sum()), int(days["rows"].sum())
    share = count / total
    if share > MANY:
        first = ", ".join(f"{day:%Y-%m-%d}" for day in closed[:3])
        raise BadHistory(
            f"{count} of {total} rows ({share:.0%}) are on days without a session of {calendar}, "
            f"first {first}; "
            f"{_advice(calendar, days) or 'choose that of the exchange with --calendar'}",
            code="NOT_A_SESSION",
        )
    listed = ", ".join(f"DATE '{day:%Y-%m-%d}'" for day in closed)
    rows = connection.execute(
        f"SELECT unique_id, ds FROM staged WHERE ds IN ({listed}) ORDER BY unique_id, ds LIMIT 3"
    ).fetchall()
    first = ", ".join(f"{symbol} {ds}" for symbol, ds in rows)
    raise BadHistory(
        f"{count} of {total} rows are on days without a session of {calendar}, first {first}; "
        f"{_advice(calendar, days, 1.0) or 'choose another --calendar, or remove these rows'}",
        code="NOT_A_SESSION",
    )


def _advice(calendar: str, days: pd.DataFrame, least: float = 0.0) -> str:
    """Which calendars fit more of the rows, and `least` of them, in words; empty if none does.

    Beside one that fits all rows, none that fits fewer is named.
    """
    weekends = bool((days["ds"].dt.dayofweek >= 5).any())
    candidates = ("24/7",) if weekends else EXCHANGES
    shares = {name: _share(name, days) for name in candidates}
    own = _share(calendar, days)
    least = 1.0 if 1.0 in shares.values() else least
    better = [name for name in candidates if shares[name] > own and shares[name] >= least]
    best = sorted(better, key=lambda name: -shares[name])[:3]
    listed = ", ".join(f"{name} ({shares[name]:.1%} of the rows)" for name in best)
    return f"better with --calendar: {listed}" if best else ""


def _share(name: str, days: pd.DataFrame) -> float:
    """Share of the rows that are on sessions; 0 where the calendar begins later.

    The calendar is built from the first day to the last only, which is much faster.
    """
    first, last = days["ds"].iloc[0], days["ds"].iloc[-1]
    try:
        calendar = get_calendar(name, start=first, end=last + timedelta(days=1))
    except ValueError:
        return 0.0
    open_ = days["ds"].isin(calendar.sessions)
    return float(days.loc[open_, "rows"].sum() / days["rows"].sum())
