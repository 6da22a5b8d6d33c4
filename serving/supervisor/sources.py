"""Where the versions of a model come from: the registry, or a folder that was exported.

To look is cheap and is done all the time: which version does the reference name? To fetch takes
longer: its files are verified, and copied to where nothing else changes them.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Protocol

from registry import files
from registry.errors import BadConfig, Conflict, Corrupt, NotFound
from registry.files import temporary_folder
from registry.promotion import evidence, stages
from registry.promotion.exporting import export
from registry.settings import Settings
from registry.versions import exported, manifest
from registry.versions.manifest import MANIFEST_TAG
from registry.versions.store import not_ours
from registry.versions.version import Version
from serving.modes import KRONOS, SIMULATED, Mode
from serving.references import model_of
from serving.supervisor.access import RegistryAccess, translated
from serving.supervisor.candidates import Candidate, Pointer
from serving.supervisor.copies import Copies, candidate

FAILED_TAG = "load_failed"  # of a version that the gateway could not serve: why
_LONGEST_TAG = 400  # characters


class Source(Protocol):
    """Of one model."""

    copies: Copies

    def look(self) -> list[Pointer]:
        """The versions that the reference names, the best one first.

        Raises NotFound, BadInput or Corrupt if it names none, else another KronosError.
        """

    def fetch(self, pointer: Pointer) -> Candidate:
        """A verified copy of a version."""

    def mark(self, pointer: Pointer, reason: str) -> None:
        """Record why a version could not be served; an empty reason takes that back."""


class RegistrySource:
    """Versions of a registry, by a reference like nbeats, har@staging or nbeats/3."""

    def __init__(self, access: RegistryAccess, reference: str, mode: Mode, copies: Copies) -> None:
        self.copies = copies
        self._access = access
        self._reference = reference
        self._mode = mode

    def look(self) -> list[Pointer]:
        if self._reference != KRONOS or self._mode == "kronos":
            return [self._pointer(self._reference)]
        if self._mode == "simulated":
            return [self._pointer(SIMULATED, "KRONOS_MODE=simulated")]
        return self._either()

    def _either(self) -> list[Pointer]:
        """A version of kronos, and of the simulator, if they are there. Raises NotFound."""
        pointers = []
        refused = None
        instead = "no version of kronos is ready (KRONOS_MODE=auto)"
        for name, reason in ((KRONOS, ""), (SIMULATED, instead)):
            try:
                pointers.append(self._pointer(name, reason))
            except NotFound as error:
                refused = refused or error
        if not pointers and refused is not None:
            raise refused
        return pointers

    def _pointer(self, reference: str, instead: str = "") -> Pointer:
        with translated():
            version = self._access.store().resolve(reference)
        sha256 = version.tags.get(MANIFEST_TAG)
        if sha256 is None:
            raise not_ours(version)
        stage = stages.shown(version.aliases, version.tags.get(stages.TAG)) or ""
        return Pointer(version.name, version.version, sha256, stage, instead)

    def fetch(self, pointer: Pointer) -> Candidate:
        """The bytes are those that were registered and, by the ledger, promoted."""
        with translated():
            version = self._access.store().version(pointer.name, pointer.version)
            _check_same(version, pointer)
            records = self._access.ledger().records(version.name)
        if self.copies.is_whole(pointer):
            evidence.check(records, version)
            return self.copies.verified(pointer)
        path = self.copies.path(pointer)
        with translated():
            copy = export(self._access.store(), self._access.ledger(), version, path)
        self.copies.hold(pointer)
        return candidate(pointer, copy)

    def mark(self, pointer: Pointer, reason: str) -> None:
        with translated():
            store = self._access.store()
            tags = store.version(pointer.name, pointer.version).tags
            if reason:
                text = reason[:_LONGEST_TAG]
                store.set_tag(pointer.name, pointer.version, FAILED_TAG, text)
            elif FAILED_TAG in tags:
                store.delete_tag(pointer.name, pointer.version, FAILED_TAG)


def _check_same(version: Version, pointer: Pointer) -> None:
    """Raise Conflict if the version got another manifest since it was looked at."""
    if version.tags.get(MANIFEST_TAG) != pointer.manifest:
        raise Conflict(f"{pointer.reference} has another manifest than a moment ago")


class FolderSource:
    """The version in an exported folder. It may be replaced by another one."""

    def __init__(self, model: str, folder: Path, mode: Mode, copies: Copies) -> None:
        self.copies = copies
        self._model = model
        self._folder = folder
        self._mode = mode

    def look(self) -> list[Pointer]:
        path = self._folder / exported.RECORD
        try:
            record = json.loads(path.read_bytes())
            sha256 = manifest.sha256(self._folder / exported.MODEL / manifest.MANIFEST)
            version = int(record["version"])
            pointer = Pointer(record["name"], version, sha256, record["stage"])
        except FileNotFoundError as error:
            setting = f"KRONOS_{self._model.upper()}_MODEL_DIR"
            raise NotFound(
                f"{setting}: {self._folder} holds no exported version; "
                f"make one with `python -m registry export {self._model} --to DIR`"
            ) from error
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise Corrupt(f"{path} cannot be read") from error
        return [self._checked(pointer)]

    def _checked(self, pointer: Pointer) -> Pointer:
        """Raise BadConfig for a version of another model."""
        if pointer.name == self._model:
            return pointer
        if (self._model, pointer.name) == (KRONOS, SIMULATED) and self._mode != "kronos":
            reason = f"it is what KRONOS_{KRONOS.upper()}_MODEL_DIR holds"
            return Pointer(pointer.name, pointer.version, pointer.manifest, pointer.stage, reason)
        raise BadConfig(
            f"KRONOS_{self._model.upper()}_MODEL_DIR holds {pointer.reference}, "
            f"expected a version of {self._model}"
        )

    def fetch(self, pointer: Pointer) -> Candidate:
        """Neither tracking server nor ledger are asked."""
        path = self.copies.path(pointer)
        if not self.copies.is_whole(pointer):
            with translated():
                self._copy(path)
        return self.copies.verified(pointer)

    def _copy(self, path: Path) -> None:
        exported.read(self._folder)
        try:
            with temporary_folder(path.parent, path.name) as temporary:
                new = Path(temporary) / path.name
                shutil.copytree(self._folder, new)
                exported.read(new)
                files.remove(path)
                new.rename(path)
        except OSError as error:  # of this disk, not of a registry
            raise files.explained(error, path) from error

    def mark(self, pointer: Pointer, reason: str) -> None:
        """There is no registry to write to."""


def source_of(settings: Settings, access: RegistryAccess, reference: str, stage: str) -> Source:
    """The source for a reference that users name: nbeats, har@staging, nbeats/3.

    A bare name means the version in `stage`.
    """
    model = model_of(reference)
    if reference == model and stage.lower() != "production":
        reference = f"{model}@{stage.lower()}"
    copies = Copies(settings.var_dir / "serving" / _folder_name(reference))
    folder = settings.model_dir(model)
    if folder is not None:
        return FolderSource(model, folder, settings.mode, copies)
    return RegistrySource(access, reference, settings.mode, copies)


def _folder_name(reference: str) -> str:
    """nbeats, har-staging or nbeats-3."""
    return re.sub(r"[^A-Za-z0-9_.]", "-", reference.removeprefix("models:/"))
