"""The promotions. One row is the claim, the lock and the record of one change of stages.

A process claims a model by inserting the model's next sequence number. The unique constraint lets
one process win. Only the holder may change the row, until the row is completed. The row's hash
covers the decision and the hash of the row before it. Times are UTC.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Annotated, Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from registry.errors import Conflict, Corrupt
from registry.ledger import claims, database
from registry.ledger.claims import Claim, Claims, now
from registry.settings import Settings

GENESIS = "0" * 64
# Columns that the hash covers.
_DECIDED = (
    "model", "sequence", "action", "stage", "version", "from_version", "who", "why", "evidence",
    "claimed_at", "previous_hash",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Decision:
    """A change of stages that may be carried out."""

    model: str
    action: str
    stage: str
    version: int
    from_version: int | None  # in the stage before the change
    evidence: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Record(Claim):
    """A row of `promotions`."""

    model: Annotated[str, sa.String(64)]
    sequence: int  # 1, 2, ... within a model
    action: Annotated[str, sa.String(16)]  # promote | rollback | adopt
    stage: Annotated[str, sa.String(16)]
    version: int
    from_version: int | None  # in the stage before the change
    who: str
    why: str
    evidence: str  # canonical JSON
    claimed_at: datetime  # earlier than held_since if another process took over
    moved_at: datetime | None  # empty in a completed row: it was withdrawn before anything moved
    audit_run_id: str | None
    previous_hash: Annotated[str, sa.String(64)]
    hash: Annotated[str, sa.String(64)]

    @property
    def facts(self) -> dict[str, Any]:
        """The evidence as an object. Raises Corrupt if it was garbled."""
        try:
            facts = dict(json.loads(self.evidence))
        except (TypeError, ValueError) as error:
            raise Corrupt(
                f"the evidence of promotion {self.sequence} of {self.model} cannot be read",
                code="BROKEN_CHAIN",
            ) from error
        return facts

    def to_json(self) -> dict[str, Any]:
        """The row with times as ISO 8601 and evidence as an object."""
        plain = {}
        for key, value in asdict(self).items():
            plain[key] = value.isoformat() if isinstance(value, datetime) else value
        return plain | {"evidence": self.facts}


metadata = sa.MetaData()
promotions = database.table(
    "promotions",
    Record,
    metadata,
    sa.UniqueConstraint("model", "sequence", name="promotions_model_sequence"),
)


# --- hash chain -------------------------------------------------------------------------------


def canonical(value: Mapping[str, Any]) -> str:
    """A mapping's canonical JSON: sorted keys, no blanks, ASCII, finite numbers."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def chain_hash(decided: Mapping[str, Any]) -> str:
    """sha256 over the columns _DECIDED; `previous_hash`, the hash of the row before, is one."""
    covered = {key: decided[key] for key in _DECIDED}
    claimed_at = covered["claimed_at"].astimezone(UTC)
    covered["claimed_at"] = claimed_at.isoformat(timespec="microseconds")
    return hashlib.sha256(canonical(covered).encode()).hexdigest()


def check_chain(records: Sequence[Record]) -> None:
    """Raise Corrupt if a row of the model was changed, removed or inserted after the fact.

    The message names the first such row. This check cannot see that rows at the end were removed.
    The audit runs can show that: the hash of each row is a tag of its audit run.
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
                f"{row} does not continue the row before it: one of the two was replaced",
                code="BROKEN_CHAIN",
            )
        if chain_hash(asdict(record)) != record.hash:
            raise Corrupt(
                f"{row} was changed after it was written: its hash differs", code="BROKEN_CHAIN"
            )
        previous = record.hash


# --- the database -----------------------------------------------------------------------------


class Ledger:
    """The ledger, opened and migrated. A main makes one per process and closes it when done.

    Raises BadConfig for a wrong URI, Conflict if newer code wrote the ledger, and KronosError (code
    LEDGER_UNAVAILABLE) if the database cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self.engine = database.connect(settings.ledger)
        self.claims = Claims(self.engine, promotions, self._taken)
        try:
            database.bring_up_to_date(self.engine)
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
        """Names of the models that have promotions, sorted."""
        with database.read(self.engine) as connection:
            return sorted(connection.scalars(sa.select(promotions.c.model).distinct()))

    def records(self, model: str) -> list[Record]:
        """All promotions of a model in sequence, including unfinished and withdrawn ones."""
        query = (
            sa.select(promotions).where(promotions.c.model == model).order_by(promotions.c.sequence)
        )
        try:
            with database.read(self.engine) as connection:
                return [Record(**row) for row in connection.execute(query).mappings()]
        except ValueError as error:  # SQLite keeps any text as a time
            raise Corrupt(
                f"a promotion of {model} cannot be read: {error}", code="BROKEN_CHAIN"
            ) from error

    def record(self, model: str, sequence: int) -> Record:
        """The current row of one promotion."""
        c = promotions.c
        with database.read(self.engine) as connection:
            query = sa.select(promotions).where(c.model == model, c.sequence == sequence)
            return Record(**connection.execute(query).mappings().one())

    def verify_chain(self, model: str) -> None:
        """Raise Corrupt unless every row of the model is as it was written."""
        check_chain(self.records(model))

    def _taken(self, record: Record) -> Conflict:
        return busy(self.records(record.model)[-1])

    # --- write ----------------------------------------------------------------------------

    def claim(self, decision: Decision, last: Record | None, *, who: str, why: str) -> Record:
        """The row after `last`, held by this process. Raises Conflict if another was faster."""
        at = now()
        decided = {
            **asdict(decision),
            "sequence": last.sequence + 1 if last else 1,
            "who": who,
            "why": why,
            "evidence": canonical(decision.evidence),
            "claimed_at": at,
            "previous_hash": last.hash if last else GENESIS,
        }
        holder = claims.held_by_this_process(at)
        insert = sa.insert(promotions).values(**decided, **holder, hash=chain_hash(decided))
        try:
            with database.write(self.engine) as connection:
                connection.execute(insert)
        except IntegrityError as error:
            raise busy(self.records(decision.model)[-1]) from error
        return self.record(decision.model, decided["sequence"])

    def take(self, record: Record) -> Record:
        """Take over an abandoned claim. Raises Conflict if another process was faster."""
        self.claims.take(record)
        return self.record(record.model, record.sequence)

    def moving(self, record: Record) -> None:
        """Record that the served version changes now."""
        self.claims.update(record, moved_at=now())

    def audited(self, record: Record, run_id: str) -> None:
        self.claims.update(record, audit_run_id=run_id)

    def complete(self, record: Record) -> None:
        at = now()
        moved_at = sa.func.coalesce(promotions.c.moved_at, sa.literal(at, database.UtcTime))
        self.claims.update(record, moved_at=moved_at, completed_at=at)

    def withdraw(self, record: Record) -> None:
        """Complete a claim that moved nothing; its empty `moved_at` marks it as withdrawn."""
        self.claims.update(record, moved_at=None, completed_at=now())

    @contextmanager
    def holding(self, record: Record) -> Iterator[None]:
        """Work under a claim; an error releases it."""
        try:
            yield
        except BaseException:
            self.claims.release(record)
            raise


def busy(record: Record) -> Conflict:
    """The Conflict that names who is changing the model, or who changed it first."""
    change = f"{record.action} version {record.version} to {record.stage}"
    since = f"{record.claimed_at:%Y-%m-%d %H:%M:%S} UTC"
    if record.completed_at is None:
        holder = f"process {record.pid} on {record.host}"
        return Conflict(
            f"{record.who} is changing {record.model} since {since} ({change}; {holder}); "
            "try again later"
        )
    return Conflict(
        f"{record.who} changed {record.model} first, at {since} ({change}); "
        "look at its history, then try again"
    )
