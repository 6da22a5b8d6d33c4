"""Versions that may be served: named by a reference, then with verified files on this disk."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Key = tuple[str, int, str]  # name, number and manifest: the same key, the same bytes


@dataclass(frozen=True)
class Pointer:
    """A version that a reference names now. Nothing of it was looked at yet."""

    name: str
    version: int
    manifest: str  # sha256
    stage: str  # as Production; empty for none
    instead: str = ""  # why it stands in for the model that users name; empty if it does not

    @property
    def key(self) -> Key:
        return self.name, self.version, self.manifest

    @property
    def reference(self) -> str:
        """The form that people write: nbeats/3."""
        return f"{self.name}/{self.version}"

    @property
    def folder_name(self) -> str:
        """Name of the folder with its local copy."""
        return f"{self.version}-{self.manifest[:12]}"


@dataclass(frozen=True)
class Candidate:
    """A version whose files were verified and lie in a folder that nothing else changes."""

    pointer: Pointer
    root: Path
    spec: dict[str, Any]  # ModelSpec.to_json()
    facts: Mapping[str, str] = field(default_factory=dict)  # its provenance and tags
    registry: str = ""  # id of the registry that it comes from

    @property
    def key(self) -> Key:
        return self.pointer.key
