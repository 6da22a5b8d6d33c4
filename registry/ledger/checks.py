"""What rows may hold, so that both databases keep the same. All raise BadParameter."""

import math
from datetime import date, datetime

from registry.errors import BadParameter
from registry.text import is_text

LONGEST = 128  # characters of a name


def check_name(what: str, value: str, longest: int = LONGEST) -> None:
    """Text that names something: neither empty nor long; PostgreSQL stores no NUL."""
    sound = isinstance(value, str) and is_text(value) and "\0" not in value
    if not sound or not 0 < len(value) <= longest:
        raise BadParameter(f"{what} is no text of 1 to {longest} characters without NUL")


def check_choice(what: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise BadParameter(f"{what} is {str(value)[:64]!r}, expected one of {', '.join(choices)}")


def check_session(what: str, value: date) -> None:
    if not isinstance(value, date) or isinstance(value, datetime):
        raise BadParameter(f"{what} is {type(value).__name__}, expected a date without a time")


def check_instant(what: str, value: datetime) -> None:
    """A time with a zone. The ledger keeps microseconds; pandas has times that are finer."""
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise BadParameter(f"{what} is no time with a zone")
    if getattr(value, "nanosecond", 0):
        raise BadParameter(f"{what} is finer than a microsecond; round it")


def check_whole(what: str, value: int, least: int) -> None:
    """A whole number, as the databases' 32 bits hold it; SQLite would store NumPy's as bytes."""
    sound = isinstance(value, int) and not isinstance(value, bool)
    if not sound or not least <= value < 2**31:
        raise BadParameter(f"{what} is no whole number of {least} to {2**31 - 1}")


def check_finite(what: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, float | int) or not math.isfinite(value):
        raise BadParameter(f"{what} is no finite number")
