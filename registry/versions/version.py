"""One version of a registered model, as the registry knows it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any


@dataclass(frozen=True)
class Version:
    """MLflow's own stage is only a copy: the alias `production` is the truth."""

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
        """MLflow's model version and the aliases of its model, which search results leave out."""
        number = int(entity.version)  # the database store has a number here, the REST client text
        return cls(
            name=entity.name,
            version=number,
            stage=entity.current_stage or "None",
            tags=dict(entity.tags),
            aliases=tuple(sorted(alias for alias, v in aliases.items() if v == number)),
            run_id=entity.run_id or "",
            created_at=datetime.fromtimestamp(entity.creation_timestamp / 1000, UTC),
            source=entity.source,
        )

    @property
    def uri(self) -> str:
        return f"models:/{self.name}/{self.version}"

    @property
    def reference(self) -> str:
        """As people write it: nbeats/3."""
        return f"{self.name}/{self.version}"
