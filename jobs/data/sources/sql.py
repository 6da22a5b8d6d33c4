"""A query or table of a database, read through SQLAlchemy in chunks; nothing is written there."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import duckdb
import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from jobs.data.sources.mapping import listed
from jobs.data.sources.table import Column, Table, as_text, numbered
from registry.errors import BadConfig, BadHistory, BadParameter, NotFound
from registry.ledger.database import engine_of, sqlite_file
from registry.masking import masked, masked_uri
from registry.text import printable

FIRST_ROW = 1
_CHUNK = 50_000  # rows
_TABLE = re.compile(r"\w+(\.\w+)?")


def tables(connection: duckdb.DuckDBPyConnection, uri: str, query: str) -> list[Table]:
    """The table of a query's rows, whose cells are copied into DuckDB as text.

    `query` may be the bare name of a table or view. Stamps with a zone are read in UTC.
    Raises NotFound for a database or table that does not exist, BadConfig for a database that
    cannot be used, BadParameter without a query.
    """
    place = printable(masked_uri(uri))
    if not query.strip():
        raise BadParameter("no --query; say what to read: SQL, or the name of a table")
    engine = _engine(uri, place)
    try:
        with _explained(place), engine.connect() as database:
            _begin(database)
            names = _copy(connection, database, _statement(database, query, place), place)
    finally:
        engine.dispose()
    relation = f"(SELECT * FROM sql_cells) AS cells({numbered(len(names))}, file)"
    columns = tuple(Column(name, "VARCHAR", place) for name in names)
    return [Table(relation, columns, (place,))]


def _engine(uri: str, place: str) -> sa.Engine:
    # SQLAlchemy's default driver may not be installed.
    uri = re.sub(r"^postgres(ql)?://", "postgresql+psycopg2://", uri)
    engine = engine_of(uri, "--from")
    path = sqlite_file(engine.url)
    if path is not None and not path.is_file():
        raise NotFound(f"{place} does not exist; --from is the URI of a database")
    return engine


def _begin(database: sa.Connection) -> None:
    """Begin a transaction that cannot write, in UTC."""
    if database.dialect.name == "sqlite":
        database.exec_driver_sql("PRAGMA query_only = ON")
    if database.dialect.name == "postgresql":
        database.execution_options(postgresql_readonly=True)
        database.exec_driver_sql("SET TIME ZONE 'UTC'")


def _statement(database: sa.Connection, query: str, place: str) -> str:
    """The query; for the name of a table, one of all its rows."""
    if not _TABLE.fullmatch(query.strip()):
        return query
    schema, _, name = query.strip().rpartition(".")
    inspector = sa.inspect(database)
    if not inspector.has_table(name, schema or None):
        others = [*inspector.get_table_names(schema or None), *inspector.get_view_names()]
        existing = f"it has {listed(sorted(others))}" if others else "it has none"
        raise NotFound(f"{place} has no table {query.strip()!r}; {existing}")
    quote = database.dialect.identifier_preparer.quote
    qualified = ".".join(quote(part) for part in (schema, name) if part)
    return f"SELECT * FROM {qualified}"


def _copy(
    connection: duckdb.DuckDBPyConnection, database: sa.Connection, statement: str, place: str
) -> list[str]:
    """Copy the rows into the table `sql_cells`; return the names of their columns."""
    # A % or : of the query is no parameter.
    options = {"stream_results": True, "no_parameters": True}
    result = database.exec_driver_sql(statement, execution_options=options)
    if not result.returns_rows:
        raise BadParameter("--query returns no rows; say a SELECT or the name of a table")
    names = [str(name).strip() for name in result.keys()]  # noqa: SIM118
    _check_names(names, place)
    fields = [pa.field(f"c{number}", pa.string()) for number in range(len(names))]
    schema = pa.schema([*fields, pa.field("file", pa.string())])
    connection.register("chunk", schema.empty_table())
    connection.execute("CREATE TABLE sql_cells AS FROM chunk")
    for rows in result.partitions(_CHUNK):
        columns = [_texts(column) for column in zip(*rows, strict=True)]
        columns.append(pa.array([place] * len(rows), pa.string()))
        connection.register("chunk", pa.table(columns, schema=schema))
        connection.execute("INSERT INTO sql_cells FROM chunk")
    connection.unregister("chunk")
    return names


def _texts(column: tuple[Any, ...]) -> pa.Array:
    kinds = set(map(type, column)) - {type(None)}
    if kinds == {float}:  # as `as_text`, and faster
        return pa.array(column, pa.float64()).cast(pa.string())
    return pa.array(map(as_text, column), pa.string())


def _check_names(names: list[str], place: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise BadHistory(
                f"{place}: the query gives the column {name[:64]!r} twice; name one otherwise",
                code="DUPLICATE_COLUMN",
            )


@contextmanager
def _explained(place: str) -> Iterator[None]:
    """Turn the errors of the driver into one line without a password."""
    try:
        yield
    except DBAPIError as error:
        reason = printable(masked(" ".join(str(error.orig).split())))
        raise BadConfig(f"{place} cannot be read: {reason}") from error
    except SQLAlchemyError as error:
        reason = printable(masked(" ".join(str(error).split())))
        raise BadConfig(f"{place} cannot be read: {reason}") from error
