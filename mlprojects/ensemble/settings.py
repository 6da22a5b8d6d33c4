"""Settings of the ensemble, and its spec, which follows from the specs of its members."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from registry import training
from registry.errors import BadConfig
from registry.forecast import names
from registry.forecast.spec import ModelSpec
from registry.training import Space


@dataclass(frozen=True, kw_only=True)
class Config(training.Config):
    """The average of several models.

    members: averaged models as <family>/<model>; each is fitted with its own config.
    tiny_members: fit each with its own tiny config.
    """

    kind: Literal["ensemble"] = "ensemble"
    members: tuple[str, ...] = ()
    tiny_members: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.members) < 2 or len(set(self.members)) < len(self.members):
            raise BadConfig(
                f"members must be two or more different models, found {list(self.members)}"
            )
        wrong = [member for member in self.members if member.count("/") != 1]
        if wrong:
            raise BadConfig(
                f"members must be named <family>/<model>, as in baselines/gjr; found {wrong[0]!r}"
            )

    @property
    def uses(self) -> tuple[str, ...]:
        """Families of the members, each once."""
        return tuple(dict.fromkeys(member.split("/")[0] for member in self.members))


CONFIGS: Mapping[str, type[training.Config]] = {"ensemble": Config}
SEARCH: Mapping[str, Space] = {}


def spec(name: str, config: Config) -> ModelSpec:
    """The spec before the members are fitted, without their columns and contexts."""
    return joined(name, config, ())


def joined(name: str, config: Config, members: Sequence[ModelSpec]) -> ModelSpec:
    """The spec that covers the needs of all members."""
    columns = dict.fromkeys(names.HISTORY)
    for member in members:
        columns |= dict.fromkeys(member.columns)
    min_contexts = [member.min_context for member in members]
    max_contexts = [member.max_context for member in members]
    return ModelSpec(
        name=name,
        family="ensemble",
        min_context=max(min_contexts, default=1),
        max_context=max(max_contexts, default=1),
        max_horizon=config.horizon,
        levels=config.levels,
        calendar=config.calendar,
        columns=tuple(columns),
        uses=config.uses,
    )
