"""One version of a registered model."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from registry.settings import Settings
from registry.versions.manifest import MANIFEST_TAG

RECIPE_TAG = "recipe"  # hash of data, config, code and seed of a training


@dataclass(frozen=True)
class Version:
    """`stage` is MLflow's own stage. It is only a copy: the alias `production` is the truth."""

    name: str
    version: int
    stage: str
    tags: Mapping[str, str]
    aliases: tuple[str, ...]
    run_id: str
    created_at: datetime
    source: str

    @classmethod
    def of(cls, entity: Any, aliases: Mapping[str, int]) -> "Version":
        """Version of an MLflow entity. `aliases` are its model's: search results lack them."""
        number = int(entity.version)  # a number from the database store, text from the REST client
        own_aliases = sorted(alias for alias, version in aliases.items() if version == number)
        return cls(
            name=entity.name,
            version=number,
            stage=entity.current_stage or "None",
            tags=dict(entity.tags),
            aliases=tuple(own_aliases),
            run_id=entity.run_id or "",
            created_at=datetime.fromtimestamp(entity.creation_timestamp / 1000, UTC),
            source=entity.source,
        )

    @property
    def foreign(self) -> bool:
        """Whether it lacks the tag of every version that Kronos Registry logs."""
        return MANIFEST_TAG not in self.tags

    @property
    def uri(self) -> str:
        return f"models:/{self.name}/{self.version}"

    @property
    def reference(self) -> str:
        """The form that people write: nbeats/3."""
        return f"{self.name}/{self.version}"

    @property
    def folder_name(self) -> str:
        """The form that begins the name of a folder: nbeats-3."""
        return f"{self.name}-{self.version}"


def alias_numbers(aliases: Mapping[str, Any]) -> dict[str, int]:
    """MLflow's aliases with version numbers: the REST client has them as text."""
    return {alias: int(version) for alias, version in aliases.items()}


@dataclass(frozen=True)
class RegisteredModel:
    """A name in MLflow's registry and its versions, newest first. It may be another team's."""

    name: str
    aliases: Mapping[str, int]
    versions: tuple[Version, ...]

    @property
    def origin(self) -> str:
        """Who logged its versions: kronos, foreign, mixed, or empty if there are none."""
        origins = {"foreign" if version.foreign else "kronos" for version in self.versions}
        if len(origins) > 1:
            return "mixed"
        return origins.pop() if origins else "empty"


def checkpoint_dir(settings: Settings, recipe: str) -> Path:
    """Folder of the checkpoints of a training; its lock lies beside it."""
    return settings.state_dir / "checkpoints" / recipe[:16]
