"""Trading sessions of an exchange: which dates are sessions, and which come next.

Names are those of `exchange_calendars` (XNYS, XLON, ..., `24/7` for crypto), which is imported
when the first calendar is built (about 0.4 s each). A calendar is then kept as a read-only array,
safe to read from any thread. It ends about a year after the day it was built: exchanges publish
their holidays no further ahead.
"""

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pandas as pd

from registry.errors import BadHistory, BadParameter, NotFound
from registry.forecast.arrays import Dates

START = "1980-01-01"  # before any history; an exchange recorded only from a later day starts there


@lru_cache(maxsize=64)
def _calendar(name: str) -> Dates:
    """All sessions [K] as datetime64[D], ascending, read-only."""
    from exchange_calendars import get_calendar
    from exchange_calendars.errors import InvalidCalendarName

    try:
        try:
            calendar = get_calendar(name, start=START)
        except ValueError:  # founded, or its holidays recorded, only later
            calendar = get_calendar(name, start=get_calendar(name).bound_min())
    except InvalidCalendarName as error:
        raise NotFound(
            f"no calendar {name!r}; names are those of exchange_calendars, as in XNYS or 24/7",
            code="UNKNOWN_CALENDAR",
        ) from error
    days: Dates = calendar.sessions.to_numpy().astype("datetime64[D]")
    days.setflags(write=False)
    return days


def sessions(name: str, start: str | pd.Timestamp, end: str | pd.Timestamp) -> pd.DatetimeIndex:
    """Sessions from `start` to `end`, both included. BadHistory for a date outside the calendar."""
    calendar = _calendar(name)
    first, last = _inside(name, np.array([start, end], dtype="datetime64[D]"))
    return _index(
        calendar[np.searchsorted(calendar, first) : np.searchsorted(calendar, last, side="right")]
    )


def next_sessions(name: str, cutoff: pd.Timestamp, horizon: int) -> pd.DatetimeIndex:
    """The next `horizon` sessions [H] after `cutoff`, which need not be a session itself."""
    return _index(next_sessions_many(name, pd.DatetimeIndex([cutoff]), horizon)[0])


def next_sessions_many(name: str, cutoffs: Dates | pd.DatetimeIndex, horizon: int) -> Dates:
    """The next `horizon` sessions [N, H] (datetime64[ns]) strictly after each cutoff [N].

    BadHistory, code CALENDAR_END, when the calendar is not known that far ahead.
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
            f"{name} is known until {calendar[-1]}, too early for {horizon} sessions after the latest cutoff",
            code="CALENDAR_END",
        )
    sessions_after: Dates = calendar[following].astype("datetime64[ns]")
    return sessions_after


def not_sessions(name: str, dates: Dates | pd.DatetimeIndex) -> Dates:
    """Those of `dates` (as datetime64[D]), ascending and each once, on which the exchange was closed."""
    days = _inside(name, np.asarray(dates).astype("datetime64[D]", copy=False))
    first, is_session = _table(name)
    place = days.view(np.int64) - first
    is_open = is_session[place]
    if is_open.all():
        return days[:0]
    return np.unique(days[~is_open])


@lru_cache(maxsize=64)
def _table(name: str) -> tuple[int, npt.NDArray[np.bool_]]:
    """First day of the calendar since 1970, and for every day from then on whether it is a session."""
    days = _calendar(name).view(np.int64)
    is_session = np.zeros(days[-1] - days[0] + 1, dtype=bool)
    is_session[days - days[0]] = True
    is_session.setflags(write=False)
    return int(days[0]), is_session


def _inside(name: str, days: Dates) -> Dates:
    """`days`. BadHistory when one of them is missing or lies outside the calendar."""
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
