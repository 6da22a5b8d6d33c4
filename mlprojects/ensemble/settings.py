"""Settings of the ensemble, and what it needs: what its members need together."""

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
    """`members` are <family>/<model>, each fitted with its own config, or its tiny one."""

    kind: Literal["ensemble"] = "ensemble"
    members: tuple[str, ...] = ()
    tiny_members: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.members) < 2 or len(set(self.members)) < len(self.members):
            raise BadConfig(f"members are two or more different models, found {list(self.members)}")
        wrong = [member for member in self.members if member.count("/") != 1]
        if wrong:
            raise BadConfig(
                f"members are named <family>/<model>, as in baselines/gjr; found {wrong[0]!r}"
            )

    @property
    def uses(self) -> tuple[str, ...]:
        """Families of the members, each once."""
        return tuple(dict.fromkeys(member.split("/")[0] for member in self.members))


CONFIGS: Mapping[str, type[training.Config]] = {"ensemble": Config}
SEARCH: Mapping[str, Space] = {}


def spec(name: str, config: Config) -> ModelSpec:
    """Columns and contexts are known when the members are fitted; until then, whose code it uses."""
    return joined(name, config, ())


def joined(name: str, config: Config, members: Sequence[ModelSpec]) -> ModelSpec:
    """What all members need together."""
    columns = dict.fromkeys(names.HISTORY)
    for member in members:
        columns |= dict.fromkeys(member.columns)
    return ModelSpec(
        name=name,
        family="ensemble",
        min_context=max((member.min_context for member in members), default=1),
        max_context=max((member.max_context for member in members), default=1),
        max_horizon=config.horizon,
        levels=config.levels,
        columns=tuple(columns),
        uses=config.uses,
    )
