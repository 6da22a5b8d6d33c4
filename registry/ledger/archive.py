"""Data sets in the ledger, as they were known at any instant.

with Archive(Settings()) as archive:
    archive.history("mystocks", ["AAPL"], as_of="2022-06-30")
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa

from registry.errors import BadParameter, Conflict, NotFound
from registry.forecast import names
from registry.forecast.arrays import Dates, Places
from registry.ledger import bulk, checks, database, filling, instants, loads, observations, removal
from registry.ledger.filling import Content, Counted
from registry.ledger.instants import When
from registry.ledger.loads import Load
from registry.ledger.observations import (
    MARKET,
    PRICES,
    daily_returns,
    market_daily,
    prices,
    symbols,
)
from registry.ledger.overview import Overview, overview

COLUMNS = (names.Y, *PRICES, *MARKET, names.SECTOR)  # of a history, beside unique_id and ds
_LISTED = 5  # symbols that a message names


class Archive(database.Opened):
    """The data sets of a ledger."""

    def load(self, content: Content, progress: Callable[[float], None] = lambda _: None) -> Counted:
        """Load a data set; what was done to each table. As `registry.ledger.filling.fill`."""
        return filling.fill(self.engine, content, progress)

    def remove(
        self, data: str, progress: Callable[[float], None] = lambda _: None
    ) -> dict[str, int]:
        """Remove a data set; rows by table. As `registry.ledger.removal.remove`."""
        return removal.remove(self.engine, data, progress)

    def symbols(self, data: str) -> pd.DataFrame:
        """What the last load said of the symbols of a data set, sorted. Raises NotFound, Conflict.

        This has no past: sectors and sessions of listing are those of today.
        """
        query = sa.select(symbols).where(symbols.c.data == data).order_by(symbols.c.symbol)
        with database.read(self.engine) as connection:
            _load_of(connection, data)
            frame = bulk.select(connection, query).to_pandas(date_as_object=False)
        known: pd.DataFrame = frame.drop(columns="id")
        return known

    @contextmanager
    def known(self, data: str, as_of: When = None) -> "Iterator[Known]":
        """A data set as it was known: at the close of a date, or at a time with a zone; None: now.

        While a load is not complete, this is the state before it. Raises NotFound, BadParameter,
        and Conflict if no load was ever completed.
        """
        with database.read(self.engine) as connection:
            load = _load_of(connection, data)
            instant = instants.as_of(as_of, load.calendar)
            if loads.incomplete(connection, data):
                instant = min(instant, load.known_from)
            yield Known(connection, load, instant)

    def history(
        self,
        data: str,
        series: Collection[str] | None = None,
        *,
        as_of: When = None,
        since: str = "",
        columns: Sequence[str] = (names.Y,),
    ) -> pd.DataFrame:
        """`Known.history` of a data set as it was known at an instant. Raises as `known`."""
        with self.known(data, as_of) as known:
            return known.history(series, since=since, columns=columns)


@dataclass(frozen=True)
class Known:
    """A data set as it was known at an instant: all is read from one state of the ledger."""

    connection: sa.Connection
    load: Load  # the last complete one
    instant: datetime

    @property
    def last_session(self) -> pd.Timestamp | None:
        """The last session that was known; None: none was."""
        c = market_daily.c
        known = observations.as_of(market_daily, self.instant).where(c.data == self.load.data)
        day = self.connection.scalar(known.with_only_columns(sa.func.max(c.ds)))
        return None if day is None else pd.Timestamp(day)

    @property
    def overview(self) -> Overview | None:
        """What the data set has as a whole; None: no session was known."""
        return overview(self.connection, self.load, self.instant)

    @property
    def symbols(self) -> tuple[str, ...]:
        """Symbols with a return that was known, sorted."""
        c = symbols.c
        known = observations.as_of(daily_returns, self.instant)
        has_return = known.where(daily_returns.c.symbol_id == c.id).exists()
        query = sa.select(c.symbol).where(c.data == self.load.data, has_return)
        return tuple(sorted(self.connection.scalars(query)))

    def history(
        self,
        series: Collection[str] | None = None,
        *,
        since: str = "",
        columns: Sequence[str] = (names.Y,),
    ) -> pd.DataFrame:
        """unique_id, ds and `columns`, sorted by (unique_id, ds).

        `series` are symbols; None: all. `since` is the first session, as 2020-01-31. `columns` are
        some of COLUMNS; one that the data set lacks is NaN. Sectors are those of today. Raises
        NotFound for an unknown symbol, and BadParameter.
        """
        _check(series, columns)
        listed = self._listed(series)
        rows = self._rows(daily_returns, [names.Y], series, listed, _day(since))
        days = rows.column(names.DS)
        places = np.searchsorted(
            listed.column("id").to_numpy(), rows.column("symbol_id").to_numpy()
        )
        values = {
            names.UNIQUE_ID: _taken(listed, "symbol", places),
            names.DS: _nanoseconds(days),
            names.Y: rows.column(names.Y).to_numpy(),
            names.SECTOR: _taken(listed, names.SECTOR, places),
        }
        if chosen := [name for name in columns if name in PRICES]:
            priced = self._rows(prices, chosen, series, listed, _day(since))
            values |= _beside(bulk.packed(rows), priced, chosen)
        if chosen := [name for name in columns if name in MARKET]:
            market = self._market(chosen, _day(since))
            values |= _beside(bulk.packed(rows.select([names.DS])), market, chosen)
        order = [names.UNIQUE_ID, names.DS]
        frame = pd.DataFrame({name: values[name] for name in dict.fromkeys((*order, *columns))})
        return frame if _ascending(listed) else frame.sort_values(order, ignore_index=True)

    def market(self, *, since: str = "", columns: Sequence[str] = MARKET) -> pd.DataFrame:
        """ds and market columns (some of MARKET), sorted by ds. `since` is the first session."""
        for name in columns:
            checks.check_choice("a market column", name, MARKET)
        rows = self._market(columns, _day(since))
        values = {name: rows.column(name).to_numpy() for name in columns}
        return pd.DataFrame({names.DS: _nanoseconds(rows.column(names.DS)), **values})

    def _listed(self, series: Collection[str] | None) -> pa.Table:
        """id, symbol and sector of these symbols, by id. Raises NotFound."""
        c = symbols.c
        query = sa.select(c.id, c.symbol, c.sector).where(c.data == self.load.data).order_by(c.id)
        if series is not None:
            query = query.where(c.symbol.in_(list(series)))
        listed = bulk.select(self.connection, query)
        missing = sorted(set(series or ()) - set(listed.column("symbol").to_pylist()))
        if missing:
            shown = ", ".join(missing[:_LISTED])
            raise NotFound(f"{self.load.data} in the ledger has no symbol {shown}")
        return listed

    def _rows(
        self,
        table: sa.Table,
        columns: Sequence[str],
        series: Collection[str] | None,
        listed: pa.Table,
        since: date | None,
    ) -> pa.Table:
        """symbol_id, ds and columns of a table, in order."""
        c = table.c
        ids: Any = listed.column("id").to_pylist()
        if series is None:  # shorter than thousands of numbers
            ids = sa.select(symbols.c.id).where(symbols.c.data == self.load.data)
        query = observations.as_of(table, self.instant).where(c.symbol_id.in_(ids))
        if since is not None:
            query = query.where(c.ds >= since)
        chosen = query.with_only_columns(c.symbol_id, c.ds, *[c[name] for name in columns])
        return bulk.select(self.connection, chosen.order_by(c.symbol_id, c.ds))

    def _market(self, columns: Sequence[str], since: date | None) -> pa.Table:
        """ds and market columns, in order. One universe holds at an instant."""
        c = market_daily.c
        query = observations.as_of(market_daily, self.instant).where(c.data == self.load.data)
        if since is not None:
            query = query.where(c.ds >= since)
        chosen = query.with_only_columns(c.ds, *[c[name] for name in columns])
        return bulk.select(self.connection, chosen.order_by(c.ds))


def _load_of(connection: sa.Connection, data: str) -> Load:
    """The last complete load of a data set. Raises NotFound, and Conflict if there is none."""
    load = loads.completed(connection, data)
    if load is not None:
        return load
    for cut in loads.incomplete(connection, data):
        if cut.is_removal:
            raise NotFound(f"the ledger has no data set {data!r} any more: it is being removed")
        raise Conflict(
            f"the load of {data} into the ledger is not complete; "
            f"`python -m jobs data load {data}` goes on with it"
        )
    raise loads.missing(data)


def _beside(keys: Places, stored: pa.Table, columns: Sequence[str]) -> dict[str, Any]:
    """Values of each key [N]; NaN where there is none. `stored` is in the order of its keys."""
    places = pc.index_in(pa.array(keys), pa.array(bulk.packed(stored)))
    return {name: stored.column(name).take(places).to_numpy() for name in columns}


def _taken(listed: pa.Table, name: str, places: Places) -> Any:
    """A text of each row's symbol [N], as objects."""
    return listed.column(name).to_numpy()[places]


def _nanoseconds(days: pa.ChunkedArray) -> Dates:
    nanoseconds: Dates = days.to_numpy().astype("datetime64[ns]")
    return nanoseconds


def _ascending(listed: pa.Table) -> bool:
    """Whether symbols stand in the order of their ids."""
    found: list[str] = listed.column("symbol").to_pylist()
    return found == sorted(found)


def _check(series: Collection[str] | None, columns: Sequence[str]) -> None:
    if isinstance(series, str):
        raise BadParameter(f"series is the text {series[:64]!r}, expected several, as ['AAPL']")
    for name in columns:
        if name not in COLUMNS:
            raise BadParameter(f"no column {name[:64]!r}, expected some of {', '.join(COLUMNS)}")


def _day(since: str) -> date | None:
    try:
        return date.fromisoformat(since) if since else None
    except ValueError as error:
        raise BadParameter(f"since is {since[:64]!r}, expected a date like 2020-01-31") from error
