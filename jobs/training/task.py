"""The task that forecasters are scored on, and the scores of one."""

import dataclasses
from dataclasses import dataclass

import pandas as pd

from jobs.data.catalog import Data
from jobs.running.progress import Progress
from registry import training
from registry.forecast import names
from registry.forecast.forecast import Forecaster
from registry.scoring.rolling import origins_between, rolling
from registry.scoring.scores import scores


@dataclass(frozen=True)
class Scored:
    """Forecasts from every origin with their outcomes, and the scores of each row."""

    forecasts: pd.DataFrame
    scores: pd.DataFrame


@dataclass(frozen=True)
class Task:
    """A data set, and the settings that all families share."""

    data: Data
    config: training.Config

    @classmethod
    def of(cls, data: Data, config: training.Config) -> "Task":
        """The task of a model; settings of its own family are dropped."""
        fields = dataclasses.fields(training.Config)
        shared = {field.name: getattr(config, field.name) for field in fields}
        return cls(data, training.Config(**shared))

    @property
    def key(self) -> str:
        """Two tasks with the same key have the same scores."""
        return f"{self.data.digest} {self.config}"

    def origins(self, context: int) -> pd.DatetimeIndex:
        """Origins of the report period. Raises BadInput, code NO_ORIGINS."""
        config = self.config
        return origins_between(
            self.data.history,
            config.choose_until,
            config.report_until,
            config.horizon,
            context=context,
            every=config.report_every,
        )

    def score(self, forecaster: Forecaster, context: int, progress: Progress, label: str) -> Scored:
        """Forecasts from every origin of the series that have `context` sessions there."""
        config, history = self.config, self.data.history
        if config.report_until:
            history = history[history[names.DS] <= pd.Timestamp(config.report_until)]
        forecasts = rolling(
            forecaster,
            history,
            self.origins(context),
            config.horizon,
            levels=config.levels,
            context=context,
            progress=lambda done, total: progress(label, done / total),
        )
        return Scored(forecasts, scores(forecasts))
