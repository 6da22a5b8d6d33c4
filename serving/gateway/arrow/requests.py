"""A request for forecasts as an Arrow table: the histories of many symbols."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from registry.errors import BadHistory, TooLarge
from registry.forecast import names
from serving.gateway import queries, reading
from serving.gateway.arrow import streams
from serving.gateway.arrow.schema import Field
from serving.gateway.arrow.streams import Array, Bools, Coded, Table, Texts, Values
from serving.gateway.reading import ForecastRequest, Limits

_NULL_DAY = np.iinfo(np.int64).min  # NaT

Run = tuple[str | None, int]  # symbol and number of its rows


def forecast_request(
    body: bytes, query: bytes, limits: Limits = reading.DEFAULTS
) -> ForecastRequest:
    """The request in a stream, with parameters in the query: the same as the batch in JSON.

    Columns are unique_id, ds, and y or bars; others are features. unique_id alone asks for the
    ledger's histories. A bad series is refused alone. Raises BadInput and TooLarge.
    """
    sent = queries.parameters(query)
    table = streams.read(body, _check, limits.rows)
    if not table.rows:
        raise BadHistory("the table has no rows", code="EMPTY")
    symbols = table.texts[names.UNIQUE_ID]
    if len(table.fields) == 1:
        _check_symbols(table.rows, limits)
        values = [{"symbol": chunk.text(row)} for chunk in symbols for row in range(len(chunk))]
        return reading.batch_request(values, sent, limits)
    runs = _runs(symbols, limits)
    return reading.batch_request(_items(table, runs), sent, limits)


def _check(fields: dict[str, Field]) -> None:
    """Raise BadHistory for a column that is missing or of a wrong type."""
    if names.UNIQUE_ID not in fields:
        raise BadHistory("the table has no column unique_id", code="MISSING_COLUMN")
    for place, field in enumerate(fields.values(), 1):
        if field.name == names.UNIQUE_ID:
            if field.type.kind != "text":
                raise BadHistory("unique_id: expected a column of utf8", code="BAD_SYMBOL")
        elif field.name == names.DS:
            _check_days(field)
        elif field.type.kind != "number":
            raise BadHistory(f"column {place}: expected float or integer", code="NOT_A_NUMBER")


def _check_days(field: Field) -> None:
    if field.type.kind not in ("date", "text") or field.dictionary is not None:
        raise BadHistory("ds: expected date32, timestamp or utf8", code="BAD_TIMESTAMP")
    if field.type.zoned:
        raise BadHistory("ds: the timestamps have a time zone", code="BAD_TIMESTAMP")


# --- series -----------------------------------------------------------------------------------


def _runs(chunks: Sequence[Texts | Coded], limits: Limits) -> list[Run]:
    """Symbols whose rows follow each other. Symbols that are no text at all are None."""
    runs: list[Run] = []
    for chunk in chunks:
        starts = _starts(chunk, limits)
        for start, end in pairwise([*starts, len(chunk)]):
            symbol = chunk.text(start)
            if runs and runs[-1][0] == symbol:
                runs[-1] = symbol, runs[-1][1] + end - start
            else:
                runs.append((symbol, end - start))
        _check_symbols(len(runs), limits)
    return runs


def _starts(chunk: Texts | Coded, limits: Limits) -> list[int]:
    """Rows whose symbol is not that of the row before; with few others, if codes repeat."""
    if isinstance(chunk, Coded):
        changed = _changed(chunk.codes.values)
        valid = chunk.codes.valid
    else:
        changed = _changed_texts(chunk, limits)
        valid = chunk.valid
    if valid is not None:
        changed |= _changed(valid)
    starts = np.flatnonzero(changed)
    _check_symbols(len(starts), limits)
    return [int(start) for start in starts]


def _changed(values: Array) -> Bools:
    changed = np.ones(len(values), dtype=np.bool_)
    np.not_equal(values[1:], values[:-1], out=changed[1:])
    return changed


def _changed_texts(chunk: Texts, limits: Limits) -> Bools:
    """Stretches of texts of one length are compared as matrices of bytes."""
    lengths = np.diff(chunk.offsets)
    changed = _changed(lengths)
    stretches = np.flatnonzero(changed)
    _check_symbols(len(stretches), limits)
    for start, end in pairwise([*stretches.tolist(), len(chunk)]):
        first, last = int(chunk.offsets[start]), int(chunk.offsets[end])
        if end - start > 1 and last > first:
            texts = np.frombuffer(chunk.data[first:last], np.uint8).reshape(end - start, -1)
            changed[start + 1 : end] = (texts[1:] != texts[:-1]).any(axis=1)
    return changed


def _check_symbols(number: int, limits: Limits) -> None:
    if number > limits.symbols:
        raise TooLarge(
            f"the table has more than {limits.symbols} series; are the rows of each together?",
            code="TOO_MANY_ROWS",
        )


# --- columns ----------------------------------------------------------------------------------


def _items(table: Table, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """The series as items of a batch in JSON."""
    items: list[dict[str, Any]] = [{"symbol": symbol} for symbol, _ in runs]
    ends = np.cumsum([rows for _, rows in runs]).tolist()
    has_bars = not table.fields.keys().isdisjoint(names.OHLC)
    for name, chunks in table.numbers.items():
        if name == names.DS:
            continue
        parts = zip(items, _cut(_floats(chunks), ends), strict=True)
        if name == names.Y:
            for item, part in parts:
                item["series"] = part
            continue
        key = "bars" if has_bars and name in names.BAR else "features"
        for item, part in parts:
            item.setdefault(key, {})[name] = part
    if names.DS in table.fields:
        for item, days in zip(items, _days(table, ends), strict=True):
            item["ds"] = days
    return items


def _cut(values: Array, ends: Sequence[int]) -> Iterator[list[Any]]:
    for start, end in pairwise([0, *ends]):
        yield values[start:end].tolist()


def _floats(chunks: Sequence[Values]) -> Array:
    """A column of numbers; null is NaN, which the check of an item refuses."""
    parts = []
    for chunk in chunks:
        with np.errstate(invalid="ignore"):  # of a signalling NaN
            part = chunk.values.astype(np.float64)
        if chunk.valid is not None:
            part[~chunk.valid] = np.nan
        parts.append(part)
    return np.concatenate(parts)


def _days(table: Table, ends: Sequence[int]) -> Iterator[list[Any]]:
    """The dates of each series as text."""
    if table.fields[names.DS].type.kind == "date":
        return _shown_days(table, ends)
    texts = [text for chunk in table.texts[names.DS] for text in _texts(chunk)]
    return (texts[start:end] for start, end in pairwise([0, *ends]))


def _texts(chunk: Texts | Coded) -> list[str | None]:
    if isinstance(chunk, Coded):
        raise TypeError("dates in a dictionary are refused before they are read")
    return chunk.dates()


def _shown_days(table: Table, ends: Sequence[int]) -> Iterator[list[Any]]:
    """Series with equal dates share one list."""
    per_day = table.fields[names.DS].type.per_day
    column = np.concatenate([_dates(chunk, per_day) for chunk in table.numbers[names.DS]])
    before = column[:0]
    shown: list[Any] = []
    for start, end in pairwise([0, *ends]):
        days = column[start:end]
        if not np.array_equal(days, before):
            shown = np.datetime_as_string(days.view("M8[D]")).tolist()
            before = days
        yield shown


def _dates(chunk: Values, per_day: int) -> Array:
    """Days since 1970; NaT for null and for a time of day, which the check of an item refuses."""
    days, rest = np.divmod(chunk.values.astype(np.int64), per_day)
    days[rest != 0] = _NULL_DAY
    if chunk.valid is not None:
        days[~chunk.valid] = _NULL_DAY
    return days
