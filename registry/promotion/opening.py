"""Open the ledger for a registry: its id, and which of the older rows are its own."""

from registry.errors import Corrupt, NotFound
from registry.ledger.promotions import Ledger, Record
from registry.promotion.audit import EXPERIMENT
from registry.versions import tracking
from registry.versions.manifest import MANIFEST_TAG
from registry.versions.store import Store

REGISTRY_TAG = "kronos.registry"  # id of the registry, on the experiment of the audit runs


def open_ledger(store: Store) -> Ledger:
    """The ledger's rows of this store's registry. The caller closes it.

    Raises as `Ledger`, and Corrupt if the registry's id was changed in MLflow.
    """
    ledger = Ledger(store.settings, tracking.server_id(store.settings, EXPERIMENT, REGISTRY_TAG))
    try:
        _check_id(store, ledger)
        _assign_older_rows(store, ledger)
    except BaseException:
        ledger.close()
        raise
    return ledger


def _check_id(store: Store, ledger: Ledger) -> None:
    """Raise Corrupt if audit runs of another id are on this server: then its id was changed."""
    for registry, run_id in ledger.other_registries().items():
        if tracking.has_run(store.settings, run_id):
            raise Corrupt(
                f"the ledger's rows of registry {registry} have audit runs on this MLflow server, "
                f"but its experiment {EXPERIMENT} has the tag {REGISTRY_TAG}={ledger.registry}: it "
                "was renamed or its tag was changed; undo that",
                code="BROKEN_CHAIN",
            )


def _assign_older_rows(store: Store, ledger: Ledger) -> None:
    """Write this registry's id into its rows of rule 1; those of other registries stay."""
    for model in ledger.unassigned_models():
        try:
            for record in ledger.unassigned(model):
                if _is_of(store, ledger, record):
                    ledger.assign(record)
        except Corrupt:  # a garbled row; `verify_chain` of the model reports it
            continue


def _is_of(store: Store, ledger: Ledger, record: Record) -> bool:
    """Whether a row is of the store's registry: its audit run is there, or the very version.

    A row that names neither follows the row before it; the first one follows its version's number.
    """
    if record.audit_run_id is not None and tracking.has_run(store.settings, record.audit_run_id):
        return True
    try:
        version = store.version(record.model, record.version)
    except NotFound:
        return False
    promoted = record.facts.get(MANIFEST_TAG)
    if promoted is not None:
        return bool(version.tags.get(MANIFEST_TAG) == promoted)
    before = {row.sequence for row in ledger.records(record.model)}
    return record.audit_run_id is None and record.sequence - 1 in before | {0}
