"""One symbol of a request, with the history that the caller sent for it."""

import math
import re
from collections.abc import Mapping
from datetime import date
from functools import lru_cache
from itertools import pairwise
from typing import Any, TypeGuard

import msgspec

from registry.errors import BadHistory, BadParameter
from registry.forecast import names
from serving.gateway.bodies import check_keys, is_word, kind_of

KEYS = ("symbol", "series", "ds", "bars", "features")
LONGEST = 128  # characters of a symbol; the ledger keeps as many, own data at most 64
FEWEST_BARS = 2  # the first one is only the base of the first return

_NUMBERS = {int, float}
_MIDNIGHT = re.compile(r"[T ]00:00:00(\.0{1,9})?\Z")
_DATES = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2} )*")
_DATE = len("2022-12-28 ")
_REMEMBERED = 1000  # dates of a list; most requests of a day have the same ones


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """A symbol; without `series` and `bars`, its history comes from the ledger.

    `ds` and each feature have one value for each value of `series`, or for each bar.
    """

    symbol: str
    series: list[float] | None = None  # log returns, oldest first
    ds: list[str] | None = None  # sessions, as 2022-12-28
    bars: dict[str, list[float]] | None = None  # open, high, low, close, then volume and amount
    features: dict[str, list[float]] = {}

    @property
    def rows(self) -> int:
        """Sessions that the caller sent."""
        return _length(self.series, self.bars)


def item(value: Mapping[str, Any], checked: list[str] | None = None) -> Item:
    """A checked item. Its keys are checked already; `checked` are dates of an item before it.

    Items with equal dates share one list. Raises BadHistory and BadParameter.
    """
    if not is_symbol(value.get("symbol")):
        raise BadHistory(
            f"symbol: expected a name of 1 to {LONGEST} printable characters, "
            "without blanks around it",
            code="BAD_SYMBOL",
        )
    if "series" in value and "bars" in value:
        raise BadHistory("series and bars: send one of them; returns follow from bars")
    series = numbers("series", value["series"]) if "series" in value else None
    bars = _bars(value["bars"]) if "bars" in value else None
    rows = _length(series, bars)
    ds = _dates(value["ds"], rows, checked) if "ds" in value else None
    features = {}
    if "features" in value:
        features = _features(value["features"], rows, taken={*names.HISTORY, *(bars or ())})
    return Item(symbol=value["symbol"], series=series, ds=ds, bars=bars, features=features)


def is_symbol(value: Any) -> TypeGuard[str]:
    """Whether it can be a symbol. Own data allows no other ones.

    Control characters, such as NUL or a change of direction, and surrogates are not printable.
    """
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST:
        return False
    return value.isprintable() and value == value.strip()


def _length(series: list[float] | None, bars: dict[str, list[float]] | None) -> int:
    if bars is not None:
        return len(bars["close"])
    return len(series or ())


# --- numbers ----------------------------------------------------------------------------------


def numbers(place: str, value: Any) -> list[float]:
    """A list of finite numbers as floats. True, null and text are none; neither is no number."""
    if not isinstance(value, list):
        raise BadHistory(
            f"{place} is {kind_of(value)}, expected a list of numbers", code="NOT_A_NUMBER"
        )
    if not value:
        raise BadHistory(f"{place} is empty", code="EMPTY")
    kinds = set(map(type, value))
    if kinds == {float} and all(map(math.isfinite, value)):
        return value
    if kinds <= _NUMBERS and all(map(is_finite, value)):
        return [float(number) for number in value]
    raise _no_number(place, value)


def is_finite(number: Any) -> bool:
    """Whether it is a finite number within float64."""
    try:
        return type(number) in _NUMBERS and math.isfinite(number)
    except OverflowError:
        return False


def _no_number(place: str, value: list[Any]) -> BadHistory:
    """Error for the first value that is no finite number."""
    at = next(at for at, number in enumerate(value) if not is_finite(number))
    where = f"{place}: value {at + 1} of {len(value)}"
    if type(value[at]) in _NUMBERS:
        return BadHistory(f"{where} is NaN, infinite or beyond float64", code="NON_FINITE")
    if value[at] is None:
        return BadHistory(f"{where} is null; leave the session out", code="NON_FINITE")
    return BadHistory(f"{where} is {kind_of(value[at])}, expected a number", code="NOT_A_NUMBER")


def _bars(value: Any) -> dict[str, list[float]]:
    """Columns of bars in their usual order, all of one length."""
    if not isinstance(value, dict):
        raise BadHistory(f"bars is {kind_of(value)}, expected an object", code="NOT_A_TABLE")
    check_keys("bars", value, names.BAR)
    missing = [name for name in names.OHLC if name not in value]
    if missing:
        raise BadHistory(f"bars: {', '.join(missing)} missing", code="MISSING_COLUMN")
    columns = [name for name in names.BAR if name in value]
    bars = {name: numbers(f"bars.{name}", value[name]) for name in columns}
    if len({len(column) for column in bars.values()}) > 1:
        raise BadHistory("bars: the columns differ in length")
    if len(bars["close"]) < FEWEST_BARS:
        raise BadHistory(
            f"bars: expected at least {FEWEST_BARS}; the first one is only the base",
            code="TOO_SHORT",
        )
    return bars


def _features(value: Any, rows: int, taken: set[str]) -> dict[str, list[float]]:
    """Covariates by column, with none of the `taken` names. The version's spec checks the others.

    A message counts the columns instead of naming them.
    """
    if not isinstance(value, dict):
        raise BadHistory(f"features is {kind_of(value)}, expected an object", code="NOT_A_TABLE")
    if value and not rows:
        raise BadHistory("features: send them with series or bars only")
    if not taken.isdisjoint(value):
        raise BadHistory(
            f"features: {', '.join(sorted(taken & value.keys()))} cannot be one of them, "
            "as series, bars and ds hold it",
            code="DUPLICATE_COLUMN",
        )
    features = {}
    for place, (name, column) in enumerate(value.items(), 1):
        where = f"features: column {place}"
        if not is_word(name):
            raise BadParameter(f"{where} has the name of no column", code="UNKNOWN_PARAM")
        features[name] = numbers(where, column)
        if len(column) != rows:
            raise BadHistory(f"{where} has {len(column)} values, expected {rows}")
    return features


# --- sessions ---------------------------------------------------------------------------------


def _dates(value: Any, rows: int, checked: list[str] | None) -> list[str]:
    """Ascending dates, as many as rows. Whether they are sessions is checked by the model."""
    if not isinstance(value, list):
        raise BadHistory(f"ds is {kind_of(value)}, expected a list of dates", code="BAD_TIMESTAMP")
    if not rows:
        raise BadHistory("ds: send it with series or bars only")
    if len(value) != rows:
        raise BadHistory(f"ds has {len(value)} dates, expected one for each of {rows} values")
    if value == checked:
        return checked
    if _are_ascending(value):
        return value
    if not _are_dates(value):
        value = [_without_midnight(text) for text in value]
    if not _are_dates(value):
        place = next(place for place, text in enumerate(value, 1) if not _are_dates([text]))
        raise BadHistory(
            f"ds: date {place} of {rows} is no date as in 2022-12-28, in quotes",
            code="BAD_TIMESTAMP",
        )
    days: list[str] = value
    if sorted(set(days)) != days:
        raise _unsorted(days)
    return days


def _without_midnight(text: Any) -> Any:
    """The date of a timestamp at midnight, as pandas and our own examples write sessions."""
    return _MIDNIGHT.sub("", text) if isinstance(text, str) else text


def _are_ascending(texts: list[Any]) -> bool:
    """Whether they are dates, each after the one before it. Short lists are remembered."""
    try:
        joined = " ".join([*texts, ""])
    except TypeError:
        return False
    if len(joined) != len(texts) * _DATE:
        return False
    check = _ascend if len(texts) <= _REMEMBERED else _ascend.__wrapped__
    return check(joined)


@lru_cache(maxsize=256)
def _ascend(joined: str) -> bool:
    """Whether a text holds ascending dates, with a blank after each."""
    texts = joined[:-1].split(" ")
    return _are_dates(texts) and sorted(set(texts)) == texts


def _are_dates(texts: list[Any]) -> bool:
    """Whether each is a date as in 2022-12-28, and not in another form of ISO 8601."""
    try:
        joined = " ".join([*texts, ""])
        for text in texts:
            date.fromisoformat(text)
    except (TypeError, ValueError):
        return False
    return _DATES.fullmatch(joined) is not None


def _unsorted(dates: list[str]) -> BadHistory:
    """Error for the first date that does not come after the one before it."""
    pairs = enumerate(pairwise(dates), 2)
    place, (before, after) = next(pair for pair in pairs if pair[1][0] >= pair[1][1])
    if before == after:
        return BadHistory(
            f"ds: date {place} is the same as the one before it", code="DUPLICATE_SESSION"
        )
    return BadHistory(
        f"ds: date {place} is earlier than the one before it; send the oldest first",
        code="UNSORTED",
    )
