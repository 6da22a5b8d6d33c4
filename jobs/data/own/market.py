"""Market columns of each session: the members' mean |y|, the index' return, how many trade.

Returns are summed as whole numbers of 2^-100. Such sums are exact, so they do not depend on the
order of rows or the number of threads.
"""

import duckdb

from jobs.data.market import MEMBERS, Universe
from jobs.data.own.findings import KEPT, NO_RETURN, SHOWN, Finding, column, finding, one
from jobs.data.own.options import Options
from jobs.data.own.previous import Previous
from registry.errors import BadHistory, BadParameter
from registry.forecast import names

_UNITS = 2.0**100  # a return; |y| is at most 1, so 128 bits hold the sum of 100 million


def create(
    connection: duckdb.DuckDBPyConnection, options: Options, previous: Previous | None
) -> tuple[Universe, list[Finding]]:
    """Make the table `market`: ds and the market columns; the universe and what it says.

    Sessions on which only the index trades have no market and are not in it. Raises BadParameter
    for an unknown index, BadHistory (BAD_SOURCE) if the index lacks a session.
    """
    universe = _universe(connection, options, previous)
    index = f"= '{_quoted(options.index)}'" if options.index else "IS NULL"
    connection.execute(
        f"""
        CREATE TABLE market AS
        SELECT ds, {names.MARKET_ABS_RETURN}, {names.INDEX_RETURN}, {MEMBERS}
        FROM (
            SELECT ds, {_mean("abs(y)", index)} AS {names.MARKET_ABS_RETURN},
                {_index_return(index) if options.index else _mean("y", index)}
                    AS {names.INDEX_RETURN},
                count(*) FILTER (NOT symbol {index}) AS {MEMBERS}
            FROM priced GROUP BY ds
        )
        WHERE {MEMBERS} > 0 ORDER BY ds
        """
    )
    findings = _index_only(connection)
    _check_index(connection, options.index)
    if len(universe.symbols) == 1:
        findings += _alone(connection, universe)
    return universe, findings


def _mean(value: str, index: str) -> str:
    """SQL of the mean over the members."""
    whole = f"sum(CAST({value} * {_UNITS!r} AS HUGEINT)) FILTER (NOT symbol {index})"
    return f"{whole}::DOUBLE / {_UNITS!r} / count(*) FILTER (NOT symbol {index})"


def _index_return(index: str) -> str:
    return f"max(y) FILTER (symbol {index})"


def _quoted(text: str) -> str:
    return text.replace("'", "''")


def _universe(
    connection: duckdb.DuckDBPyConnection, options: Options, previous: Previous | None
) -> Universe:
    """All members that ever trade, with those of the set that is appended to."""
    symbols = set(column(connection, "SELECT DISTINCT symbol FROM priced"))
    if previous:
        symbols |= set(previous.universe.symbols)
    if options.index and options.index not in symbols:
        some = ", ".join(sorted(symbols)[:SHOWN])
        more = ", ..." if len(symbols) > SHOWN else ""
        raise BadParameter(
            f"--index {options.index[:64]!r} is none of the {len(symbols)} symbols: {some}{more}"
        )
    members = tuple(sorted(symbols - {options.index}))
    if not members:
        raise BadParameter(f"{options.index} is the only symbol; leave out --index")
    return Universe(f"{options.name}-{len(members)}", members)


def _check_index(connection: duckdb.DuckDBPyConnection, index: str) -> None:
    """Raise BadHistory (BAD_SOURCE) if the index has no return on a session of the members."""
    (count,) = one(connection, "SELECT count(*) FROM market WHERE index_return IS NULL")
    if count:
        ds, members = one(
            connection,
            f"SELECT ds, {MEMBERS} FROM market WHERE index_return IS NULL ORDER BY ds LIMIT 1",
        )
        raise BadHistory(
            f"the index {index} has no return on {ds}, on which {members} members trade "
            f"({count} such sessions); add its prices, remove the sessions, or leave out --index",
            code="BAD_SOURCE",
        )


def _index_only(connection: duckdb.DuckDBPyConnection) -> list[Finding]:
    query = (
        "SELECT symbol || ' ' || ds AS example, 1 AS rows FROM priced "
        "ANTI JOIN market USING (ds) WHERE given ORDER BY ds"
    )
    return finding(connection, "a session on which only the index trades", query, NO_RETURN)


def _alone(connection: duckdb.DuckDBPyConnection, universe: Universe) -> list[Finding]:
    symbol = universe.symbols[0]
    query = (
        f"SELECT symbol || ': market_abs_return is its |y|' AS example, count(*) AS rows "
        f"FROM priced WHERE symbol = '{_quoted(symbol)}' GROUP BY symbol"
    )
    return finding(connection, "one symbol alone is its own market", query, KEPT)
