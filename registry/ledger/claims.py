"""Claims: rows that one process holds until they are completed, also across hosts.

The holder is a process, not a lock: it can be asked whether it still lives, and whoever finds a dead
one takes its row over. (What only concerns this machine is kept apart by `registry.files.locked`.)
"""

import getpass
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from registry.errors import Conflict
from registry.ledger import database

TIMEOUT = timedelta(minutes=15)  # a claim held longer by a process of another host counts as dead


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Columns of every table whose rows are claimed."""

    id: int
    host: str | None  # the holder; host, pid and start are empty once it let go
    pid: int | None
    process_started: str | None
    held_since: datetime
    completed_at: datetime | None

    @property
    def abandoned(self) -> bool:
        """True when nobody will complete it: let go, its process gone, or too old elsewhere."""
        if self.host is None or self.pid is None:
            return True
        alive = lives(Claimant(self.host, self.pid, self.process_started or ""))
        if alive is None:
            return now() - self.held_since > TIMEOUT
        return not alive


class Claims:
    """The claims of one table. `taken` makes the Conflict for a row that another process holds."""

    def __init__(
        self, engine: sa.Engine, table: sa.Table, taken: Callable[[Any], Conflict]
    ) -> None:
        self._engine, self._table, self._taken = engine, table, taken

    def take(self, claim: Claim) -> None:
        """Hold an abandoned claim from now on. Raises Conflict when another process was faster."""
        self.update(claim, **held_by_this_process(now()))

    def release(self, claim: Claim) -> None:
        """Let go of a claim after an error: whoever comes next completes it."""
        self.update(claim, host=None, pid=None, process_started=None)

    def check(self, claim: Claim) -> None:
        """Raise Conflict when another process took the claim over: it took this one for dead."""
        query = sa.select(self._table.c.id).where(*self._held(claim))
        with database.read(self._engine) as connection:
            if connection.scalar(query) is None:
                raise self._taken(claim)

    def update(self, claim: Claim, **values: Any) -> None:
        """Change a row that this process holds. Raises Conflict when it does not any more."""
        statement = sa.update(self._table).where(*self._held(claim)).values(**values)
        with database.write(self._engine) as connection:
            if connection.execute(statement).rowcount != 1:
                raise self._taken(claim)

    def _held(self, claim: Claim) -> list[sa.ColumnElement[bool]]:
        """The row, as long as the same process holds it and it is not completed."""
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


# --- processes ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Claimant:
    """A process: `started` is boot id and clock ticks since boot on Linux, empty elsewhere."""

    host: str
    pid: int
    started: str


def this_process() -> Claimant:
    return Claimant(socket.gethostname(), os.getpid(), _started(os.getpid()) or "")


def lives(claimant: Claimant) -> bool | None:
    """True or False for a process of this host; None for another host's, which cannot be asked."""
    if claimant.host != socket.gethostname():
        return None
    if Path("/proc/self/stat").exists():
        return _started(claimant.pid) == claimant.started
    try:
        os.kill(claimant.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is there, and somebody else's
        return True
    return True


def _started(pid: int) -> str | None:
    """Identity of a running process; None when it is gone or a zombie, or when there is no /proc."""
    try:
        # The name in parentheses may hold anything; the state follows the last parenthesis.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    return None if fields[0] in "ZX" else f"{boot}/{fields[19]}"


def user() -> str:
    """user@host, as a change is signed."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        name = f"uid{os.getuid()}"
    return f"{name}@{socket.gethostname()}"
