"""Remove a data set from the ledger.

Readers lose all of it at once; its rows are then deleted in small transactions.
"""

from collections.abc import Callable

import sqlalchemy as sa

from registry.errors import Conflict
from registry.ledger import database, loads
from registry.ledger.filling import TOGETHER
from registry.ledger.forecasts import forecasts
from registry.ledger.loads import Loading
from registry.ledger.observations import OBSERVED, daily_returns, market_daily, prices, symbols


def remove(
    engine: sa.Engine, data: str, progress: Callable[[float], None] = lambda _: None
) -> dict[str, int]:
    """Remove a data set; how many rows of each table were removed.

    `progress` gets the share (0..1) done. An interrupted removal continues. Raises NotFound,
    and Conflict if another process loads or removes the data set, or if it has forecasts.
    """

    def check(connection: sa.Connection) -> None:
        _check_no_forecast(connection, data)

    removed = dict.fromkeys((symbols.name, *(table.name for table in OBSERVED)), 0)
    with loads.removing(engine, data, check) as removing:
        ids = _ids(engine, data)
        for start in range(0, len(ids), TOGETHER):
            progress(start / len(ids))
            for name, rows in _remove_symbols(removing, engine, ids[start : start + TOGETHER]):
                removed[name] += rows
        progress(1.0)
        with removing.transaction(engine) as connection:
            of_set = sa.delete(market_daily).where(market_daily.c.data == data)
            removed[market_daily.name] = connection.execute(of_set).rowcount
            removing.forget(connection)
    return removed


def _check_no_forecast(connection: sa.Connection, data: str) -> None:
    query = sa.select(sa.func.count()).where(forecasts.c.data == data)
    if number := connection.scalar(query):
        raise Conflict(
            f"the ledger has {number} forecasts of {data}, which need it; "
            f"`python -m registry prune --data {data} --before DATE` removes forecasts"
        )


def _ids(engine: sa.Engine, data: str) -> list[int]:
    query = sa.select(symbols.c.id).where(symbols.c.data == data).order_by(symbols.c.id)
    with database.read(engine) as connection:
        return list(connection.scalars(query))


def _remove_symbols(removing: Loading, engine: sa.Engine, ids: list[int]) -> list[tuple[str, int]]:
    """Remove symbols with their rows in one transaction; how many of each table."""
    rows = []
    with removing.transaction(engine) as connection:
        for key in (daily_returns.c.symbol_id, prices.c.symbol_id, symbols.c.id):
            of_some = sa.delete(key.table).where(key.in_(ids))
            rows.append((key.table.name, connection.execute(of_some).rowcount))
    return rows
