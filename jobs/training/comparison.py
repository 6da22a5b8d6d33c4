"""Models and references, scored on the same rows of the report period."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from jobs.running.progress import Progress
from jobs.training.references import FHS, NAIVE, References
from jobs.training.task import PAIR, REFUSED, Scored, Task
from registry.errors import BadHistory
from registry.forecast import names
from registry.forecast.forecast import Forecaster
from registry.scoring.difference import against
from registry.scoring.rolling import ORIGIN
from registry.scoring.scores import means, rank_ic

COLUMNS = ("crps", "coverage_50", "coverage_80", "coverage_90", "direction", "rank_ic",
           "skill_vs_fhs", "skill_vs_naive", "dm_p_hln", "dm_p_bartlett",
           "bars_corrected")  # fmt: skip

Metrics = Mapping[str, float]


@dataclass(frozen=True)
class Comparison:
    """Scores by model; `table` has all models and references, best CRPS first.

    `refused` has the series that failed a check at an origin: model, unique_id, origin, code,
    message. Whatever one model or reference refuses is scored for none, so that all have the same
    rows; `left_out` counts these pairs of series and origin.
    """

    task: Task
    origins: pd.DatetimeIndex
    models: Mapping[str, Scored]
    references: Mapping[str, Scored]
    metrics: Mapping[str, Metrics]  # of each model
    table: pd.DataFrame
    refused: pd.DataFrame
    left_out: int

    @property
    def rows(self) -> str:
        """Number and hash of the scored pairs of series and origin, the same for all."""
        pairs = next(iter(self.models.values())).scores[PAIR].drop_duplicates().sort_values(PAIR)
        digest = hashlib.sha256(pairs.to_csv(index=False).encode()).hexdigest()
        return f"{len(pairs)} {digest[:16]}"

    def refusals(self) -> dict[str, Any]:
        """How many pairs of series and origin were left out, and why; JSON-ready."""
        pairs = self.refused.drop_duplicates([*PAIR, "code"])
        return {"left_out": self.left_out, "codes": pairs["code"].value_counts().to_dict()}

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
    longest = max((forecaster.spec for forecaster in forecasters), key=lambda s: s.min_context)
    context = longest.min_context
    task.origins(context, longest.name)  # raises if there is nothing to report
    scored = {}
    for name, forecaster in models.items():
        scored[name] = task.score(forecaster, context, progress, f"evaluating {name}")
    reference_scores = references.scored(task, context, progress)
    refused = _refused(scored, reference_scores)
    left_out = 0
    if len(refused):
        common, left_out = _common([*scored.values(), *reference_scores.values()], refused)
        scored = {name: result.on(common) for name, result in scored.items()}
        reference_scores = {name: result.on(common) for name, result in reference_scores.items()}
        codes = ", ".join(sorted(refused["code"].unique()))
        progress(f"left out of all: {left_out} pairs of series and origin ({codes})", 1.0)
    metrics = {name: measure(result, reference_scores, every) for name, result in scored.items()}
    table = _table(metrics, reference_scores, every)
    origins = pd.DatetimeIndex(next(iter(scored.values())).scores[ORIGIN].unique())
    return Comparison(task, origins, scored, reference_scores, metrics, table, refused, left_out)


def _refused(models: Mapping[str, Scored], references: Mapping[str, Scored]) -> pd.DataFrame:
    """The refused series of all models and references; `model` says by whom."""
    tables = [scored.refused.assign(model=name) for name, scored in models.items()]
    for name, scored in references.items():
        tables.append(scored.refused.assign(model=_label(name, models)))
    return pd.concat(tables, ignore_index=True)[["model", *REFUSED]]


def _common(every: Sequence[Scored], refused: pd.DataFrame) -> tuple[pd.MultiIndex, int]:
    """Pairs of series and origin that all can score, and the number of the other ones.

    Raises BadHistory if there is no common one.
    """
    common = every[0].pairs.unique()
    tried = common.union(pd.MultiIndex.from_frame(refused[PAIR]))
    for scored in every[1:]:
        pairs = scored.pairs.unique()
        common, tried = common.intersection(pairs), tried.union(pairs)
    if common.empty:
        first = refused.iloc[0]
        raise BadHistory(
            "no series can be scored by all at any origin; evaluate the models one by one. "
            f"{first['model']} refused: {first['message']}",
            code=str(first["code"]),
        )
    return common, len(tried.unique()) - len(common)


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
        rows[_label(name, models)] = measure(scored, references, every)
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")
    table = table.sort_values("crps", kind="stable")
    shown = [column for column in COLUMNS if column in table.columns]
    return table[shown].reset_index()


def _label(reference: str, models: Collection[str]) -> str:
    """Name of a reference in a table that may have a model of the same name."""
    return f"{reference} (reference)" if reference in models else reference
