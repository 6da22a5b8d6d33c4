"""From `staged` to the table `priced`: one row a return, with prices on one basis.

Views between them: `given` (used columns of complete rows), `clean` (each session once) and
`adjusted` (prices on one basis).
"""

import duckdb

from jobs.data.own.basis import ADJ_CLOSE, DIVIDEND, SPLIT, Basis
from jobs.data.own.findings import DROPPED, Finding, finding
from jobs.data.own.previous import Previous
from registry.forecast import names

RAW_CLOSE = "close_unadjusted"
_VALUES = (*names.OHLC, ADJ_CLOSE, names.VOLUME, names.AMOUNT, SPLIT, DIVIDEND, names.Y)


def create_symbols(connection: duckdb.DuckDBPyConnection, previous: Previous | None) -> None:
    """Make the type `symbol`: all symbols as numbers, in their order."""
    union = f"UNION SELECT unique_id FROM {previous.table}" if previous else ""
    connection.execute(
        "CREATE TYPE symbol AS ENUM (SELECT unique_id FROM ("
        f"SELECT DISTINCT unique_id FROM staged {union}) ORDER BY unique_id)"
    )


def create_given(
    connection: duckdb.DuckDBPyConnection,
    basis: Basis,
    previous: Previous | None,
) -> tuple[str, ...]:
    """Make the view `given`: symbol, ds, n, the used columns, `earlier`; the used columns."""
    used = tuple(name for name in _VALUES if name in (*basis.needed, *basis.events))
    complete = " AND ".join(f"{name} IS NOT NULL" for name in basis.needed)
    query = (
        f"SELECT unique_id::symbol AS symbol, ds, n, {', '.join(used)}, false AS earlier "
        f"FROM staged JOIN sessions USING (ds) WHERE {complete}"
    )
    if previous:
        prices = {"close": "close", ADJ_CLOSE: "close"}
        earlier_values = ", ".join(f"{prices.get(name, 'NULL')} AS {name}" for name in used)
        query += (
            f" UNION ALL SELECT unique_id::symbol, ds, n, {earlier_values}, true "
            f"FROM {previous.table} JOIN sessions USING (ds)"
        )
    connection.execute(f"CREATE VIEW given AS {query}")
    return used


def incomplete(connection: duckdb.DuckDBPyConnection, basis: Basis) -> list[Finding]:
    """Rows that lack a value, each under the first column that it lacks."""
    findings = []
    what = "a bar" if basis.kind == "bars" else "a row"
    condition = ""
    for name in basis.needed:
        query = (
            "SELECT unique_id || ' ' || ds AS example, 1 AS rows FROM staged "
            f"WHERE {condition}{name} IS NULL ORDER BY unique_id, ds"
        )
        findings += finding(connection, f"{what} without {name}", query, DROPPED)
        condition += f"{name} IS NOT NULL AND "
    return findings


def create_adjusted(connection: duckdb.DuckDBPyConnection, basis: Basis) -> None:
    """Make the view `adjusted` from `clean` and, where there are any, `events`."""
    source = "(SELECT *, 1.0::DOUBLE AS factor, 1.0::DOUBLE AS shares FROM clean)"
    if basis.events:
        source = (
            "(SELECT c.*, coalesce(e.factor, 1) AS factor, coalesce(e.shares, 1) AS shares "
            "FROM clean c ASOF LEFT JOIN events e ON c.symbol = e.symbol AND c.ds < e.ds)"
        )
    connection.execute(
        f"CREATE VIEW adjusted AS SELECT symbol, ds, n, earlier, {_adjusted(basis)} FROM {source}"
    )


def _adjusted(basis: Basis) -> str:
    if basis.kind == "returns":
        return names.Y
    columns = [f"{basis.close} AS close"]
    if basis.kind == "bars":
        others = (name for name in names.OHLC if name != "close")
        columns += [f"{name} * {basis.factor} AS {name}" for name in others]
        columns.append("volume * shares AS volume")
        if names.AMOUNT in basis.needed:
            columns.append(names.AMOUNT)
    if basis.keeps_raw:
        columns.append(f"close AS {RAW_CLOSE}")
    return ", ".join(columns)


def stored(basis: Basis) -> tuple[str, ...]:
    """Columns of the set that come from the rows themselves, after unique_id, ds and y."""
    columns = list(basis.prices)
    if basis.kind == "bars":
        columns += [names.VOLUME, names.AMOUNT]
    if basis.keeps_raw:
        columns.append(RAW_CLOSE)
    return tuple(columns)


def create_priced(connection: duckdb.DuckDBPyConnection, basis: Basis) -> None:
    """Make the table `priced`: symbol, ds, n, missing, y and the columns of `stored`.

    y = log(close / close of the symbol's session before). `missing` is the number of the
    calendar's sessions between the two. A symbol's first session has no return and no row.
    """
    columns = list(stored(basis))
    if basis.kind == "bars" and names.AMOUNT not in basis.needed:
        columns[columns.index(names.AMOUNT)] = "(open + high + low + close) / 4 * volume AS amount"
    if basis.kind == "returns":
        y, first = names.Y, "false"
    else:
        y, first = "ln(close / lag(close) OVER sessions_of) AS y", "y IS NULL"
    inner = ", ".join(["symbol, ds, n, earlier", y, *columns])
    connection.execute(
        f"CREATE TABLE priced AS SELECT * EXCLUDE (earlier) FROM (SELECT {inner}, "
        "coalesce(n - lag(n) OVER sessions_of - 1, 0) AS missing FROM adjusted "
        "WINDOW sessions_of AS (PARTITION BY symbol ORDER BY ds)) "
        f"WHERE NOT earlier AND NOT ({first})"
    )
