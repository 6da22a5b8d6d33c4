"""Audit runs: MLflow's copies of the promotions, against which the ledger's rows are compared.

They are in the experiment `promotions`, whose tag is the id of the registry. Whoever changes rows
of the ledger, and only those, is found: the audit runs hold the rows' hashes and seals.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from registry.errors import Corrupt
from registry.ledger.promotions import Ledger, Record
from registry.promotion import stages
from registry.versions import tracking
from registry.versions.manifest import MANIFEST_TAG
from registry.versions.store import Store
from registry.versions.tracking import Recorded

EXPERIMENT = "promotions"
REGISTRY_TAG = "kronos.registry"  # id of the registry, on the experiment
PROMOTION_TAG = "kronos.promotion"  # hash of the row, on its audit run
SEAL_TAG = "kronos.promotion.seal"  # seal of the row, on its audit run
LOST = "rows_missing"  # evidence of an adoption: hashes of rows that were missing then


# --- open -------------------------------------------------------------------------------------


def open_ledger(store: Store) -> Ledger:
    """The ledger's rows of this store's registry. Raises as `Ledger`; the caller closes it."""
    registry = tracking.identity(store.settings, EXPERIMENT, REGISTRY_TAG)
    ledger = Ledger(store.settings, registry)
    try:
        _assign_older_rows(store, ledger)
    except BaseException:
        ledger.close()
        raise
    return ledger


def _assign_older_rows(store: Store, ledger: Ledger) -> None:
    """Write this registry's id into its rows of rule 1; those of other registries stay as found."""
    for model in ledger.unassigned_models():
        try:
            for record in ledger.unassigned(model):
                if _is_of(store, ledger, record):
                    ledger.assign(record)
        except Corrupt:  # a garbled row; `verify_chain` of the model reports it
            continue


def _is_of(store: Store, ledger: Ledger, record: Record) -> bool:
    """Whether a row is of the store's registry: its audit run is there, or the very version.

    A claim that names neither follows the row before it.
    """
    if record.audit_run_id is not None and tracking.has_run(store.settings, record.audit_run_id):
        return True
    promoted = record.facts.get(MANIFEST_TAG)
    if promoted is not None:
        version = store.find(record.model, {MANIFEST_TAG: promoted})
        return version is not None and version.version == record.version
    before = [row.sequence for row in ledger.records(record.model)]
    return record.audit_run_id is None and record.sequence - 1 in before


# --- write ------------------------------------------------------------------------------------


def write(store: Store, row: Record) -> str:
    """Id of the audit run of a row. The row's hash, a tag, identifies it after a crash."""
    facts = {
        "model": row.model,
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


def seal(store: Store, completed: Record) -> None:
    """Write the seal of a row to its audit run. The row itself is completed afterwards."""
    if completed.seal is not None:
        store.client.set_tag(completed.audit_run_id, SEAL_TAG, completed.seal)


# --- compare ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Differences:
    """Rows whose audit runs are gone, and audit runs whose rows are missing from the ledger."""

    without_run: Sequence[Record]
    without_row: Sequence[Recorded]


def check(store: Store, ledger: Ledger, name: str) -> None:
    """Raise Corrupt if rows of a model were changed, removed or inserted, or hashed anew."""
    ledger.verify_chain(name)
    missing = len(compare(store, ledger, name).without_row)
    if missing:
        raise Corrupt(
            f"{missing} promotions of {name} have an audit run in the experiment {EXPERIMENT}, "
            "but no row in the ledger: rows are missing; restore the ledger from a backup, or let "
            f"`python -m registry doctor {name} --repair` record the loss",
            code="BROKEN_CHAIN",
        )


def compare(store: Store, ledger: Ledger, name: str) -> Differences:
    """Differences between rows and audit runs of a model. Raises Corrupt for a changed row."""
    # Rows may be added meanwhile. A row comes before its run, and its completion after it.
    completed = [row for row in ledger.records(name) if row.completed_at is not None]
    runs = {}
    for run in tracking.recorded(store.settings, EXPERIMENT, {"model": name}):
        if PROMOTION_TAG in run.tags:
            runs[run.tags[PROMOTION_TAG]] = run
    without_run = []
    for row in completed:
        if row.hash in runs:
            _check_row(row, runs[row.hash])
        elif not stages.withdrawn(row):
            without_run.append(row)
    explained = _explained(ledger.records(name))
    without_row = [run for row_hash, run in runs.items() if row_hash not in explained]
    if without_run and without_row:
        raise _changed(without_run[0], "its hash differs from those of the audit runs")
    return Differences(without_run, without_row)


def _explained(records: Sequence[Record]) -> set[str]:
    """Hashes of the rows, and of the rows that some row says were missing before it."""
    hashes = {row.hash for row in records}
    for row in records:
        hashes.update(row.facts.get(LOST, ()))
    return hashes


def _check_row(row: Record, run: Recorded) -> None:
    """Raise Corrupt unless the audit run is the row's and holds its seal."""
    if stages.withdrawn(row):
        return
    if row.audit_run_id != run.run_id:
        raise _changed(row, "it names another audit run")
    if row.seal is not None and run.tags.get(SEAL_TAG) != row.seal:
        raise _changed(row, "its audit run holds another seal")


def _changed(row: Record, reason: str) -> Corrupt:
    return Corrupt(
        f"promotion {row.sequence} of {row.model} was changed after it was completed: {reason}",
        code="BROKEN_CHAIN",
    )


def loss(missing: Sequence[Recorded]) -> Mapping[str, list[str]]:
    """Evidence of an adoption after rows were lost."""
    return {LOST: [run.tags[PROMOTION_TAG] for run in missing]}
