"""Trading sessions of an exchange: which dates are sessions, and which come next.

Names are those of `exchange_calendars` (XNYS, XLON, ..., `24/7` for crypto). A calendar is built on first
use (about 0.4 s), kept as a read-only array, and then safe to read from any thread. It ends about a year
from the day it was built: exchanges publish their holidays no further ahead.
"""

from functools import lru_cache

import exchange_calendars
import numpy as np
import numpy.typing as npt
import pandas as pd
from exchange_calendars.errors import InvalidCalendarName

from registry.errors import BadHistory, BadParameter, NotFound

Dates = npt.NDArray[np.datetime64]

START = "1980-01-01"  # before any history; an exchange recorded only from a later day starts there


@lru_cache(maxsize=64)
def _calendar(name: str) -> Dates:
    """All sessions [K] as datetime64[D], ascending, read-only."""
    try:
        calendar = _build(name)
    except InvalidCalendarName as error:
        raise NotFound(
            f"no calendar {name!r}; names are those of exchange_calendars, as in XNYS or 24/7", code="UNKNOWN_CALENDAR"
        ) from error
    days: Dates = calendar.sessions.to_numpy().astype("datetime64[D]")
    days.setflags(write=False)
    return days


def _build(name: str) -> exchange_calendars.ExchangeCalendar:
    try:
        return exchange_calendars.get_calendar(name, start=START)
    except ValueError:  # founded, or its holidays recorded, only later
        return exchange_calendars.get_calendar(name, start=exchange_calendars.get_calendar(name).bound_min())


def sessions(name: str, start: str | pd.Timestamp, end: str | pd.Timestamp) -> pd.DatetimeIndex:
    """Sessions from `start` to `end`, both included. BadHistory when either lies outside the calendar."""
    calendar = _calendar(name)
    first, last = _inside(name, np.array([start, end], dtype="datetime64[D]"))
    return _index(calendar[np.searchsorted(calendar, first) : np.searchsorted(calendar, last, side="right")])


def next_sessions(name: str, cutoff: pd.Timestamp, horizon: int) -> pd.DatetimeIndex:
    """The next `horizon` sessions [H] strictly after `cutoff`, which need not be a session itself."""
    return _index(next_sessions_many(name, pd.DatetimeIndex([cutoff]), horizon)[0])


def next_sessions_many(name: str, cutoffs: Dates | pd.DatetimeIndex, horizon: int) -> Dates:
    """The next `horizon` sessions [N, H] (datetime64[ns]) strictly after each cutoff [N].

    BadHistory, code CALENDAR_END, when the calendar is not known that far ahead.
    """
    if horizon < 1:
        raise BadParameter(f"horizon is {horizon}, expected at least 1", code="BAD_HORIZON")
    calendar = _calendar(name)
    days = _inside(name, np.asarray(cutoffs).astype("datetime64[D]"))
    following = np.searchsorted(calendar, days, side="right")[:, None] + np.arange(horizon)  # [N, H]
    if following.size and following.max() >= len(calendar):
        raise BadHistory(
            f"{name} is known until {calendar[-1]}, too early for {horizon} sessions after the latest cutoff",
            code="CALENDAR_END",
        )
    found: Dates = calendar[following].astype("datetime64[ns]")
    return found


def not_sessions(name: str, ds: Dates | pd.DatetimeIndex) -> pd.DatetimeIndex:
    """Those dates of `ds`, ascending and each once, on which the exchange was closed."""
    days = _inside(name, np.asarray(ds).astype("datetime64[D]"))
    first, is_session = _table(name)
    return _index(np.unique(days[~is_session[(days - first).astype(np.int64)]]))


@lru_cache(maxsize=64)
def _table(name: str) -> tuple[np.datetime64, npt.NDArray[np.bool_]]:
    """First day of the calendar, and for every day from then on whether it is a session."""
    calendar = _calendar(name)
    is_session = np.zeros((calendar[-1] - calendar[0]).astype(np.int64) + 1, dtype=bool)
    is_session[(calendar - calendar[0]).astype(np.int64)] = True
    is_session.setflags(write=False)
    return calendar[0], is_session


def _inside(name: str, days: Dates) -> Dates:
    """`days`, or BadHistory (code OUTSIDE_CALENDAR) when one of them is missing or not covered by the calendar."""
    if np.isnat(days).any():
        raise BadHistory("a session date is missing", code="BAD_TIMESTAMP")
    calendar = _calendar(name)
    if days.size and (days.min() < calendar[0] or days.max() > calendar[-1]):
        raise BadHistory(
            f"{name} is known from {calendar[0]} to {calendar[-1]}, found a date outside", code="OUTSIDE_CALENDAR"
        )
    return days


def _index(days: Dates) -> pd.DatetimeIndex:
    return pd.DatetimeIndex(days.astype("datetime64[ns]"))
