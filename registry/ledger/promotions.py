"""The promotions. One row is the claim, the lock and the record of one change of stages.

A process claims a model by inserting the model's next sequence number. The unique constraint lets
one process win. Only the holder may change the row, until the row is completed. Times are UTC.

One ledger may serve several registries. Each row names its registry, and each model of a registry
has a chain of its own. The row's hash covers the decision and the end of the row before it. The
row's seal covers its hash and its completion: when it moved, when it was completed, its audit run.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Annotated, Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from registry.errors import Conflict, Corrupt
from registry.ledger import claims, database
from registry.ledger.claims import Claim, Claims, now
from registry.settings import Settings

GENESIS = "0" * 64
RULE = 2  # by which new rows are hashed
_DECIDED = (
    "model", "sequence", "action", "stage", "version", "from_version", "who", "why", "evidence",
    "claimed_at", "previous_hash",
)  # fmt: skip
# Columns that the hash covers. By rule 1 all registries shared one chain without seals; those rows
# are sealed when their registry is known.
HASHED = {1: _DECIDED, RULE: (*_DECIDED, "registry", "rule")}
_COMPLETION = ("hash", "moved_at", "completed_at", "audit_run_id")  # columns that the seal covers


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
    previous_hash: Annotated[str, sa.String(64)]  # `end` of the row before
    hash: Annotated[str, sa.String(64)]
    registry: str | None  # id of the registry; None in a row of rule 1 that found none yet
    rule: int
    seal: str | None  # empty until the row is completed and its registry is known

    @property
    def end(self) -> str:
        """The hash that the next row continues."""
        return self.seal or self.hash

    @property
    def facts(self) -> dict[str, Any]:
        """The evidence as an object. Raises Corrupt if it was garbled."""
        try:
            facts = dict(json.loads(self.evidence))
        except (TypeError, ValueError) as error:
            raise _broken(
                f"the evidence of promotion {self.sequence} of {self.model} cannot be read"
            ) from error
        return facts

    def to_json(self) -> dict[str, Any]:
        """The row with times as ISO 8601 and evidence as an object."""
        plain = {}
        for key, value in asdict(self).items():
            plain[key] = value.isoformat() if isinstance(value, datetime) else value
        return plain | {"evidence": self.facts}


promotions = database.table(
    "promotions",
    Record,
    sa.UniqueConstraint("registry", "model", "sequence", name="promotions_registry_model_sequence"),
)


def _record(row: Mapping[str, Any]) -> Record:
    """A row whose values have the types of its columns. Raises ValueError."""
    for column in promotions.columns:
        value = row[column.name]
        missing = value is None and column.nullable
        if not missing and not isinstance(value, column.type.python_type):
            raise ValueError(f"{column.name} is {type(value).__name__}")
    return Record(**row)


# --- hash chain -------------------------------------------------------------------------------


def canonical(value: Mapping[str, Any]) -> str:
    """A mapping's canonical JSON: sorted keys, no blanks, ASCII, finite numbers."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def chain_hash(decided: Mapping[str, Any]) -> str:
    """sha256 over the columns that the row's rule covers."""
    return _sha256({key: decided[key] for key in HASHED[decided["rule"]]})


def seal_of(completed: Mapping[str, Any]) -> str:
    """sha256 over the hash and the completion of a row."""
    return _sha256({key: completed[key] for key in _COMPLETION})


def sealed(completed: Record) -> Record:
    """A completed row with its seal."""
    return replace(completed, seal=seal_of(asdict(completed)))


def _sha256(values: Mapping[str, Any]) -> str:
    """sha256 over the canonical JSON of columns, with times in UTC to the microsecond."""
    covered = dict(values)
    for key, value in covered.items():
        if isinstance(value, datetime):
            covered[key] = value.astimezone(UTC).isoformat(timespec="microseconds")
    return hashlib.sha256(canonical(covered).encode()).hexdigest()


def check_chain(records: Sequence[Record], registry: str | None) -> None:
    """Raise Corrupt if a row of the model was changed, removed or inserted after the fact.

    `records` are all rows of this registry, and those of rule 1 of all registries, in sequence. The
    message names the first such row. This check cannot see that rows at the end were removed, nor
    that all rows were hashed anew. Both differ from the audit runs.
    """
    of_rule_1 = [record for record in records if record.rule == 1]
    of_this_rule = [record for record in records if record.rule != 1]
    _check_links(of_rule_1, 0, GENESIS)
    before = [record for record in of_rule_1 if record.registry == registry]
    if before:
        _check_links(of_this_rule, before[-1].sequence, before[-1].end)
    else:
        _check_links(of_this_rule, 0, GENESIS)


def _check_links(records: Sequence[Record], sequence: int, previous: str) -> None:
    """Raise Corrupt unless the rows continue a row of this sequence number and end."""
    for number, record in enumerate(records, start=sequence + 1):
        row = f"promotion {record.sequence} of {record.model}"
        unfinished = record.completed_at is None
        if record.sequence != number:
            raise _broken(f"{row} follows promotion {number - 1}: a row of the ledger is missing")
        if record.previous_hash != previous:
            raise _broken(f"{row} does not continue the row before it: one of the two was replaced")
        values = asdict(record)
        if record.rule not in HASHED or chain_hash(values) != record.hash:
            raise _broken(f"{row} was changed after it was written: its hash differs")
        seal = None if unfinished or record.registry is None else seal_of(values)
        if record.seal != seal or (unfinished and record is not records[-1]):
            raise _broken(f"{row} was changed after it was completed: its seal differs")
        previous = record.hash if record.rule == 1 else record.end


def _broken(message: str) -> Corrupt:
    return Corrupt(message, code="BROKEN_CHAIN")


# --- the database -----------------------------------------------------------------------------


class Ledger(database.Opened):
    """The rows of one registry."""

    def __init__(self, settings: Settings, registry: str) -> None:
        """`registry` is the id of the registry that the settings name."""
        super().__init__(settings)
        self.registry = registry
        self.claims = Claims(self.engine, promotions, self._taken)

    # --- read -----------------------------------------------------------------------------

    def models(self) -> list[str]:
        """Names of the models that have promotions, sorted."""
        query = sa.select(promotions.c.model).where(self._own).distinct()
        with database.read(self.engine) as connection:
            return sorted(connection.scalars(query), key=str)

    def records(self, model: str) -> list[Record]:
        """All promotions of a model in sequence, including unfinished and withdrawn ones."""
        return self._select(model, self._own)

    def record(self, model: str, sequence: int) -> Record:
        """The current row of one promotion."""
        return self._select(model, self._own, promotions.c.sequence == sequence)[0]

    def verify_chain(self, model: str) -> None:
        """Raise Corrupt unless every row of the model is as it was written."""
        check_chain(self._select(model, self._own | (promotions.c.rule == 1)), self.registry)

    def other_registries(self) -> dict[str, str]:
        """Id of each other registry -> an audit run of its newest promotions."""
        c = promotions.c
        query = sa.select(c.registry, c.audit_run_id).order_by(c.id)
        others = query.where(c.registry != self.registry, c.audit_run_id.is_not(None))
        with database.read(self.engine) as connection:
            return {row.registry: row.audit_run_id for row in connection.execute(others)}

    def unassigned_models(self) -> list[str]:
        """Names of the models with rows of rule 1 that name no registry yet, sorted."""
        query = sa.select(promotions.c.model).where(self._unassigned).distinct()
        with database.read(self.engine) as connection:
            return sorted(connection.scalars(query), key=str)

    def unassigned(self, model: str) -> list[Record]:
        """Rows of rule 1 that name no registry yet, in sequence."""
        return self._select(model, self._unassigned)

    @property
    def _unassigned(self) -> sa.ColumnElement[bool]:
        return promotions.c.registry.is_(None) & (promotions.c.rule == 1)

    @property
    def _own(self) -> sa.ColumnElement[bool]:
        return promotions.c.registry == self.registry

    def _select(self, model: str, *conditions: sa.ColumnElement[bool]) -> list[Record]:
        query = sa.select(promotions).where(promotions.c.model == model, *conditions)
        ordered = query.order_by(promotions.c.sequence)
        try:
            with database.read(self.engine) as connection:
                return [_record(dict(row)) for row in connection.execute(ordered).mappings()]
        except (TypeError, ValueError) as error:  # SQLite keeps a value of any type
            raise _broken(f"a promotion of {model} cannot be read: {error}") from error

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
            "previous_hash": last.end if last else GENESIS,
            "registry": self.registry,
            "rule": RULE,
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

    def complete(self, completed: Record) -> None:
        """Write the completion of a row from `completed`."""
        self.claims.update(
            completed,
            moved_at=completed.moved_at,
            completed_at=completed.completed_at,
            seal=completed.seal,
        )

    def withdraw(self, record: Record) -> None:
        """Complete a claim that moved nothing; its empty `moved_at` marks it as withdrawn."""
        self.complete(sealed(replace(record, moved_at=None, completed_at=now())))

    def assign(self, record: Record) -> None:
        """Write that a row of rule 1 is of this registry, and seal it if it is completed.

        Raises Corrupt if this registry has a row of this sequence number already.
        """
        seal = sealed(record).seal if record.completed_at is not None else None
        c = promotions.c
        statement = sa.update(promotions).where(c.id == record.id, c.registry.is_(None))
        try:
            with database.write(self.engine) as connection:
                connection.execute(statement.values(registry=self.registry, seal=seal))
        except IntegrityError as error:
            raise _broken(
                f"promotion {record.sequence} of {record.model} is there twice"
            ) from error

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
