"""Sectors: one of each symbol, constant over time."""

import duckdb

from jobs.data.own.findings import SHOWN, column
from jobs.data.own.previous import Previous
from registry.errors import BadHistory


def create(connection: duckdb.DuckDBPyConnection, given: bool, previous: Previous | None) -> None:
    """Make the table `sectors` (symbol, sector) of the symbols of `priced`.

    They are those of the rows, if `given`, and of the set that is appended to. A cell may be empty
    if another row of the symbol has its sector. Raises BadHistory (BAD_SECTOR).
    """
    tables = ["staged"] if given else []
    if previous:
        tables.append(previous.table)
    queries = [f"SELECT unique_id, ds, sector FROM {table}" for table in tables]
    source = f"({' UNION ALL '.join(queries)})"
    connection.execute(
        "CREATE TABLE sectors AS SELECT unique_id::symbol AS symbol, min(sector) AS sector, "
        f"max(sector) AS other FROM {source} GROUP BY unique_id "
        "HAVING unique_id::symbol IN (SELECT symbol FROM priced)"
    )
    changed = column(
        connection, "SELECT symbol FROM sectors WHERE sector <> other ORDER BY symbol LIMIT 1"
    )
    if changed:
        raise _changed(connection, source, changed[0])
    without = column(connection, "SELECT symbol FROM sectors WHERE sector IS NULL ORDER BY symbol")
    if without:
        more = " ..." if len(without) > SHOWN else ""
        raise BadHistory(
            f"{len(without)} symbols have no sector: {', '.join(without[:SHOWN])}{more}; "
            "give them one, or leave out the column sector",
            code="BAD_SECTOR",
        )


def _changed(connection: duckdb.DuckDBPyConnection, source: str, symbol: str) -> BadHistory:
    """The error of a symbol with two sectors, with a session of each."""
    connection.execute(
        f"SELECT first(sector ORDER BY ds, sector), min(ds) FROM {source} "
        "WHERE unique_id = $symbol AND sector IS NOT NULL GROUP BY sector "
        "ORDER BY min(ds), sector LIMIT 2",
        {"symbol": symbol},
    )
    (sector, ds), (other, later) = connection.fetchall()
    return BadHistory(
        f"the sector of {symbol} is {sector!r} on {ds} and {other!r} on {later}, expected one; "
        "give the same in all rows, or leave out the column sector",
        code="BAD_SECTOR",
    )
