"""Fixtures of several unit tests."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from jobs.data.sources.engine import open_connection
from jobs.data.sources.source import Source, Staged
from jobs.data.sources.staging import stage

Rows = list[tuple[Any, ...]]


@pytest.fixture
def in_folder(tmp_path, monkeypatch) -> Path:
    """An empty working directory, so that messages show names of files alone."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def staging(tmp_path_factory) -> Iterator[duckdb.DuckDBPyConnection]:
    with open_connection(tmp_path_factory.mktemp("duckdb")) as connection:
        yield connection


@pytest.fixture(scope="module")
def read(staging) -> Callable[..., tuple[Staged, Rows]]:
    """Stage a source; return what is said of it, and its rows in their order."""

    def read(columns: str = "unique_id, ds, close", **source: Any) -> tuple[Staged, Rows]:
        clear(staging)
        staged = stage(staging, Source(**{"kind": "csv", **source}))
        rows = staging.execute(f"SELECT {columns} FROM staged ORDER BY file, row, unique_id")
        return staged, rows.fetchall()

    return read


def clear(staging: duckdb.DuckDBPyConnection) -> None:
    for view in ("staged", "staged_rows", "staged_lines"):
        staging.execute(f"DROP VIEW IF EXISTS {view}")
    for table in ("staged_cells", "staged_files", "sql_cells"):
        staging.execute(f"DROP TABLE IF EXISTS {table}")
