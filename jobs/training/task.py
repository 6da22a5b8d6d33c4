"""The task that forecasters are scored on, and the scores of one."""

import dataclasses
from dataclasses import dataclass

import pandas as pd

from jobs.data.dataset import Data
from jobs.running.progress import Progress
from registry import training
from registry.forecast import names
from registry.forecast.forecast import Forecaster
from registry.forecast.history import Refused
from registry.scoring.rolling import ORIGIN, origins_between, rolling
from registry.scoring.scores import scores

PAIR = [names.UNIQUE_ID, ORIGIN]
REFUSED = [*PAIR, "code", "message"]  # columns of the table of refused series


@dataclass(frozen=True)
class Scored:
    """Forecasts from every origin with their outcomes, and the scores of each row.

    `refused` are series that failed a check at an origin: unique_id, origin, code, message.
    """

    forecasts: pd.DataFrame
    scores: pd.DataFrame
    refused: pd.DataFrame

    @property
    def pairs(self) -> pd.MultiIndex:
        """Series and origin of each row."""
        return pd.MultiIndex.from_frame(self.scores[PAIR])

    def on(self, pairs: pd.MultiIndex) -> "Scored":
        """The part on these pairs of series and origin."""
        part = self.pairs.isin(pairs)
        forecasts = self.forecasts[part].reset_index(drop=True)
        return Scored(forecasts, self.scores[part].reset_index(drop=True), self.refused)


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

    def origins(self, context: int, label: str) -> pd.DatetimeIndex:
        """Origins of the report period.

        Raises BadHistory (NO_ORIGINS); `label` names the model that needs `context` sessions.
        """
        config = self.config
        return origins_between(
            self.data.history,
            config.choose_until,
            config.report_until,
            config.horizon,
            context=context,
            every=config.report_every,
            label=label,
        )

    def score(self, forecaster: Forecaster, context: int, progress: Progress, label: str) -> Scored:
        """Forecasts from every origin of the series that have `context` sessions there.

        A series that fails a check of a request at an origin is left out there.
        """
        config, history = self.config, self.data.history
        refused: list[tuple[str, pd.Timestamp, str, str]] = []

        def note(origin: pd.Timestamp, series: Refused) -> None:
            refused.append((series.unique_id, origin, series.code, series.message))

        if config.report_until:
            history = history[history[names.DS] <= pd.Timestamp(config.report_until)]
        forecasts = rolling(
            forecaster,
            history,
            self.origins(context, forecaster.spec.name),
            config.horizon,
            levels=config.levels,
            context=context,
            progress=lambda done, total: progress(label, done / total),
            on_refused=note,
        )
        return Scored(forecasts, scores(forecasts), pd.DataFrame(refused, columns=REFUSED))
