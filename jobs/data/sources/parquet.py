"""Parquet files: the schema read by Arrow, which knows time zones, the rows by DuckDB."""

from collections.abc import Sequence
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.data.sources.engine import file_list, reading
from jobs.data.sources.table import Column, Table, numbered
from registry.errors import BadHistory
from registry.text import printable

FIRST_ROW = 1


def tables(connection: duckdb.DuckDBPyConnection, paths: Sequence[str]) -> list[Table]:
    """Tables of the files, one for each schema. Raises BadHistory for a file that is not whole."""
    schemas: dict[str, pa.Schema] = {}
    files: dict[str, list[str]] = {}
    for path in paths:
        schema = read_schema(path)
        key = schema.to_string(show_schema_metadata=False, show_field_metadata=False)
        schemas[key] = schema
        files.setdefault(key, []).append(path)
    return [_table(connection, schemas[key], files[key]) for key in files]


def read_schema(path: str) -> pa.Schema:
    """Raises BadHistory (BAD_FILE, DUPLICATE_COLUMN)."""
    with Path(path).open("rb") as file:
        start = file.read(4)
    if start != b"PAR1":
        raise BadHistory(
            f"{printable(path)} is no Parquet file: it begins with {start!r}; "
            "write it again, or say --source csv",
            code="BAD_FILE",
        )
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise BadHistory(
            f"{printable(path)} is no whole Parquet file, its end cannot be read; write it again",
            code="BAD_FILE",
        ) from error
    for name in schema.names:
        if schema.names.count(name) > 1:
            raise BadHistory(
                f"{printable(path)}: the column {name[:64]!r} is there twice; rename one",
                code="DUPLICATE_COLUMN",
            )
    return schema


def _table(connection: duckdb.DuckDBPyConnection, schema: pa.Schema, files: list[str]) -> Table:
    relation = (
        f"read_parquet({file_list(files)}, filename='file', hive_partitioning=false) "
        f"AS cells({numbered(len(schema.names))}, file)"
    )
    place = printable(files[0])
    with reading(place):
        described = connection.execute(f"DESCRIBE FROM {relation}").fetchall()
    columns = []
    for field, (_, duckdb_type, *_) in zip(schema, described[:-1], strict=True):
        columns.append(Column(field.name, duckdb_type, place, zone(field.type)))
    return Table(relation, tuple(columns), tuple(files))


def zone(arrow_type: pa.DataType) -> str:
    """Time zone that a type of Arrow keeps beside its instants; empty if there is none."""
    return (arrow_type.tz or "") if pa.types.is_timestamp(arrow_type) else ""
