"""Audit runs: MLflow's copies of the promotions, against which the ledger's rows are compared.

They are in the experiment `promotions` and hold the rows' hashes and seals. So changes of the
ledger alone are found; registry/README.md lists those that are not.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from registry.errors import Corrupt
from registry.ledger.claims import now
from registry.ledger.promotions import Ledger, Record, sealed
from registry.promotion import stages
from registry.versions import tracking
from registry.versions.store import Store
from registry.versions.tracking import Recorded

EXPERIMENT = "promotions"
PROMOTION_TAG = "kronos.promotion"  # hash of the row, on its audit run
SEAL_TAG = "kronos.promotion.seal"  # on the audit run: seal, moved_at and completed_at of the row
SEQUENCE = "sequence"  # of the row, a tag and a parameter of its audit run; not by rule 1
LOST = "rows_missing"  # evidence of an adoption: hashes of rows that were missing then


# --- write ------------------------------------------------------------------------------------


def write(store: Store, row: Record) -> str:
    """Id of the audit run of a row. The row's hash, a tag, identifies it after a crash."""
    facts = {
        "model": row.model,
        SEQUENCE: str(row.sequence),
        "version": str(row.version),
        "from": str(row.from_version or "none"),
        "stage": row.stage,
        "action": row.action,
        "who": row.who,
        "why": row.why,
    }
    return tracking.record(
        store.settings,
        EXPERIMENT,
        f"{row.model} {row.action} {row.version}",
        key=(PROMOTION_TAG, row.hash),
        facts=facts,
        data=row.to_json(),
    )


def completed(store: Store, row: Record) -> Record:
    """The row as it is completed, with its seal on its audit run; the row is written afterwards.

    If a killed process sealed it before, this is what that process was about to write. Raises
    Corrupt if the row was changed since.
    """
    tags = store.client.get_run(row.audit_run_id).data.tags
    if SEAL_TAG in tags:
        return _as_sealed(row, tags[SEAL_TAG])
    at = now()
    row = sealed(replace(row, moved_at=row.moved_at or at, completed_at=at))
    store.client.set_tag(row.audit_run_id, SEAL_TAG, _seal_tag(row))
    return row


def _as_sealed(row: Record, tag: str) -> Record:
    """An unfinished row as its audit run holds it. Raises Corrupt for another row."""
    _, *times = tag.split()
    moved_at, completed_at = (datetime.fromisoformat(time) for time in times)
    if row.moved_at not in (None, moved_at):
        raise _changed(row, "its audit run holds another time")
    row = sealed(replace(row, moved_at=moved_at, completed_at=completed_at))
    if _seal_tag(row) != tag:
        raise _changed(row, "its audit run holds another seal")
    return row


def _seal_tag(row: Record) -> str:
    times = [time.isoformat() for time in (row.moved_at, row.completed_at) if time is not None]
    return " ".join([row.seal or "", *times])


# --- compare ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Differences:
    """Rows without an audit run, and audit runs whose rows are missing from the ledger."""

    without_run: Sequence[Record]
    without_row: Sequence[Recorded]


def check(store: Store, ledger: Ledger, name: str) -> None:
    """Raise Corrupt if rows of a model were changed or removed, or all hashed anew.

    An inserted row is one without an audit run, as is one whose run was deleted: `compare`.
    """
    ledger.verify_chain(name)
    missing = len(compare(store, ledger, name).without_row)
    if missing:
        raise Corrupt(
            f"promotions of {name} with an audit run in MLflow, but without a row in the ledger: "
            f"{missing}; if KRONOS_LEDGER_URI names the right ledger, restore it from a backup, or "
            f"let `python -m registry doctor {name} --repair` record the loss",
            code="BROKEN_CHAIN",
        )


def compare(store: Store, ledger: Ledger, name: str) -> Differences:
    """Differences between rows and audit runs of a model. Raises Corrupt for a changed row."""
    # Rows may be added meanwhile. A row comes before its run, and its completion after it.
    rows = ledger.records(name)
    runs = _runs(store, name)
    hashes = {run.tags[PROMOTION_TAG] for run in runs.values()}
    without_run = []
    for row in rows:
        if row.hash in hashes:
            _check_row(row, runs)
        elif row.moved_at is not None and row.completed_at is not None:
            without_run.append(row)
    explained = _explained(ledger.records(name), hashes)
    without_row = [run for run in runs.values() if run.tags[PROMOTION_TAG] not in explained]
    _check_hashes(without_run, without_row)
    return Differences(without_run, without_row)


def _runs(store: Store, name: str) -> dict[str, Recorded]:
    """Id -> audit run of a model."""
    runs = tracking.recorded(store.settings, EXPERIMENT, {"model": name})
    return {run.run_id: run for run in runs if PROMOTION_TAG in run.tags}


def _explained(records: Sequence[Record], hashes: Collection[str]) -> set[str]:
    """Hashes of the rows, and of those that a row with an audit run says were missing before it."""
    explained = {row.hash for row in records}
    for row in records:
        if row.hash in hashes and not stages.withdrawn(row):
            explained.update(row.facts.get(LOST, ()))
    return explained


def _check_row(row: Record, runs: Mapping[str, Recorded]) -> None:
    """Raise Corrupt unless the row names its audit run, and the run holds the row's seal.

    A withdrawn row may have a run, of a process that was killed, but no seal. An unfinished one may
    be sealed already.
    """
    if stages.withdrawn(row):
        of_row = [run for run in runs.values() if run.tags[PROMOTION_TAG] == row.hash]
        if any(SEAL_TAG in run.tags for run in of_row):
            raise _changed(row, "by its audit run, it moved")
        return
    run = runs.get(row.audit_run_id or "")
    if row.completed_at is None:
        if run is not None and SEAL_TAG in run.tags:
            _as_sealed(row, run.tags[SEAL_TAG])
        return
    if run is None or run.tags[PROMOTION_TAG] != row.hash:
        raise _changed(row, "it names another audit run")
    unsealed = row.rule == 1 and SEAL_TAG not in run.tags
    if not unsealed and run.tags.get(SEAL_TAG) != _seal_tag(row):
        raise _changed(row, "its audit run holds another seal")


def _check_hashes(without_run: Sequence[Record], without_row: Sequence[Recorded]) -> None:
    """Raise Corrupt if a run without a row may be that of a row without a run."""
    sequences = {run.tags.get(SEQUENCE) for run in without_row}
    for row in without_run:
        if sequences & {str(row.sequence), None}:
            raise _changed(row, "its hash differs from those of the audit runs")


def _changed(row: Record, reason: str) -> Corrupt:
    return Corrupt(
        f"promotion {row.sequence} of {row.model} was changed after it was completed: {reason}",
        code="BROKEN_CHAIN",
    )


def loss(missing: Sequence[Recorded]) -> Mapping[str, list[str]]:
    """Evidence of an adoption after rows were lost."""
    return {LOST: [run.tags[PROMOTION_TAG] for run in missing]}
