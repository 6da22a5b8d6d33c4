"""What a set has of each symbol, and which rows no return follows from."""

from dataclasses import dataclass

import duckdb

from jobs.data.own.findings import DROPPED, NO_RETURN, Finding, finding


@dataclass(frozen=True)
class Symbol:
    """Rows of one symbol."""

    unique_id: str
    first: str  # session with a return
    last: str
    sessions: int  # with a return
    missing: int  # sessions of the calendar without a row, between the first and last price
    dropped: int  # rows of which neither a return nor a price is kept


def of(connection: duckdb.DuckDBPyConnection) -> tuple[Symbol, ...]:
    """All symbols of the user's rows, sorted."""
    rows = connection.execute(
        """
        SELECT p.symbol::VARCHAR, first, last, sessions, missing, given - kept
        FROM (
            SELECT symbol, min(ds)::VARCHAR AS first, max(ds)::VARCHAR AS last,
                count(*) AS sessions, sum(missing)::BIGINT AS missing
            FROM priced SEMI JOIN market USING (ds) WHERE given GROUP BY symbol
        ) p
        JOIN (SELECT symbol, count(*) AS kept FROM merged WHERE given GROUP BY symbol)
        USING (symbol)
        JOIN (
            SELECT unique_id::symbol AS symbol, count(*) AS given FROM staged GROUP BY unique_id
        ) USING (symbol)
        ORDER BY p.symbol
        """
    ).fetchall()
    return tuple(Symbol(*row) for row in rows)


def without_return(connection: duckdb.DuckDBPyConnection) -> list[Finding]:
    """First sessions of symbols, and symbols that have no return at all."""
    firsts = (
        "SELECT symbol || ' ' || ds AS example, 1 AS rows FROM merged "
        "WHERE given AND y IS NULL AND symbol {} (SELECT DISTINCT symbol FROM priced) "
        "ORDER BY symbol"
    )
    empty = (
        "SELECT unique_id AS example, 0 AS rows FROM (SELECT DISTINCT unique_id FROM staged) "
        "WHERE unique_id::symbol NOT IN (SELECT symbol FROM merged WHERE given) ORDER BY unique_id"
    )
    first = "the first session of a symbol has no return"
    return [
        *finding(connection, first, firsts.format("IN"), NO_RETURN),
        *finding(connection, "a symbol with one price only", firsts.format("NOT IN"), DROPPED),
        *finding(connection, "a symbol without any price", empty, DROPPED),
    ]
