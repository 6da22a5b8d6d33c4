"""Returns that cannot be: splits and typing errors in the prices."""

import duckdb

from jobs.data.own.basis import Basis
from jobs.data.own.findings import one
from registry.errors import BadHistory
from registry.forecast.history import MAX_ABS_RETURN

RATIOS = (1.5, 2, 3, 4, 5, 6, 7, 8, 10, 15, 20, 25, 30, 50, 100)  # of usual splits
NEAR = 0.1  # relative; a price moves that much beside a split
CLEAR = 0.4  # |y|; a smaller move is no obvious split


def check(connection: duckdb.DuckDBPyConnection, basis: Basis) -> None:
    """Raise BadHistory: PRICE_BASIS for an obvious split, BAD_RETURN for another huge return."""
    if basis.kind == "returns":
        return
    if basis.raw:
        _check_splits(connection)
    _check_sizes(connection)


def _check_splits(connection: duckdb.DuckDBPyConnection) -> None:
    ratios = ", ".join(f"({ratio})" for ratio in RATIOS)
    query = (
        f"FROM priced, (VALUES {ratios}) AS usual(ratio) "
        f"WHERE fresh AND abs(y) >= {CLEAR} AND abs(exp(abs(y)) / ratio - 1) <= {NEAR}"
    )
    (count,) = one(connection, f"SELECT count(DISTINCT (symbol, ds)) {query}")
    if not count:
        return
    symbol, ds, move, ratio, y = one(
        connection,
        f"SELECT symbol::VARCHAR, ds, exp(y), ratio::DOUBLE, y {query} "
        "ORDER BY symbol, ds, abs(exp(abs(y)) / ratio - 1) LIMIT 1",
    )
    usual = f"{ratio:g} for 1" if y < 0 else f"1 for {ratio:g}"
    others = f" ({count} such moves)" if count > 1 else ""
    raise BadHistory(
        f"{symbol} {ds}: close / close before is {move:.3g}, which looks like a split of "
        f"{usual}{others}; give an adjusted close (adj_close), or columns split and dividend; "
        "if the closes are adjusted and the move is genuine, say --adjusted yes",
        code="PRICE_BASIS",
    )


def _check_sizes(connection: duckdb.DuckDBPyConnection) -> None:
    condition = f"fresh AND abs(y) > {MAX_ABS_RETURN}"
    (count,) = one(connection, f"SELECT count(*) FROM priced WHERE {condition}")
    if not count:
        return
    symbol, ds, y, close = one(
        connection,
        f"SELECT symbol::VARCHAR, ds, y, close FROM priced WHERE {condition} "
        "ORDER BY symbol, ds LIMIT 1",
    )
    others = f" ({count} such returns)" if count > 1 else ""
    raise BadHistory(
        f"{symbol} {ds}: the return is {y:.3g} at an adjusted close of {close:g}, expected a log "
        f"return of -1..1{others}; it is a split or a typing error: correct the prices, or start "
        "the symbol on this session",
        code="BAD_RETURN",
    )
