"""What a user should know of rows that were dropped, or kept although they look odd."""

from dataclasses import dataclass
from typing import Any

import duckdb

DROPPED = "dropped"
NO_RETURN = "no return; the price is kept"
KEPT = "kept, look at it"
SHOWN = 5  # examples of a finding


@dataclass(frozen=True)
class Finding:
    """Rows with one reason."""

    reason: str
    rows: int
    examples: tuple[str, ...]
    action: str  # DROPPED, NO_RETURN or KEPT


def finding(
    connection: duckdb.DuckDBPyConnection, reason: str, query: str, action: str
) -> list[Finding]:
    """The finding of a query with columns `example` and `rows`, best example first, if any."""
    (total,) = one(connection, f"SELECT sum(rows)::BIGINT FROM ({query})")
    if total is None:
        return []
    examples = column(connection, f"SELECT example FROM ({query} LIMIT {SHOWN})")
    return [Finding(reason, total, tuple(examples), action)]


def one(connection: duckdb.DuckDBPyConnection, query: str) -> tuple[Any, ...]:
    """The only row of a query."""
    (row,) = connection.execute(query).fetchall()
    only: tuple[Any, ...] = row
    return only


def column(connection: duckdb.DuckDBPyConnection, query: str) -> list[str]:
    """The first column of a query as text."""
    return [str(row[0]) for row in connection.execute(query).fetchall()]
