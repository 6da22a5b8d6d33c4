"""Runs of nightly jobs: each key of a job is done once, by one process at a time.

with job_run(engine, "calibrate", "2026-11-26") as run:
    if run is not None:  # else it is done already
        ...
        run.complete(mlflow_run_id)

A kill between the work and `complete` leaves the run open, so that the next process does the work
again. `complete` within `run.transaction()` makes both of them one transaction:

with run.transaction() as connection:
    ...
    run.complete(mlflow_run_id)
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Annotated, Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from registry.errors import Conflict, KronosError
from registry.ledger import checks, claims, database
from registry.ledger.claims import Claim, Claims, now


@dataclass(frozen=True, kw_only=True)
class JobRun(Claim):
    """A row of `job_runs`."""

    job: Annotated[str, sa.String(64)]
    key: Annotated[str, sa.String(128)]  # of the work that is done once, such as a session
    run_id: str | None  # MLflow's, empty until completed


job_runs = database.table(
    "job_runs", JobRun, sa.UniqueConstraint("job", "key", name="job_runs_job_key")
)


class Held:
    """A run that this process holds."""

    def __init__(self, engine: sa.Engine, run: JobRun) -> None:
        self._engine = engine
        self._claims = Claims(engine, job_runs, _lost)
        self._connection: sa.Connection | None = None  # of the open transaction
        self.run = run

    @property
    def completed(self) -> bool:
        return self.run.completed_at is not None

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """A transaction that renews the hold. Raises Conflict if another process has the run.

        Another host takes over a run that was not renewed for `claims.TIMEOUT`.
        """
        before = self.run
        try:
            with database.write(self._engine) as connection:
                self._connection = connection
                self._change(connection, held_since=now())
                yield connection
        except BaseException:
            self.run = before
            raise
        finally:
            self._connection = None

    def complete(self, run_id: str) -> None:
        """The work of the key is done; within `transaction`, as soon as that is committed.

        Raises Conflict if another process has the run, and BadParameter.
        """
        checks.check_name("run_id", run_id)
        if self._connection is not None:
            self._change(self._connection, completed_at=now(), run_id=run_id)
            return
        with self.transaction():
            self.complete(run_id)

    def release(self) -> None:
        with suppress(KronosError):  # what ended the run is the error that counts
            self._claims.release(self.run)

    def _change(self, connection: sa.Connection, **values: Any) -> None:
        self._claims.update_with(connection, self.run, **values)
        self.run = replace(self.run, **values)


@contextmanager
def job_run(engine: sa.Engine, job: str, key: str) -> Iterator[Held | None]:
    """Hold the run of a key; None if it was completed before.

    A run that is left without `complete`, by an error or a kill, is taken up by the next process
    that comes. A process of another host cannot be checked, so that a job that works for more than
    15 minutes (`claims.TIMEOUT`) without a `transaction` may be taken over by another host. Raises
    Conflict if a living process holds the run, and BadParameter.
    """
    checks.check_name("job", job, 64)
    checks.check_name("key", key)
    run = _begin(engine, job, key)
    if run.completed_at is not None:
        yield None
        return
    held = Held(engine, run)
    try:
        yield held
    finally:
        if not held.completed:
            held.release()


def completed(engine: sa.Engine, job: str) -> list[str]:
    """Keys of a job that are done, sorted."""
    c = job_runs.c
    query = sa.select(c.key).where(c.job == job, c.completed_at.is_not(None))
    with database.read(engine) as connection:
        return sorted(connection.scalars(query))


def matching(engine: sa.Engine, job: str, prefix: str) -> list[JobRun]:
    """Runs of a job whose keys begin with a text, in the order in which they began."""
    c = job_runs.c
    query = sa.select(job_runs).where(c.job == job, c.key.startswith(prefix, autoescape=True))
    with database.read(engine) as connection:
        rows = connection.execute(query.order_by(c.id)).mappings().all()
    return [JobRun(**row) for row in rows]


def incomplete(connection: sa.Connection) -> list[JobRun]:
    """Runs that are not completed, in the order in which they began."""
    query = sa.select(job_runs).where(job_runs.c.completed_at.is_(None)).order_by(job_runs.c.id)
    return [JobRun(**row) for row in connection.execute(query).mappings()]


def _begin(engine: sa.Engine, job: str, key: str) -> JobRun:
    """The run of this key, completed or held by this process."""
    run = _find(engine, job, key)
    if run is None:
        return _claim(engine, job, key)
    return _take_up(engine, run)


def _take_up(engine: sa.Engine, run: JobRun) -> JobRun:
    """A run that is there, completed or, if it was abandoned, held by this process."""
    if run.completed_at is not None:
        return run
    if not run.abandoned:
        raise _busy(run)
    try:
        Claims(engine, job_runs, _lost).take(run)
    except Conflict:  # another process was faster, and may have completed the run
        return _take_up(engine, _there(engine, run.job, run.key))
    return _there(engine, run.job, run.key)


def _claim(engine: sa.Engine, job: str, key: str) -> JobRun:
    values = {"job": job, "key": key, **claims.held_by_this_process(now())}
    try:
        with database.write(engine) as connection:
            connection.execute(sa.insert(job_runs).values(**values))
    except IntegrityError:  # another process was faster
        return _take_up(engine, _there(engine, job, key))
    return _there(engine, job, key)


def _find(engine: sa.Engine, job: str, key: str) -> JobRun | None:
    query = sa.select(job_runs).where(job_runs.c.job == job, job_runs.c.key == key)
    with database.read(engine) as connection:
        row = connection.execute(query).mappings().first()
    return JobRun(**row) if row else None


def _there(engine: sa.Engine, job: str, key: str) -> JobRun:
    run = _find(engine, job, key)
    if run is None:
        raise RuntimeError(f"the run of {job} for {key} that was written is not there")
    return run


def _busy(run: JobRun) -> Conflict:
    since = f"{run.held_since:%Y-%m-%d %H:%M:%S} UTC"
    return Conflict(
        f"process {run.pid} on {run.host} runs {run.job} for {run.key} since {since}; "
        "try again later"
    )


def _lost(run: JobRun) -> Conflict:
    return Conflict(
        f"this process no longer holds the run of {run.job} for {run.key}: it was completed, or "
        "another process took it over"
    )
