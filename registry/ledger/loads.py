"""Loads of data sets into the ledger: one at a time, and one that was cut is taken up again.

All changes of a load are known from one instant, that of its start. While a data set is removed, a
row that is not complete stands for the removal.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Annotated

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from registry.errors import Conflict, KronosError, NotFound
from registry.ledger import claims, database
from registry.ledger.claims import Claim, Claims, now

_REMOVAL = "removal"  # in place of a digest


@dataclass(frozen=True, kw_only=True)
class Load(Claim):
    """A row of `loads`."""

    data: Annotated[str, sa.String(64)]
    sequence: int  # 1, 2, ... within a data set
    digest: str  # of the data set
    calendar: str  # of its sessions
    known_from: datetime  # when its changes became known
    daily_returns: int | None  # rows that the data set has in each table; empty until completed
    prices: int | None
    market_daily: int | None

    @property
    def is_removal(self) -> bool:
        """Whether the row stands for the removal of the data set."""
        return self.digest == _REMOVAL


loads = database.table(
    "loads",
    Load,
    sa.UniqueConstraint("data", "sequence", name="loads_data_sequence"),
)


class Loading:
    """A load or a removal that this process holds."""

    def __init__(self, held: Claims, load: Load, before: Load | None) -> None:
        self._held = held
        self.load = load
        self.before = before  # the newest complete load of the data set

    @contextmanager
    def transaction(self, engine: sa.Engine) -> Iterator[sa.Connection]:
        """A transaction that renews the hold. Raises Conflict if another process has the load."""
        at = now()
        with database.write(engine) as connection:
            self._held.update_with(connection, self.load, held_since=at)
            yield connection
        self.load = replace(self.load, held_since=at)

    def complete(self, rows: Mapping[str, int]) -> None:
        """Write how many rows each table has."""
        self._held.update(self.load, completed_at=now(), **rows)

    def forget(self, connection: sa.Connection) -> None:
        """Delete the row of a removal that is done."""
        connection.execute(sa.delete(loads).where(loads.c.id == self.load.id))

    def release(self) -> None:
        with suppress(KronosError):  # what ended the load is the error that counts
            self._held.release(self.load)


@contextmanager
def loading(engine: sa.Engine, data: str, digest: str, calendar: str) -> Iterator[Loading]:
    """Hold the load of a data set; an error releases it.

    A load of the same content that was cut is taken up again, with its instant. Raises Conflict if
    another process loads or removes the data set, or if the ledger has it with another calendar.
    """
    _check_calendar(engine, data, calendar)
    held = Claims(engine, loads, _busy)
    load = _begin(engine, held, data, digest, calendar)
    # Read under the claim: the data set may have been removed since the check.
    with database.read(engine) as connection:
        before = completed(connection, data)
    with _released(Loading(held, load, before)) as work:
        yield work


@contextmanager
def removing(
    engine: sa.Engine, data: str, check: Callable[[sa.Connection], None]
) -> Iterator[Loading]:
    """Hold the removal of a data set, which readers no longer find; an error releases it.

    A removal or a load that was cut is taken over. `check` raises if the data set is needed: then
    nothing is changed. Raises NotFound, and Conflict if another process loads or removes the set.
    """
    held = Claims(engine, loads, _busy)
    with _released(Loading(held, _begin_removal(engine, held, data, check), None)) as work:
        yield work


@contextmanager
def _released(work: Loading) -> Iterator[Loading]:
    try:
        yield work
    except BaseException:
        work.release()
        raise


def _check_calendar(engine: sa.Engine, data: str, calendar: str) -> None:
    with database.read(engine) as connection:
        before = completed(connection, data)
    if before is not None and before.calendar != calendar:
        raise Conflict(
            f"the ledger has {data} with sessions of {before.calendar}, those of the data set are "
            f"of {calendar}: compile it under another name, and load that"
        )


def last(engine: sa.Engine, data: str) -> Load | None:
    """The newest load of a data set."""
    with database.read(engine) as connection:
        return _newest(connection, loads.c.data == data)


def completed(connection: sa.Connection, data: str) -> Load | None:
    """The newest load of a data set that is complete."""
    return _newest(connection, loads.c.data == data, loads.c.completed_at.is_not(None))


def needed(connection: sa.Connection, data: str) -> str:
    """The calendar of a data set, which is not removed before the transaction ends.

    Raises NotFound if no load of it is complete.
    """
    complete = (loads.c.data == data) & loads.c.completed_at.is_not(None)
    query = sa.select(loads.c.calendar).where(complete).limit(1).with_for_update(read=True)
    calendar: str | None = connection.scalar(query)
    if calendar is None:
        raise missing(data)
    return calendar


def missing(data: str) -> NotFound:
    """The error for a data set without a complete load."""
    return NotFound(
        f"the ledger has no data set {data!r}; `python -m jobs data load {data}` loads it"
    )


def completions(connection: sa.Connection) -> dict[str, datetime]:
    """When the newest complete load of each data set ended: another one is another state."""
    ended = sa.func.max(loads.c.completed_at, type_=loads.c.completed_at.type).label("ended")
    query = sa.select(loads.c.data, ended).where(loads.c.completed_at.is_not(None))
    rows = connection.execute(query.group_by(loads.c.data))
    return {row.data: row.ended for row in rows}


def incomplete(connection: sa.Connection, data: str = "") -> list[Load]:
    """Loads that are not complete, of one data set or of all, in the order in which they began."""
    query = sa.select(loads).where(loads.c.completed_at.is_(None)).order_by(loads.c.id)
    if data:
        query = query.where(loads.c.data == data)
    return [Load(**row) for row in connection.execute(query).mappings()]


def all_completed(connection: sa.Connection) -> list[Load]:
    """The newest complete load of each data set."""
    names = connection.scalars(sa.select(loads.c.data).distinct().order_by(loads.c.data)).all()
    found = [completed(connection, name) for name in names]
    return [load for load in found if load is not None]


def _newest(connection: sa.Connection, *conditions: sa.ColumnElement[bool]) -> Load | None:
    query = sa.select(loads).where(*conditions).order_by(loads.c.sequence.desc()).limit(1)
    row = connection.execute(query).mappings().first()
    return Load(**row) if row else None


def _begin(engine: sa.Engine, held: Claims, data: str, digest: str, calendar: str) -> Load:
    newest = last(engine, data)
    if newest is None or newest.completed_at is not None:
        return _claim(engine, data, digest, calendar, newest)
    if not newest.abandoned:
        raise _busy(newest)
    if newest.is_removal:
        raise Conflict(
            f"the removal of {data} from the ledger is not complete; "
            f"`python -m jobs data unload {data}` goes on with it"
        )
    held.take(newest)
    taken = _there(engine, data)
    if taken.digest != digest:  # other content than that of the load that was cut
        held.update(taken, digest=digest, calendar=calendar, known_from=now())
    return _there(engine, data)


def _claim(engine: sa.Engine, data: str, digest: str, calendar: str, before: Load | None) -> Load:
    try:
        with database.write(engine) as connection:
            _insert(connection, data, digest, calendar, before)
    except IntegrityError as error:
        raise _busy(_there(engine, data)) from error
    return _there(engine, data)


def _insert(
    connection: sa.Connection, data: str, digest: str, calendar: str, before: Load | None
) -> None:
    """Add a row after `before`. Raises IntegrityError if another process was faster."""
    at = now()
    values = {
        "data": data,
        "sequence": before.sequence + 1 if before else 1,
        "digest": digest,
        "calendar": calendar,
        "known_from": at,
        **claims.held_by_this_process(at),
    }
    connection.execute(sa.insert(loads).values(**values))


def _begin_removal(
    engine: sa.Engine, held: Claims, data: str, check: Callable[[sa.Connection], None]
) -> Load:
    """The row of the removal in place of all loads of the data set, in one transaction."""
    newest = last(engine, data)
    if newest is None:
        raise NotFound(f"the ledger has no data set {data!r}")
    if newest.completed_at is None and not newest.abandoned:
        raise _busy(newest)
    try:
        with database.write(engine) as connection:
            if newest.completed_at is None:
                at = now()
                holder = claims.held_by_this_process(at)
                held.update_with(connection, newest, digest=_REMOVAL, known_from=at, **holder)
            else:
                _insert(connection, data, _REMOVAL, newest.calendar, newest)
            others = (loads.c.data == data) & (loads.c.digest != _REMOVAL)
            connection.execute(sa.delete(loads).where(others))
            check(connection)  # last: writers that need the data set now wait, see `needed`
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
    work = f"loads {load.data} into" if not load.is_removal else f"removes {load.data} from"
    return Conflict(
        f"process {load.pid} on {load.host} {work} the ledger since {since}; try again later"
    )
