"""DuckDB, which reads a user's data out of core: a database in a temporary folder, no network."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import duckdb

from registry.errors import BadHistory, KronosError
from registry.text import printable

MEMORY = "1GB"
THREADS = 2


def open_connection(folder: Path) -> duckdb.DuckDBPyConnection:
    """A new database in `folder`, which the caller removes after closing the connection.

    Tables that exceed the memory limit go to that folder. No extension is fetched or loaded.
    """
    return duckdb.connect(
        folder / "staging.duckdb",
        config={
            "memory_limit": MEMORY,
            "threads": THREADS,
            "temp_directory": str(folder / "spilled"),
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "allow_community_extensions": False,
            "allow_persistent_secrets": False,
        },
    )


def literal(text: str) -> str:
    """The text as a constant of SQL."""
    quoted = text.replace("'", "''")
    return f"'{quoted}'"


def file_list(paths: Sequence[str]) -> str:
    """A list of files in SQL; what DuckDB would take for a pattern stands in brackets."""
    escaped = (literal(re.sub(r"([*?\[])", r"[\1]", path)) for path in paths)
    return f"[{', '.join(escaped)}]"


@contextmanager
def reading(place: str) -> Iterator[None]:
    """Turn DuckDB's errors while it reads `place` into errors of one line."""
    try:
        yield
    except duckdb.OutOfMemoryException as error:
        raise KronosError(
            f"{place} needs more than the {MEMORY} of memory that reading may use",
            code="OUT_OF_MEMORY",
        ) from error
    except duckdb.Error as error:
        reason = printable(str(error).partition("\n")[0])
        raise BadHistory(f"{place} cannot be read: {reason}", code="BAD_FILE") from error
