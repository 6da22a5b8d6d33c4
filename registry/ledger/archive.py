"""Data sets in the ledger, as they were known at any instant.

with Archive(Settings()) as archive:
    archive.history("mystocks", ["AAPL"], as_of="2022-06-30")
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa

from registry.errors import BadParameter, Conflict, Corrupt, NotFound
from registry.forecast import names
from registry.forecast.arrays import Dates, Places
from registry.ledger import bulk, database, filling, instants, loads, observations
from registry.ledger.filling import Content, Counted
from registry.ledger.instants import When
from registry.ledger.loads import Load
from registry.ledger.observations import (
    MEMBERS,
    PRICES,
    daily_returns,
    market_daily,
    prices,
    symbols,
)
from registry.settings import Settings

MARKET = (*names.MARKET, MEMBERS)
COLUMNS = (names.Y, *PRICES, *MARKET, names.SECTOR)  # of a history, beside unique_id and ds


class Archive:
    """The data sets of a ledger. A process makes one and closes it when done.

    Raises BadConfig for a wrong URI, Conflict if newer code wrote the ledger, and KronosError (code
    LEDGER_UNAVAILABLE) if the database cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self.engine = database.connect(settings.ledger)
        try:
            database.bring_up_to_date(self.engine)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self.engine.dispose()

    def __enter__(self) -> "Archive":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def load(self, content: Content, progress: Callable[[float], None] = lambda _: None) -> Counted:
        """Load a data set; what was done to each table. As `registry.ledger.filling.fill`."""
        return filling.fill(self.engine, content, progress)

    def symbols(self, data: str) -> pd.DataFrame:
        """What is known of the symbols of a data set, sorted. Raises NotFound."""
        query = sa.select(symbols).where(symbols.c.data == data).order_by(symbols.c.symbol)
        with database.read(self.engine) as connection:
            frame = bulk.select(connection, query).to_pandas(date_as_object=False)
        if frame.empty:
            raise _unknown(data)
        known: pd.DataFrame = frame.drop(columns="id")
        return known

    def last_session(self, data: str, as_of: datetime) -> pd.Timestamp | None:
        """The last session of a data set that was known then; None: none was. Raises NotFound."""
        c = market_daily.c
        of_set = observations.as_of(market_daily, as_of).where(c.data == data)
        with database.read(self.engine) as connection:
            _load_of(connection, data)
            day = connection.scalar(of_set.with_only_columns(sa.func.max(c.ds)))
        return None if day is None else pd.Timestamp(day)

    def digest(self, data: str) -> str:
        """That of the data set as it was loaded last. Raises NotFound and Conflict."""
        with database.read(self.engine) as connection:
            return _load_of(connection, data).digest

    def instant(self, data: str, as_of: When) -> datetime:
        """The instant that `as_of` means for a data set. Raises NotFound and BadParameter."""
        with database.read(self.engine) as connection:
            known = symbols.c.data == data
            calendar = connection.scalar(sa.select(symbols.c.calendar).where(known).limit(1))
        if calendar is None:
            raise _unknown(data)
        return instants.as_of(as_of, calendar)

    def history(
        self,
        data: str,
        series: Collection[str] | None = None,
        *,
        as_of: When = None,
        since: str = "",
        columns: Sequence[str] = (names.Y,),
    ) -> pd.DataFrame:
        """The history of symbols of a data set as it was known: unique_id, ds and `columns`.

        `series` None: all. `as_of` is a date, which means the close of its session, or a time with
        a zone; None: now. `since` is the first session. `columns` are some of COLUMNS. Sorted by
        (unique_id, ds). Raises NotFound, BadParameter, and Conflict if no load was completed.
        """
        _check_columns(columns)
        instant = self.instant(data, as_of)
        with database.read(self.engine) as connection:
            _load_of(connection, data)
            known = _symbols(connection, data, series)
            read = _Read(connection, data, instant, since, None if series is None else known)
            return _frame(read, known, columns)


def _load_of(connection: sa.Connection, data: str) -> Load:
    """The newest complete load of a data set. Raises Conflict if there is none."""
    load = loads.completed(connection, data)
    if load is None:
        raise Conflict(
            f"the load of {data} into the ledger is not complete; "
            f"`python -m jobs data load {data}` goes on with it"
        )
    return load


@dataclass(frozen=True)
class _Read:
    """What is read: a data set as known at an instant, from a session on; `only` some symbols."""

    connection: sa.Connection
    data: str
    instant: datetime
    since: str
    only: pa.Table | None

    def rows(self, table: sa.Table, columns: Sequence[str]) -> pa.Table:
        """symbol_id, ds and columns of a table by symbol, in order."""
        c = table.c
        if self.only is None:
            ids = sa.select(symbols.c.id).where(symbols.c.data == self.data)
        else:
            ids = self.only.column("id").to_pylist()
        return self._select(table, c.symbol_id.in_(ids), ["symbol_id", names.DS, *columns])

    def market(self, columns: Sequence[str]) -> pa.Table:
        """ds and market columns, in order. One universe holds at an instant."""
        return self._select(market_daily, market_daily.c.data == self.data, [names.DS, *columns])

    def _select(
        self, table: sa.Table, scope: sa.ColumnElement[bool], columns: Sequence[str]
    ) -> pa.Table:
        query = observations.as_of(table, self.instant).where(scope)
        if self.since:
            query = query.where(table.c.ds >= date.fromisoformat(self.since))
        keys = [column for column in table.primary_key if column.name in columns]
        chosen = query.with_only_columns(*[table.c[name] for name in columns])
        return bulk.select(self.connection, chosen.order_by(*keys))


def _symbols(connection: sa.Connection, data: str, series: Collection[str] | None) -> pa.Table:
    """id, symbol and sector of these symbols, in the order of ids. Raises NotFound."""
    c = symbols.c
    query = sa.select(c.id, c.symbol, c.sector).where(c.data == data).order_by(c.id)
    if series is None:
        known = bulk.select(connection, query)
    else:
        known = bulk.select(connection, query.where(c.symbol.in_(list(series))))
    if not len(known):
        raise _unknown(data)
    missing = sorted(set(series or ()) - set(known.column("symbol").to_pylist()))
    if missing:
        raise NotFound(f"{data} in the ledger has no symbol {', '.join(missing[:5])}")
    return known


def _frame(read: _Read, known: pa.Table, columns: Sequence[str]) -> pd.DataFrame:
    rows = read.rows(daily_returns, [names.Y])
    days = rows.column(names.DS)
    places = np.searchsorted(known.column("id").to_numpy(), rows.column("symbol_id").to_numpy())
    values = {names.UNIQUE_ID: _taken(known, "symbol", places), names.DS: _nanoseconds(days)}
    values[names.Y] = rows.column(names.Y).to_numpy()
    values[names.SECTOR] = _taken(known, names.SECTOR, places)
    if chosen := [name for name in columns if name in PRICES]:
        values |= _prices(read, rows, chosen)
    if chosen := [name for name in columns if name in MARKET]:
        values |= _market(read, days, chosen)
    order = (names.UNIQUE_ID, names.DS)
    frame = pd.DataFrame({name: values[name] for name in dict.fromkeys((*order, *columns))})
    in_order = pc.all(pc.less(known.column("symbol")[:-1], known.column("symbol")[1:])).as_py()
    return frame if in_order is not False else frame.sort_values(list(order), ignore_index=True)


def _prices(read: _Read, rows: pa.Table, columns: Sequence[str]) -> dict[str, Any]:
    """Prices of the rows of returns; a data set of returns has none."""
    stored = read.rows(prices, columns)
    key = ["symbol_id", names.DS]
    if not len(stored):
        return {name: np.full(len(rows), np.nan) for name in columns}
    if not stored.select(key).equals(rows.select(key)):
        raise Corrupt(f"the ledger's prices and returns of {read.data} differ in their sessions")
    return {name: stored.column(name).to_numpy() for name in columns}


def _market(read: _Read, days: pa.ChunkedArray, columns: Sequence[str]) -> dict[str, Any]:
    """Market columns of each day; NaN where the data set has none."""
    stored = read.market(columns)
    places = pc.index_in(days, stored.column(names.DS).combine_chunks())
    return {name: stored.column(name).take(places).to_numpy() for name in columns}


def _taken(known: pa.Table, name: str, places: Places) -> Any:
    """A text of each row's symbol [N], as objects."""
    return known.column(name).to_numpy()[places]


def _nanoseconds(days: pa.ChunkedArray) -> Dates:
    nanoseconds: Dates = days.to_numpy().astype("datetime64[ns]")
    return nanoseconds


def _check_columns(columns: Sequence[str]) -> None:
    unknown = [name for name in columns if name not in COLUMNS]
    if unknown:
        raise BadParameter(f"no column {unknown[0][:64]!r}, expected some of {', '.join(COLUMNS)}")


def _unknown(data: str) -> NotFound:
    return NotFound(f"the ledger has no data set {data!r}; `python -m jobs data load` loads one")
