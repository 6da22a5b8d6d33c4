"""Tables of few rows with a past: a changed row ends the old one, and nothing is overwritten.

Like observations, a row holds from `known_from` until `known_until` (empty: it still holds), and
`observations.as_of` reads it. The instant of a change is taken just before its write.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import pandas as pd
import sqlalchemy as sa

from registry.errors import BadParameter, Conflict
from registry.ledger import checks, database, observations
from registry.ledger.claims import now
from registry.ledger.instants import Day, Instant
from registry.ledger.recording import Counts

Row = Mapping[str, Any]
_BATCH = 200  # keys in one query


def revised(
    name: str, keys: "Sequence[sa.Column[Any]]", values: "Sequence[sa.Column[Any]]"
) -> sa.Table:
    """A table of revised rows. Its index admits one row of a key that still holds."""
    holds = sa.text("known_until IS NULL")
    return sa.Table(
        name,
        database.metadata,
        *keys,
        sa.Column("known_from", Instant, primary_key=True),
        sa.Column("known_until", Instant),
        *values,
        sa.Index(
            f"{name}_current",
            *[column.name for column in keys],
            unique=True,
            sqlite_where=holds,
            postgresql_where=holds,
        ),
        sqlite_with_rowid=False,
    )


def key_columns(table: sa.Table) -> list[str]:
    """The columns that name what a row is about."""
    return [column.name for column in table.primary_key if column.name != "known_from"]


@contextmanager
def alone(engine: sa.Engine, table: sa.Table) -> Iterator[sa.Connection]:
    """A transaction in which nobody else writes to the table. Readers go on."""
    with database.write(engine) as connection:
        if connection.dialect.name == "postgresql":  # SQLite has one writer at a time
            connection.execute(sa.text(f"LOCK TABLE {table.name} IN SHARE ROW EXCLUSIVE MODE"))
        yield connection


def record(engine: sa.Engine, table: sa.Table, rows: Iterable[Row]) -> Counts:
    """`revise` in a transaction of its own, known from the instant just before it writes."""
    with alone(engine, table) as connection:
        return revise(connection, table, rows, now())


def revise(connection: sa.Connection, table: sa.Table, rows: Iterable[Row], at: datetime) -> Counts:
    """Let rows hold from an instant on, within `alone`; those that hold already change nothing.

    A row has all key and value columns. Raises BadParameter if two rows have one key and other
    values, and Conflict if a key that changes was last written at the instant or after it.
    """
    given = by_key(table, rows)
    newest = _newest(table, stored(connection, table, given))
    current = {key: row for key, row in newest.items() if row["known_until"] is None}
    new = [key for key in given if key not in current]
    for key in new:
        if key in newest:
            _check_clock(table, newest[key], at)
    kept = [key for key in given if key in current]
    changed = [key for key in kept if differs(current[key], given[key])]
    end(connection, table, [current[key] for key in changed], at)
    written = [{**given[key], "known_from": at} for key in (*new, *changed)]
    if written:
        connection.execute(sa.insert(table), written)
    return Counts(len(new), len(changed))


def end(connection: sa.Connection, table: sa.Table, rows: Sequence[Row], at: datetime) -> None:
    """Let stored rows hold until an instant. Raises Conflict if one is not known before it."""
    for row in rows:
        _check_clock(table, row, at)
    columns = [*key_columns(table), "known_from"]
    same = [table.c[name] == sa.bindparam(f"_{name}") for name in columns]
    keys = [{f"_{name}": row[name] for name in columns} for row in rows]
    if keys:
        connection.execute(sa.update(table).where(*same).values(known_until=at), keys)


def _check_clock(table: sa.Table, newest: Row, at: datetime) -> None:
    """Raise Conflict if the newest row of a key was written or ended too late for a change."""
    ended = newest["known_until"]
    if newest["known_from"] < at and (ended is None or ended <= at):
        return
    raise Conflict(
        f"a row of {table.name} was written at {ended or newest['known_from']}, which is not "
        f"before {at}, now: set this host's clock, or that of the host that wrote the row"
    )


def by_key(table: sa.Table, rows: Iterable[Row]) -> dict[tuple[Any, ...], Row]:
    """Rows by their keys. Raises BadParameter if two have one key and other values."""
    keyed: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        key = _key(table, row)
        if key in keyed and differs(keyed[key], row):
            raise BadParameter(f"two rows for {table.name} have one key and other values")
        keyed[key] = row
    return keyed


def _newest(table: sa.Table, rows: Iterable[Row]) -> dict[tuple[Any, ...], Row]:
    """The newest row of each key, of rows that come oldest first."""
    return {_key(table, row): row for row in rows}


def _key(table: sa.Table, row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in key_columns(table))


def differs(stored: Row, row: Row) -> bool:
    """Whether a row has another value than the stored one."""
    return any(stored[name] != row[name] for name in row)


def stored(
    connection: sa.Connection,
    table: sa.Table,
    keys: Iterable[tuple[Any, ...]],
    *conditions: sa.ColumnElement[bool],
) -> list[Row]:
    """Rows of these keys, of the past too, oldest first."""
    wanted = list(keys)
    key = sa.tuple_(*[table.c[name] for name in key_columns(table)])
    found: list[Row] = []
    for start in range(0, len(wanted), _BATCH):
        of_keys = key.in_(wanted[start : start + _BATCH])
        query = sa.select(table).where(of_keys, *conditions).order_by(table.c.known_from)
        found.extend(dict(row) for row in connection.execute(query).mappings())
    return found


def known(
    engine: sa.Engine,
    table: sa.Table,
    *conditions: sa.ColumnElement[bool],
    order: Sequence[str],
    as_of: datetime | None = None,
) -> pd.DataFrame:
    """Rows that were known at an instant (None: now), sorted. Raises BadParameter without a zone.

    Sessions are datetime64[ns], instants datetime64[us, UTC], decimals are Decimal.
    """
    instant = now() if as_of is None else as_of
    checks.check_instant("as_of", instant)
    query = observations.as_of(table, instant).where(*conditions)
    columns = [column for column in table.columns if column.name != "known_until"]
    with database.read(engine) as connection:
        rows = connection.execute(query.with_only_columns(*columns)).all()
    frame = pd.DataFrame(rows, columns=[column.name for column in columns])
    for column in columns:
        if isinstance(column.type, Day):
            frame[column.name] = pd.to_datetime(frame[column.name]).astype("datetime64[ns]")
        elif isinstance(column.type, Instant):
            frame[column.name] = pd.to_datetime(frame[column.name], utc=True).dt.as_unit("us")
    return frame.sort_values(list(order), ignore_index=True)
