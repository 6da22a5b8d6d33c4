"""Evaluate registered versions: verified, scored on the same rows, each recorded as a run."""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pandas as pd

from jobs.data.catalog import Catalog
from jobs.data.suits import check_suits
from jobs.running.progress import Progress, silent
from jobs.training import record
from jobs.training.comparison import Comparison, compare
from jobs.training.leakage import leakage
from jobs.training.references import References
from jobs.training.task import Task
from registry import training
from registry.errors import BadParameter
from registry.forecast.spec import ModelSpec
from registry.settings import Settings
from registry.versions import tracking
from registry.versions.loaded import LoadedVersion
from registry.versions.scored import EVALUATIONS
from registry.versions.store import Store
from registry.versions.version import Version

# Tags that the run of an evaluation takes over from the version.
CARRIED = ("trained_until", "pretrained_until", "simulated", "synthetic")


@dataclass(frozen=True)
class Evaluated:
    """One version of an evaluation: its run, and possible leakage of the reported sessions."""

    version: Version
    run_id: str
    leakage: str
    in_this_process: bool  # False: its code differs from this checkout's

    def summary(self) -> dict[str, Any]:
        return {
            "model": self.version.name,
            "version": self.version.version,
            "run_id": self.run_id,
            "simulated": self.version.tags.get("simulated") == "true",
            "synthetic": self.version.tags.get("synthetic", ""),
            "leakage": self.leakage,
            "in_this_process": self.in_this_process,
        }


@dataclass(frozen=True)
class Result:
    """Registered versions, scored on the same rows."""

    versions: tuple[Evaluated, ...]
    comparison: Comparison
    seconds: float

    def summary(self) -> dict[str, Any]:
        """Versions, data, origins, refused series and the table, JSON-ready."""
        origins = self.comparison.origins
        rows = self.comparison.table.set_index("model").to_dict(orient="index")
        compared = {}
        for name, row in rows.items():
            compared[name] = {key: value for key, value in row.items() if pd.notna(value)}
        return {
            "versions": [evaluated.summary() for evaluated in self.versions],
            "data": self.comparison.task.config.data,
            "origins": {
                "first": f"{origins[0]:%Y-%m-%d}",
                "last": f"{origins[-1]:%Y-%m-%d}",
                "number": len(origins),
            },
            "refused": self.comparison.refusals(),
            "compared": compared,
            "seconds": round(self.seconds, 1),
        }


def evaluate(
    settings: Settings,
    version_names: Sequence[str],
    overrides: Mapping[str, Any],
    references: References,
    *,
    allow_leakage: bool = False,
    progress: Progress = silent,
) -> Result:
    """Score registered versions ('kronos', 'har/3', 'nbeats@staging') on the same rows.

    Each of them becomes a run of the experiment `evaluations`. `overrides` are settings of
    training.Config; the first version and its data set fill in the others. Versions of other code
    run in their own processes. Raises NotFound, Corrupt, and BadInput for data that a model cannot
    be scored on.
    """
    start_time = time.monotonic()
    store = Store(settings)
    versions = _distinct([store.resolve(name) for name in version_names])
    with ExitStack() as stack:
        loaded: dict[str, LoadedVersion] = {}
        for version in versions:
            progress(f"verifying {version.uri}", 0.0)
            loaded[version.reference] = stack.enter_context(store.load(version.reference))
        specs = [model.spec for model in loaded.values()]
        datasets = Catalog(settings)
        config = _config(versions[0], specs, overrides, datasets)
        dataset = datasets.find(config.data)
        for model in loaded.values():
            check_suits(settings, store, model, dataset)
        leaks = {}
        for version in versions:
            leaks[version.reference] = leakage(
                version.reference, version.tags, config, allowed=allow_leakage
            )
        data = dataset.load(settings)
        comparison = compare(loaded, Task(data, config), references, progress)
        evaluated = []
        for name, model in loaded.items():
            run_id = _record(settings, model, comparison, leaks[name])
            evaluated.append(Evaluated(model.version, run_id, leaks[name], model.in_this_process))
    return Result(tuple(evaluated), comparison, time.monotonic() - start_time)


def _distinct(versions: Sequence[Version]) -> list[Version]:
    """Each version once, in order. Raises BadParameter when there is none."""
    if not versions:
        raise BadParameter("name a version to evaluate, as in nbeats or har/3")
    return list({version.reference: version for version in versions}.values())


def _record(settings: Settings, loaded: LoadedVersion, comparison: Comparison, leak: str) -> str:
    """Log the scores of a version to a new run; return the run's id."""
    version, task = loaded.version, comparison.task
    tags = {
        "model": version.name,
        "version": str(version.version),
        "source_run": version.run_id,
        **record.data_tags(task.data),
        **{key: version.tags[key] for key in CARRIED if key in version.tags},
    }
    if leak:
        tags["leakage"] = leak
    with tracking.start(settings, EVALUATIONS, version.reference, tags=tags) as run:
        run.params(record.params_of(task.config))
        record.log_data(run, task.data, "evaluation")
        record.log_comparison(run, comparison, version.reference, loaded)
        return run.run_id


def _config(
    version: Version,
    specs: Sequence[ModelSpec],
    overrides: Mapping[str, Any],
    datasets: Catalog,
) -> training.Config:
    """Settings of an evaluation that all versions can answer.

    The data set is the one that the first version was trained on or, if unknown, the first with its
    columns. The levels are those of the first version, without any that another cannot answer.
    Raises BadParameter for a horizon beyond the reach of one of them.
    """
    first = specs[0]
    data = overrides.get("data", version.tags.get("data"))
    dataset = datasets.find(data) if data else datasets.first_with(first.columns, first.name)
    defaults = {
        "data": dataset.name,
        "calendar": dataset.calendar,
        "fit_until": dataset.splits.fit_until,
        "choose_until": dataset.splits.choose_until,
        "horizon": min(training.Config.horizon, *(spec.max_horizon for spec in specs)),
        "levels": _levels(specs),
    }
    config = training.Config(**{**defaults, **overrides})
    for spec in specs:
        spec.request({"horizon": config.horizon, "levels": config.levels})
    return config


def _levels(specs: Sequence[ModelSpec]) -> tuple[float, ...]:
    """Levels of the first model that every other can answer; a model with paths answers any."""
    bounded = [spec.levels for spec in specs if not spec.has_paths]
    lowest = max((levels[0] for levels in bounded), default=0.0)
    highest = min((levels[-1] for levels in bounded), default=1.0)
    levels = tuple(level for level in specs[0].levels if lowest <= level <= highest)
    if not levels:
        raise BadParameter(
            f"{', '.join(spec.name for spec in specs)} have no levels in common; "
            "evaluate them one by one",
            code="BAD_LEVELS",
        )
    return levels
