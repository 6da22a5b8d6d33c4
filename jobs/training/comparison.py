"""Models and references, scored on the same rows of the report period."""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from jobs.running.progress import Progress
from jobs.training.references import FHS, NAIVE, References
from jobs.training.task import Scored, Task
from registry.forecast import names
from registry.forecast.forecast import Forecaster
from registry.scoring.difference import against
from registry.scoring.scores import means, rank_ic

COLUMNS = ("crps", "coverage_50", "coverage_80", "coverage_90", "direction", "rank_ic",
           "skill_vs_fhs", "skill_vs_naive", "dm_p_hln", "dm_p_bartlett",
           "bars_corrected")  # fmt: skip

Metrics = Mapping[str, float]


@dataclass(frozen=True)
class Comparison:
    """Scores by model; `table` has all models and references, best CRPS first."""

    task: Task
    origins: pd.DatetimeIndex
    models: Mapping[str, Scored]
    references: Mapping[str, Scored]
    metrics: Mapping[str, Metrics]  # of each model
    table: pd.DataFrame

    def by_step(self, model: str) -> dict[str, dict[int, float]]:
        """Metrics of each step ahead, by name."""
        scored, every = self.models[model], self.task.config.report_every
        fhs = self.references[FHS].scores
        table = means(scored.scores, names.STEP)
        skill = {}
        for step in table.index.tolist():
            skill[step] = against(scored.scores, fhs, step, every=every).skill
        metrics = {}
        for name, column in table.items():
            metrics[str(name)] = dict(zip(table.index, column, strict=True))
        return {**metrics, "rank_ic": rank_ic(scored.forecasts), "skill_vs_fhs": skill}


def compare(
    models: Mapping[str, Forecaster], task: Task, references: References, progress: Progress
) -> Comparison:
    """Score each model once, on the rows that all models and references can answer."""
    every = task.config.report_every
    forecasters = [*models.values(), *references.fitted(task).values()]
    context = max(forecaster.spec.min_context for forecaster in forecasters)
    scored = {}
    for name, forecaster in models.items():
        scored[name] = task.score(forecaster, context, progress, f"evaluating {name}")
    reference_scores = references.scored(task, context, progress)
    metrics = {name: measure(result, reference_scores, every) for name, result in scored.items()}
    table = _table(metrics, reference_scores, every)
    return Comparison(task, task.origins(context), scored, reference_scores, metrics, table)


def measure(scored: Scored, references: Mapping[str, Scored], every: int) -> dict[str, float]:
    """Mean scores, rank IC, skill against fhs with both p-values, skill against naive."""
    overall = means(scored.scores).iloc[0].dropna()
    metrics = {str(name): float(value) for name, value in overall.items()}
    ic = rank_ic(scored.forecasts)
    if ic:
        metrics["rank_ic"] = sum(ic.values()) / len(ic)
    fhs = against(scored.scores, references[FHS].scores, every=every)
    naive = against(scored.scores, references[NAIVE].scores, every=every)
    return {
        **metrics,
        "skill_vs_fhs": fhs.skill,
        "skill_vs_naive": naive.skill,
        "dm_p_hln": fhs.test.p_hln,
        "dm_p_bartlett": fhs.test.p_bartlett,
    }


def _table(
    models: Mapping[str, Metrics], references: Mapping[str, Scored], every: int
) -> pd.DataFrame:
    """One row for each model and reference, best CRPS first; without COLUMNS that nobody has."""
    rows = dict(models)
    for name, scored in references.items():
        label = f"{name} (reference)" if name in models else name
        rows[label] = measure(scored, references, every)
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")
    table = table.sort_values("crps", kind="stable")
    shown = [column for column in COLUMNS if column in table.columns]
    return table[shown].reset_index()
