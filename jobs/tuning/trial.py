"""One trial of a study: fit a model with some settings and score it on the choice period."""

import dataclasses
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from jobs.running.executors import Listen
from jobs.training import families, members
from registry import training
from registry.errors import BadInput, KronosError
from registry.forecast.forecast import Forecaster
from registry.scoring.difference import against
from registry.scoring.rolling import rolling
from registry.scoring.scores import means, scores
from registry.training import Trained

# Code of a loss that is not finite. The settings are to blame, as with bad input.
DIVERGED = "DIVERGED"
PRUNED = "pruned: its choice loss was worse than the median of the trials before it"


@dataclass(frozen=True)
class Setup:
    """Inputs that all trials of a study share. Nothing in it is later than the choice period."""

    model: families.Model
    config: training.Config  # with the settings that are not searched
    history: pd.DataFrame  # up to config.choose_until
    origins: pd.DatetimeIndex  # of the choice period
    context: int  # sessions that a series needs at an origin, in every trial
    reference: pd.DataFrame  # scores of fhs from those origins
    seed: int  # of every training
    start_dir: Path | None
    scratch: Path  # for checkpoints, while a trial runs

    def run(self, settings: Mapping[str, Any], listen: Listen) -> "Outcome":
        """Fit and score with `settings` instead of the configured ones.

        Refused settings and diverged trainings give an outcome without metrics; other errors are
        raised.
        """
        start_time = time.monotonic()
        self.scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            trial_run = TrialRun(Path(folder), self.start_dir, listen)
            try:
                config = dataclasses.replace(self.config, **settings)
                trained = families.fit(
                    self.model, config, self.history, seed=self.seed, run=trial_run
                )
                fit_seconds = time.monotonic() - start_time
                if trial_run.should_stop():
                    return Outcome(given_up=PRUNED)
                result = score(
                    trained.forecaster, self.history, self.origins, self.config, self.context
                )
            except KronosError as error:
                if isinstance(error, BadInput) or error.code == DIVERGED:
                    return Outcome(given_up=f"{error.code}: {error.message}")
                raise
        overall = means(result).iloc[0].dropna()
        metrics = {str(name): float(value) for name, value in overall.items()}
        difference = against(result, self.reference, every=self.config.report_every)
        metrics["skill_vs_fhs"] = difference.skill
        return Outcome({**metrics, "fit_seconds": fit_seconds})


@dataclass(frozen=True)
class Outcome:
    """Metrics of a trial (crps, skill_vs_fhs, coverage_90, ...), or why it was given up."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    given_up: str = ""


class TrialRun:
    """TrainRun of a trial and of its members. Losses are reported, nothing is stored."""

    def __init__(self, checkpoint_dir: Path, start_dir: Path | None, listen: Listen) -> None:
        self.checkpoint_dir, self.start_dir = checkpoint_dir, start_dir
        self._listen, self._stop = listen, False

    def report(self, step: int, **losses: float) -> None:
        self._stop = self._listen(step, losses) or self._stop

    def should_stop(self) -> bool:
        return self._stop

    def fit_member(
        self, model: str, history: pd.DataFrame, config: training.Config, seed: int, *, tiny: bool
    ) -> Trained:
        def listen(step: int, losses: Mapping[str, float]) -> bool:
            self._listen(step, {f"{model}_{name}": loss for name, loss in losses.items()})
            return False  # a trial is judged by its own loss only

        run = TrialRun(self.checkpoint_dir / model, None, listen)
        return members.fit_member(model, history, config, seed, tiny=tiny, run=run)


def score(
    forecaster: Forecaster,
    history: pd.DataFrame,
    origins: pd.DatetimeIndex,
    config: training.Config,
    context: int,
) -> pd.DataFrame:
    """Scores of a forecaster from every origin, of the series with `context` sessions there."""
    forecasts = rolling(
        forecaster, history, origins, config.horizon, levels=config.levels, context=context
    )
    return scores(forecasts)
