"""Train one registered model: fit, evaluate on the report period, log, register."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from jobs import card, families, figures, processed
from registry import artifacts, contract, evaluation, tracking, wire
from registry.contract import Trained, TrainRun
from registry.errors import BadInput
from registry.settings import CHECKOUT, Settings
from registry.store import Store, Version, example_history

EXPERIMENT = "forecasters"
MAX_SEED = 2**32 - 1  # numpy's and Lightning's
REFERENCE = "fhs"  # skill is measured against it
RECIPE_TAG = "recipe"
Progress = Callable[[str, float], None]  # what is being done, share done (0..1)


@dataclass(frozen=True)
class Result:
    """A registered version and the headline of its report."""

    version: Version
    metrics: Mapping[str, float]
    reused: bool
    seconds: float

    def summary(self) -> dict[str, Any]:
        """For people and programs: version, run, CRPS, coverage, skill."""
        kept = {k: self.metrics[k] for k in ("crps", "coverage_90", "skill_vs_fhs") if k in self.metrics}
        return {"model": self.version.name, "version": self.version.version, "run_id": self.version.run_id, **kept}


@dataclass(frozen=True)
class Plan:
    """What is going to be trained: checked before anything is started."""

    family: families.Family
    config: contract.Config
    seed: int
    history: pd.DataFrame
    data_digest: str
    universe: processed.Universe
    lock_sha256: str
    code_digest: str
    recipe: str


class Reference:
    """Forecasts of `fhs` on the rows that a model is scored on; kept for the next model of this process."""

    def __init__(self) -> None:
        self._kept: dict[str, pd.DataFrame] = {}

    def keep(self, what: Plan, forecasts: pd.DataFrame) -> None:
        self._kept[_key(what)] = forecasts

    def forecasts(self, what: Plan, assess: Callable[..., pd.DataFrame], progress: Progress) -> pd.DataFrame:
        if _key(what) not in self._kept:
            family = families.find(REFERENCE)
            config = families.load_config(family, _common(what))
            forecaster = family.models.Fhs(family.training.spec(REFERENCE, config))
            self.keep(what, assess(forecaster, progress=lambda i, n: progress(f"evaluating {REFERENCE}", i / n)))
        return self._kept[_key(what)]


def _common(what: Plan) -> dict[str, Any]:
    """The settings that every family's Config shares."""
    return {f.name: getattr(what.config, f.name) for f in dataclasses.fields(contract.Config)}


def _key(what: Plan) -> str:
    return f"{what.data_digest} {_common(what)}"


def plan(settings: Settings, model: str, overrides: Mapping[str, Any], *, seed: int, tiny: bool) -> Plan:
    """Check model, settings and data. Raises BadInput, BadConfig or NotFound; nothing has been written then."""
    family = families.find(model)
    if not 0 <= seed <= MAX_SEED:
        raise BadInput(f"seed is {seed}, expected 0..{MAX_SEED}", code="BAD_SEED")
    config = families.load_config(family, overrides, tiny=tiny)
    history = processed.load_panel(settings)
    evaluation.origins_between(history, config.choose_until, config.report_until, config.horizon)
    data, lock = processed.data_digest(settings), artifacts.sha256(CHECKOUT / "requirements.lock")
    code = artifacts.code_digest(CHECKOUT, family.name)
    recipe = families.recipe(model, config, seed, data=data, lock=lock, code=code)
    return Plan(family, config, seed, history, data, processed.load_universe(settings), lock, code, recipe)


def train(
    settings: Settings,
    what: Plan,
    reference: Reference,
    *,
    reuse: bool = False,
    nested: bool = False,
    progress: Progress = lambda *_: None,
) -> Result:
    """Train, report and register; with `reuse`, a version of the same recipe is taken as it is."""
    begun = time.monotonic()
    store = Store(settings)
    if reuse and (found := store.find(what.family.model, {RECIPE_TAG: what.recipe})) is not None:
        metrics = store.client.get_run(found.run_id).data.metrics
        return Result(found, metrics, True, time.monotonic() - begun)
    with tracking.start(settings, EXPERIMENT, what.family.model, tags=_tags(what), nested=nested) as run:
        run.params(_params(what))
        run.dataset(what.history, "panel", what.data_digest, "training")
        steps = int(getattr(what.config, "max_steps", 1))
        checkpoints = settings.state_dir / "checkpoints" / what.recipe[:16]
        fitting = time.monotonic()
        trained = fit(what, _TrainRun(run, checkpoints, steps, progress))
        run.metrics({"fit_seconds": time.monotonic() - fitting})
        run.params(trained.params)
        metrics = _report(what, trained, reference, run, progress)
        progress("registering", 0.0)
        version = _register(store, what, trained, metrics, run)
        run.metrics({"seconds": time.monotonic() - begun})
    return Result(version, metrics, False, time.monotonic() - begun)


def _params(what: Plan) -> dict[str, Any]:
    values = {
        **dataclasses.asdict(what.config),
        "seed": what.seed,
        "model": what.family.model,
        "family": what.family.name,
    }
    values["levels"] = ",".join(f"{level:g}" for level in what.config.levels)
    return values


def _tags(what: Plan) -> dict[str, str]:
    """What every version carries, and its run too."""
    config = what.config
    return {
        "family": what.family.name,
        "contract": str(wire.CONTRACT),
        "data_digest": what.data_digest,
        "universe": f"{what.universe.name}@{what.universe.digest[:12]}",
        "git_commit": tracking.git_commit(),
        "lock_sha256": what.lock_sha256,
        "code_digest": what.code_digest,
        RECIPE_TAG: what.recipe,
        "trained_until": config.choose_until,
        "pretrained_until": "none",
        "horizon": str(config.horizon),
        "levels": ",".join(f"{level:g}" for level in config.levels),
        "calendar": "XNYS",
        "licence": "Apache-2.0",
        "weight_source": "trained here",
        "weight_revision": "none",
    }


class _TrainRun:
    """TrainRun over an MLflow run and a progress callback."""

    def __init__(self, run: tracking.Run, checkpoint_dir: Path, steps: int, progress: Progress) -> None:
        self.checkpoint_dir = checkpoint_dir
        self._run, self._steps, self._progress = run, steps, progress

    def report(self, step: int, **losses: float) -> None:
        if losses:
            self._run.metrics(losses, step)
        self._progress("training", min(step / self._steps, 1.0))

    def should_stop(self) -> bool:
        return False


def fit(what: Plan, run: TrainRun) -> Trained:
    """Hand the family the sessions that it may see, and nothing later."""
    seen = what.history[what.history[wire.DS] <= pd.Timestamp(what.config.choose_until)].reset_index(drop=True)
    trained: Trained = what.family.training.train(seen, what.config, name=what.family.model, seed=what.seed, run=run)
    return trained


def _report(
    what: Plan, trained: Trained, reference: Reference, run: tracking.Run, progress: Progress
) -> dict[str, float]:
    """Score the report period, once, beside the reference; log metrics, figures and tables."""
    config = what.config
    origins = evaluation.origins_between(what.history, config.choose_until, config.report_until, config.horizon)
    assess = partial(
        evaluation.rolling, history=what.history, origins=origins, horizon=config.horizon, levels=config.levels
    )
    forecasts = assess(trained.forecaster, progress=lambda i, n: progress("evaluating", i / n))
    scored = evaluation.scores(forecasts)
    if what.family.model == REFERENCE:
        reference.keep(what, forecasts)
    base_forecasts = reference.forecasts(what, assess, progress)
    base = evaluation.scores(base_forecasts)
    overall = {str(name): float(value) for name, value in evaluation.means(scored).iloc[0].items()}
    metrics = overall | evaluation.against(scored, base)
    run.metrics(metrics)
    by_step = evaluation.means(scored, wire.STEP)
    for name in by_step.columns:
        run.series(f"{name}_by_step", dict(enumerate(by_step[name], 1)))
    skill = {h: evaluation.against(scored, base, step=h)["skill_vs_fhs"] for h in range(1, config.horizon + 1)}
    run.series("skill_vs_fhs_by_step", skill)
    run.table(evaluation.means(scored, wire.UNIQUE_ID).reset_index(), "tables/scores_by_series")
    run.table(by_step.reset_index(), "tables/scores_by_step")
    run.table(evaluation.reliability(forecasts), "tables/reliability")
    compared = {what.family.model: forecasts, REFERENCE: base_forecasts}
    run.figure(
        figures.fan_chart(forecasts, what.family.model, str(what.history[wire.UNIQUE_ID].iloc[0])),
        "figures/fan_chart.png",
    )
    run.figure(figures.reliability_diagram(compared), "figures/reliability.png")
    for stem, figure in trained.figures.items():
        run.figure(figure, f"figures/{stem}.png")
    for stem, table in trained.tables.items():
        run.table(table, f"tables/{stem}")
    return metrics


def _register(store: Store, what: Plan, trained: Trained, metrics: Mapping[str, float], run: tracking.Run) -> Version:
    family, spec = what.family, trained.forecaster.spec
    text = card.model_card(family.card, family.model, spec, _tags(what), metrics)
    run.text(text, "model_card.md")
    return store.log(
        spec,
        partial(family.models.save, trained.forecaster),
        requirements=family.models.REQUIREMENTS,
        example=example_history(what.history, spec),
        tags=_tags(what),
        description=text,
    )
