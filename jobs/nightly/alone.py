"""One nightly job at a time: of a var folder, and of a ledger on PostgreSQL.

Cron starts a job whether or not the one before has ended. The second one changes nothing, says who
is at work, and ends well.
"""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa

from registry import files
from registry.errors import Conflict
from registry.ledger import database
from registry.settings import Settings

_LOCK = "nightly.lock"
_HOLDER = "nightly.running.json"  # who holds the lock, for people
_KEY = 5_203_117_416  # PostgreSQL advisory lock of nightly jobs
_held: ContextVar[Path | None] = ContextVar("held", default=None)


@contextmanager
def alone(settings: Settings, job: str) -> Iterator[None]:
    """Run a block while no other process runs a nightly job. A job may call another one.

    Raises Conflict (ALREADY_RUNNING) at once if one does; the message names it and says since when.
    """
    lock = (settings.state_dir / _LOCK).absolute()
    if _held.get() == lock:
        yield
        return
    files.make_folder(lock.parent)
    holder = lock.with_name(_HOLDER)
    with ExitStack() as stack:
        try:
            stack.enter_context(files.locked(lock, busy="locked"))
        except Conflict as error:
            raise Conflict(_running(holder), code="ALREADY_RUNNING") from error
        stack.callback(holder.unlink, missing_ok=True)
        _say(holder, job)
        stack.enter_context(_of_ledger(settings))
        stack.callback(_held.reset, _held.set(lock))
        yield


@contextmanager
def _of_ledger(settings: Settings) -> Iterator[None]:
    """The lock of a ledger that several hosts share; PostgreSQL frees it with its connection."""
    engine = database.connect(settings.ledger)
    try:
        if engine.dialect.name != "postgresql":
            yield
            return
        with database.read(engine) as connection:
            if not connection.scalar(sa.select(sa.func.pg_try_advisory_lock(_KEY))):
                raise Conflict(
                    "a nightly job of this ledger runs on another host", code="ALREADY_RUNNING"
                )
            connection.commit()  # a session's lock; no transaction stays open
            yield
    finally:
        engine.dispose()


def _say(holder: Path, job: str) -> None:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    facts = {"job": job, "pid": os.getpid(), "host": socket.gethostname(), "since": since}
    files.write_together({holder: lambda path: path.write_text(json.dumps(facts) + "\n")})


def _running(holder: Path) -> str:
    """Who holds the lock, as far as it is known."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        facts = json.loads(holder.read_text())
        return (
            f"{facts['job']} is running: process {facts['pid']} on {facts['host']} since "
            f"{facts['since']}"
        )
    return "a nightly job is running"
