"""What a data set has as a whole, as it was known at an instant."""

from dataclasses import dataclass
from datetime import date, datetime

import pandas as pd
import sqlalchemy as sa

from registry.forecast import calendars, names
from registry.ledger import instants, observations
from registry.ledger.loads import Load
from registry.ledger.observations import MARKET, PRICES, market_daily, prices, symbols


@dataclass(frozen=True)
class Overview:
    """A data set that has at least one session."""

    universe: str  # of its market columns: name and digest
    first: pd.Timestamp  # session
    last: pd.Timestamp
    columns: frozenset[str]  # y, market columns, and those of prices in its last session
    next_close: datetime | None  # when a session that was loaded before its close becomes known


def overview(connection: sa.Connection, load: Load, instant: datetime) -> Overview | None:
    """Of the data set of a load; None if no session was known at the instant."""
    market = _market(connection, load.data, instant)
    if market is None:
        return None
    columns = {column for column in MARKET if market[column]} | {names.Y}
    return Overview(
        universe=market["universe"],
        first=pd.Timestamp(market["first"]),
        last=pd.Timestamp(market["last"]),
        columns=frozenset(columns | _priced(connection, load.data, instant, market["last"])),
        next_close=_next_close(connection, load, instant),
    )


def _market(connection: sa.Connection, data: str, instant: datetime) -> sa.RowMapping | None:
    """Universe, first and last session, and how many values each market column has."""
    c = market_daily.c
    counts = [sa.func.count(c[column]).label(column) for column in MARKET]
    first = sa.func.min(c.ds, type_=c.ds.type).label("first")
    last = sa.func.max(c.ds, type_=c.ds.type).label("last")
    query = observations.as_of(market_daily, instant).where(c.data == data)
    chosen = query.with_only_columns(c.universe, first, last, *counts).group_by(c.universe)
    return connection.execute(chosen).mappings().first()


def _priced(connection: sa.Connection, data: str, instant: datetime, session: date) -> set[str]:
    """Columns of prices with a value in a session."""
    c = prices.c
    ids = sa.select(symbols.c.id).where(symbols.c.data == data)
    query = observations.as_of(prices, instant).where(c.symbol_id.in_(ids), c.ds == session)
    counts = [sa.func.count(c[column]).label(column) for column in PRICES]
    row = connection.execute(query.with_only_columns(*counts)).mappings().one()
    return {column for column in PRICES if row[column]}


def _next_close(connection: sa.Connection, load: Load, instant: datetime) -> datetime | None:
    """The next close of a session, if the data set has sessions that have not closed."""
    query = sa.select(sa.func.max(symbols.c.listed_to, type_=symbols.c.listed_to.type))
    last: date = connection.scalar(query.where(symbols.c.data == load.data))
    if instants.close_of(load.calendar, last) <= instant:
        return None
    today = pd.Timestamp(instant.date()) - pd.Timedelta(days=2)  # before it in any time zone
    coming = calendars.sessions(load.calendar, today, pd.Timestamp(last))
    closes = instants.closes_of(load.calendar, coming.to_numpy().astype("datetime64[D]"))
    later = closes[closes > pd.Timestamp(instant).tz_localize(None).to_datetime64()]
    return instants.utc(later[0])
