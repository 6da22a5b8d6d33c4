"""Rows that give a symbol's session again: dropped if they are the same, refused if not."""

import duckdb

from jobs.data.own.findings import DROPPED, Finding, finding, one
from registry.errors import BadHistory


def create(connection: duckdb.DuckDBPyConnection, columns: tuple[str, ...]) -> list[Finding]:
    """Make the view `clean`: `given` with each session of a symbol once; what was dropped.

    `columns` are those that must agree. Raises BadHistory (DUPLICATE_SESSION).
    """
    if not _exist(connection):
        connection.execute("CREATE VIEW clean AS FROM given")
        return []
    connection.execute(
        "CREATE TABLE repeated AS SELECT symbol, ds, count(*) - 1 AS rows, "
        f"count(DISTINCT row({', '.join(columns)})) AS versions "
        "FROM given GROUP BY symbol, ds HAVING count(*) > 1"
    )
    _check_versions(connection)
    connection.execute(
        "CREATE VIEW clean AS FROM given ANTI JOIN repeated USING (symbol, ds) "
        "UNION ALL SELECT DISTINCT * FROM given SEMI JOIN repeated USING (symbol, ds)"
    )
    query = "SELECT symbol || ' ' || ds AS example, rows FROM repeated ORDER BY symbol, ds"
    return finding(connection, "the same row again", query, DROPPED)


def _exist(connection: duckdb.DuckDBPyConnection) -> bool:
    """Whether there are more rows than sessions. A bit a session needs little memory."""
    (last,) = one(connection, "SELECT max(n) FROM sessions")
    (repeated,) = one(
        connection,
        "SELECT sum(rows - sessions) > 0 FROM (SELECT count(*) AS rows, "
        f"bit_count(bitstring_agg(n, 0, {last})) AS sessions FROM given GROUP BY symbol)",
    )
    return bool(repeated)


def _check_versions(connection: duckdb.DuckDBPyConnection) -> None:
    """Raise BadHistory (DUPLICATE_SESSION) if rows of one session differ."""
    (count,) = one(connection, "SELECT count(*) FROM repeated WHERE versions > 1")
    if not count:
        return
    symbol, ds = one(
        connection,
        "SELECT symbol::VARCHAR, ds FROM repeated WHERE versions > 1 ORDER BY symbol, ds LIMIT 1",
    )
    places = connection.execute(
        "SELECT file || ' row ' || row FROM staged WHERE unique_id = ? AND ds = ? "
        "ORDER BY file, row LIMIT 2",
        [symbol, ds],
    ).fetchall()
    raise BadHistory(
        f"{symbol} {ds} is given with different values: {' and '.join(row[0] for row in places)} "
        f"({count} such sessions); keep one of the rows",
        code="DUPLICATE_SESSION",
    )
