"""One version of a registered model."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from registry.settings import Settings

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


def checkpoint_dir(settings: Settings, recipe: str) -> Path:
    """Folder of the checkpoints of a training; its lock lies beside it."""
    return settings.state_dir / "checkpoints" / recipe[:16]
