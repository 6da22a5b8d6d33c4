"""Log trainings and comparisons to MLflow."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

import pandas as pd

from jobs.data.dataset import Data
from jobs.training import card, families, figures
from jobs.training.comparison import Comparison
from jobs.training.planning import Plan, Start
from jobs.training.references import FHS
from jobs.training.task import Task
from registry import training
from registry.forecast import names
from registry.forecast.checks import check_history
from registry.forecast.forecast import Forecaster
from registry.scoring.rolling import ORIGIN
from registry.scoring.scores import means, reliability
from registry.training import Trained
from registry.versions import describing, tracking
from registry.versions.manifest import MANIFEST_TAG
from registry.versions.scored import ROWS_TAG
from registry.versions.store import Store, example_history
from registry.versions.tracking import Run
from registry.versions.version import RECIPE_TAG, Version


def data_tags(data: Data) -> dict[str, str]:
    """Data set, digest of its prices, universe of its market columns, and this code's commit."""
    return {
        "data": data.dataset.name,
        "data_digest": data.digest,
        "universe": data.dataset.universe.tag,
        **data.dataset.origin,
        "git_commit": tracking.git_commit(),
    }


def training_tags(plan: Plan) -> dict[str, str]:
    """Tags of the run of a training, and provenance of the version."""
    config = plan.config
    tags = {
        "family": plan.model.family.name,
        "contract": str(names.CONTRACT),
        **data_tags(plan.data),
        "lock_sha256": plan.lock_sha256,
        "code_digest": plan.code_digest,
        RECIPE_TAG: plan.recipe,
        "trained_until": config.choose_until,
        "horizon": str(config.horizon),
        "levels": levels_text(config),
        "calendar": config.calendar,
        **_origin(plan.start),
    }
    return tags | ({"leakage": plan.leakage} if plan.leakage else {})


def _origin(start: Start | None) -> dict[str, str]:
    """Where the weights come from, and the last session that they were pretrained on."""
    if start is None:
        return {
            "pretrained_until": "none",
            "licence": "Apache-2.0",
            "weight_source": "trained here",
            "weight_revision": "none",
        }
    facts, name = start.facts, start.version.reference
    weights = f"{facts['weight_source']}@{facts['weight_revision']}"
    return {
        "pretrained_until": facts["pretrained_until"],
        "licence": facts["licence"],
        "weight_source": f"fine-tuned from {name} ({weights})",
        "weight_revision": facts[MANIFEST_TAG],
    }


def log_plan(run: Run, plan: Plan) -> None:
    """Parameters and data, before anything is fitted."""
    params = {
        **params_of(plan.config),
        "seed": plan.seed,
        "model": plan.model.name,
        "family": plan.model.family.name,
    }
    for member, config in plan.members.items():
        for key, value in dataclasses.asdict(config).items():
            if key not in params:
                params[f"{member}.{key}"] = value
    run.params(params)
    log_data(run, plan.data, "training")


def params_of(config: training.Config) -> dict[str, Any]:
    """Settings as parameters of a run."""
    return dataclasses.asdict(config) | {"levels": levels_text(config)}


def levels_text(config: training.Config) -> str:
    return ",".join(f"{level:g}" for level in config.levels)


def log_data(run: Run, data: Data, context: str) -> None:
    """Log the data set of a run; `context` is its use: training, tuning or evaluation."""
    run.dataset(data.history, data.dataset.name, data.digest, context)


def log_fit(run: Run, plan: Plan, trained: Trained, cost: Mapping[str, float]) -> dict[str, str]:
    """Log a fitted model to its run. Return the tags of a simulator and of made-up columns."""
    tags = {"simulated": "true"} if trained.params.get("simulated") else {}
    synthetic = plan.synthetic(trained.forecaster.spec)
    if synthetic:
        tags["synthetic"] = ",".join(synthetic)
    run.params(trained.params)
    run.tags(tags)
    run.metrics({**cost, **trained.metrics})
    run.metrics(dict.fromkeys(tags, 1.0))  # a column of the comparison in the UI
    for stem, figure in trained.figures.items():
        run.figure(figure, f"figures/{stem}.png")
    for stem, table in trained.tables.items():
        run.table(table, f"tables/{stem}")
    if trained.left_out:
        run.params({"series_left_out": len(trained.left_out)})
        columns = [names.UNIQUE_ID, "why"]
        run.table(pd.DataFrame([*trained.left_out.items()], columns=columns), "tables/left_out")
    return tags


def register(
    run: Run, store: Store, plan: Plan, trained: Trained, tags: Mapping[str, str],
    metrics: Mapping[str, float],
) -> Version:  # fmt: skip
    """Log the model card and the version, and describe the model; `metrics` are the card's."""
    model, forecaster = plan.model, trained.forecaster
    spec = dataclasses.replace(forecaster.spec, synthetic=plan.synthetic(forecaster.spec))
    text = card.model_card(model.card, model.name, spec, tags, metrics)
    run.text(text, "model_card.md")
    requirements: list[str] = []
    for family in families.families_of(spec):
        requirements += family.requirements
    symbols = {"symbols": ",".join(spec.universe)} if spec.universe else {}
    version = store.log(
        spec,
        partial(model.family.save, forecaster),
        requirements=requirements,
        example=example_history(plan.data.history, spec),
        tags={**tags, **symbols},
        description=text,
    )
    describing.update(store, model.name)
    return version


def log_comparison(run: Run, comparison: Comparison, name: str, forecaster: Forecaster) -> None:
    """Log metrics, figures and tables of one model of a comparison."""
    scored = comparison.models[name]
    forecasts = scored.forecasts
    run.metrics(comparison.metrics[name])
    run.tags({ROWS_TAG: comparison.rows})
    for key, by_step in comparison.by_step(name).items():
        run.series(f"{key}_by_step", by_step)
    run.table(comparison.table, "tables/compared")
    run.table(means(scored.scores, names.UNIQUE_ID).reset_index(), "tables/scores_by_series")
    run.table(means(scored.scores, names.STEP).reset_index(), "tables/scores_by_step")
    run.table(reliability(forecasts), "tables/reliability")
    if len(comparison.refused):
        run.table(comparison.refused, "tables/refused")
    series = str(forecasts[names.UNIQUE_ID].iloc[0])
    run.figure(figures.fan_chart(forecasts, name, series), "figures/fan_chart.png")
    shown = {name: forecasts, FHS: comparison.references[FHS].forecasts}
    run.figure(figures.reliability_diagram(shown), "figures/reliability.png")
    if forecaster.spec.has_prices:
        origin = forecasts.loc[forecasts[names.UNIQUE_ID] == series, ORIGIN].max()
        figure = _paths(name, forecaster, comparison.task, series, origin)
        run.figure(figure, "figures/paths.png")


def _paths(name: str, forecaster: Forecaster, task: Task, series: str, origin: pd.Timestamp) -> Any:
    """Picture of the sampled paths of one series after one session."""
    spec, history = forecaster.spec, task.data.history
    of_series = history[history[names.UNIQUE_ID] == series]
    until_origin = of_series[of_series[names.DS] <= origin].tail(spec.max_context)
    request = spec.request({"horizon": task.config.horizon})
    checked = check_history(until_origin, spec)
    forecast = forecaster.predict(checked, request).at(task.config.levels)
    closes = of_series.set_index(names.DS)[names.OHLC[3]]
    return figures.path_chart(forecast, closes, name, series)
