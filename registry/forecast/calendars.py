"""Trading sessions of an exchange: test whether dates are sessions, find the next ones.

Names are those of `exchange_calendars` (XNYS, XLON, ..., `24/7` for crypto). That package is
imported when the first calendar is built; each takes about 0.4 s. A calendar is then cached as a
read-only array, safe to read from any thread. It ends about a year after the day on which it was
built, because exchanges publish their holidays no further ahead.
"""

from datetime import date
from functools import lru_cache

import numpy as np
import pandas as pd

from registry.errors import BadHistory, BadParameter, NotFound
from registry.forecast.arrays import Dates, Places

START = "1980-01-01"  # before any history; some exchanges are recorded only from a later day


def _calendar(name: str) -> Dates:
    """All sessions [K] as datetime64[D], ascending, read-only."""
    return closes(name)[0]


@lru_cache(maxsize=64)
def closes(name: str) -> tuple[Dates, Dates]:
    """All sessions [K], ascending, and when each closes: datetime64[D] and [us] in UTC, read-only.

    Raises NotFound (code UNKNOWN_CALENDAR).
    """
    from exchange_calendars import get_calendar
    from exchange_calendars.errors import InvalidCalendarName

    try:
        try:
            calendar = get_calendar(name, start=START)
        except ValueError:  # the exchange or the record of its holidays begins later
            calendar = get_calendar(name, start=get_calendar(name).bound_min())
    except InvalidCalendarName as error:
        raise NotFound(
            f"no calendar {name!r}; names are those of exchange_calendars, as in XNYS or 24/7",
            code="UNKNOWN_CALENDAR",
        ) from error
    schedule = calendar.closes
    days: Dates = schedule.index.to_numpy().astype("datetime64[D]")
    instants: Dates = schedule.dt.tz_convert(None).to_numpy().astype("datetime64[us]")
    days.setflags(write=False)
    instants.setflags(write=False)
    return days, instants


def sessions(name: str, start: str | pd.Timestamp, end: str | pd.Timestamp) -> pd.DatetimeIndex:
    """Sessions from `start` to `end`, both included. BadHistory for one outside the calendar."""
    calendar = _calendar(name)
    first, last = _inside(name, np.array([start, end], dtype="datetime64[D]"))
    begin = np.searchsorted(calendar, first)
    stop = np.searchsorted(calendar, last, side="right")
    return _index(calendar[begin:stop])


def next_sessions(name: str, cutoff: pd.Timestamp, horizon: int) -> pd.DatetimeIndex:
    """The next `horizon` sessions [H] after `cutoff`, which need not be a session itself."""
    return _index(next_sessions_many(name, pd.DatetimeIndex([cutoff]), horizon)[0])


def next_sessions_many(name: str, cutoffs: Dates | pd.DatetimeIndex, horizon: int) -> Dates:
    """The next `horizon` sessions [N, H] (datetime64[ns]) strictly after each cutoff [N].

    Raises BadHistory (code CALENDAR_END) if the calendar does not reach that far ahead.
    """
    if horizon < 1:
        raise BadParameter(f"horizon is {horizon}, expected at least 1", code="BAD_HORIZON")
    calendar = _calendar(name)
    days = np.asarray(cutoffs).astype("datetime64[D]", copy=False)
    first = np.searchsorted(calendar, days, side="right")
    following = first[:, None] + np.arange(horizon)  # [N, H]
    if first.size and (first.min() == 0 or following.max() >= len(calendar)):
        _inside(name, days)  # a date before the calendar, after it, or missing
        raise BadHistory(
            f"{name} is known until {calendar[-1]}, "
            f"too early for {horizon} sessions after the latest cutoff",
            code="CALENDAR_END",
        )
    sessions_after: Dates = calendar[following].astype("datetime64[ns]")
    return sessions_after


def sessions_since(name: str, day: date, until: date) -> int:
    """Number of sessions after a day and until another; 0 if that is earlier.

    Neither need be a session. Raises BadHistory for a day outside the calendar.
    """
    days = _inside(name, np.array([day, until], dtype="datetime64[D]"))
    first, last = np.searchsorted(_calendar(name), days, side="right").tolist()
    return int(max(0, last - first))


def not_sessions(name: str, dates: Dates | pd.DatetimeIndex) -> Dates:
    """The `dates` on which the exchange was closed: datetime64[D], ascending, without repeats."""
    days = _inside(name, np.asarray(dates).astype("datetime64[D]", copy=False))
    closed = numbers(name, days) < 0
    return np.unique(days[closed]) if closed.any() else days[:0]


def span(name: str) -> tuple[np.datetime64, np.datetime64]:
    """First and last session of the calendar, datetime64[D]."""
    calendar = _calendar(name)
    return calendar[0], calendar[-1]


def numbers(name: str, days: Dates) -> Places:
    """Number of each day (datetime64[D], within the span) among all sessions; -1: closed."""
    first, table = _table(name)
    places: Places = table[days.view(np.int64) - first]
    return places


def dates(name: str, numbers: Places) -> Dates:
    """The sessions with these numbers, datetime64[D]."""
    days: Dates = _calendar(name)[numbers]
    return days


@lru_cache(maxsize=64)
def _table(name: str) -> tuple[int, Places]:
    """First day of the calendar (days since 1970); number of the session of each day from it on."""
    days = _calendar(name).view(np.int64)
    table = np.full(days[-1] - days[0] + 1, -1)
    table[days - days[0]] = np.arange(len(days))
    table.setflags(write=False)
    return int(days[0]), table


def _inside(name: str, days: Dates) -> Dates:
    """`days`. Raises BadHistory if one of them is missing or outside the calendar."""
    if np.isnat(days).any():
        raise BadHistory("a session date is missing", code="BAD_TIMESTAMP")
    calendar = _calendar(name)
    if days.size and (days.min() < calendar[0] or days.max() > calendar[-1]):
        raise BadHistory(
            f"{name} is known from {calendar[0]} to {calendar[-1]}, found a date outside",
            code="OUTSIDE_CALENDAR",
        )
    return days


def _index(days: Dates) -> pd.DatetimeIndex:
    return pd.DatetimeIndex(days.astype("datetime64[ns]"))
