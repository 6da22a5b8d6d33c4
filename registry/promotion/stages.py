"""What the ledger's rows say should be where: pure functions of the promotions of one model.

A promotion (or an adopted move from outside) into Production is pushed on a stack, a roll-back pops it. The top is
in Production, the one below is where a roll-back goes.
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

# Aliases whose version is the truth; the alias `previous` follows from the stack.
ALIASES = {PRODUCTION: "production", STAGING: "staging"}
PREVIOUS = "previous"
TAG = "stage"

PROMOTE = "promote"
ROLLBACK = "rollback"
ADOPT = "adopt"


class Row(Protocol):
    """What is read of a ledger row."""

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
    """Versions in each place, and the stage of every version that ever had one."""

    stack: tuple[int, ...] = ()
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
        """The same without versions that were deleted since; what is in Production stays, deleted or not."""
        stack = [v for v in self.stack[:-1] if v in versions] + list(self.stack[-1:])
        staging = self.staging if self.staging in versions else None
        return State(tuple(v for v, _ in groupby(stack)), staging, self.stages)


def withdrawn(row: Row) -> bool:
    """A claim that was given up before anything moved."""
    return row.completed_at is not None and row.moved_at is None


def expected(rows: Iterable[Row]) -> State:
    """State after these rows (in sequence), the last of which may still be under way."""
    stack: list[int] = []
    staging: int | None = None
    touched: list[int] = []
    for row in rows:
        if withdrawn(row):
            continue
        touched.append(row.version)
        if row.stage == STAGING:
            staging = row.version
            continue
        if row.stage == PRODUCTION and row.action == ROLLBACK:
            while (
                stack and stack[-1] != row.version
            ):  # more than one when versions in between were deleted
                stack.pop()
        elif row.stage == PRODUCTION and stack[-1:] != [row.version]:
            stack.append(row.version)
        staging = None if staging == row.version else staging
    stages = dict.fromkeys(touched, ARCHIVED)
    for version, stage in ((staging, STAGING), (stack[-1] if stack else None, PRODUCTION)):
        if version is not None:
            stages[version] = stage
    return State(tuple(stack), staging, stages)


def correction(state: State, version: int, found: str) -> str | None:
    """Stage that a version must be given, or None when `found` (its tag, or MLflow's stage) is right.

    A version that never had a stage may be without one or Archived: MLflow archives what it replaces.
    """
    wanted = state.stages.get(version)
    if wanted is None:
        return ARCHIVED if found in ALIASES else None
    return None if wanted == found else wanted


def corrections(state: State, found: Mapping[int, str]) -> dict[int, str]:
    """Version -> stage of those that are wrong; what must go into Production or Staging comes first."""
    wrong = {
        version: stage
        for version, was in found.items()
        if (stage := correction(state, version, was))
    }
    return dict(sorted(wrong.items(), key=lambda item: STAGES.index(item[1])))


def in_production(rows: Sequence[R], at: datetime) -> R | None:
    """The row that had put in Production what was there at an instant (aware)."""
    moved = [
        r for r in rows if r.stage == PRODUCTION and r.moved_at is not None and r.moved_at <= at
    ]
    return moved[-1] if moved else None
