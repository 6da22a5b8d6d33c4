"""Data sets of a user on disk: var/data/sets/NAME with a Parquet file a calendar year and set.json.

Rows of a file are sorted by (ds, unique_id). A file is named by its year and its sha256, and
set.json, replaced last, says which files belong to the set: a reader sees the old set or the new
one. The same content gives the same files, compiled at once or session by session.

A return needs the close before it, so prices outnumber rows: those of which no row follows, as each
symbol's first, are in a file of their own, the base.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs.data.dataset import Data, Dataset, Splits
from jobs.data.market import MEMBERS, Universe
from registry import files
from registry.errors import BadParameter, NotFound
from registry.forecast import names as columns_of
from registry.masking import masked
from registry.sets import (
    FACTS,
    FORMAT,
    NAME,
    Part,
    damaged,
    folder,
    parts_of,
    read,
    sealed,
    sha256,
    stored_facts,
    verified,
)
from registry.settings import Settings

KINDS = ("returns", "closes", "bars")
_ROW_GROUP = 131_072  # rows
# Columns with few values. A dictionary of prices would quadruple the time of writing.
_OF_SESSION = (*columns_of.MARKET, MEMBERS)
_REPEATED = (columns_of.UNIQUE_ID, columns_of.DS, columns_of.SECTOR, *_OF_SESSION)


@dataclass(frozen=True)
class Facts:
    """What a set says of itself. All but `parts` and `base` is decided before it is written."""

    name: str
    kind: str  # one of KINDS
    columns: tuple[str, ...]  # of its files, in order
    calendar: str
    universe: Universe
    splits: Splits
    currency: str = ""
    index: str = ""  # symbol of the index; empty: the members' mean return
    source: Mapping[str, Any] | None = None  # where it came from, for people; no secret
    amount_given: bool = False  # by the user; else it is the mean of OHLC x volume
    restated: int = 0  # rows that appends have changed
    parts: tuple[Part, ...] = ()
    base: Part | None = None  # prices of which no row follows; its year is 0

    @property
    def digest(self) -> str:
        """sha256 over calendar, kind and the content of all parts; not over what is derived."""
        content = [self.calendar, self.kind, *(part.digest for part in self.parts)]
        if self.base:
            content.append(self.base.digest)
        return hashlib.sha256("\n".join(content).encode()).hexdigest()

    @property
    def files(self) -> tuple[Part, ...]:
        """All its files."""
        return (*self.parts, self.base) if self.base else self.parts

    @property
    def own_columns(self) -> list[str]:
        """Columns that differ between symbols and sessions: those of the base."""
        others = (*_OF_SESSION, columns_of.SECTOR)
        return [name for name in self.columns if name not in others]

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, **asdict(self), "universe": self.universe.to_json()}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Facts":
        values = {key: value for key, value in stored.items() if key != "format"}
        universe = values["universe"]
        values["universe"] = Universe(universe["name"], tuple(universe["symbols"]))
        values["splits"] = Splits(**values["splits"])
        values["columns"] = tuple(values["columns"])
        values["parts"] = parts_of(values)
        if values.get("base"):
            values["base"] = Part(**values["base"])
        return cls(**values)


@dataclass(frozen=True)
class Own(Dataset):
    """A compiled data set of a user."""

    facts: Facts

    @property
    def origin(self) -> Mapping[str, str]:
        source = self.facts.source or {}
        texts = [f"{key} {value}" for key, value in source.items() if isinstance(value, str | int)]
        stated = {"data_source": masked(", ".join(texts)), "currency": self.facts.currency}
        return {key: value for key, value in stated.items() if value}

    def load(self, settings: Settings) -> Data:
        """The whole set, in memory. Raises Corrupt if a file was changed, the base included."""
        if self.facts.base:
            verified(settings, self.name, [self.facts.base])
        return Data(self, self.facts.digest, history(settings, self.facts))


def names(settings: Settings) -> list[str]:
    """Names of all sets, sorted, also of damaged ones."""
    return sorted(path.parent.name for path in folder(settings, "").glob(f"*/{FACTS}"))


def check_name(name: str, taken: Sequence[str] = ()) -> None:
    """Raise BadParameter unless a set may have this name."""
    if not NAME.fullmatch(name):
        raise BadParameter(
            f"the name of a data set is 1..64 of a-z, 0-9 and _, found {name[:80]!r}"
        )
    if name in (*taken, "compile"):  # qa_compile.json is the report on the built-in ones
        raise BadParameter(f"{name} is a built-in data set; choose another name")


def find(settings: Settings, name: str) -> Own:
    """A set by its name. Raises NotFound, and Corrupt if its facts were changed."""
    facts = read_facts(settings, name)
    columns = (*columns_of.HISTORY, *_others(facts.columns))
    return Own(name, columns, facts.calendar, facts.universe, facts.splits, facts)


def read_facts(settings: Settings, name: str) -> Facts:
    """What a set says of itself. Raises NotFound, and Corrupt if that was changed."""
    stored = stored_facts(settings, name)
    try:
        return Facts.from_json(stored)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise damaged(settings, name) from error


@contextmanager
def lock(settings: Settings, name: str) -> Iterator[None]:
    """Hold a set while it is compiled or appended to. Raises Conflict if another process does.

    An append holds it from before it reads the set, so that no rows of another are lost.
    """
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    busy = f"the data set {name} is being written by another process; try again later"
    with files.locked(settings.state_dir / f"set-{name}.lock", busy=busy):
        yield


def write(
    settings: Settings,
    facts: Facts,
    connection: duckdb.DuckDBPyConnection,
    table: str,
    *,
    base: str = "",
    keep: Sequence[Part] = (),
) -> Facts:
    """Write a set from a DuckDB table that has its columns without missing values; the new facts.

    The caller holds its `lock`. `base` is the table of prices of which no row follows, if any;
    `keep` are parts of the old set of which `table` has no year. Raises KronosError (NO_SPACE,
    NOT_WRITABLE); then the old set stays as it was.
    """
    root = folder(settings, facts.name)
    root.mkdir(parents=True, exist_ok=True)
    files.sweep(root)
    with files.temporary_folder(root, "new") as temporary:
        complete = rehearse(facts, connection, table, Path(temporary), base=base, keep=keep)
        for path in Path(temporary).glob("*.parquet"):
            files.sync(path)
            path.replace(root / path.name)
        files.sync(root)  # what set.json names is on the disk before it
        content = sealed(complete.to_json())
        files.write_together({root / FACTS: lambda path: path.write_bytes(content)})
        _remove_others(root, complete)
    return complete


def rehearse(
    facts: Facts,
    connection: duckdb.DuckDBPyConnection,
    table: str,
    directory: Path,
    *,
    base: str = "",
    keep: Sequence[Part] = (),
) -> Facts:
    """The facts that `write` gives; files are left in `directory`, which is the caller's."""
    written = _write_years(facts, connection, table, directory)
    first = _write_base(facts, connection, base, directory) if base else None
    return replace(facts, parts=_sorted(keep, written), base=first)


def _sorted(*parts: Sequence[Part]) -> tuple[Part, ...]:
    return tuple(sorted(chain(*parts), key=lambda part: part.year))


def remove(settings: Settings, name: str) -> None:
    """Delete a set, also a damaged one. Raises NotFound."""
    root = folder(settings, name)
    if not NAME.fullmatch(name) or not root.is_dir():
        raise NotFound(f"no data set {name!r}; `python -m jobs data list` shows all")
    with lock(settings, name):
        (root / FACTS).unlink(missing_ok=True)  # first, so that no half of it is found
        files.remove(root)


def history(settings: Settings, facts: Facts, since: str = "") -> pd.DataFrame:
    """Rows of the set, or those from the session `since` on, sorted by (unique_id, ds).

    Only files of the years that are needed are read. Raises Corrupt.
    """
    columns = [*columns_of.HISTORY, *_others(facts.columns)]
    return read(settings, facts.name, facts.parts, columns, since)


def base(settings: Settings, facts: Facts) -> pd.DataFrame:
    """Prices of which no row follows; y is NaN where there is none before. Raises Corrupt."""
    columns = facts.own_columns
    if facts.base is None:
        return pd.DataFrame(columns=columns)
    return read(settings, facts.name, [facts.base], columns)


def _others(columns: Sequence[str]) -> list[str]:
    """Columns beside unique_id, ds and y."""
    return [name for name in columns if name not in columns_of.HISTORY]


# --- writing ----------------------------------------------------------------------------------


def _write_years(
    facts: Facts, connection: duckdb.DuckDBPyConnection, table: str, directory: Path
) -> list[Part]:
    years = connection.execute(f"SELECT DISTINCT year(ds) FROM {table} ORDER BY 1").fetchall()
    return [_write_year(facts, connection, table, int(year), directory) for (year,) in years]


def _write_year(
    facts: Facts, connection: duckdb.DuckDBPyConnection, table: str, year: int, directory: Path
) -> Part:
    query = f"SELECT {_quoted(facts.columns)} FROM {table} WHERE year(ds) = {year}"
    return _write_part(facts, connection, query, year, directory)


def _write_base(
    facts: Facts, connection: duckdb.DuckDBPyConnection, table: str, directory: Path
) -> Part | None:
    query = f"SELECT {_quoted(facts.own_columns)} FROM {table}"
    if not connection.execute(f"{query} LIMIT 1").fetchall():
        return None
    return _write_part(facts, connection, query, 0, directory)


def _quoted(columns: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in columns)


def _write_part(
    facts: Facts, connection: duckdb.DuckDBPyConnection, query: str, year: int, directory: Path
) -> Part:
    frame = _arrow(connection.sql(f"{query} ORDER BY ds, unique_id")).combine_chunks()
    label = year or "base"
    path = directory / f"{label}.parquet"
    repeated = [name for name in frame.column_names if name in _REPEATED]
    pq.write_table(
        frame, path, compression="zstd", row_group_size=_ROW_GROUP, use_dictionary=repeated
    )
    digest = sha256(path)
    named = path.rename(directory / f"{label}-{digest[:16]}.parquet")
    days = frame.column(columns_of.DS)
    first, last = days[0].as_py().isoformat(), days[-1].as_py().isoformat()
    return Part(named.name, year, len(frame), first, last, digest, _digest(facts, frame))


def _arrow(rows: duckdb.DuckDBPyRelation | None) -> pa.Table:
    if rows is None:  # DuckDB's type of a statement without rows
        raise TypeError("the query returns no rows")
    table: pa.Table = rows.to_arrow_table()
    return table


def _digest(facts: Facts, frame: pa.Table) -> str:
    """sha256 (hex) over the source columns of sorted rows.

    Logarithms may differ in the last bit between machines, so `y` counts only where it is what the
    user gave, and market columns never do.
    """
    derived = set(_OF_SESSION)
    if facts.kind != "returns":
        derived.add(columns_of.Y)
    sha = hashlib.sha256()
    for name in frame.column_names:
        if name not in derived:
            content = _canonical(frame.column(name))
            sha.update(f"{name} {len(frame)} {len(content)}\n".encode())
            sha.update(content)
    return sha.hexdigest()


def _canonical(column: pa.ChunkedArray) -> bytes:
    """Bytes of a column: days since 1970 as int32, numbers as float64, texts after their sizes."""
    if pa.types.is_date32(column.type):
        return _numbers(column.cast(pa.int32()), "<i4")
    if pa.types.is_floating(column.type) or pa.types.is_integer(column.type):
        return _numbers(column, "<f8")
    texts = pc.cast(column, pa.large_binary())
    return _numbers(pc.binary_length(texts), "<i4") + b"".join(texts.to_pylist())


def _numbers(column: pa.ChunkedArray, dtype: str) -> bytes:
    values: bytes = column.to_numpy().astype(dtype).tobytes()
    return values


def _remove_others(root: Path, facts: Facts) -> None:
    """Delete files of the old set that the new one does not name."""
    named = {part.file for part in facts.files}
    for path in root.glob("*.parquet"):
        if path.name not in named:
            path.unlink(missing_ok=True)
