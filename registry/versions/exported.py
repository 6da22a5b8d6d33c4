"""An exported version: a folder that serves one version where there is no registry.

    exported.json    name, number, stage and facts of the version, and the sha256 of its manifest
    model/           the version's files, and its name and number where MLflow writes them

So `mlflow models serve -m FOLDER/model` runs the version, and its replies name it.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from registry.errors import Conflict, Corrupt, NotFound
from registry.files import abandoned, explained, lock_of, locked, remove, sync, temporary_folder
from registry.versions import manifest, registration
from registry.versions.manifest import MANIFEST_TAG
from registry.versions.version import Version

RECORD = "exported.json"
MODEL = "model"
FORMAT = 1
_KINDS = {
    "format": int,
    "name": str,
    "version": int,
    "stage": str,
    "manifest_sha256": str,
    "facts": dict,
    "registry": str,
    "exported_at": str,
}


@dataclass(frozen=True)
class Exported:
    """A version in a folder of its own."""

    root: Path  # of the version's files
    name: str
    version: int
    stage: str  # at its export; empty for none
    manifest_sha256: str
    facts: Mapping[str, str]  # its provenance and tags
    registry: str  # id of the registry that it comes from
    exported_at: datetime

    @property
    def reference(self) -> str:
        """The form that people write: nbeats/3."""
        return f"{self.name}/{self.version}"

    def to_json(self) -> dict[str, Any]:
        """The content of exported.json."""
        record = asdict(self)
        del record["root"]
        return {"format": FORMAT, **record, "exported_at": self.exported_at.isoformat()}


# --- write ------------------------------------------------------------------------------------


def write(
    root: Path,
    folder: Path,
    version: Version,
    *,
    stage: str,
    facts: Mapping[str, str],
    registry: str,
) -> Exported:
    """Export the version whose files are at `root`. The folder appears whole or not at all.

    A folder that holds this very version is left alone, even if its stage was another one. Raises
    Conflict for a folder with other content and for the current one, Corrupt if this version is
    damaged there or at `root`, and KronosError (NO_SPACE, NOT_WRITABLE) if the folder cannot be
    written.
    """
    folder = folder.resolve()
    exported = Exported(
        root=folder / MODEL,
        name=version.name,
        version=version.version,
        stage=stage,
        manifest_sha256=version.tags[MANIFEST_TAG],
        facts=dict(facts),
        registry=registry,
        exported_at=datetime.now(UTC),
    )
    if not _is_free(folder):
        return _present(folder, exported)
    if folder == Path.cwd():
        raise Conflict(
            f"{folder} is the current folder, and the export would replace it; "
            "name a folder that is new or empty"
        )
    try:
        # The temporary folder first: where none can be made, the lock might wait forever.
        with (
            temporary_folder(folder.parent, folder.name) as temporary,
            locked(lock_of(folder), waiting=f"waiting for another export to {folder}"),
        ):
            if not _is_free(folder):
                return _present(folder, exported)
            _sweep(folder)
            _make_whole(folder, Path(temporary) / folder.name, root, exported)
    except OSError as error:
        raise explained(error, folder) from error
    return exported


def _is_free(folder: Path) -> bool:
    """Whether there is no such folder, or an empty one."""
    if folder.is_dir():
        return not any(folder.iterdir())
    return not folder.exists()


def _present(folder: Path, wanted: Exported) -> Exported:
    """The version that a folder holds already. Raises Conflict unless it is the wanted one."""
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    if sorted(names) != [RECORD, MODEL]:
        raise Conflict(
            f"{folder} is not empty and no exported version; name a folder that is new or empty"
        )
    present = read(folder)
    if _identity(present) != _identity(wanted):
        raise Conflict(
            f"{folder} holds {_described(present)}, not {_described(wanted)}; "
            "name another folder, or remove this one first"
        )
    return present


def _identity(exported: Exported) -> tuple[str, int, str]:
    return exported.name, exported.version, exported.manifest_sha256


def _described(exported: Exported) -> str:
    return f"{exported.reference} (manifest {exported.manifest_sha256[:12]})"


def _sweep(folder: Path) -> None:
    """Remove what killed exports to this folder left beside it."""
    for path in abandoned(folder.parent):
        if path.name.startswith(f"{folder.name}@"):
            remove(path)


def _make_whole(folder: Path, new: Path, root: Path, exported: Exported) -> None:
    """Fill the folder `new`, flush it to the disk and give it its name."""
    model = new / MODEL
    model.mkdir(parents=True)
    manifest.private_copy(root, model, exported.manifest_sha256)
    registration.write(model, exported.name, exported.version)
    record = json.dumps(exported.to_json(), indent=1, sort_keys=True)
    (new / RECORD).write_text(record + "\n")
    for path in (*new.rglob("*"), new):
        sync(path)
    new.rename(folder)
    sync(folder.parent)


# --- read -------------------------------------------------------------------------------------


def read(folder: Path) -> Exported:
    """The version that a folder holds, after every byte was compared with its manifest.

    This proves that the files are those of the manifest that exported.json names, and that nothing
    else lies there: damage, a mix of versions and an incomplete copy are refused. It does not prove
    where they come from. No registry seals exported.json, so whoever exchanges files, manifest and
    exported.json together, or edits stage and facts, is not noticed: guard the folder as you would
    a program.

    Raises NotFound if there is no exported version, and Corrupt.
    """
    folder = folder.resolve()
    if not (folder / RECORD).is_file():
        missing = f"{folder} has no {RECORD}" if folder.is_dir() else f"there is no folder {folder}"
        raise NotFound(
            f"{missing}; make one with "
            f"`python -m registry export MODEL --stage Production --to {folder}`"
        )
    try:
        _check_entries(folder)
        exported = _parsed(folder)
        _check_files(exported)
    except Corrupt as error:
        raise Corrupt(f"{error.message}; remove {folder} and export the version again") from error
    return exported


def _check_entries(folder: Path) -> None:
    """Raise Corrupt unless the folder holds the record and the model's folder, and no link."""
    for path in sorted(folder.iterdir()):
        if path.name not in (RECORD, MODEL) or path.is_symlink():
            raise Corrupt(f"{path} does not belong to an exported version")


def _parsed(folder: Path) -> Exported:
    """The content of exported.json. Raises Corrupt unless it has exactly what `write` wrote."""
    path = folder / RECORD
    try:
        record = json.loads(path.read_bytes())
        kinds = {key: type(value) for key, value in record.items()}
    except (ValueError, AttributeError) as error:
        raise Corrupt(f"{path} cannot be read as a JSON object") from error
    if record.get("format") != FORMAT:
        raise Corrupt(f"{path} has format {record.get('format')!r}, this code reads {FORMAT}")
    if kinds != _KINDS or not all(isinstance(fact, str) for fact in record["facts"].values()):
        raise Corrupt(f"{path} lacks keys, has others, or holds a value of another type")
    del record["format"]
    exported_at = _read_time(record.pop("exported_at"), path)
    return Exported(root=folder / MODEL, exported_at=exported_at, **record)


def _read_time(words: str, path: Path) -> datetime:
    try:
        instant = datetime.fromisoformat(words)
    except ValueError as error:
        raise Corrupt(f"{path} has no time in exported_at") from error
    if instant.tzinfo is None:
        raise Corrupt(f"{path} has a time without a zone in exported_at")
    return instant


def _check_files(exported: Exported) -> None:
    """Compare the version's files with the manifest that the record names. Raises Corrupt."""
    path = exported.root / manifest.MANIFEST
    if path.is_file() and manifest.sha256(path) != exported.manifest_sha256:
        raise Corrupt(f"{path} is not the manifest that {RECORD} names")
    manifest.verify(exported.root, manifest_sha256=exported.manifest_sha256)
    registered = exported.root / manifest.MLFLOWS
    expected = registration.text(exported.name, exported.version)
    if not registered.is_file() or registered.read_bytes() != expected.encode():
        raise Corrupt(f"{registered} does not name {exported.reference}, as {RECORD} does")
