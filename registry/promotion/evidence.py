"""Which version a promotion saw: its manifest is in the ledger, outside the registry's reach."""

from collections.abc import Sequence
from pathlib import Path

from registry.errors import Corrupt
from registry.ledger.promotions import Record
from registry.versions.manifest import MANIFEST_TAG
from registry.versions.store import Store
from registry.versions.version import Version


def fetch(
    store: Store, records: Sequence[Record], version: Version, into: Path | None = None
) -> Path:
    """Folder of a version whose bytes are those registered, and those of all its promotions.

    `records` are the ledger's rows of the model. Whoever exchanges files, manifest and tag together
    deceives the registry alone. Rows from before the version was registered are of another one: the
    model was deleted meanwhile. Raises as `Store.fetch`, and Corrupt for another manifest or none.
    """
    if version.foreign and promoted_manifest(records, version) is not None:
        raise Corrupt(
            f"{version.uri} lost its tag {MANIFEST_TAG}, which a promotion saw; "
            f"`python -m registry doctor {version.name} --repair` sets it again"
        )
    root = store.fetch(version, into)
    check(records, version)
    return root


def check(records: Sequence[Record], version: Version) -> None:
    """Raise Corrupt unless the version has the manifest that all its promotions saw."""
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


def promoted_manifest(records: Sequence[Record], version: Version) -> str | None:
    """Hash of the manifest that the last promotion of a version saw, or None."""
    for record in reversed(records):
        if concerns(record, version) and MANIFEST_TAG in record.facts:
            return str(record.facts[MANIFEST_TAG])
    return None


def concerns(record: Record, version: Version) -> bool:
    """Whether a row is of this very version, not of an older one of the same name and number."""
    return record.version == version.version and record.claimed_at >= version.created_at
