"""Dates and times that people write: ISO 8601 only, so that none is guessed."""

from datetime import date, datetime

from registry.errors import BadParameter


def is_date(words: str) -> bool:
    """Whether the words are a date as in 2018-12-31, the one form in configs and tags."""
    try:
        return date.fromisoformat(words).isoformat() == words
    except ValueError:
        return False


def check_date(words: object, name: str) -> None:
    """Raise BadParameter (BAD_TIME) unless a setting or option holds a date as in 2018-12-31."""
    if not isinstance(words, str) or not is_date(words):
        raise BadParameter(
            f"{name} is {str(words)[:64]!r}, expected a date like 2018-12-31", code="BAD_TIME"
        )


def read_time(words: str, name: str) -> datetime:
    """A time of ISO 8601, as in 2026-11-22T10:00. Raises BadParameter (BAD_TIME)."""
    try:
        return datetime.fromisoformat(words)
    except ValueError as error:
        raise BadParameter(
            f"{name} is {words[:64]!r}, expected a time like 2026-11-22T10:00", code="BAD_TIME"
        ) from error
