"""Many rows in and out of the ledger as Arrow tables, by each database's fastest way.

SQLite gets tuples, PostgreSQL COPY with text. Numbers keep their bits, but SQLite makes 0 of -0. A
session is a date32, an instant a timestamp[us, UTC].
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DBAPIError

from registry.forecast import names
from registry.forecast.arrays import Places
from registry.ledger.instants import Day, Instant

_FETCHED = 100_000  # tuples at a time
_DAYS = 1 << 24  # more than any day since 1970; packs (symbol, day) into one number
INSTANT = pa.timestamp("us", tz="UTC")


def insert(connection: sa.Connection, table: sa.Table, rows: pa.Table) -> None:
    """Add rows, whose columns are some of the table's. Raises DBAPIError."""
    if not rows.num_rows:
        return
    columns = ", ".join(rows.column_names)
    if connection.dialect.name == "sqlite":
        places = ", ".join("?" * rows.num_columns)
        statement = f"INSERT INTO {table.name} ({columns}) VALUES ({places})"
        with _cursor(connection, statement) as cursor:
            cursor.executemany(statement, zip(*map(_values, rows.columns), strict=True))
        return
    statement = f"COPY {table.name} ({columns}) FROM STDIN WITH (FORMAT csv)"
    text = io.BytesIO()
    pa_csv.write_csv(rows, text, pa_csv.WriteOptions(include_header=False))
    text.seek(0)
    with _cursor(connection, statement) as cursor:
        cursor.copy_expert(statement, text)


def select(connection: sa.Connection, query: sa.Select[Any]) -> pa.Table:
    """All rows of a query whose columns have names. Raises DBAPIError."""
    schema = pa.schema([(column.name, _arrow_type(column.type)) for column in _columns(query)])
    if connection.dialect.name == "sqlite":
        return _select_tuples(connection, query, schema)
    return _select_copied(connection, query, schema)


def packed(rows: pa.Table) -> Places:
    """The key of each row of some symbols, or of one market, as a number in the order of keys."""
    days: Places = rows.column(names.DS).cast(pa.int32()).to_numpy().astype(np.int64)
    if "symbol_id" not in rows.column_names:
        return days
    numbers: Places = rows.column("symbol_id").to_numpy() * _DAYS + days
    return numbers


def _select_tuples(connection: sa.Connection, query: sa.Select[Any], schema: pa.Schema) -> pa.Table:
    statement = str(query.compile(connection, compile_kwargs={"literal_binds": True}))
    batches = []
    with _cursor(connection, statement) as cursor:
        cursor.execute(statement)
        while tuples := cursor.fetchmany(_FETCHED):
            columns = zip(*tuples, strict=True)
            arrays = [
                _array(values, kind) for values, kind in zip(columns, schema.types, strict=True)
            ]
            batches.append(pa.RecordBatch.from_arrays(arrays, schema=schema))
    return pa.Table.from_batches(batches, schema)


def _select_copied(connection: sa.Connection, query: sa.Select[Any], schema: pa.Schema) -> pa.Table:
    # By default every % is doubled, for a statement with parameters.
    dialect = postgresql.dialect(paramstyle="named")  # type: ignore[no-untyped-call]
    text = query.compile(dialect=dialect, compile_kwargs={"literal_binds": True})
    statement = f"COPY ({text}) TO STDOUT WITH (FORMAT csv)"
    copied = io.BytesIO()
    with _cursor(connection, "SET LOCAL TimeZone = 'UTC'") as cursor:
        cursor.execute("SET LOCAL TimeZone = 'UTC'")
    with _cursor(connection, statement) as cursor:
        cursor.copy_expert(statement, copied)
    if not copied.tell():
        return schema.empty_table()
    copied.seek(0)
    return pa_csv.read_csv(
        copied,
        pa_csv.ReadOptions(column_names=schema.names),
        pa_csv.ParseOptions(newlines_in_values=True),
        pa_csv.ConvertOptions(
            column_types=dict(zip(schema.names, schema.types, strict=True)),
            null_values=[""],
            true_values=["t"],
            false_values=["f"],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )


def _columns(query: sa.Select[Any]) -> "Sequence[sa.ColumnElement[Any]]":
    return list(query.selected_columns)


def _arrow_type(kind: sa.types.TypeEngine[Any]) -> pa.DataType:
    if isinstance(kind, Day):
        return pa.date32()
    if isinstance(kind, Instant):
        return INSTANT
    if isinstance(kind, sa.Boolean):
        return pa.bool_()
    if isinstance(kind, sa.Integer):
        return pa.int64()
    if isinstance(kind, sa.Float):
        return pa.float64()
    return pa.string()


def _values(column: pa.ChunkedArray) -> list[Any]:
    """Values of a column as SQLite keeps them."""
    if pa.types.is_date32(column.type):
        column = column.cast(pa.int32())
    elif pa.types.is_timestamp(column.type):
        column = column.cast(pa.int64())
    if column.null_count == len(column):
        return [None] * len(column)
    values: list[Any] = column.to_pylist() if column.null_count else column.to_numpy().tolist()
    return values


def _array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """The reverse of `_values`."""
    if pa.types.is_date32(kind):
        return pa.array(values, pa.int32()).cast(kind)
    if pa.types.is_timestamp(kind):
        return pa.array(values, pa.int64()).cast(kind)
    if pa.types.is_boolean(kind):
        return pa.array(values, pa.int64()).cast(kind)
    return pa.array(values, kind)


@contextmanager
def _cursor(connection: sa.Connection, statement: str) -> Iterator[Any]:
    """A cursor of the driver, whose errors become those of SQLAlchemy."""
    cursor = connection.connection.cursor()
    try:
        yield cursor
    except connection.dialect.loaded_dbapi.Error as error:
        raise DBAPIError.instance(
            statement,
            None,
            error,
            connection.dialect.loaded_dbapi.Error,
            dialect=connection.dialect,
        ) from error
    finally:
        cursor.close()
