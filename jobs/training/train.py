"""Train one registered model: fit, score on the report period, log, register."""

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from jobs.running.progress import Progress, silent
from jobs.training import families, members, record
from jobs.training.comparison import compare
from jobs.training.planning import Plan
from jobs.training.references import References
from jobs.training.task import Task
from registry import training
from registry.files import locked
from registry.settings import Settings
from registry.training import Trained
from registry.versions import tracking
from registry.versions.store import Store
from registry.versions.version import RECIPE_TAG, Version, checkpoint_dir

EXPERIMENT = "forecasters"
SUMMARY = ("crps", "coverage_50", "coverage_80", "coverage_90", "skill_vs_fhs", "dm_p_hln",
           "dm_p_bartlett", "parameters", "fit_seconds")  # fmt: skip


@dataclass(frozen=True)
class Result:
    """A registered version and how it scored."""

    version: Version
    metrics: Mapping[str, float]
    reused: bool
    seconds: float

    def summary(self) -> dict[str, Any]:
        """Version, run, data, scores and cost, JSON-ready."""
        version, tags = self.version, self.version.tags
        return {
            "model": version.name,
            "version": version.version,
            "run_id": version.run_id,
            "data": tags["data"],
            "trained_until": tags["trained_until"],
            "leakage": tags.get("leakage", ""),
            **{key: self.metrics[key] for key in SUMMARY if key in self.metrics},
        }


def train(
    settings: Settings,
    plan: Plan,
    references: References,
    *,
    reuse: bool = False,
    nested: bool = False,
    progress: Progress = silent,
) -> Result:
    """Fit, score, log and register; with `reuse`, return a version of the same recipe if any.

    Raises Conflict when another process trains the same recipe, or the registered model of this
    name is another program's.
    """
    start_time = time.monotonic()
    store, name = Store(settings), plan.model.name
    store.check_free(name)
    if reuse and (version := store.find(name, {RECIPE_TAG: plan.recipe})) is not None:
        metrics = store.client.get_run(version.run_id).data.metrics
        return Result(version, metrics, True, time.monotonic() - start_time)
    checkpoints = checkpoint_dir(settings, plan.recipe)
    tags = record.training_tags(plan)
    with tracking.start(settings, EXPERIMENT, name, tags=tags, nested=nested) as run:
        record.log_plan(run, plan)
        checkpoints.parent.mkdir(parents=True, exist_ok=True)
        with locked(checkpoints.with_suffix(".lock"), busy=_busy(name)):
            trained, cost = _fit(plan, run, checkpoints, progress)
            tags |= record.log_fit(run, plan, trained, cost)
            task = Task.of(plan.data, plan.config)
            comparison = compare({name: trained.forecaster}, task, references, progress)
            record.log_comparison(run, comparison, name, trained.forecaster)
            metrics = {**cost, **comparison.metrics[name]}
            progress("registering", 0.0)
            version = record.register(run, store, plan, trained, tags, metrics)
            shutil.rmtree(checkpoints, ignore_errors=True)  # the version has the weights
        run.metrics({"seconds": time.monotonic() - start_time})
    return Result(version, metrics, False, time.monotonic() - start_time)


def _busy(model: str) -> str:
    return (
        f"{model} is already being trained with the same settings; wait for it, or change the seed"
    )


def _fit(
    plan: Plan, run: tracking.Run, checkpoints: Path, progress: Progress
) -> tuple[Trained, dict[str, float]]:
    """The fitted model, and the cost of its training."""
    start_time = time.monotonic()
    start_dir = plan.start.model_dir if plan.start else None
    steps = int(getattr(plan.config, "max_steps", 1))
    train_run = _TrainRun(run, checkpoints, start_dir, steps, progress)
    history = plan.data.history
    trained = families.fit(plan.model, plan.config, history, seed=plan.seed, run=train_run)
    seconds = time.monotonic() - start_time
    parameters = float(trained.params["parameters"])
    return trained, {"fit_seconds": seconds, "parameters": parameters}


class _TrainRun:
    """TrainRun over an MLflow run and a progress callback."""

    def __init__(
        self,
        run: tracking.Run,
        checkpoint_dir: Path,
        start_dir: Path | None,
        steps: int,
        progress: Progress,
        member: str = "",
    ) -> None:
        self.checkpoint_dir = checkpoint_dir
        self.start_dir = start_dir
        self._run, self._steps, self._progress = run, steps, progress
        self._member = member  # name of an ensemble's member; prefix of its losses

    def report(self, step: int, **losses: float) -> None:
        if losses:
            prefix = f"{self._member}_" if self._member else ""
            named = {f"{prefix}{name}": value for name, value in losses.items()}
            self._run.metrics(named, step)
        self._progress(f"training {self._member}".rstrip(), min(step / self._steps, 1.0))

    def should_stop(self) -> bool:
        return False

    def fit_member(
        self, model: str, history: pd.DataFrame, config: training.Config, seed: int, *, tiny: bool
    ) -> Trained:
        member_config = members.member_config(model, config, tiny=tiny)
        steps = int(getattr(member_config, "max_steps", 1))
        checkpoint_dir = self.checkpoint_dir / model
        run = _TrainRun(self._run, checkpoint_dir, None, steps, self._progress, member=model)
        return members.fit_member(model, history, config, seed, tiny=tiny, run=run)
