"""Many rows in and out of the ledger as Arrow tables, by each database's fastest way.

SQLite gets tuples, PostgreSQL COPY with text. Numbers keep their bits, but SQLite makes 0 of -0. A
session is a date32, an instant a timestamp[us, UTC].
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DBAPIError

from registry.forecast import names
from registry.forecast.arrays import Floats, Places
from registry.ledger.instants import Day, Instant

_FETCHED = 1_000  # tuples at a time; more of them leave the processor's cache
_INSERTED = 8  # rows of a statement; a fifth faster than one row
_DAYS = 1 << 24  # more than any day since 1970; packs (symbol, day) into one number
_SYMBOLS = 1 << 32  # more than any symbol_id; packs (step, symbol) into one number
_BINARY = {pa.int64(): ">i8", pa.float64(): ">f8"}  # of COPY; bytes are as they are
_BINARY_HEAD = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_BINARY_END = b"\xff\xff"
INSTANT = pa.timestamp("us", tz="UTC")


def insert(connection: sa.Connection, table: sa.Table, rows: pa.Table) -> None:
    """Add rows, whose columns are some of the table's. Raises DBAPIError."""
    if not rows.num_rows:
        return
    columns = ", ".join(rows.column_names)
    if connection.dialect.name == "sqlite":
        _insert_tuples(connection, f"INSERT INTO {table.name} ({columns}) VALUES", rows)
        return
    statement = f"COPY {table.name} ({columns}) FROM STDIN WITH (FORMAT csv)"
    text = io.BytesIO()
    pa_csv.write_csv(_with_hex(rows), text, pa_csv.WriteOptions(include_header=False))
    text.seek(0)
    with _cursor(connection, statement) as cursor:
        cursor.copy_expert(statement, text)


def select(connection: sa.Connection, query: sa.Select[Any]) -> pa.Table:
    """All rows of a query whose columns have names. Raises DBAPIError."""
    schema = _schema(query)
    if connection.dialect.name == "sqlite":
        return _select_tuples(connection, query, schema)
    return _select_copied(connection, query, schema)


def select_filled(connection: sa.Connection, query: sa.Select[Any]) -> pa.Table:
    """The same for big integers, doubles, and bytes of one length, none of them empty.

    PostgreSQL then copies rows of one length, which are read without parsing text.
    """
    schema = _schema(query)
    if connection.dialect.name == "sqlite":
        return _select_tuples(connection, query, schema)
    copied = _copied(connection, query, "binary")
    rows = copied.getbuffer()[len(_BINARY_HEAD) : -len(_BINARY_END)]
    if not rows:
        return schema.empty_table()
    table = np.frombuffer(rows, _row_of_copy(rows, schema))
    arrays = [_from_copy(table[field.name], field.type) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def packed_blocks(blocks: Floats) -> pa.Array:
    """The numbers [N, ...] of each row as bytes: float64, little-endian."""
    rows = np.ascontiguousarray(blocks, dtype="<f8").reshape(len(blocks), -1)
    return _packed_bytes(rows, rows.shape[1] * rows.itemsize)


def unpacked_blocks(packed: pa.ChunkedArray, shape: tuple[int, ...]) -> Floats:
    """The reverse: [N, *shape]. Every row has the bytes of one shape, and none is empty."""
    width = int(np.prod(shape))
    parts = [np.empty(0, dtype="<f8")]
    for chunk in packed.chunks:
        numbers = np.frombuffer(chunk.buffers()[2], dtype="<f8")
        parts.append(numbers[chunk.offset * width : (chunk.offset + len(chunk)) * width])
    return np.concatenate(parts).reshape(len(packed), *shape)


def packed(rows: pa.Table) -> Places:
    """The key of each row as a number, in the order of keys.

    The key is symbol and session, or step and symbol, or the session alone.
    """
    if names.STEP in rows.column_names:
        steps = rows.column(names.STEP).to_numpy()
        keys: Places = steps * _SYMBOLS + rows.column("symbol_id").to_numpy()
        return keys
    days: Places = rows.column(names.DS).cast(pa.int32()).to_numpy().astype(np.int64)
    if "symbol_id" not in rows.column_names:
        return days
    numbers: Places = rows.column("symbol_id").to_numpy() * _DAYS + days
    return numbers


def _insert_tuples(connection: sa.Connection, statement: str, rows: pa.Table) -> None:
    columns = [_values(column) for column in rows.columns]
    whole = rows.num_rows - rows.num_rows % _INSERTED
    many: list[Any] = []  # the columns of the first of _INSERTED rows, of the second, ...
    for place in range(_INSERTED):
        many += [column[place:whole:_INSERTED] for column in columns]
    rest = [column[whole:] for column in columns]
    row = f"({', '.join('?' * len(columns))})"
    with _cursor(connection, statement) as cursor:
        for number, values in ((_INSERTED, many), (1, rest)):
            places = ", ".join([row] * number)
            cursor.executemany(f"{statement} {places}", zip(*values, strict=True))


def _select_tuples(connection: sa.Connection, query: sa.Select[Any], schema: pa.Schema) -> pa.Table:
    statement = _literal(connection, query)
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
    if INSTANT in schema.types:  # else its text is in the zone of the server
        with _cursor(connection, "SET LOCAL TimeZone = 'UTC'") as cursor:
            cursor.execute("SET LOCAL TimeZone = 'UTC'")
    copied = _copied(connection, query, "csv")
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


def _copied(connection: sa.Connection, query: sa.Select[Any], form: str) -> io.BytesIO:
    statement = f"COPY ({_literal(connection, query)}) TO STDOUT WITH (FORMAT {form})"
    copied = io.BytesIO()
    with _cursor(connection, statement) as cursor:
        cursor.copy_expert(statement, copied)
    return copied


def _row_of_copy(rows: memoryview, schema: pa.Schema) -> np.dtype[Any]:
    """A row of COPY in binary form: the number of columns, then length and bytes of each.

    Raises RuntimeError if a row has another form than the first.
    """
    row = [("columns", ">i2")]
    at = 2
    for name, kind in zip(schema.names, schema.types, strict=True):
        length = int.from_bytes(rows[at : at + 4], "big", signed=True)
        row += [(f"length of {name}", ">i4"), (name, _BINARY.get(kind, f"V{length}"))]
        at += 4 + length
    form = np.dtype(row)
    if len(rows) % form.itemsize:
        raise RuntimeError("rows of a binary COPY have different lengths")
    table = np.frombuffer(rows, form)
    for name, _ in (row[0], *row[1::2]):
        if (table[name] != table[name][0]).any():
            raise RuntimeError("rows of a binary COPY have different forms")
    return form


def _from_copy(values: Any, kind: pa.DataType) -> pa.Array:
    """Values [N] of a column as an array."""
    if pa.types.is_binary(kind):
        return _packed_bytes(np.ascontiguousarray(values), values.itemsize)
    return pa.array(values.astype(values.dtype.newbyteorder("=")))


def _packed_bytes(rows: Any, length: int) -> pa.Array:
    """Rows [N, ...] of contiguous memory, each of `length` bytes."""
    kind = pa.binary(length)
    return pa.Array.from_buffers(kind, len(rows), [None, pa.py_buffer(rows)]).cast(pa.binary())


def _literal(connection: sa.Connection, query: sa.Select[Any]) -> str:
    """The query with its values written into it."""
    dialect = connection.dialect
    if dialect.name == "postgresql":
        dialect = _postgresql()
    return str(query.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))


@lru_cache(maxsize=1)
def _postgresql() -> sa.Dialect:
    """By default every % is doubled, as if there were parameters."""
    dialect: sa.Dialect = postgresql.dialect(paramstyle="named")  # type: ignore[no-untyped-call]
    return dialect


def _schema(query: sa.Select[Any]) -> pa.Schema:
    return pa.schema([(column.name, _arrow_type(column.type)) for column in query.selected_columns])


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
    if isinstance(kind, sa.LargeBinary):
        return pa.binary()
    return pa.string()


def _with_hex(rows: pa.Table) -> pa.Table:
    """Rows with bytes as PostgreSQL reads them in a text."""
    for place, kind in enumerate(rows.schema.types):
        if pa.types.is_binary(kind):
            values = rows.column(place).to_pylist()
            texts = [None if value is None else f"\\x{value.hex()}" for value in values]
            rows = rows.set_column(place, rows.column_names[place], pa.array(texts, pa.string()))
    return rows


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
