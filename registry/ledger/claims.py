"""Claims: rows that one process holds until they are completed, also across hosts.

The holder is a process, not a lock: any process can check whether the holder still lives. The next
process to come takes over the row of a dead holder. (`registry.files.locked` is the lock for work
on this machine only.)
"""

import getpass
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from registry.errors import Conflict
from registry.ledger import database
from registry.processes import Process, lives, this_process
from registry.text import printable

TIMEOUT = timedelta(minutes=15)  # a claim held longer by another host counts as abandoned


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Columns of every table whose rows are claimed."""

    id: int
    host: str | None  # of the holder; host, pid and process_started are empty after a release
    pid: int | None
    process_started: str | None
    held_since: datetime
    completed_at: datetime | None

    @property
    def abandoned(self) -> bool:
        """True if nobody will complete it: it was released, its process died, or it timed out.

        Only a claim of another host times out, because its process cannot be checked from here.
        """
        if self.host is None or self.pid is None:
            return True
        alive = lives(Process(self.host, self.pid, self.process_started or ""))
        if alive is None:
            return now() - self.held_since > TIMEOUT
        return not alive


class Claims:
    """The claims of one table. `taken` makes the Conflict if another process holds the row."""

    def __init__(
        self, engine: sa.Engine, table: sa.Table, taken: Callable[[Any], Conflict]
    ) -> None:
        self._engine, self._table, self._taken = engine, table, taken

    def take(self, claim: Claim) -> None:
        """Take over an abandoned claim. Raises Conflict if another process was faster."""
        self.update(claim, **held_by_this_process(now()))

    def release(self, claim: Claim) -> None:
        """Give up a claim after an error. The next process to come completes it."""
        self.update(claim, host=None, pid=None, process_started=None)

    def check(self, claim: Claim) -> None:
        """Raise Conflict if another process took over the claim because this one seemed dead."""
        query = sa.select(self._table.c.id).where(*self._held(claim))
        with database.read(self._engine) as connection:
            if connection.scalar(query) is None:
                raise self._taken(claim)

    def update(self, claim: Claim, **values: Any) -> None:
        """Change a row that this process holds. Raises Conflict if it no longer holds the row."""
        with database.write(self._engine) as connection:
            self.update_with(connection, claim, **values)

    def update_with(self, connection: sa.Connection, claim: Claim, **values: Any) -> None:
        """The same within a transaction of the caller, which must not be completed on Conflict."""
        statement = sa.update(self._table).where(*self._held(claim)).values(**values)
        if connection.execute(statement).rowcount != 1:
            raise self._taken(claim)

    def _held(self, claim: Claim) -> list[sa.ColumnElement[bool]]:
        """Conditions: it is this row, it is not completed, and the same process still holds it."""
        columns = self._table.c
        conditions = [columns.id == claim.id, columns.completed_at.is_(None)]
        for key in ("host", "pid", "held_since"):
            conditions.append(columns[key].is_not_distinct_from(getattr(claim, key)))
        return conditions


def held_by_this_process(since: datetime) -> dict[str, Any]:
    """Columns of a claim that this process holds."""
    process = this_process()
    return {
        "host": process.host,
        "pid": process.pid,
        "process_started": process.started,
        "held_since": since,
    }


def now() -> datetime:
    return datetime.now(UTC)


def user() -> str:
    """The signature of a change: user@host."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # in a container the user may have no name
        name = f"uid{os.getuid()}"
    return f"{printable(name)}@{socket.gethostname()}"
