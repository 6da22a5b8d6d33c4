"""Rows with the same columns, as DuckDB reads them from files, a database or a frame."""

from dataclasses import dataclass
from datetime import date, datetime
from typing import Any


@dataclass(frozen=True)
class Column:
    name: str  # as the user wrote it; empty where a header has no name
    type: str  # DuckDB's name of the type
    place: str  # a file that has it, for messages
    zone: str = ""  # time zone in which stamps of the type TIMESTAMP WITH TIME ZONE are read


@dataclass(frozen=True)
class Table:
    """`relation` stands in a FROM clause; its columns are c0, c1, ... and `file`.

    Rows come in the order of the files.
    """

    relation: str
    columns: tuple[Column, ...]
    files: tuple[str, ...]
    delimiter: str = ""  # of CSV files
    unended: tuple[str, ...] = ()  # CSV files whose last line has no line end

    def index(self, name: str) -> int:
        """Number of the column with this name. Raises ValueError if there is none."""
        return [column.name for column in self.columns].index(name)


def numbered(count: int) -> str:
    """Names c0, c1, ... of a table's columns, separated by commas."""
    return ", ".join(f"c{number}" for number in range(count))


def as_text(value: Any) -> str | None:
    """Text of a cell that is an object of Python; a float keeps every bit."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float):
        return repr(float(value))
    if isinstance(value, datetime):
        return value.isoformat(sep=" ")
    if isinstance(value, date):
        return value.isoformat()
    return str(value)
