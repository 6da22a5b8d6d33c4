"""The references fhs, har and naive, fitted and scored on the same data as a model."""

import os
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from jobs.running.progress import Progress
from jobs.training import configs, families, members
from jobs.training.task import Scored, Task
from registry import training
from registry.forecast.forecast import Forecaster
from registry.training import Trained

FHS, NAIVE = "fhs", "naive"
MODELS = (FHS, "har", NAIVE)


class References:
    """Fitted references and their scores, cached for the next model of this process."""

    def __init__(self) -> None:
        self._fitted: dict[str, dict[str, Forecaster]] = {}
        self._scored: dict[tuple[str, int], dict[str, Scored]] = {}

    def fitted(self, task: Task) -> dict[str, Forecaster]:
        """The references by name, fitted on the task's data."""
        if task.key not in self._fitted:
            self._fitted[task.key] = {name: _fit(name, task) for name in MODELS}
        return self._fitted[task.key]

    def scored(self, task: Task, context: int, progress: Progress) -> dict[str, Scored]:
        """Their scores on the series that have `context` sessions at an origin."""
        key = (task.key, context)
        if key not in self._scored:
            scored = {}
            for name, forecaster in self.fitted(task).items():
                scored[name] = task.score(forecaster, context, progress, f"evaluating {name}")
            self._scored[key] = scored
        return self._scored[key]


@dataclass
class Unwatched:
    """TrainRun of a reference: reports are ignored, nothing stops it."""

    checkpoint_dir: Path
    start_dir: Path | None = None

    def report(self, step: int, **losses: float) -> None:
        """Reports are ignored."""

    def should_stop(self) -> bool:
        return False

    def fit_member(
        self, model: str, history: pd.DataFrame, config: training.Config, seed: int, *, tiny: bool
    ) -> Trained:
        run = Unwatched(self.checkpoint_dir / model)
        return members.fit_member(model, history, config, seed, tiny=tiny, run=run)


def configs_of(task: Task) -> dict[str, training.Config]:
    """Settings of the references by name."""
    return {name: configs.with_shared(families.find(name), task.config) for name in MODELS}


def _fit(name: str, task: Task) -> Forecaster:
    model = families.find(name)
    config = configs_of(task)[name]
    run = Unwatched(Path(os.devnull))  # baselines write no checkpoint
    trained = families.fit(model, config, task.data.history, seed=0, run=run)
    return trained.forecaster
