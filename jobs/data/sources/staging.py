"""A user's files, query or frame as one view of DuckDB, `staged`, in which only form is judged."""

from collections.abc import Sequence

import duckdb

from jobs.data.sources import delimited, form, frames, layouts, parquet
from jobs.data.sources.delimited import explained
from jobs.data.sources.engine import reading
from jobs.data.sources.files import find
from jobs.data.sources.mapping import Mapped, name_column, settle, with_symbol
from jobs.data.sources.source import (
    CSV,
    FRAME,
    KEYS,
    KINDS,
    SQL,
    VALUES,
    WIDE,
    Source,
    Staged,
)
from jobs.data.sources.table import Table
from registry.errors import BadParameter
from registry.text import printable

NO_NAME = "(no name)"


def stage(connection: duckdb.DuckDBPyConnection, source: Source) -> Staged:
    """Make the view `staged`: a row a symbol and day as read, in no order, duplicates included.

    Columns: unique_id VARCHAR, ds DATE, those of NUMBERS that the user has DOUBLE (NULL for an
    empty cell), sector VARCHAR, file VARCHAR, row BIGINT (line of a CSV file, whose header is
    line 1; otherwise counted from 1). Raises BadHistory, BadParameter, BadConfig and NotFound.
    """
    _check(source)
    tables = _tables(connection, source)
    names = list(dict.fromkeys(column.name for table in tables for column in table.columns))
    mapped = settle(names, source.mapping)
    layouts.check_same_columns(tables, mapped)
    name = name_column(mapped, source.mapping)
    if name and not source.symbol and layouts.dates_repeat(connection, tables, mapped):
        mapped = with_symbol(mapped, name)
        layouts.check_same_columns(tables, mapped)
    layout = layouts.choose(source, tables, mapped)
    layouts.create(connection, source, mapped, layout)
    for table in tables:
        with reading(_place(table)), explained():
            layouts.insert(connection, source, table, mapped, layout)
    columns = layouts.columns(source, mapped, layout)
    _make_views(connection, source, columns, layout)
    files = tuple(file for table in tables for file in table.files)
    form.check_files(connection, files)
    form.check_cells(connection, mapped.columns, layout)
    form.check_symbols(connection)
    dates = form.check_dates(connection)
    cells, missing = _missing(connection, columns)
    empty = [key for key in columns if missing.get(key) == cells]
    return Staged(
        columns=tuple(key for key in KEYS if key in columns and key not in empty),
        files=files,
        rows=cells - missing.get(source.cells, 0) if layout == WIDE else cells,
        mapping=mapped.columns,
        guessed=mapped.guessed,
        ignored=_ignored(connection, source, mapped, layout),
        layout=layout,
        missing=missing,
        dates=dates,
        delimiters=tuple(dict.fromkeys(table.delimiter for table in tables if table.delimiter)),
        unended=tuple(file for table in tables for file in table.unended),
    )


def _check(source: Source) -> None:
    if source.kind not in KINDS:
        raise BadParameter(f"--source {source.kind[:64]!r}, expected one of {', '.join(KINDS)}")
    if source.cells not in VALUES:
        raise BadParameter(f"cells are {source.cells[:64]!r}, expected one of {', '.join(VALUES)}")
    if source.query and source.kind != SQL:
        raise BadParameter(f"--query belongs to --source {SQL}; leave it out")
    if source.kind != FRAME and not all((source.locations, *source.locations)):
        raise BadParameter("no --from; say where the prices are")
    if source.kind == SQL and len(source.locations) > 1:
        raise BadParameter(f"--from has {len(source.locations)} URIs, expected one")


def _tables(connection: duckdb.DuckDBPyConnection, source: Source) -> list[Table]:
    if source.kind == FRAME:
        if source.frame is None:
            raise BadParameter("no frame; pass a DataFrame")
        return frames.tables(connection, source.frame)
    if source.kind == SQL:
        from jobs.data.sources import sql  # SQLAlchemy: a quarter of a second, for queries only

        return sql.tables(connection, source.locations[0], source.query)
    paths = find(source.locations, source.kind)
    if source.kind == CSV:
        return delimited.tables(paths)
    return parquet.tables(connection, paths)


def _place(table: Table) -> str:
    others = len(table.files) - 1
    first = printable(table.files[0])
    return f"{first} or one of {others} files like it" if others else first


def _make_views(
    connection: duckdb.DuckDBPyConnection, source: Source, columns: Sequence[str], layout: str
) -> None:
    """Number the rows: in `staged_cells`, they stand in the order of the files."""
    first = delimited.FIRST_ROW if source.kind == CSV else 1
    lines = "*" if layout == WIDE else "*, rowid AS line"
    connection.execute(f"CREATE VIEW staged_lines AS SELECT {lines} FROM staged_cells")
    connection.execute(
        "CREATE TABLE staged_files AS SELECT file, min(line) AS start FROM staged_lines "
        "GROUP BY file"
    )
    connection.execute(
        f"CREATE VIEW staged_rows AS SELECT *, line - start + {first} AS row "
        "FROM staged_lines JOIN staged_files USING (file)"
    )
    # An empty cell of a wide table means that the symbol did not trade.
    traded = f"WHERE {source.cells} IS NOT NULL" if layout == WIDE else ""
    connection.execute(
        f"CREATE VIEW staged AS SELECT unique_id, stamp::DATE AS ds, "
        f"{', '.join((*columns, 'file', 'row'))} FROM staged_rows {traded}"
    )


def _missing(
    connection: duckdb.DuckDBPyConnection, columns: Sequence[str]
) -> tuple[int, dict[str, int]]:
    """Number of rows, and of empty cells in the columns that have some."""
    counts = ", ".join(f"count({key})" for key in columns)
    row = connection.execute(f"SELECT count(*), {counts} FROM staged_cells").fetchone()
    rows, *filled = row or (0,)
    missing = {key: rows - count for key, count in zip(columns, filled, strict=True)}
    return rows, {key: count for key, count in missing.items() if count}


def _ignored(
    connection: duckdb.DuckDBPyConnection, source: Source, mapped: Mapped, layout: str
) -> tuple[str, ...]:
    """Columns that are not used; in a wide table, those without a name or without a number."""
    if layout != WIDE:
        return tuple(name or NO_NAME for name in mapped.ignored)
    empty = connection.execute(
        f"SELECT unique_id FROM staged_cells GROUP BY unique_id HAVING count({source.cells}) = 0 "
        "ORDER BY unique_id"
    ).fetchall()
    unnamed = [NO_NAME for name in mapped.ignored if not name]
    return (*unnamed, *(symbol for (symbol,) in empty))
