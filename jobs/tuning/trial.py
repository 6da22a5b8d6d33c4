"""One trial of a study: fit a model with some settings and score it on the choice period."""

import dataclasses
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from jobs.training import families
from registry import training
from registry.errors import BadInput, KronosError
from registry.forecast.forecast import Forecaster
from registry.scoring.difference import against
from registry.scoring.rolling import rolling
from registry.scoring.scores import means, scores
from registry.training import Trained

Listen = Callable[
    [int, Mapping[str, float]], bool
]  # hears step and losses; says whether the trial shall be given up

DIVERGED = (
    "DIVERGED"  # code of a loss that is not finite: like bad input, the settings are to blame
)
PRUNED = "pruned: its choice loss was worse than the median of the trials before it"


@dataclass(frozen=True)
class Setup:
    """What the trials of a study share. Nothing in it is later than the choice period."""

    model: families.Model
    config: training.Config  # with the settings that are not searched
    history: pd.DataFrame  # up to config.choose_until
    origins: pd.DatetimeIndex  # of the choice period
    context: int  # sessions that a series needs to take part at an origin, in every trial
    reference: pd.DataFrame  # scores of fhs from those origins
    seed: int  # of every training
    start_dir: Path | None
    scratch: Path  # for checkpoints, while a trial runs


@dataclass(frozen=True)
class Outcome:
    """What came of a trial: crps, skill_vs_fhs, coverage_90, ...; or why it was given up."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    given_up: str = ""


class Surroundings:
    """TrainRun of a trial, and of the members that it fits: losses are told, nothing is kept."""

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
        def member(step: int, losses: Mapping[str, float]) -> bool:
            self._listen(step, {f"{model}_{name}": loss for name, loss in losses.items()})
            return False

        run = Surroundings(self.checkpoint_dir / model, None, member)
        return families.fit_member(model, history, config, seed, tiny=tiny, run=run)


def run(setup: Setup, settings: Mapping[str, Any], listen: Listen) -> Outcome:
    """Fit and score with `settings` instead of the configured ones.

    Settings that the model refuses and a training that diverges are an outcome; any other error is raised.
    """
    begun = time.monotonic()
    setup.scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=setup.scratch) as folder:
        surroundings = Surroundings(Path(folder), setup.start_dir, listen)
        try:
            config = dataclasses.replace(setup.config, **settings)
            trained = families.fit(
                setup.model, config, setup.history, seed=setup.seed, run=surroundings
            )
            fit_seconds = time.monotonic() - begun
            if surroundings.should_stop():
                return Outcome(given_up=PRUNED)
            scored = score(
                trained.forecaster, setup.history, setup.origins, setup.config, setup.context
            )
        except SystemExit as error:  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt from error
        except KronosError as error:
            if isinstance(error, BadInput) or error.code == DIVERGED:
                return Outcome(given_up=f"{error.code}: {error.message}")
            raise
    found = means(scored).iloc[0].dropna()
    skill = against(scored, setup.reference, every=setup.config.report_every).skill
    metrics = {str(name): float(value) for name, value in found.items()}
    return Outcome({**metrics, "skill_vs_fhs": skill, "fit_seconds": fit_seconds})


def score(
    forecaster: Forecaster,
    history: pd.DataFrame,
    origins: pd.DatetimeIndex,
    config: training.Config,
    context: int,
) -> pd.DataFrame:
    """Scores of a forecaster from every origin, of the series that have `context` sessions there."""
    forecasts = rolling(
        forecaster, history, origins, config.horizon, levels=config.levels, context=context
    )
    return scores(forecasts)
