"""Sectors: one of each symbol, constant over time."""

import duckdb

from jobs.data.own.findings import SHOWN, column
from registry.errors import BadHistory


def create(connection: duckdb.DuckDBPyConnection) -> None:
    """Make the table `sectors` (symbol, sector) of the symbols of `priced`.

    A cell may be empty if another row of the symbol has its sector. Raises BadHistory
    (BAD_SECTOR).
    """
    connection.execute(
        "CREATE TABLE sectors AS SELECT unique_id::symbol AS symbol, min(sector) AS sector, "
        "max(sector) AS other FROM staged GROUP BY unique_id "
        "HAVING unique_id::symbol IN (SELECT symbol FROM priced)"
    )
    changed = column(
        connection, "SELECT symbol FROM sectors WHERE sector <> other ORDER BY symbol LIMIT 1"
    )
    if changed:
        raise _changed(connection, changed[0])
    without = column(connection, "SELECT symbol FROM sectors WHERE sector IS NULL ORDER BY symbol")
    if without:
        more = " ..." if len(without) > SHOWN else ""
        raise BadHistory(
            f"{len(without)} symbols have no sector: {', '.join(without[:SHOWN])}{more}; "
            "give them one, or leave out the column sector",
            code="BAD_SECTOR",
        )


def _changed(connection: duckdb.DuckDBPyConnection, symbol: str) -> BadHistory:
    """The error of a symbol with two sectors, with a session of each."""
    connection.execute(
        "SELECT first(sector ORDER BY ds, sector), min(ds) FROM staged "
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
