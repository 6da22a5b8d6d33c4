"""The stages that the ledger's rows prescribe: pure functions of the promotions of one model.

A promotion into Production pushes its version on a stack, and so does a move that was made outside
and then adopted. A roll-back pops the stack. The top version is in Production; a roll-back goes to
the version below it. None is pushed when the version in Production was deleted in MLflow.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from typing import Protocol, TypeVar

PRODUCTION = "Production"
STAGING = "Staging"
ARCHIVED = "Archived"
STAGES = (PRODUCTION, STAGING, ARCHIVED)

# The versions of these aliases are the truth. The alias `previous` is derived from the stack.
ALIASES = {PRODUCTION: "production", STAGING: "staging"}
PREVIOUS = "previous"
TAG = "stage"

PROMOTE = "promote"
ROLLBACK = "rollback"
ADOPT = "adopt"
GONE = "gone"  # deleted outside: the version in Production, or all versions (stage Archived)


class Row(Protocol):
    """The part of a ledger row that this module reads."""

    @property
    def action(self) -> str: ...
    @property
    def stage(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def moved_at(self) -> datetime | None: ...
    @property
    def completed_at(self) -> datetime | None: ...


R = TypeVar("R", bound=Row)


@dataclass(frozen=True)
class State:
    """The stack of Production, the version in Staging, and the stage of each touched version."""

    stack: tuple[int | None, ...] = ()
    staging: int | None = None
    stages: Mapping[int, str] = field(default_factory=dict)

    @property
    def production(self) -> int | None:
        return self.stack[-1] if self.stack else None

    @property
    def previous(self) -> int | None:
        return self.stack[-2] if len(self.stack) > 1 else None

    def holder(self, stage: str) -> int | None:
        """Version in Production or Staging; None for Archived, which holds any number."""
        return {PRODUCTION: self.production, STAGING: self.staging}.get(stage)

    def among(self, versions: Collection[int]) -> "State":
        """This state with only these versions, those that still exist.

        The version in Production stays, even if it was deleted.
        """
        below = [version for version in self.stack[:-1] if version in versions]
        stack = [*below, *self.stack[-1:]]
        without_repeats = tuple(version for version, _ in groupby(stack))
        staging = self.staging if self.staging in versions else None
        return State(without_repeats, staging, self.stages)


def shown(aliases: Collection[str], tag: str | None) -> str | None:
    """Stage of a version by its aliases, or Archived by its tag.

    A tag that says more may be a copy of another version's: MLflow copies tags, but no aliases.
    """
    for stage, alias in ALIASES.items():
        if alias in aliases:
            return stage
    return tag if tag == ARCHIVED else None


def withdrawn(row: Row) -> bool:
    """Whether a claim was withdrawn before anything moved."""
    return row.completed_at is not None and row.moved_at is None


def closing(row: Row) -> bool:
    """Whether a row says that all versions before it are gone. What comes after it begins anew."""
    return row.action == GONE and row.stage == ARCHIVED


def expected(rows: Iterable[Row]) -> State:
    """State after these rows (in sequence). The last row may still be in progress."""
    stack: list[int | None] = []
    staging: int | None = None
    touched: list[int] = []
    for row in rows:
        if withdrawn(row):
            continue
        if closing(row):
            stack, staging, touched = [], None, []
            continue
        touched.append(row.version)
        if row.action == GONE:
            stack.append(None)
            continue
        if row.stage == STAGING:
            staging = row.version
            continue
        if row.stage == PRODUCTION and row.action == ROLLBACK:
            # This pops more than one version if versions in between were deleted.
            while stack and stack[-1] != row.version:
                stack.pop()
        elif row.stage == PRODUCTION and stack[-1:] != [row.version]:
            stack.append(row.version)
        if staging == row.version:
            staging = None
    stages = dict.fromkeys(touched, ARCHIVED)
    if staging is not None:
        stages[staging] = STAGING
    if stack and stack[-1] is not None:
        stages[stack[-1]] = PRODUCTION
    return State(tuple(stack), staging, stages)


def correction(state: State, version: int, current: str, unmoved: str) -> str | None:
    """The right stage of a version, or None if `current` (its tag or MLflow's stage) is right.

    A version that the ledger never moved may have none or be Archived: MLflow archives the version
    that it replaces. Otherwise `unmoved` is right.
    """
    expected_stage = state.stages.get(version)
    if expected_stage is None:
        return unmoved if current in ALIASES else None
    return None if expected_stage == current else expected_stage


def corrections(state: State, current: Mapping[int, str], unmoved: str) -> dict[int, str]:
    """Version -> right stage of each version whose current stage is wrong.

    Versions that must go into Production come first, then those for Staging.
    """
    right_stages = {}
    for version, stage in current.items():
        right_stage = correction(state, version, stage, unmoved)
        if right_stage is not None:
            right_stages[version] = right_stage
    order = [*STAGES, unmoved]
    return dict(sorted(right_stages.items(), key=lambda item: order.index(item[1])))


def in_production(rows: Sequence[R], at: datetime) -> R | None:
    """The row that put the version in Production that was there at an instant (aware)."""
    into_production = [row for row in rows if row.stage == PRODUCTION or closing(row)]
    moved = [row for row in into_production if row.moved_at is not None and row.moved_at <= at]
    return moved[-1] if moved and moved[-1].action != GONE else None
