"""Long, wide, one file a symbol, one symbol: which a table is, and its rows as one table of cells.

`staged_cells` has unique_id, stamp, form (of the date), the numbers, sector, file, `refused` (key
and text of the first cell that cannot be read) and, in the wide form, the line within the table.
"""

from collections.abc import Sequence

import duckdb

from jobs.data.sources import cells
from jobs.data.sources.delimited import explained
from jobs.data.sources.engine import literal, reading
from jobs.data.sources.files import SUFFIX, check_stems
from jobs.data.sources.mapping import Mapped, listed
from jobs.data.sources.source import BY_FILE, KEYS, LONG, NUMBERS, ONE, VALUES, WIDE, Source
from jobs.data.sources.table import Column, Table
from registry.errors import BadHistory, BadParameter

MOST_COLUMNS = 1_000  # of a table that is not wide
SEPARATOR = "\x1f"  # between key and text of a refused cell
_BLOCK = 500  # symbols of a wide table that are read at a time
_SHOWN = 80  # characters kept of a refused cell


def choose(source: Source, tables: Sequence[Table], mapped: Mapped) -> str:
    """The layout. Raises BadHistory (MISSING_COLUMN), BadParameter if --symbol is wrong here."""
    table = tables[0]
    names = [column.name for column in table.columns]
    place = table.columns[0].place
    if "ds" not in mapped.columns:
        raise _missing(place, f"no column of dates among {listed(names)}; say --map ds=COLUMN")
    layout = _layout(source, tables, mapped)
    if layout == WIDE:
        return layout
    if not set(VALUES) & set(mapped.columns):
        wide = "" if "symbol" in mapped.columns else _if_wide(mapped)
        raise _missing(
            place,
            f"no column of {', '.join(VALUES)} among {listed(names)}; say --map close=COLUMN{wide}",
        )
    if layout == ONE and not source.symbol:
        raise _missing(place, "no symbol column and one file: say --symbol")
    if len(names) > MOST_COLUMNS:
        raise _missing(
            place,
            f"{len(names)} columns in long form, expected at most {MOST_COLUMNS}; "
            f"keep those of {', '.join(KEYS)}",
        )
    if layout == BY_FILE:
        check_stems([file for each in tables for file in each.files])
    return layout


def _layout(source: Source, tables: Sequence[Table], mapped: Mapped) -> str:
    if "symbol" in mapped.columns:
        if source.symbol:
            raise BadParameter(
                f"--symbol {source.symbol[:64]!r} and the symbol column "
                f"{mapped.columns['symbol'][:64]!r}; leave out --symbol, or say --map symbol="
            )
        return LONG
    if source.symbol:
        return ONE
    if set(mapped.columns) == {"ds"}:
        return WIDE
    return BY_FILE if sum(len(table.files) for table in tables) > 1 else ONE


def _if_wide(mapped: Mapped) -> str:
    """Advice for a wide table with symbols like LOW and OPEN."""
    keys = [f"{key}=" for key in mapped.columns if key != "ds"]
    return f"; if each column is a symbol, say --map {','.join(keys)}"


def _missing(place: str, reason: str) -> BadHistory:
    return BadHistory(f"{place}: {reason}", code="MISSING_COLUMN")


def check_same_columns(tables: Sequence[Table], mapped: Mapped) -> None:
    """Raise BadHistory (MISSING_COLUMN) unless every table has every column that is used."""
    for table in tables:
        names = {column.name for column in table.columns}
        for name in mapped.columns.values():
            if name in names:
                continue
            other = next(each for each in tables if name in _names(each))
            raise _missing(
                table.columns[0].place,
                f"no column {name[:64]!r}, which {other.columns[0].place} has; "
                "give all files the same columns",
            )


def dates_repeat(
    connection: duckdb.DuckDBPyConnection, tables: Sequence[Table], mapped: Mapped
) -> bool:
    """Whether a file has a date twice, so that its rows are those of several symbols."""
    if "ds" not in mapped.columns:
        return False
    for table in tables:
        ds, _ = _cell(table, mapped.columns["ds"])
        with reading(table.columns[0].place), explained():
            found = connection.execute(
                f"SELECT 1 FROM {table.relation} GROUP BY file "
                f"HAVING count({ds}) > count(DISTINCT {ds}) LIMIT 1"
            ).fetchone()
        if found:
            return True
    return False


def _names(table: Table) -> list[str]:
    return [column.name for column in table.columns]


def numbers(source: Source, mapped: Mapped, layout: str) -> tuple[str, ...]:
    """Keys of the columns of numbers, in the order of KEYS."""
    if layout == WIDE:
        return (source.cells,)
    return tuple(key for key in KEYS if key in NUMBERS and key in mapped.columns)


def columns(source: Source, mapped: Mapped, layout: str) -> tuple[str, ...]:
    """Keys of all columns but symbol and ds."""
    sector = ("sector",) if "sector" in mapped.columns else ()
    return (*numbers(source, mapped, layout), *sector)


def create(
    connection: duckdb.DuckDBPyConnection, source: Source, mapped: Mapped, layout: str
) -> None:
    """Make the empty table `staged_cells`."""
    columns = ["unique_id VARCHAR", "stamp TIMESTAMP", "form UTINYINT"]
    columns += [f"{key} DOUBLE" for key in numbers(source, mapped, layout)]
    columns += ["sector VARCHAR"] if "sector" in mapped.columns else []
    columns += ["file VARCHAR", "refused VARCHAR"]
    columns += ["line BIGINT"] if layout == WIDE else []
    connection.execute(f"CREATE TABLE staged_cells ({', '.join(columns)})")


def insert(
    connection: duckdb.DuckDBPyConnection,
    source: Source,
    table: Table,
    mapped: Mapped,
    layout: str,
) -> None:
    """Add the table's rows to `staged_cells`, in their order."""
    if layout == WIDE:
        _insert_wide(connection, table, mapped)
    else:
        _insert_long(connection, source, table, mapped, layout)


def _insert_long(
    connection: duckdb.DuckDBPyConnection,
    source: Source,
    table: Table,
    mapped: Mapped,
    layout: str,
) -> None:
    day, form = cells.day(*_cell(table, mapped.columns["ds"]))
    refused = [_refusal("ds", day)]
    values = [_symbol(source, table, mapped, layout), day.value, form]
    for key in numbers(source, mapped, layout):
        number = cells.number(*_cell(table, mapped.columns[key]))
        values.append(number.value)
        refused.append(_refusal(key, number))
    if "sector" in mapped.columns:
        values.append(cells.text(*_cell(table, mapped.columns["sector"])))
    values += ["file", f"CASE {' '.join(refused)} END"]
    connection.execute(f"INSERT INTO staged_cells SELECT {', '.join(values)} FROM {table.relation}")


def _insert_wide(connection: duckdb.DuckDBPyConnection, table: Table, mapped: Mapped) -> None:
    """A block of symbols at a time, since a row of ten thousand cells takes much memory."""
    day, form = cells.day(*_cell(table, mapped.columns["ds"]))
    number = cells.number("cell", Column("", "VARCHAR", ""))
    refused = f"CASE {_refusal('ds', day)} {_refusal('cell', number)} END"
    ds = f"c{table.index(mapped.columns['ds'])}"
    symbols = []
    for position, column in enumerate(table.columns):
        if column.name and f"c{position}" != ds:
            symbols.append((f"c{position}", column))
    for start in range(0, len(symbols), _BLOCK):
        block = symbols[start : start + _BLOCK]
        texts = ", ".join(cells.decimal_text(*each) for each in block)
        names = ", ".join(literal(column.name) for _, column in block)
        connection.execute(
            f"INSERT INTO staged_cells SELECT unique_id, {day.value}, {form}, {number.value}, "
            f"file, {refused}, line FROM (SELECT {ds}, file, row_number() OVER () AS line, "
            f"unnest([{texts}]) AS cell, unnest([{names}]) AS unique_id FROM {table.relation})"
        )


def _symbol(source: Source, table: Table, mapped: Mapped, layout: str) -> str:
    """SQL of a row's symbol."""
    if layout == LONG:
        return cells.text(*_cell(table, mapped.columns["symbol"]))
    if layout == ONE:
        return literal(source.symbol)
    name = "regexp_replace(file, '^.*/', '')"
    return f"regexp_replace({name}, {literal(SUFFIX)}, '', 'i')"


def _cell(table: Table, name: str) -> tuple[str, Column]:
    position = table.index(name)
    return f"c{position}", table.columns[position]


def _refusal(key: str, cell: cells.Cell) -> str:
    text = f"left(coalesce({cell.text}, ''), {_SHOWN})"
    return f"WHEN {cell.refused} THEN {literal(key + SEPARATOR)} || {text}"
