"""The verified copies of one model's versions on this disk, and which of them was served last."""

import fcntl
import json
import os
import re
import threading
from collections.abc import Collection
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from registry import files
from registry.errors import Corrupt, NotFound
from registry.forecast.model_folder import read_spec
from registry.versions import exported, installed, manifest
from registry.versions.exported import Exported
from serving.supervisor.candidates import Candidate, Key, Pointer

CURRENT = "current.json"
_COPY = re.compile(r"\d+-[0-9a-f]{12}")


class Copies:
    """Below `folder`, one exported folder for each version, as 3-5a1e09c2f7b4.

    Several gateways may share it. Each holds a lock on the copies that it uses, which ends with the
    process; nobody removes a copy that another one holds.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._held: dict[str, int] = {}  # file descriptors of folders, by their names
        self._holding = threading.Lock()

    def path(self, pointer: Pointer) -> Path:
        return self.folder / pointer.folder_name

    def verified(self, pointer: Pointer) -> Candidate:
        """A copy, after every byte was compared with the version's manifest.

        Raises NotFound, Corrupt, and KronosError (PACKAGE_MISSING).
        """
        self.hold(pointer)
        copy = exported.read(self.path(pointer))
        if copy.manifest_sha256 != pointer.manifest:
            raise Corrupt(f"the copy of {pointer.reference} has another manifest")
        return candidate(pointer, copy)

    def is_whole(self, pointer: Pointer) -> bool:
        """Whether there is a copy that verifies; one that does not is removed."""
        try:
            copy = exported.read(self.path(pointer))
        except (NotFound, Corrupt):
            files.remove(self.path(pointer))
            return False
        return copy.manifest_sha256 == pointer.manifest

    def hold(self, pointer: Pointer) -> None:
        """Let no other gateway remove a copy before `keep` gives it up or this process ends."""
        with self._holding, suppress(OSError):  # without a lock the copy can still be served
            self._release(pointer.folder_name)
            descriptor = os.open(self.path(pointer), os.O_RDONLY | os.O_DIRECTORY)
            self._held[pointer.folder_name] = descriptor
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def _release(self, name: str) -> None:
        descriptor = self._held.pop(name, None)
        if descriptor is not None:
            os.close(descriptor)

    def served_last(self) -> Pointer | None:
        """The version that was served last; None if that is not known."""
        try:
            record = json.loads((self.folder / CURRENT).read_bytes())
            return Pointer(**record["served"])
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def keep(self, served: Pointer, in_use: Collection[Key]) -> None:
        """Remember what is served. Copies that nothing uses are removed, but for the one before."""
        last = self.served_last()
        if last is not None and last.key == served.key:
            before = self._before()
        else:
            before = self.path(last).name if last is not None else ""
        content = json.dumps({"served": asdict(served), "before": before}, indent=1)
        files.write_together({self.folder / CURRENT: lambda path: path.write_text(content + "\n")})
        kept = {served.folder_name, before}
        kept |= {_folder_name(key) for key in in_use}
        self._remove_all_but(kept)

    def _before(self) -> str:
        with suppress(OSError, ValueError, TypeError, KeyError):
            return str(json.loads((self.folder / CURRENT).read_bytes())["before"])
        return ""

    def _remove_all_but(self, kept: Collection[str]) -> None:
        """Remove other copies, and what killed processes left of unfinished ones."""
        files.sweep(self.folder)
        with self._holding:
            for name in set(self._held) - set(kept):
                self._release(name)
        for path in sorted(self.folder.iterdir()):
            if _COPY.fullmatch(path.name) and path.name not in kept:
                _remove_unless_held(path)


def _remove_unless_held(path: Path) -> None:
    """Remove a copy that no gateway holds."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:  # another gateway has removed it
        return
    try:
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            files.remove(path)
    finally:
        os.close(descriptor)


def candidate(pointer: Pointer, copy: Exported) -> Candidate:
    """A version whose files were verified. Raises KronosError (PACKAGE_MISSING), and NotFound."""
    installed.check(copy.root, pointer.reference)
    spec = read_spec(copy.root / manifest.MODEL_DIR)
    return Candidate(pointer, copy.root, spec.to_json(), dict(copy.facts), copy.registry)


def _folder_name(key: Key) -> str:
    name, version, sha256 = key
    return Pointer(name, version, sha256, "").folder_name
