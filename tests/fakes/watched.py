"""The fake registry.training.TrainRun of all unit tests."""

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from jobs.training import members
from registry import training
from registry.training import Trained


@dataclass
class Run:
    """Records the reports; asks to stop at step `give_up_at` or after `give_up_after` reports."""

    checkpoint_dir: Path
    start_dir: Path | None = None
    give_up_at: float = float("inf")
    give_up_after: float = float("inf")
    reports: list[tuple[int, dict[str, float]]] = field(default_factory=list)

    def report(self, step: int, **losses: float) -> None:
        self.reports.append((step, losses))

    def should_stop(self) -> bool:
        return bool(self.reports) and (
            self.steps[-1] >= self.give_up_at or len(self.reports) >= self.give_up_after
        )

    def fit_member(
        self, model: str, history: pd.DataFrame, config: training.Config, seed: int, *, tiny: bool
    ) -> Trained:
        return members.fit_member(model, history, config, seed, tiny=tiny, run=self)

    @property
    def steps(self) -> list[int]:
        return [step for step, _ in self.reports]

    @property
    def names(self) -> set[str]:
        """Names of all reported losses."""
        return {name for _, losses in self.reports for name in losses}

    def losses(self, name: str) -> dict[int, float]:
        """A loss by step."""
        return {step: losses[name] for step, losses in self.reports if name in losses}
