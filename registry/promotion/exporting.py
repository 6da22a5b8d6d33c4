"""Export a version as a folder that needs no registry, after all checks that serving makes."""

from pathlib import Path

from registry.files import temporary_folder
from registry.ledger.promotions import Ledger
from registry.promotion import evidence, stages
from registry.versions import exported, provenance
from registry.versions.exported import Exported
from registry.versions.store import Store
from registry.versions.version import Version


def export(store: Store, ledger: Ledger, version: Version, folder: Path) -> Exported:
    """Write a version to a new or empty folder; one that holds this very version is left alone.

    The bytes are those that were registered and, by the ledger, promoted. Raises as
    `evidence.fetch` and `exported.write`.
    """
    records = ledger.records(version.name)
    stage = stages.shown(version.aliases, version.tags.get(stages.TAG))
    with temporary_folder(store.settings.state_dir, version.folder_name) as downloads:
        root = evidence.fetch(store, records, version, Path(downloads))
        return exported.write(
            root,
            folder,
            version,
            stage=stage or "",
            facts=_facts(root, version),
            registry=ledger.registry,
        )


def _facts(root: Path, version: Version) -> dict[str, str]:
    """The facts of a version that are text; its verified files are at `root`."""
    path = root / provenance.PROVENANCE
    recorded = provenance.read(path) if path.is_file() else {}
    facts = {**recorded, **version.tags}
    return {key: value for key, value in facts.items() if isinstance(value, str)}
