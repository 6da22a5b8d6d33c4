"""Write observations: new values are added, changed ones replace the old ones from an instant on.

The same rows again change nothing.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa

from registry.forecast import names
from registry.forecast.arrays import Places
from registry.ledger import bulk
from registry.ledger.bulk import INSTANT

_DAYS = 1 << 24  # more than any day since 1970; packs (symbol, day) into one number
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


def observe(
    connection: sa.Connection,
    table: sa.Table,
    scope: sa.ColumnElement[bool],
    rows: pa.Table,
    closes: pa.Array,
    at: datetime,
) -> Counts:
    """Make the current rows of a scope those of `rows`; what was done.

    `scope` is a condition on `table` that says which keys `rows` is all of: those of some symbols,
    or of one universe. `rows` [N] has the key and value columns, sorted by key; `closes` [N] is
    when each session closed (timestamp[us, UTC]). First values are known from then, changes from
    `at`.
    """
    stored = _stored(connection, table, scope)
    numbers, kept = _packed(rows), _packed(stored)
    current = np.flatnonzero(stored.column("known_until").is_null().to_numpy())
    found, places = _find(kept[current], numbers)
    differs = _differ(rows.take(found), stored.take(current[places]))
    changed, replaced = found[differs], current[places][differs]
    gone = np.delete(current, places)
    new = np.delete(np.arange(len(numbers)), found)
    was_there, _ = _find(kept, numbers[new])
    again, first = new[was_there], np.delete(new, was_there)  # withdrawn before; never seen
    newest = stored.take(np.searchsorted(kept, numbers[again], side="right") - 1)
    ends = _ends(stored.take(replaced), at)
    _end(connection, table, stored.take(replaced), ends)
    _end(connection, table, stored.take(gone), _ends(stored.take(gone), at))
    _add(connection, table, rows.take(changed), ends, assumed=False)
    begins = _later(newest.column("known_until"), at)
    _add(connection, table, rows.take(again), begins, assumed=False)
    _add(connection, table, rows.take(first), closes.take(first), assumed=True)
    return Counts(len(new), len(changed), len(gone))


def withdraw(
    connection: sa.Connection, table: sa.Table, scope: sa.ColumnElement[bool], at: datetime
) -> Counts:
    """End the current rows of a scope."""
    rows = bulk.select(connection, sa.select(table).where(scope, table.c.known_until.is_(None)))
    _end(connection, table, rows, _ends(rows, at))
    return Counts(withdrawn=rows.num_rows)


def _stored(connection: sa.Connection, table: sa.Table, scope: sa.ColumnElement[bool]) -> pa.Table:
    """All rows of the scope, of the past too, in the order of the key."""
    return bulk.select(connection, sa.select(table).where(scope).order_by(*table.primary_key))


def _packed(rows: pa.Table) -> Places:
    """The key of each row within a scope as a number, in the order of the rows."""
    days: Places = rows.column(names.DS).cast(pa.int32()).to_numpy().astype(np.int64)
    if "symbol_id" not in rows.column_names:
        return days
    packed: Places = rows.column("symbol_id").to_numpy() * _DAYS + days
    return packed


def _find(stored: Places, numbers: Places) -> tuple[Places, Places]:
    """Which of the numbers are stored, and the place of each there. Both are sorted."""
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


def _ends(rows: pa.Table, at: datetime) -> pa.Array:
    """When rows end: at this instant, or just after they begin.

    A session that was loaded before its close begins in the future.
    """
    begins = pc.add(rows.column("known_from").cast(pa.int64()), 1)
    return _later(begins, at)


def _later(instants: pa.ChunkedArray, at: datetime) -> pa.Array:
    """Each instant, or `at` if that is later."""
    asked = pa.scalar(at, INSTANT).cast(pa.int64())
    later = pc.max_element_wise(instants.cast(pa.int64()), asked)
    return pa.chunked_array(later).combine_chunks().cast(INSTANT)


def _end(connection: sa.Connection, table: sa.Table, rows: pa.Table, ends: pa.Array) -> None:
    """Write when these rows end."""
    if not rows.num_rows:
        return
    key = [column.name for column in table.primary_key]
    columns = [sa.Column(name, table.c[name].type) for name in (*key, "known_until")]
    ended = sa.Table("ended", sa.MetaData(), *columns, prefixes=["TEMPORARY"])
    ended.create(connection)
    bulk.insert(connection, ended, rows.select(key).append_column("known_until", ends))
    same = [table.c[name] == ended.c[name] for name in key]
    connection.execute(sa.update(table).values(known_until=ended.c.known_until).where(*same))
    ended.drop(connection)


def _add(
    connection: sa.Connection,
    table: sa.Table,
    rows: pa.Table,
    known_from: pa.Array,
    *,
    assumed: bool,
) -> None:
    flags = pa.array(np.full(rows.num_rows, assumed))
    whole = rows.append_column("known_from", known_from).append_column("assumed", flags)
    bulk.insert(connection, table, whole)
