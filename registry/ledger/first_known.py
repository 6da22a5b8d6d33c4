"""Returns as they were first known, by session: what forecasts are judged by.

A return that is restated later keeps its first value here.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import sqlalchemy as sa

from registry.errors import Corrupt
from registry.forecast import names
from registry.forecast.arrays import Floats, Places
from registry.ledger import bulk
from registry.ledger.bulk import packed
from registry.ledger.observations import daily_returns, symbols

_TOGETHER = 500_000  # returns that are read at a time, about


@dataclass(frozen=True, eq=False)
class Listed:
    """The S symbols of a data set: sorted by name, and where each id stands among them."""

    names: "np.ndarray[Any, np.dtype[np.object_]]"  # [S] sorted
    ids: Places  # [S] sorted
    places_of_ids: Places  # [S] place in `names` of each of `ids`

    @classmethod
    def of(cls, connection: sa.Connection, data: str) -> "Listed":
        c = symbols.c
        query = sa.select(c.id, c.symbol).where(c.data == data).order_by(c.id)
        rows = bulk.select(connection, query)
        unsorted = np.array(rows.column("symbol").to_pylist(), dtype=object)
        sort = np.argsort(unsorted, kind="stable")
        places = np.empty(len(sort), dtype=np.int64)
        places[sort] = np.arange(len(sort))
        return cls(unsorted[sort], rows.column("id").to_numpy(), places)

    def places(self, ids: Places) -> Places:
        """Place in `names` of each id. Raises Corrupt for one that is not listed."""
        near = np.minimum(np.searchsorted(self.ids, ids), max(len(self.ids) - 1, 0))
        if len(ids) and (not len(self.ids) or (self.ids[near] != ids).any()):
            raise Corrupt("the ledger has a forecast of a symbol that it lost; see `doctor`")
        return self.places_of_ids[near]


def by_session(
    connection: sa.Connection,
    data: str,
    listed: Listed,
    sessions: Sequence[date],
    instant: datetime,
) -> Iterator[tuple[date, Floats]]:
    """The first known return [S] of each symbol in each of the ascending sessions.

    NaN where no return was known at the instant. Memory stays bounded, however many sessions.
    """
    together = max(1, _TOGETHER // max(1, len(listed.ids)))
    for start in range(0, len(sessions), together):
        some = sessions[start : start + together]
        values = _values(connection, data, listed, some, instant)
        yield from zip(some, values, strict=True)


def came_late(connection: sa.Connection, data: str, after: datetime, until: datetime) -> bool:
    """Whether a return came after its session's close, and after one instant until another."""
    c = daily_returns.c
    of_data = sa.select(symbols.c.id).where(symbols.c.data == data)
    late = sa.exists().where(
        ~c.assumed, c.symbol_id.in_(of_data), c.known_from > after, c.known_from <= until
    )
    return bool(connection.scalar(sa.select(late)))


def _values(
    connection: sa.Connection,
    data: str,
    listed: Listed,
    sessions: Sequence[date],
    instant: datetime,
) -> Floats:
    """Returns [T, S] of T sessions."""
    values = np.full((len(sessions), len(listed.ids)), np.nan)
    rows = first_rows(connection, data, sessions[0], sessions[-1], instant)
    days = rows.column(names.DS).to_numpy().astype("datetime64[D]")
    wanted = np.array(sessions, dtype="datetime64[D]")
    near = np.minimum(np.searchsorted(wanted, days), len(wanted) - 1)
    kept = wanted[near] == days
    places = listed.places(rows.column("symbol_id").to_numpy())
    values[near[kept], places[kept]] = rows.column(names.Y).to_numpy()[kept]
    return values


def first_rows(
    connection: sa.Connection, data: str, since: date, until: date, instant: datetime
) -> pa.Table:
    """symbol_id, ds and y of each first known return from one session to another, by key."""
    c = daily_returns.c
    of_data = sa.select(symbols.c.id).where(symbols.c.data == data)
    query = sa.select(c.symbol_id, c.ds, c.y).where(
        c.symbol_id.in_(of_data),
        c.ds >= since,
        c.ds <= until,
        c.known_from <= instant,
        c.y.is_not(None),
    )
    rows = bulk.select(connection, query.order_by(c.symbol_id, c.ds, c.known_from))
    keys = packed(rows)
    first = np.ones(len(keys), dtype=bool)
    first[1:] = keys[1:] != keys[:-1]
    return rows if first.all() else rows.filter(pa.array(first))
