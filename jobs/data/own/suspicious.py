"""What looks odd in a set and is kept: a person should look at it."""

from collections.abc import Sequence

import duckdb

from jobs.data.own.findings import KEPT, Finding, finding
from registry.forecast import names

STALE = 5  # equal closes in a row, that is one fewer returns of 0
JUMP = 12  # times the symbol's median |y|
LARGE = 0.2  # |y|; a smaller return is no jump
ZEROS = 0.2  # share of returns of 0
ENDED = 10  # sessions between the last of a symbol and the last of the set


def findings(connection: duckdb.DuckDBPyConnection, columns: Sequence[str]) -> list[Finding]:
    """Everything odd in the rows, in an append where new rows matter. `columns` are the set's."""
    listed = _missing(connection) + _stale(connection) + _jumps(connection)
    if names.VOLUME in columns:
        listed += _without_volume(connection)
    return listed + _zeros(connection) + _ended(connection)


def _missing(connection: duckdb.DuckDBPyConnection) -> list[Finding]:
    query = (
        "SELECT format('{} {} ({} missing before it)', symbol, ds::VARCHAR, missing) AS example, "
        "missing AS rows FROM priced WHERE fresh AND missing > 0 ORDER BY missing DESC, symbol, ds"
    )
    return finding(connection, "sessions that are missing within a symbol", query, KEPT)


def _stale(connection: duckdb.DuckDBPyConnection) -> list[Finding]:
    query = f"""
        SELECT format('{{}} {{}} ({{}} equal closes until {{}})', symbol, min(ds)::VARCHAR,
            count(*) + 1, max(ds)::VARCHAR) AS example, count(*) AS rows
        FROM (
            SELECT symbol, ds, fresh, n - row_number() OVER (PARTITION BY symbol ORDER BY n) AS run
            FROM priced WHERE y = 0
        )
        GROUP BY symbol, run HAVING count(*) >= {STALE - 1} AND bool_or(fresh)
        ORDER BY count(*) DESC, symbol, min(ds)
    """
    return finding(connection, f"{STALE} or more equal closes in a row", query, KEPT)


def _jumps(connection: duckdb.DuckDBPyConnection) -> list[Finding]:
    query = f"""
        WITH large AS (SELECT symbol, ds, y FROM priced WHERE fresh AND abs(y) > {LARGE}),
        usual AS (
            SELECT symbol, median(abs(y)) AS size FROM priced
            SEMI JOIN large USING (symbol) GROUP BY symbol
        )
        SELECT format('{{}} {{}} (y = {{:.2f}})', symbol, ds::VARCHAR, y) AS example, 1 AS rows
        FROM large JOIN usual USING (symbol) WHERE abs(y) > {JUMP} * size
        ORDER BY abs(y) DESC, symbol, ds
    """
    return finding(
        connection, f"jumps: |y| above {LARGE} and {JUMP} times the median |y|", query, KEPT
    )


def _without_volume(connection: duckdb.DuckDBPyConnection) -> list[Finding]:
    query = (
        "SELECT symbol || ' ' || ds AS example, 1 AS rows FROM priced WHERE given AND volume = 0 "
        "ORDER BY symbol, ds"
    )
    return finding(connection, "a volume of 0", query, KEPT)


def _zeros(connection: duckdb.DuckDBPyConnection) -> list[Finding]:
    query = f"""
        SELECT format('{{}} ({{:.0f}} % of {{}} sessions)',
            symbol, 100 * zeros / sessions, sessions) AS example, zeros AS rows
        FROM (
            SELECT symbol, count(*) FILTER (y = 0) AS zeros, count(*) AS sessions
            FROM priced GROUP BY symbol HAVING bool_or(given)
        )
        WHERE zeros > {ZEROS} * sessions ORDER BY zeros / sessions DESC, symbol
    """
    reason = f"returns of 0 on more than {ZEROS:.0%} of a symbol's sessions"
    return finding(connection, reason, query, KEPT)


def _ended(connection: duckdb.DuckDBPyConnection) -> list[Finding]:
    query = f"""
        SELECT symbol || ' ' || last AS example, 1 AS rows
        FROM (SELECT symbol, max(ds) AS last, max(n) AS n FROM priced GROUP BY symbol)
        WHERE n < (SELECT max(n) FROM sessions) - {ENDED} ORDER BY last, symbol
    """
    reason = f"symbols that end more than {ENDED} sessions before the last session"
    return finding(connection, reason, query, KEPT)
