"""What a user's prices are read from, and what was read."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd

# What a column can mean. `y` is the log return of the session; `split` is new shares for one old.
NUMBERS = (
    "open",
    "high",
    "low",
    "close",
    "adj_close",
    "volume",
    "amount",
    "split",
    "dividend",
    "y",
)
KEYS = ("symbol", "ds", *NUMBERS[:-1], "sector", "y")
VALUES = ("close", "adj_close", "y")  # returns follow from each of them

CSV, PARQUET, SQL, FRAME = "csv", "parquet", "sql", "frame"
KINDS = (CSV, PARQUET, SQL, FRAME)

LONG, WIDE, BY_FILE, ONE = "long", "wide", "one file a symbol", "one symbol"


@dataclass(frozen=True)
class Source:
    """A user's prices: where they are and how to read them."""

    kind: str  # one of KINDS
    # A file, folder or glob, or several; the URI of a database, which may hold a password.
    location: str | tuple[str, ...] = field(default="", repr=False)
    # Column of a key; "" means that no column has this key. Other keys are guessed.
    mapping: Mapping[str, str] = field(default_factory=dict)
    symbol: str = ""  # of data without a symbol column
    query: str = ""  # SQL: a query, or the name of a table
    cells: str = "close"  # what the cells of a wide form are, one of VALUES
    frame: pd.DataFrame | None = field(default=None, repr=False, compare=False)

    @property
    def locations(self) -> tuple[str, ...]:
        return (self.location,) if isinstance(self.location, str) else self.location


@dataclass(frozen=True)
class Staged:
    """What the view `staged` holds, and how it was read."""

    # Columns with at least one value, in the order of KEYS; unique_id and ds are always there.
    columns: tuple[str, ...]
    files: tuple[str, ...]  # files, or the masked URI of a database, or "the frame"
    rows: int
    mapping: Mapping[str, str]  # key -> the user's column, guessed or given
    guessed: tuple[str, ...]  # keys whose column was guessed
    ignored: tuple[str, ...]  # the user's other columns
    layout: str  # LONG, WIDE, BY_FILE or ONE
    missing: Mapping[str, int]  # key -> empty cells, where there are some
    dates: str  # form of the dates, like YYYY-MM-DD
    delimiters: tuple[str, ...] = ()  # of CSV files
    unended: tuple[str, ...] = ()  # CSV files whose last line has no line end
