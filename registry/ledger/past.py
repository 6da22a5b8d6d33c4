"""Sessions of a data set with all values that were ever known: read once, cut at many instants.

A cut is what `archive.Known.history` reads at the instant, as arrays.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import sqlalchemy as sa

from registry.forecast import names
from registry.forecast.arrays import Dates, Floats, Places
from registry.forecast.history import History
from registry.ledger import bulk, instants
from registry.ledger.archive import Known
from registry.ledger.first_known import Listed
from registry.ledger.instants import Instant
from registry.ledger.observations import (
    MARKET,
    PRICES,
    daily_returns,
    market_daily,
    prices,
    symbols,
)

_FOREVER = np.iinfo(np.int64).max
_DAYS = 1 << 24  # more than any day since 1970; packs (symbol, day) into one number
_FIRST = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, eq=False)
class _Rows:
    """Values of a table, in the order of their keys; each held from an instant until another."""

    keys: Places  # [R] place of the symbol, and day
    days: Places  # [R] since 1970
    begins: Places  # [R] microseconds since 1970
    ends: Places  # [R]
    columns: Mapping[str, Floats]  # each [R]

    def known(self, since: int, until: int, at: int) -> Places:
        """Places of the values that were known at an instant, of the days since .. until."""
        of_days = (self.days >= since) & (self.days <= until)
        return np.flatnonzero(of_days & (self.begins <= at) & (self.ends > at))

    def beside(self, keys: Places, known: Places) -> dict[str, Floats]:
        """Values [M] of the known rows that have these keys [M]; NaN where none has."""
        stored = self.keys[known]
        near = np.minimum(np.searchsorted(stored, keys), max(len(stored) - 1, 0))
        there = stored[near] == keys if len(stored) else np.zeros(len(keys), dtype=bool)
        values = {}
        for name, column in self.columns.items():
            values[name] = np.full(len(keys), np.nan)
            values[name][there] = column[known[near[there]]]
        return values


@dataclass(frozen=True, eq=False)
class Past:
    """What was ever known of a data set from one session to another."""

    symbols: "np.ndarray[Any, np.dtype[np.object_]]"  # [S] sorted
    columns: tuple[str, ...]  # in the order asked for
    _returns: _Rows
    _prices: _Rows | None  # None: no such column was asked for
    _market: _Rows | None

    @classmethod
    def read(cls, known: Known, since: date, until: date, columns: Sequence[str]) -> "Past":
        """Read y and other `columns`, some of PRICES and MARKET; none is known after `known`."""
        listed = Listed.of(known.connection, known.load.data)
        reader = _Reader(known, listed, since, until)
        of_prices = [name for name in columns if name in PRICES]
        of_market = [name for name in columns if name in MARKET]
        return cls(
            listed.names,
            tuple(columns),
            reader.of_symbols(daily_returns, [names.Y]),
            reader.of_symbols(prices, of_prices) if of_prices else None,
            reader.of_market(of_market) if of_market else None,
        )

    def history(self, since: date, cutoff: date, instant: datetime) -> History:
        """The sessions since .. cutoff as they were known at an instant. Nothing is checked."""
        first, last, at = _day(since), _day(cutoff), _microseconds(instant)
        rows = self._returns.known(first, last, at)
        keys, days = self._returns.keys[rows], self._returns.days[rows]
        values = {names.Y: self._returns.columns[names.Y][rows]}
        if self._prices is not None:
            values |= self._prices.beside(keys, self._prices.known(first, last, at))
        if self._market is not None:
            values |= self._market.beside(days, self._market.known(first, last, at))
        places = keys // _DAYS
        starts = np.flatnonzero(np.diff(places, prepend=-1))
        return History(
            ids=tuple(self.symbols[places[starts]].tolist()),
            bounds=np.append(starts, len(places)),
            ds=days.astype("datetime64[D]"),
            columns={name: values[name] for name in self.columns},
        )


@dataclass(frozen=True)
class _Reader:
    """Reads tables from one session to another."""

    known: Known
    listed: Listed
    since: date
    until: date

    def of_symbols(self, table: sa.Table, columns: Sequence[str]) -> _Rows:
        c = table.c
        of_data = sa.select(symbols.c.id).where(symbols.c.data == self.known.load.data)
        query = self._query(table, [c.symbol_id, c.ds], columns).where(c.symbol_id.in_(of_data))
        rows = bulk.select(self.known.connection, query)
        places = self.listed.places(rows.column("symbol_id").to_numpy())
        return self._rows(rows, places, columns)

    def of_market(self, columns: Sequence[str]) -> _Rows:
        c = market_daily.c
        query = self._query(market_daily, [c.ds], columns).where(c.data == self.known.load.data)
        rows = bulk.select(self.known.connection, query)
        return self._rows(rows, np.zeros(rows.num_rows, dtype=np.int64), columns)

    def _query(
        self, table: sa.Table, key: "Sequence[sa.Column[Any]]", columns: Sequence[str]
    ) -> sa.Select[Any]:
        """Key, instants and values. Instants are empty where they are what they are for most rows.

        On SQLite each value is an object, but one that is empty costs little.
        """
        c = table.c
        usual = c.assumed & c.known_until.is_(None)
        begins = sa.type_coerce(sa.case((usual, sa.null()), else_=c.known_from), Instant)
        values = [c[name] for name in columns]
        query = sa.select(*key, begins.label("begins"), c.known_until.label("ends"), *values)
        return query.where(
            c.ds >= self.since, c.ds <= self.until, c.known_from <= self.known.instant
        )

    def _rows(self, rows: pa.Table, places: Places, columns: Sequence[str]) -> _Rows:
        days = rows.column(names.DS).to_numpy().astype("datetime64[D]")
        begins = _filled(rows, "begins", self._closes(days))
        ends = _filled(rows, "ends", np.full(len(days), _FOREVER))
        since_1970 = days.view(np.int64)
        keys = places * _DAYS + since_1970
        sort = np.lexsort((begins, keys))
        values = {name: rows.column(name).to_numpy()[sort] for name in columns}
        return _Rows(keys[sort], since_1970[sort], begins[sort], ends[sort], values)

    def _closes(self, days: Dates) -> Places:
        """When sessions closed: values that are assumed were known from then."""
        unique, places = np.unique(days, return_inverse=True)
        closes: Places = instants.closes_of(self.known.load.calendar, unique).view(np.int64)
        return closes[places]


def _filled(rows: pa.Table, name: str, usual: Places) -> Places:
    """Instants as microseconds since 1970; the usual ones where they are empty."""
    column = rows.column(name)
    given = column.cast(pa.int64()).fill_null(0).to_numpy()
    return np.where(column.is_null().to_numpy(), usual, given)


def _day(session: date) -> int:
    return int(np.datetime64(session, "D").astype(np.int64))


def _microseconds(instant: datetime) -> int:
    since_1970 = instant - _FIRST
    return (since_1970.days * 86_400 + since_1970.seconds) * 1_000_000 + since_1970.microseconds
