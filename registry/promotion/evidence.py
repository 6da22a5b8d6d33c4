"""Which version a promotion saw: its manifest is in the ledger, outside the registry's reach."""

from collections.abc import Sequence
from pathlib import Path

from registry.errors import Corrupt
from registry.ledger.promotions import Record
from registry.versions.manifest import MANIFEST_TAG
from registry.versions.store import Store
from registry.versions.version import Version


def fetch(store: Store, records: Sequence[Record], version: Version) -> Path:
    """Folder of a version whose bytes are those registered, and those of all its promotions.

    `records` are the ledger's rows of the model. Whoever exchanges files, manifest and tag together
    deceives the registry alone. Rows from before the version was registered are of another one: the
    model was deleted meanwhile. Raises as `Store.fetch`, and Corrupt for another manifest.
    """
    root = store.fetch(version)
    registered = version.tags[MANIFEST_TAG]
    for record in records:
        if not concerns(record, version):
            continue
        promoted = record.facts.get(MANIFEST_TAG, registered)
        if promoted != registered:
            raise Corrupt(
                f"{version.uri} is not what promotion {record.sequence} saw: its manifest was "
                f"{str(promoted)[:12]}, now it is {registered[:12]}; files and tag were exchanged "
                "together, so do not load it; restore both from a backup"
            )
    return root


def concerns(record: Record, version: Version) -> bool:
    """Whether a row is of this very version, not of an older one of the same name and number."""
    return record.version == version.version and record.claimed_at >= version.created_at
