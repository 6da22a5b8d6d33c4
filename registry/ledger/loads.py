"""Loads of data sets into the ledger: one at a time, and one that was cut is taken up again.

All changes of a load are known from one instant, that of its first start.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from registry.errors import Conflict
from registry.ledger import claims, database
from registry.ledger.claims import Claim, Claims, now


@dataclass(frozen=True, kw_only=True)
class Load(Claim):
    """A row of `loads`."""

    data: Annotated[str, sa.String(64)]
    sequence: int  # 1, 2, ... within a data set
    digest: str  # of the data set
    known_from: datetime  # when its changes became known


loads = database.table(
    "loads",
    Load,
    sa.UniqueConstraint("data", "sequence", name="loads_data_sequence"),
)


@contextmanager
def loading(engine: sa.Engine, data: str, digest: str) -> Iterator[Load]:
    """Hold the load of a data set; an error releases it. Raises Conflict if another process does.

    A load of the same content that was cut is taken up again, with its instant.
    """
    held = Claims(engine, loads, _busy)
    load = _begin(engine, held, data, digest)
    try:
        yield load
    except BaseException:
        held.release(load)
        raise
    held.update(load, completed_at=now())


def last(engine: sa.Engine, data: str) -> Load | None:
    """The newest load of a data set."""
    with database.read(engine) as connection:
        return _newest(connection, loads.c.data == data)


def completed(connection: sa.Connection, data: str) -> Load | None:
    """The newest load of a data set that is complete."""
    return _newest(connection, loads.c.data == data, loads.c.completed_at.is_not(None))


def incomplete(connection: sa.Connection) -> list[Load]:
    """Loads that are not complete, in the order in which they began."""
    query = sa.select(loads).where(loads.c.completed_at.is_(None)).order_by(loads.c.id)
    return [Load(**row) for row in connection.execute(query).mappings()]


def _newest(connection: sa.Connection, *conditions: sa.ColumnElement[bool]) -> Load | None:
    query = sa.select(loads).where(*conditions).order_by(loads.c.sequence.desc()).limit(1)
    row = connection.execute(query).mappings().first()
    return Load(**row) if row else None


def _begin(engine: sa.Engine, held: Claims, data: str, digest: str) -> Load:
    before = last(engine, data)
    if before is None or before.completed_at is not None:
        return _claim(engine, data, digest, before)
    if not before.abandoned:
        raise _busy(before)
    held.take(before)
    taken = _there(engine, data)
    if taken.digest == digest:
        return taken
    held.update(taken, completed_at=now())
    return _claim(engine, data, digest, taken)


def _claim(engine: sa.Engine, data: str, digest: str, before: Load | None) -> Load:
    at = now()
    values = {
        "data": data,
        "sequence": before.sequence + 1 if before else 1,
        "digest": digest,
        "known_from": at,
        **claims.held_by_this_process(at),
    }
    try:
        with database.write(engine) as connection:
            connection.execute(sa.insert(loads).values(**values))
    except IntegrityError as error:
        raise _busy(_there(engine, data)) from error
    return _there(engine, data)


def _there(engine: sa.Engine, data: str) -> Load:
    load = last(engine, data)
    if load is None:
        raise RuntimeError(f"the load of {data} that was written is not there")
    return load


def _busy(load: Load) -> Conflict:
    since = f"{load.held_since:%Y-%m-%d %H:%M:%S} UTC"
    return Conflict(
        f"process {load.pid} on {load.host} loads {load.data} into the ledger since {since}; "
        "try again later"
    )
