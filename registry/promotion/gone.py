"""Promoted models that MLflow no longer has: deleted or renamed outside.

Their rows stay, and so does the chain. A last row closes it, so that doctor has nothing to say. If
the name is registered again, or given back, promotions go on after that row.
"""

from collections.abc import Sequence
from datetime import datetime

from registry.ledger.claims import user
from registry.ledger.promotions import Decision, Ledger, Record, busy
from registry.promotion import audit, moves, stages
from registry.promotion.stages import State
from registry.versions.manifest import MANIFEST_TAG
from registry.versions.store import Store


def is_closed(records: Sequence[Record]) -> bool:
    """Whether the last row says that the model is gone."""
    return stages.closing(records[-1]) and records[-1].moved_at is not None


def new_name(store: Store, ledger: Ledger, records: Sequence[Record]) -> str | None:
    """The model without rows that has a version which one of these rows moved, or None.

    Copies of that version were registered after its first row, so they do not count.
    """
    first_claims: dict[tuple[int, str | None], datetime] = {}
    for row in records:
        first_claims.setdefault((row.version, row.facts.get(MANIFEST_TAG)), row.claimed_at)
    others = set(ledger.models())
    for version in store.logged():
        claimed_at = first_claims.get((version.version, version.tags[MANIFEST_TAG]))
        existed = claimed_at is not None and version.created_at <= claimed_at
        if existed and stages.TAG in version.tags and version.name not in others:
            return version.name
    return None


def close(store: Store, ledger: Ledger, name: str, why: str) -> None:
    """Record that a model is no longer registered. An unfinished row is finished first.

    Raises Conflict while another process changes the model.
    """
    records = ledger.records(name)
    if records[-1].completed_at is None:
        _finish(store, ledger, records[-1])
        records = ledger.records(name)
    if is_closed(records):
        return
    missing = audit.compare(store, ledger, name).without_row
    decision = Decision(
        model=name,
        action=stages.GONE,
        stage=stages.ARCHIVED,
        version=records[-1].version,
        from_version=stages.expected(records).production,
        evidence=audit.loss(missing) if missing else {},
    )
    _seal(store, ledger, ledger.claim(decision, records[-1], who=user(), why=why))


def _finish(store: Store, ledger: Ledger, last: Record) -> None:
    """Finish an abandoned row without its model: it is withdrawn unless it moved something."""
    if not last.abandoned:
        raise busy(last)
    record = ledger.take(last)
    if record.moved_at is None and record.audit_run_id is None:
        with ledger.holding(record):
            ledger.withdraw(record)
    else:
        _seal(store, ledger, record)


def _seal(store: Store, ledger: Ledger, record: Record) -> None:
    """Write the audit run of a row that this process holds, and complete it."""
    with ledger.holding(record):
        move = moves.Move(store, ledger, record, State())
        moves.write_audit(move)
        moves.complete(move)
