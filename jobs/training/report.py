"""Scores of a forecaster over the report period beside fhs, har and naive, on the same rows; what a run shows of it."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from jobs.data import processed
from jobs.training import families, figures
from registry import training
from registry.forecast import names
from registry.forecast.forecast import Forecaster
from registry.forecast.history import History, numeric_columns
from registry.scoring.difference import against
from registry.scoring.rolling import ORIGIN, origins_between, rolling
from registry.scoring.scores import means, rank_ic, reliability, scores
from registry.training import Trained
from registry.versions import tracking

FHS, NAIVE = "fhs", "naive"
REFERENCES = (FHS, "har", NAIVE)
COMPARED = ("crps", "coverage_50", "coverage_80", "coverage_90", "direction", "rank_ic", "skill_vs_fhs",
            "skill_vs_naive", "dm_p_hln", "dm_p_bartlett", "bars_corrected")  # fmt: skip

Progress = Callable[[str, float], None]  # what is being done, share done (0..1)


@dataclass(frozen=True)
class Scored:
    """Forecasts from every origin with what came true, and the scores of each row."""

    forecasts: pd.DataFrame
    scores: pd.DataFrame


@dataclass(frozen=True)
class Task:
    """What forecasters are scored on: a data set, and the settings that every family shares."""

    data: processed.Data
    config: training.Config

    @classmethod
    def of(cls, data: processed.Data, config: training.Config) -> "Task":
        common = {f.name: getattr(config, f.name) for f in dataclasses.fields(training.Config)}
        return cls(data, training.Config(**common))

    @property
    def key(self) -> str:
        return f"{self.data.digest} {self.config}"

    def origins(self, context: int) -> pd.DatetimeIndex:
        """Origins of the report period. Raises BadInput, code NO_ORIGINS."""
        c = self.config
        return origins_between(
            self.data.history,
            c.choose_until,
            c.report_until,
            c.horizon,
            context=context,
            every=c.report_every,
        )

    def score(
        self, forecaster: Forecaster, context: int, progress: Progress, saying: str
    ) -> Scored:
        """The report period, forecast from every origin by the series that have `context` sessions there."""
        c, history = self.config, self.data.history
        if c.report_until:
            history = history[history[names.DS] <= pd.Timestamp(c.report_until)]
        forecasts = rolling(
            forecaster,
            history,
            self.origins(context),
            c.horizon,
            levels=c.levels,
            context=context,
            progress=lambda done, of: progress(saying, done / of),
        )
        return Scored(forecasts, scores(forecasts))


class Reference:
    """fhs, har and naive, fitted on what the model was fitted on and scored on its rows.

    What was fitted and scored is kept for the next model of this process.
    """

    def __init__(self) -> None:
        self._fitted: dict[str, dict[str, Forecaster]] = {}
        self._scored: dict[tuple[str, int], dict[str, Scored]] = {}

    def fitted(self, task: Task) -> dict[str, Forecaster]:
        if task.key not in self._fitted:
            self._fitted[task.key] = {name: _fit(name, task) for name in REFERENCES}
        return self._fitted[task.key]

    def scored(self, task: Task, context: int, progress: Progress) -> dict[str, Scored]:
        key = (task.key, context)
        if key not in self._scored:
            self._scored[key] = {
                name: task.score(forecaster, context, progress, f"evaluating {name}")
                for name, forecaster in self.fitted(task).items()
            }
        return self._scored[key]


@dataclass
class Unwatched:
    """Surroundings of a reference's training: nobody looks."""

    checkpoint_dir: Path
    start_dir: Path | None = None

    def report(self, step: int, **losses: float) -> None:
        """Nobody listens."""

    def should_stop(self) -> bool:
        return False

    def fit_member(
        self, model: str, history: pd.DataFrame, config: training.Config, seed: int, *, tiny: bool
    ) -> Trained:
        run = Unwatched(self.checkpoint_dir / model)
        return families.fit_member(model, history, config, seed, tiny=tiny, run=run)


def _fit(name: str, task: Task) -> Forecaster:
    model = families.find(name)
    config = families.load_config(model, dataclasses.asdict(task.config))
    with TemporaryDirectory() as folder:
        return families.fit(
            model, config, task.data.history, seed=0, run=Unwatched(Path(folder))
        ).forecaster


@dataclass(frozen=True)
class Report:
    """Models and the references, scored on the same rows of the report period.

    `compared` is the table of all, best CRPS first.
    """

    task: Task
    origins: pd.DatetimeIndex
    models: Mapping[str, Scored]
    references: Mapping[str, Scored]
    metrics: Mapping[str, Mapping[str, float]]  # of each model
    compared: pd.DataFrame


def report(
    models: Mapping[str, Forecaster], task: Task, reference: Reference, progress: Progress
) -> Report:
    """Score the report period once for each model, beside the references."""
    every = task.config.report_every
    forecasters = [*models.values(), *reference.fitted(task).values()]
    context = max(forecaster.spec.min_context for forecaster in forecasters)
    scored = {
        name: task.score(forecaster, context, progress, f"evaluating {name}")
        for name, forecaster in models.items()
    }
    references = reference.scored(task, context, progress)
    metrics = {name: measure(one, references, every) for name, one in scored.items()}
    compared = _compared(metrics, references, every)
    return Report(task, task.origins(context), scored, references, metrics, compared)


def log(scored: Report, name: str, forecaster: Forecaster, run: tracking.Run) -> None:
    """Metrics, figures and tables of one model of a report, on its run."""
    ours, task = scored.models[name], scored.task
    run.metrics(scored.metrics[name])
    for key, by_step in _by_step(ours, scored.references, task.config.report_every).items():
        run.series(f"{key}_by_step", by_step)
    run.table(scored.compared, "tables/compared")
    run.table(means(ours.scores, names.UNIQUE_ID).reset_index(), "tables/scores_by_series")
    run.table(means(ours.scores, names.STEP).reset_index(), "tables/scores_by_step")
    run.table(reliability(ours.forecasts), "tables/reliability")
    series = str(ours.forecasts[names.UNIQUE_ID].iloc[0])
    run.figure(figures.fan_chart(ours.forecasts, name, series), "figures/fan_chart.png")
    shown = {name: ours.forecasts, FHS: scored.references[FHS].forecasts}
    run.figure(figures.reliability_diagram(shown), "figures/reliability.png")
    if forecaster.spec.has_prices:
        rows = ours.forecasts[names.UNIQUE_ID] == series
        origin = ours.forecasts.loc[rows, ORIGIN].max()
        run.figure(_paths(name, forecaster, task, series, origin), "figures/paths.png")


def _paths(name: str, forecaster: Forecaster, task: Task, series: str, origin: pd.Timestamp) -> Any:
    """Picture of the paths that are sampled for one series after one session."""
    spec, history = forecaster.spec, task.data.history
    one = history[history[names.UNIQUE_ID] == series]
    until_origin = one[one[names.DS] <= origin].tail(spec.max_context)
    request = spec.request({"horizon": task.config.horizon})
    known = History.of(until_origin, numeric_columns(until_origin, spec))
    forecast = forecaster.predict(known, request).at(task.config.levels)
    closes = one.set_index(names.DS)[names.OHLC[3]]
    return figures.path_chart(forecast, closes, name, series)


def measure(ours: Scored, references: Mapping[str, Scored], every: int) -> dict[str, float]:
    """Mean scores over the report period, rank IC, skill against fhs with both p-values and against naive."""
    overall = means(ours.scores).iloc[0].dropna()
    ic = rank_ic(ours.forecasts)
    fhs, naive = (
        against(ours.scores, references[name].scores, every=every) for name in (FHS, NAIVE)
    )
    return {
        **{str(name): float(value) for name, value in overall.items()},
        **({"rank_ic": sum(ic.values()) / len(ic)} if ic else {}),
        "skill_vs_fhs": fhs.skill,
        "skill_vs_naive": naive.skill,
        "dm_p_hln": fhs.test.p_hln,
        "dm_p_bartlett": fhs.test.p_bartlett,
    }


def _by_step(
    ours: Scored, references: Mapping[str, Scored], every: int
) -> dict[str, dict[int, float]]:
    """Metrics of each step ahead, by name."""
    table = means(ours.scores, names.STEP)
    found = {
        str(name): dict(zip(table.index, values, strict=True)) for name, values in table.items()
    }
    fhs = references[FHS].scores
    skill = {
        step: against(ours.scores, fhs, step, every=every).skill for step in table.index.tolist()
    }
    return {**found, "rank_ic": rank_ic(ours.forecasts), "skill_vs_fhs": skill}


def _compared(
    models: Mapping[str, Mapping[str, float]], references: Mapping[str, Scored], every: int
) -> pd.DataFrame:
    """One row for each model and reference, best CRPS first; columns of COMPARED that any has."""
    rows = dict(models)
    for name, scored in references.items():
        label = f"{name} (reference)" if name in models else name
        rows[label] = measure(scored, references, every)
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")
    table = table.sort_values("crps", kind="stable")
    return table[[column for column in COMPARED if column in table.columns]].reset_index()
