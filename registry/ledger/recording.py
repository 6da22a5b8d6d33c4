"""Write observations: new values are added, changed ones replace the old ones from an instant on.

The same rows again change nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa

from registry.forecast.arrays import Places
from registry.ledger import bulk
from registry.ledger.bulk import INSTANT, packed

_KEPT = ("known_from", "known_until", "assumed")


@dataclass(frozen=True)
class Counts:
    """What a write did to rows."""

    new: int = 0
    changed: int = 0  # to other values
    withdrawn: int = 0  # no longer there

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.new + other.new,
            self.changed + other.changed,
            self.withdrawn + other.withdrawn,
        )


@dataclass(frozen=True)
class Timing:
    """When what a load writes became known."""

    at: datetime  # the load
    before: datetime | None  # the complete load before it; None: there was none

    def begins(self, closes: pa.Array, seen: Any) -> tuple[pa.Array, pa.Array]:
        """From when values are known, and whether that is assumed: both [N].

        `closes` [N] are those of the sessions; `seen` [N] says whether the ledger has ever had a
        value there. New sessions count as known from their close if they closed since the load
        before, and so does one that closes in the future.
        """
        at = pa.scalar(self.at, INSTANT)
        since_before = pa.scalar(True) if self.before is None else pc.greater(closes, self.before)
        assumed = pc.or_(pc.greater(closes, at), pc.and_(since_before, pa.array(~seen)))
        return pc.if_else(assumed, closes, at), assumed


def observe(
    connection: sa.Connection,
    table: sa.Table,
    scope: sa.ColumnElement[bool],
    rows: pa.Table,
    closes: pa.Array,
    timing: Timing,
    *,
    whole: bool = True,
    keys: Callable[[pa.Table], Places] = packed,
) -> Counts:
    """Make the current rows of a scope those of `rows`; what was done.

    `scope` is a condition on `table` that says which keys `rows` is all of: those of some symbols,
    or of one universe. If it is not `whole`, keys that `rows` lacks stay as they are. `rows` [N]
    has the key and value columns, in the order of the key; `closes` [N] is when each session closed
    (timestamp[us, UTC]). `keys` makes one number of each row's key, in the order of keys.
    """
    stored = _stored(connection, table, scope)
    numbers, kept = keys(rows), keys(stored)
    current = np.flatnonzero(stored.column("known_until").is_null().to_numpy())
    found, places = _find(kept[current], numbers)
    differs = _differ(rows.take(found), stored.take(current[places]))
    changed, replaced = found[differs], current[places][differs]
    gone = np.delete(current, places) if whole else current[:0]
    new = np.delete(np.arange(len(numbers)), found)
    _end(connection, table, stored.take(np.concatenate([replaced, gone])), timing.at)
    written = np.sort(np.concatenate([new, changed]))
    seen = np.zeros(len(numbers), dtype=bool)
    seen[_find(kept, numbers)[0]] = True
    begins, assumed = timing.begins(closes.take(written), seen[written])
    added = rows.take(written).append_column("known_from", begins)
    bulk.insert(connection, table, added.append_column("assumed", assumed))
    return Counts(len(new), len(changed), len(gone))


def withdraw(
    connection: sa.Connection, table: sa.Table, scope: sa.ColumnElement[bool], timing: Timing
) -> Counts:
    """End the current rows of a scope."""
    rows = bulk.select(connection, sa.select(table).where(scope, table.c.known_until.is_(None)))
    _end(connection, table, rows, timing.at)
    return Counts(withdrawn=rows.num_rows)


def _stored(connection: sa.Connection, table: sa.Table, scope: sa.ColumnElement[bool]) -> pa.Table:
    """All rows of the scope, of the past too, in the order of the key."""
    return bulk.select(connection, sa.select(table).where(scope).order_by(*table.primary_key))


def _find(stored: Places, numbers: Places) -> tuple[Places, Places]:
    """Which of the numbers are stored, and the place of each there. `stored` is sorted."""
    if not len(stored):
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    places = np.minimum(np.searchsorted(stored, numbers), len(stored) - 1)
    found = np.flatnonzero(stored[places] == numbers)
    return found, places[found]


def _differ(rows: pa.Table, stored: pa.Table) -> Any:
    """Whether each row has another value than the stored one. Empty equals empty."""
    differ = np.zeros(rows.num_rows, dtype=bool)
    for name in stored.column_names:
        if name in rows.column_names and name not in _KEPT:
            differ |= _unequal(rows.column(name), stored.column(name))
    return differ


def _unequal(a: pa.ChunkedArray, b: pa.ChunkedArray) -> Any:
    both_empty = pc.and_(a.is_null(), b.is_null())
    equal = pc.or_(pc.fill_null(pc.equal(a, b), False), both_empty)
    return pc.invert(equal).to_numpy()


def _end(connection: sa.Connection, table: sa.Table, rows: pa.Table, at: datetime) -> None:
    """Let rows hold until an instant. Those that were not known by then were never known: they go.

    Such is a session that was loaded before its close.
    """
    if not rows.num_rows:
        return
    key = [column.name for column in table.primary_key]
    ended = sa.Table("ended", sa.MetaData(), prefixes=["TEMPORARY"])
    for name in key:
        ended.append_column(sa.Column(name, table.c[name].type))
    ended.create(connection)
    bulk.insert(connection, ended, rows.select(key))
    same = [table.c[name] == ended.c[name] for name in key]
    unknown = table.c.known_from >= at
    there = sa.exists().where(*same)
    connection.execute(sa.delete(table).where(unknown, there))
    connection.execute(sa.update(table).values(known_until=at).where(*same))
    ended.drop(connection)
