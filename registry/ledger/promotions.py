"""What must not be forgotten, in a database of its own: today the promotions, one row each.

A row is claim, lock and record. Inserting the model's next sequence number is the claim (the unique constraint lets one
process win), its holder alone may change it until it is completed, and its hash covers what was decided and the hash
of the row before. Times are UTC. A ledger in MLflow's own PostgreSQL database keeps apart by its tables' names.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from registry.errors import Conflict, Corrupt
from registry.ledger import claims, database
from registry.ledger.claims import Claimant
from registry.ledger.database import UtcTime
from registry.settings import Settings

CLAIM_TIMEOUT = timedelta(
    minutes=15
)  # a claim held longer by a process of another host counts as dead
GENESIS = "0" * 64
_DECIDED = (
    "model", "sequence", "action", "stage", "version", "from_version", "who", "why", "evidence", "claimed_at",
    "previous_hash",
)  # fmt: skip


metadata = sa.MetaData()

promotions = sa.Table(
    "promotions",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("model", sa.String(64), nullable=False),
    sa.Column("sequence", sa.Integer, nullable=False),  # 1, 2, ... per model
    sa.Column("action", sa.String(16), nullable=False),  # promote | rollback | adopt
    sa.Column("stage", sa.String(16), nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("from_version", sa.Integer),  # what was there before
    sa.Column("who", sa.Text, nullable=False),
    sa.Column("why", sa.Text, nullable=False),
    sa.Column("evidence", sa.Text, nullable=False),  # canonical JSON
    sa.Column("claimed_at", UtcTime, nullable=False),
    sa.Column("host", sa.Text),  # the holder; all three are empty once it let go without completing
    sa.Column("pid", sa.Integer),
    sa.Column("process_started", sa.Text),
    sa.Column(
        "held_since", UtcTime, nullable=False
    ),  # later than claimed_at when another process took over
    sa.Column("moved_at", UtcTime),  # empty in a completed row: withdrawn before anything moved
    sa.Column("completed_at", UtcTime),
    sa.Column("audit_run_id", sa.Text),
    sa.Column("previous_hash", sa.String(64), nullable=False),
    sa.Column("hash", sa.String(64), nullable=False),
    sa.UniqueConstraint("model", "sequence", name="promotions_model_sequence"),
)


@dataclass(frozen=True, kw_only=True)
class Record:
    """A row of `promotions`."""

    id: int
    model: str
    sequence: int
    action: str
    stage: str
    version: int
    from_version: int | None
    who: str
    why: str
    evidence: str
    claimed_at: datetime
    host: str | None
    pid: int | None
    process_started: str | None
    held_since: datetime
    moved_at: datetime | None
    completed_at: datetime | None
    audit_run_id: str | None
    previous_hash: str
    hash: str

    def to_json(self) -> dict[str, Any]:
        """The row with times as ISO 8601 and evidence as an object."""
        plain = {
            k: v.isoformat() if isinstance(v, datetime) else v for k, v in asdict(self).items()
        }
        return plain | {"evidence": json.loads(self.evidence)}

    @property
    def abandoned(self) -> bool:
        """True when nobody will complete this claim: let go, its process gone, or too old on another host."""
        if self.host is None or self.pid is None:
            return True
        living = claims.lives(Claimant(self.host, self.pid, self.process_started or ""))
        return not living if living is not None else now() - self.held_since > CLAIM_TIMEOUT


def now() -> datetime:
    return datetime.now(UTC)


# --- hash chain -------------------------------------------------------------------------------


def canonical(value: Mapping[str, Any]) -> str:
    """The one JSON text of a mapping: sorted keys, no blanks, ASCII, finite numbers."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def chain_hash(decided: Mapping[str, Any]) -> str:
    """sha256 over what was decided, which includes the hash of the row before."""
    known = {key: decided[key] for key in _DECIDED}
    claimed_at = known["claimed_at"].astimezone(UTC).isoformat(timespec="microseconds")
    return hashlib.sha256(canonical(known | {"claimed_at": claimed_at}).encode()).hexdigest()


def check_chain(records: Sequence[Record]) -> None:
    """Raise Corrupt, naming the first row of a model that was changed, removed or put in after the fact.

    Rows cut off at the end cannot be seen from here; each one's hash is also a tag of its audit run.
    """
    previous = GENESIS
    for number, record in enumerate(records, start=1):
        row = f"promotion {record.sequence} of {record.model}"
        if record.sequence != number:
            raise Corrupt(
                f"{row} follows promotion {number - 1}: a row of the ledger is missing",
                code="BROKEN_CHAIN",
            )
        if record.previous_hash != previous:
            raise Corrupt(
                f"{row} does not continue the row before it: one was exchanged", code="BROKEN_CHAIN"
            )
        if chain_hash(asdict(record)) != record.hash:
            raise Corrupt(
                f"{row} was changed after it was written: its hash differs", code="BROKEN_CHAIN"
            )
        previous = record.hash


# --- the database -----------------------------------------------------------------------------


class Ledger:
    """The ledger, opened and migrated. One per process, made by a main; close it when done.

    Raises BadConfig for a URI of the wrong form, KronosError LEDGER_UNAVAILABLE when the database cannot be reached.
    """

    def __init__(self, settings: Settings) -> None:
        self.engine = database.connect(settings.ledger)
        try:
            with database.write(self.engine) as connection:
                database.migrate(connection)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self.engine.dispose()

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- read -----------------------------------------------------------------------------

    def models(self) -> list[str]:
        """Names that have promotions."""
        with database.read(self.engine) as connection:
            return sorted(connection.scalars(sa.select(promotions.c.model).distinct()))

    def records(self, model: str) -> list[Record]:
        """All promotions of a model in sequence, unfinished and withdrawn ones too."""
        query = (
            sa.select(promotions).where(promotions.c.model == model).order_by(promotions.c.sequence)
        )
        with database.read(self.engine) as connection:
            return [Record(**row) for row in connection.execute(query).mappings()]

    def record(self, model: str, sequence: int) -> Record:
        """One promotion, as it is now."""
        c = promotions.c
        with database.read(self.engine) as connection:
            query = sa.select(promotions).where(c.model == model, c.sequence == sequence)
            return Record(**connection.execute(query).mappings().one())

    def verify_chain(self, model: str) -> None:
        """Raise Corrupt unless every row of the model is what was written."""
        check_chain(self.records(model))

    # --- write ----------------------------------------------------------------------------

    def claim(
        self,
        model: str,
        last: Record | None,
        *,
        action: str,
        stage: str,
        version: int,
        from_version: int | None,
        who: str,
        why: str,
        evidence: Mapping[str, Any],
    ) -> Record:
        """The row after `last`, held by this process. Raises Conflict when another process was faster."""
        at, me = now(), claims.this_process()
        decided = {
            "model": model, "sequence": last.sequence + 1 if last else 1, "action": action, "stage": stage,
            "version": version, "from_version": from_version, "who": who, "why": why,
            "evidence": canonical(evidence), "claimed_at": at, "previous_hash": last.hash if last else GENESIS,
        }  # fmt: skip
        holder = {"host": me.host, "pid": me.pid, "process_started": me.started, "held_since": at}
        insert = sa.insert(promotions).values(**decided, **holder, hash=chain_hash(decided))
        try:
            with database.write(self.engine) as connection:
                connection.execute(insert)
        except IntegrityError as error:
            raise self._taken(model) from error
        return self.record(model, last.sequence + 1 if last else 1)

    def take(self, record: Record) -> Record:
        """An abandoned claim, now held by this process. Raises Conflict when another process took it first."""
        me = claims.this_process()
        holder = {
            "host": me.host,
            "pid": me.pid,
            "process_started": me.started,
            "held_since": now(),
        }
        self._update(record, **holder)
        return self.record(record.model, record.sequence)

    def check_held(self, record: Record) -> None:
        """Raise Conflict when another process took this claim over: it took us for dead, we must not go on."""
        with database.read(self.engine) as connection:
            if connection.scalar(sa.select(promotions.c.id).where(*_held(record))) is None:
                raise self._taken(record.model)

    def moving(self, record: Record) -> None:
        """What is served changes now."""
        self._update(record, moved_at=now())

    def audited(self, record: Record, run_id: str) -> None:
        self._update(record, audit_run_id=run_id)

    def complete(self, record: Record) -> None:
        at = now()
        self._update(
            record,
            moved_at=sa.func.coalesce(promotions.c.moved_at, sa.literal(at, UtcTime)),
            completed_at=at,
        )

    def withdraw(self, record: Record) -> None:
        """Give up a claim that moved nothing."""
        self._update(record, moved_at=None, completed_at=now())

    def release(self, record: Record) -> None:
        """Let go of a claim after an error: whoever comes next completes it."""
        self._update(record, host=None, pid=None, process_started=None)

    @contextmanager
    def holding(self, record: Record) -> Iterator[None]:
        """Work under a claim; an error lets go of it."""
        try:
            yield
        except BaseException:
            self.release(record)
            raise

    def _update(self, record: Record, **values: Any) -> None:
        with database.write(self.engine) as connection:
            if (
                connection.execute(
                    sa.update(promotions).where(*_held(record)).values(**values)
                ).rowcount
                != 1
            ):
                raise self._taken(record.model)

    def _taken(self, model: str) -> Conflict:
        return busy(self.records(model)[-1])


def busy(record: Record) -> Conflict:
    """Who is, or was, faster."""
    what = f"{record.action} version {record.version} to {record.stage}"
    since = f"{record.claimed_at:%Y-%m-%d %H:%M:%S} UTC"
    if record.completed_at is None:
        holder = f"process {record.pid} on {record.host}"
        return Conflict(
            f"{record.who} is changing {record.model} since {since} ({what}; {holder}); try again later"
        )
    return Conflict(
        f"{record.who} changed {record.model} first, at {since} ({what}); look at its history, then try again"
    )


def _held(record: Record) -> list[sa.ColumnElement[bool]]:
    """The row, as long as the same process holds it and it is not completed."""
    c = promotions.c
    same = [
        c[key].is_not_distinct_from(getattr(record, key)) for key in ("host", "pid", "held_since")
    ]
    return [c.id == record.id, c.completed_at.is_(None), *same]
