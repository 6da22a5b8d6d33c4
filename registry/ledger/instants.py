"""Sessions and instants in the ledger: how they are stored, and when a session's close is known.

SQLite keeps both as integers, which are half the size of texts: days since 1970, and microseconds
since 1970 in UTC. PostgreSQL has types of its own.
"""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import sqlalchemy as sa

from registry.errors import BadHistory, BadParameter
from registry.forecast import calendars
from registry.forecast.arrays import Dates
from registry.ledger.claims import now

_FIRST_DAY = date(1970, 1, 1)
_FIRST_INSTANT = datetime(1970, 1, 1, tzinfo=UTC)
_LENGTH = len("2022-06-30")
_MICROSECOND = timedelta(microseconds=1)

When = str | date | datetime | None  # an instant, as users give it; see `as_of`


class Day(sa.TypeDecorator[date]):
    """A session."""

    impl = sa.Date
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        kind: sa.types.TypeEngine[Any] = sa.Integer() if dialect.name == "sqlite" else sa.Date()
        return dialect.type_descriptor(kind)

    def process_bind_param(self, value: date | None, dialect: sa.Dialect) -> date | int | None:
        if value is None or dialect.name != "sqlite":
            return value
        return (value - _FIRST_DAY).days

    def process_result_value(self, value: date | int | None, dialect: sa.Dialect) -> date | None:  # noqa: ARG002
        return _FIRST_DAY + timedelta(days=value) if isinstance(value, int) else value


class Instant(sa.TypeDecorator[datetime]):
    """An aware datetime to the microsecond, in UTC."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        kind: sa.types.TypeEngine[Any] = (
            sa.BigInteger() if dialect.name == "sqlite" else sa.DateTime(timezone=True)
        )
        return dialect.type_descriptor(kind)

    def process_bind_param(
        self, value: datetime | None, dialect: sa.Dialect
    ) -> datetime | int | None:
        if value is None or dialect.name != "sqlite":
            return value
        return (value - _FIRST_INSTANT) // _MICROSECOND

    def process_result_value(
        self,
        value: datetime | int | None,
        dialect: sa.Dialect,  # noqa: ARG002
    ) -> datetime | None:
        if isinstance(value, int):
            return _FIRST_INSTANT + value * _MICROSECOND
        return None if value is None else value.astimezone(UTC)


def as_of(when: When, calendar: str) -> datetime:
    """The instant that a user means. None: now. A date: the close of its session, or of the last
    one before it. Raises BadParameter for another text or a time without a zone.
    """
    if when is None:
        return now()
    parsed = _parsed(when)
    if not isinstance(parsed, datetime):
        return _last_close(calendar, parsed)
    if parsed.tzinfo is None:
        raise BadParameter(f"{when} names no time zone; write it like 2022-06-30T21:00:00+00:00")
    try:
        return parsed.astimezone(UTC)
    except OverflowError as error:
        raise BadParameter(f"{when} is outside the years 1 to 9999") from error


def is_date(when: When) -> bool:
    """Whether `as_of` needs the calendar. Raises BadParameter."""
    return when is not None and not isinstance(_parsed(when), datetime)


def closes_of(calendar: str, days: Dates) -> Dates:
    """When each session [K] (datetime64[D]) closes: datetime64[us] in UTC.

    Raises BadHistory (NOT_A_SESSION) for another day.
    """
    sessions, closes = calendars.closes(calendar)
    places = np.minimum(np.searchsorted(sessions, days), len(sessions) - 1)
    others = days[sessions[places] != days]
    if len(others):
        raise BadHistory(f"{others[0]} is no session of {calendar}", code="NOT_A_SESSION")
    found: Dates = closes[places]
    return found


def close_of(calendar: str, day: date) -> datetime:
    """When a session closes. Raises BadHistory (NOT_A_SESSION) for another day."""
    close = closes_of(calendar, np.array([day], dtype="datetime64[D]"))[0]
    return utc(close)


def _parsed(when: str | date | datetime) -> date | datetime:
    if not isinstance(when, str):
        if not isinstance(when, date):  # np.datetime64 may be a time, and would pass for a date
            raise BadParameter(
                f"found a {type(when).__name__}, expected a text, a date, or a datetime with a zone"
            )
        return when
    try:
        return date.fromisoformat(when) if len(when) == _LENGTH else datetime.fromisoformat(when)
    except ValueError as error:
        raise BadParameter(
            f"found {when[:64]!r}, expected a date like 2022-06-30, which means the close of its "
            "session, or a time with a zone like 2022-06-30T21:00:00+00:00"
        ) from error


def _last_close(calendar: str, day: date) -> datetime:
    sessions, closes = calendars.closes(calendar)
    place = int(np.searchsorted(sessions, np.datetime64(day, "D"), side="right")) - 1
    if place < 0 or np.datetime64(day, "D") > sessions[-1]:
        raise BadParameter(f"{calendar} is known from {sessions[0]} to {sessions[-1]}, found {day}")
    return utc(closes[place])


def utc(close: np.datetime64) -> datetime:
    """A close as `closes_of` gives it."""
    return pd.Timestamp(close).tz_localize(UTC).to_pydatetime()
