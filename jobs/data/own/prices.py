"""From `staged` to the view `priced`: one row a return, with prices on one basis.

Between them: the views `given` (used columns of complete rows), `clean` (each session once) and
`adjusted` (prices on one basis), and the table `merged` (those and, in an append, the set's).
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


def create_given(connection: duckdb.DuckDBPyConnection, basis: Basis) -> tuple[str, ...]:
    """Make the view `given`: symbol, ds, n and the used columns; the used columns."""
    used = tuple(name for name in _VALUES if name in (*basis.needed, *basis.events))
    complete = " AND ".join(f"{name} IS NOT NULL" for name in basis.needed)
    connection.execute(
        f"CREATE VIEW given AS SELECT unique_id::symbol AS symbol, ds, n, {', '.join(used)} "
        f"FROM staged JOIN sessions USING (ds) WHERE {complete}"
    )
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
        f"CREATE VIEW adjusted AS SELECT symbol, ds, n, {_adjusted(basis)} FROM {source}"
    )


def _adjusted(basis: Basis) -> str:
    if basis.kind == "returns":
        return names.Y
    columns = [f"{basis.close} AS close"]
    if basis.kind == "bars":
        others = (name for name in names.OHLC if name != "close")
        columns += [f"{name} * {basis.factor} AS {name}" for name in others]
        columns.append("volume * shares AS volume")
        if basis.gives_amount:
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


def create_priced(
    connection: duckdb.DuckDBPyConnection, basis: Basis, previous: Previous | None
) -> None:
    """Make the table `merged` of all prices, and the view `priced` of those with a return.

    Columns: symbol, ds, n, missing, given, fresh, y and those of `stored`. y = log(close / close of
    the symbol's session before); `missing` is the number of the calendar's sessions between the
    two. A symbol's first session has no return: its y is NULL. `given` is a row of the user, no
    older one of the set; `fresh` is a return that such a row has changed.
    """
    fresh, y = "true", "ln(close / lag(close) OVER w)"
    source, kept = f"SELECT {_new(basis)} FROM adjusted", ""
    if previous:
        fresh = "given OR coalesce(lag(given) OVER w, false)"
        y = f"CASE WHEN {fresh} THEN {y} ELSE y END"
        source += f" UNION ALL BY NAME {_beside(connection, basis, previous)}"
        kept = f"UNION ALL BY NAME {_kept(basis, previous)}"
    if basis.kind == "returns":
        y = "y"
    columns = ", ".join(("symbol", "ds", "n", "given", "context", *stored(basis)))
    connection.execute(
        f"CREATE TABLE merged AS SELECT * EXCLUDE (context) FROM (SELECT {columns}, {y} AS y, "
        f"{fresh} AS fresh, coalesce(n - lag(n) OVER w - 1, 0) AS missing "
        f"FROM ({source}) WINDOW w AS (PARTITION BY symbol ORDER BY ds)) WHERE NOT context {kept}"
    )
    connection.execute("CREATE VIEW priced AS FROM merged WHERE y IS NOT NULL")


def _new(basis: Basis) -> str:
    """SQL of the columns of the user's rows."""
    values = list(stored(basis))
    if basis.kind == "bars" and not basis.gives_amount:
        values[values.index(names.AMOUNT)] = "(open + high + low + close) / 4 * volume AS amount"
    y = names.Y if basis.kind == "returns" else "NULL::DOUBLE AS y"
    return ", ".join(("symbol", "ds", "n", *values, y, "true AS given", "false AS context"))


def _beside(connection: duckdb.DuckDBPyConnection, basis: Basis, previous: Previous) -> str:
    """SQL of the set's rows from a symbol's last one before the user's on, but for those again."""
    connection.execute(
        "CREATE TABLE begins AS SELECT s.unique_id, coalesce(max(o.ds), min(first)) AS begins FROM "
        "(SELECT unique_id, min(ds) AS first FROM staged GROUP BY unique_id) s "
        f"LEFT JOIN {previous.table} o ON o.unique_id = s.unique_id AND o.ds < s.first "
        "GROUP BY s.unique_id"
    )
    return (
        f"SELECT {_old(basis)}, context FROM (SELECT *, unique_id::symbol AS symbol "
        f"FROM {previous.table} JOIN begins USING (unique_id) WHERE ds >= begins) "
        "LEFT JOIN sessions USING (ds) ANTI JOIN adjusted USING (symbol, ds)"
    )


def _kept(basis: Basis, previous: Previous) -> str:
    """SQL of the set's other rows: their returns stay."""
    return (
        f"SELECT {_old(basis)}, false AS fresh, 0 AS missing FROM (SELECT *, unique_id::symbol AS "
        f"symbol FROM {previous.table} LEFT JOIN begins USING (unique_id) "
        "WHERE NOT context AND (begins IS NULL OR ds < begins)) LEFT JOIN sessions USING (ds)"
    )


def _old(basis: Basis) -> str:
    return ", ".join(("symbol", "ds", "n", *stored(basis), "y", "false AS given"))


def create_base(
    connection: duckdb.DuckDBPyConnection, basis: Basis, previous: Previous | None
) -> None:
    """Make the view `base`: prices of which no row of the set follows, of symbols in the set.

    They are each symbol's first, and the index's on sessions of no member.
    """
    columns = ", ".join(("symbol::VARCHAR AS unique_id", "ds", "y", *stored(basis)))
    in_set = "" if previous else "AND symbol IN (SELECT DISTINCT symbol FROM priced)"
    connection.execute(
        f"CREATE VIEW base AS SELECT {columns} FROM merged "
        f"WHERE (y IS NULL OR ds NOT IN (SELECT ds FROM market)) {in_set}"
    )
