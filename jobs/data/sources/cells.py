"""Cells as values: expressions of SQL that read text, numbers and dates, and what they refuse."""

import re
from dataclasses import dataclass

from jobs.data.sources.engine import literal
from jobs.data.sources.table import Column
from registry.errors import BadHistory

# Texts that mean an empty cell, in columns of numbers only: NA is a symbol, too.
MISSING = ("NaN", "nan", "NA", "null", "NULL", "None", "N/A", "-")

# Forms of dates; the number of a form is its place here.
FORMS = ("YYYY-MM-DD", "YYYYMMDD", "YYYY-MM-DD hh:mm:ss", "YYYY-MM-DD hh:mm:ss with a zone")
_DAY, _BASIC, _STAMP, _ZONED = range(len(FORMS))
_TIME = r"([01]\d|2[0-3]):[0-5]\d(:[0-5]\d([.]\d+)?)?"
_OFFSET = r" ?(Z|UTC|[+-]\d{2}(:?\d{2})?|[A-Z][A-Za-z]+/[A-Za-z_/]+)"

_WHOLE = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT")
_INTEGERS = (*_WHOLE, *(f"U{name}" for name in _WHOLE))
_STAMPS = ("TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS")
_INSTANT = "TIMESTAMP WITH TIME ZONE"
_EMPTY = '"NULL"'  # type of a column without values


@dataclass(frozen=True)
class Cell:
    """SQL of a cell's value, of whether the cell is refused, and of its text for a message."""

    value: str
    refused: str
    text: str


def text(name: str, column: Column) -> str:
    """SQL of the very text of a cell; NULL if it is empty. Raises BadHistory (BAD_SYMBOL)."""
    if column.type in ("VARCHAR", _EMPTY) or column.type.startswith("ENUM"):
        return f"nullif({name}::VARCHAR, '')"
    if column.type in _INTEGERS:
        return f"{name}::VARCHAR"
    raise BadHistory(
        f"{column.place}: the column {column.name!r} holds {column.type}, "
        "expected text or whole numbers",
        code="BAD_SYMBOL",
    )


def number(name: str, column: Column) -> Cell:
    """A float64; NULL for an empty cell and for what MISSING lists.

    Infinity and text that is no plain decimal are refused. Raises BadHistory (NOT_A_NUMBER) for a
    column that holds something else.
    """
    if column.type in ("VARCHAR", _EMPTY):
        return _number_of_text(f"{name}::VARCHAR")
    if column.type in ("FLOAT", "DOUBLE", *_INTEGERS) or column.type.startswith("DECIMAL"):
        number = f"{name}::DOUBLE"
        finite = f"CASE WHEN isfinite({number}) THEN {number} END"
        return Cell(finite, f"isinf({number})", f"{number}::VARCHAR")
    raise BadHistory(
        f"{column.place}: the column {column.name!r} holds {column.type}, expected numbers",
        code="NOT_A_NUMBER",
    )


def _number_of_text(name: str) -> Cell:
    number = f"TRY_CAST({name} AS DOUBLE)"
    # DuckDB reads 1_000 as a number.
    good = f"isfinite({number}) AND NOT contains({name}, '_')"
    missing = ", ".join(map(literal, ("", *MISSING)))
    refused = f"CASE WHEN {good} THEN false ELSE trim({name}) NOT IN ({missing}) END"
    return Cell(f"CASE WHEN {good} THEN {number} END", refused, name)


def decimal_text(name: str, column: Column) -> str:
    """SQL of a number's text, of which `number` makes the same float64 again."""
    cell = number(name, column)
    return f"({cell.text})"


def day(name: str, column: Column) -> tuple[Cell, str]:
    """The stamp of a row as written, without its zone, and SQL of the number of its form.

    Raises BadHistory (BAD_TIMESTAMP) for a column that holds no dates.
    """
    if column.type in ("VARCHAR", _EMPTY, *_INTEGERS):
        return _day_of_text(f"trim({name}::VARCHAR)")
    if column.type == "DATE":
        stamp, form = f"{name}::TIMESTAMP", _DAY
    elif column.type in _STAMPS:
        stamp, form = f"{name}::TIMESTAMP", _STAMP
    elif column.type == _INSTANT:
        stamp, form = _local(name, column.zone or "UTC"), _ZONED
    else:
        raise BadHistory(
            f"{column.place}: the column {column.name!r} holds {column.type}, expected dates",
            code="BAD_TIMESTAMP",
        )
    finite = f"CASE WHEN isfinite({name}) AND year({name}) BETWEEN 1000 AND 2999 THEN {stamp} END"
    return Cell(finite, f"({finite}) IS NULL", f"{name}::VARCHAR"), f"{form}"


def _local(name: str, zone: str) -> str:
    """SQL of an instant's local time; Arrow writes a zone as a name or as an offset like +09:00."""
    offset = re.fullmatch(r"([+-])(\d{2}):(\d{2})", zone)
    if offset is None:
        return f"timezone({literal(zone)}, {name})"
    minutes = 60 * int(offset[2]) + int(offset[3])
    return f"(timezone('UTC', {name}) {offset[1]} INTERVAL {minutes} MINUTE)"


def _day_of_text(text: str) -> tuple[Cell, str]:
    day = r"[12]\d{3}-\d{2}-\d{2}"
    form = (
        f"CASE WHEN regexp_full_match({text}, '{day}') THEN {_DAY} "
        rf"WHEN regexp_full_match({text}, '[12]\d{{7}}') THEN {_BASIC} "
        f"WHEN regexp_full_match({text}, '{day}[T ]{_TIME}') THEN {_STAMP} "
        f"WHEN regexp_full_match({text}, '{day}[T ]{_TIME}{_OFFSET}') THEN {_ZONED} END"
    )
    basic = f"left({text}, 4) || '-' || substr({text}, 5, 2) || '-' || right({text}, 2)"
    as_written = rf"regexp_extract({text}, '^{day}[T ]{_TIME}')"
    stamp = (
        f"CASE {form} WHEN {_DAY} THEN TRY_CAST({text} AS TIMESTAMP) "
        f"WHEN {_BASIC} THEN TRY_CAST({basic} AS TIMESTAMP) "
        f"WHEN {_STAMP} THEN TRY_CAST({text} AS TIMESTAMP) "
        f"WHEN {_ZONED} THEN TRY_CAST({as_written} AS TIMESTAMP) END"
    )
    return Cell(stamp, f"({stamp}) IS NULL", text), form
