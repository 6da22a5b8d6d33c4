"""Train one registered model: fit, evaluate on the report period, log, register."""

import dataclasses
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout

from jobs.data import processed
from jobs.training import card, completeness, evaluate, families
from jobs.training.report import Progress, Reference, Task, log, report
from registry import training
from registry.errors import BadConfig, BadParameter, Conflict
from registry.forecast import names
from registry.forecast.spec import ModelSpec
from registry.settings import CHECKOUT, Settings
from registry.training import Trained
from registry.versions import artifacts, tracking
from registry.versions.manifest import MODEL_DIR, sha256
from registry.versions.store import MANIFEST_TAG, Store, example_history
from registry.versions.version import Version

EXPERIMENT = "forecasters"
MAX_SEED = 2**32 - 1  # numpy's and Lightning's
RECIPE_TAG = "recipe"
SUMMARY = ("crps", "coverage_50", "coverage_80", "coverage_90", "skill_vs_fhs", "dm_p_hln", "dm_p_bartlett",
           "parameters", "fit_seconds")  # fmt: skip


@dataclass(frozen=True)
class Result:
    """A registered version and the headline of its report."""

    version: Version
    metrics: Mapping[str, float]
    reused: bool
    seconds: float

    def summary(self) -> dict[str, Any]:
        """For people and programs: version, run, what it was fitted on, scores, cost."""
        version, tags = self.version, self.version.tags
        return {
            "model": version.name,
            "version": version.version,
            "run_id": version.run_id,
            **{key: tags[key] for key in ("data", "trained_until")},
            **{key: self.metrics[key] for key in SUMMARY if key in self.metrics},
        }


@dataclass(frozen=True)
class Start:
    """The version whose weights a training starts from, and its verified model folder."""

    version: Version
    model_dir: Path


@dataclass(frozen=True)
class Plan:
    """What is going to be trained: checked before anything is started."""

    model: families.Model
    config: training.Config
    seed: int
    data: processed.Data
    start: Start | None
    lock_sha256: str
    code_digest: str
    recipe: str
    leakage: str  # what the start has seen of the report period

    def synthetic(self, spec: ModelSpec) -> tuple[str, ...]:
        """Columns that the model takes and the data made up."""
        return tuple(
            name for name in (*spec.columns, *spec.optional) if name in self.data.synthetic
        )


def plan(
    settings: Settings, name: str, overrides: Mapping[str, Any], *, seed: int, tiny: bool
) -> Plan:
    """Check model, settings and data before anything is written.

    Raises BadInput, BadConfig or NotFound.
    """
    model = families.find(name)
    completeness.check(model)
    if not 0 <= seed <= MAX_SEED:
        raise BadParameter(f"seed is {seed}, expected 0..{MAX_SEED}", code="BAD_SEED")
    config = families.load_config(model, overrides, tiny=tiny, defaults=_frozen(settings))
    data = processed.load(settings, config.data)
    spec = model.spec(config)
    evaluate.check_data(spec, data)
    for member, member_config in families.members(config).items():
        member_spec = families.find(member).spec(member_config)
        evaluate.check_data(member_spec, data)
    Task.of(data, config).origins(context=1)
    start = _start(settings, model, str(getattr(config, "start_from", "")))
    leakage = evaluate.leakage(start.version.tags, config) if start else ""
    used = (model.family.name, *spec.uses)
    lock = sha256(CHECKOUT / "requirements.lock")
    inputs = {
        "data": data.digest,
        "compiled": str(processed.COMPILE_VERSION),
        "lock": lock,
        "code": artifacts.training_digest(CHECKOUT, *used),
        **({"start": start.version.tags[MANIFEST_TAG]} if start else {}),
    }
    recipe = families.recipe(name, config, seed, **inputs)
    shipped = artifacts.code_digest(CHECKOUT, *used)
    return Plan(model, config, seed, data, start, lock, shipped, recipe, leakage)


def _frozen(settings: Settings) -> dict[str, Any]:
    """What KRONOS_MAX_CONTEXT and KRONOS_CLIP say, where they are set."""
    told = {
        key: getattr(settings, key)
        for key in ("max_context", "clip")
        if key in settings.model_fields_set
    }
    return {key: value for key, value in told.items() if value}


def _start(settings: Settings, model: families.Model, start_from: str) -> Start | None:
    """The version that config.start_from names, fetched and verified."""
    if not start_from:
        return None
    store = Store(settings)
    version = store.resolve(start_from)
    model_dir = store.fetch(version) / MODEL_DIR
    family = store.spec(version).family
    if family != model.family.name:
        raise BadConfig(
            f"start_from is {version.uri} of family {family}; {model.name} starts from one of {model.family.name}"
        )
    return Start(version, model_dir)


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
    if reuse and (found := store.find(what.model.name, {RECIPE_TAG: what.recipe})) is not None:
        metrics = store.client.get_run(found.run_id).data.metrics
        return Result(found, metrics, True, time.monotonic() - begun)
    with ExitStack() as stack:
        tags = _tags(what)
        run = stack.enter_context(
            tracking.start(settings, EXPERIMENT, what.model.name, tags=tags, nested=nested)
        )
        run.params(_params(what))
        run.dataset(what.data.history, what.data.name, what.data.digest, "training")
        steps = int(getattr(what.config, "max_steps", 1))
        checkpoints = settings.state_dir / "checkpoints" / what.recipe[:16]
        fitting = time.monotonic()
        start_dir = what.start.model_dir if what.start else None
        surroundings = _TrainRun(run, checkpoints, start_dir, steps, progress)
        stack.enter_context(_alone(checkpoints, what.model.name))
        trained = families.fit(
            what.model, what.config, what.data.history, seed=what.seed, run=surroundings
        )
        cost = {
            "fit_seconds": time.monotonic() - fitting,
            "parameters": float(trained.params["parameters"]),
        }
        run.metrics({**cost, **trained.metrics})
        run.params(trained.params)
        simulated = _simulated(what, trained)
        run.tags(simulated)
        run.metrics(dict.fromkeys(simulated, 1.0))  # a column of the comparison in the UI
        task = Task.of(what.data, what.config)
        scored = report({what.model.name: trained.forecaster}, task, reference, progress)
        log(scored, what.model.name, trained.forecaster, run)
        metrics = {**cost, **scored.metrics[what.model.name]}
        for stem, figure in trained.figures.items():
            run.figure(figure, f"figures/{stem}.png")
        for stem, table in trained.tables.items():
            run.table(table, f"tables/{stem}")
        progress("registering", 0.0)
        version = _register(store, what, trained, tags | simulated, metrics, run)
        shutil.rmtree(checkpoints, ignore_errors=True)  # from here on the version is what there is
        run.metrics({"seconds": time.monotonic() - begun})
    return Result(version, metrics, False, time.monotonic() - begun)


@contextmanager
def _alone(checkpoints: Path, model: str) -> Iterator[None]:
    """Keep a second training of the same recipe away from the checkpoints. Raises Conflict."""
    checkpoints.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(checkpoints.with_suffix(".lock"), timeout=0):
            yield
    except Timeout as error:
        raise Conflict(
            f"{model} is being trained with these very settings already; wait for it, or change the seed"
        ) from error


def _params(what: Plan) -> dict[str, Any]:
    values = {
        **dataclasses.asdict(what.config),
        "seed": what.seed,
        "model": what.model.name,
        "family": what.model.family.name,
    }
    values["levels"] = ",".join(f"{level:g}" for level in what.config.levels)
    for member, own in families.members(what.config).items():
        values |= {
            f"{member}.{key}": value
            for key, value in dataclasses.asdict(own).items()
            if key not in values
        }
    return values


def _tags(what: Plan) -> dict[str, str]:
    """What every version carries, and its run too."""
    config = what.config
    return {
        "family": what.model.family.name,
        "contract": str(names.CONTRACT),
        "data": what.data.name,
        "data_digest": what.data.digest,
        "universe": what.data.universe.tag,
        "git_commit": tracking.git_commit(),
        "lock_sha256": what.lock_sha256,
        "code_digest": what.code_digest,
        RECIPE_TAG: what.recipe,
        "trained_until": config.choose_until,
        "horizon": str(config.horizon),
        "levels": ",".join(f"{level:g}" for level in config.levels),
        "calendar": "XNYS",
        **_origin(what.start),
        **({"leakage": what.leakage} if what.leakage else {}),
    }


def _origin(start: Start | None) -> dict[str, str]:
    """Where the weights come from, and what they had seen before this training."""
    if start is None:
        return {
            "pretrained_until": "none",
            "licence": "Apache-2.0",
            "weight_source": "trained here",
            "weight_revision": "none",
        }
    tags, name = start.version.tags, f"{start.version.name}/{start.version.version}"
    return {
        "pretrained_until": tags["pretrained_until"],
        "licence": tags["licence"],
        "weight_source": f"fine-tuned from {name} ({tags['weight_source']}@{tags['weight_revision']})",
        "weight_revision": tags[MANIFEST_TAG],
    }


def _simulated(what: Plan, trained: Trained) -> dict[str, str]:
    """Tags of what is no market's: a simulator, or a model of columns that are made up."""
    made_up = ",".join(what.synthetic(trained.forecaster.spec))
    return {
        **({"simulated": "true"} if trained.params.get("simulated") else {}),
        **({"synthetic": made_up} if made_up else {}),
    }


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
        self._member = member  # of an ensemble, whose losses carry its name

    def report(self, step: int, **losses: float) -> None:
        if losses:
            prefix = f"{self._member}_" if self._member else ""
            self._run.metrics({f"{prefix}{name}": value for name, value in losses.items()}, step)
        self._progress(f"training {self._member}".rstrip(), min(step / self._steps, 1.0))

    def should_stop(self) -> bool:
        return False

    def fit_member(
        self, model: str, history: pd.DataFrame, config: training.Config, seed: int, *, tiny: bool
    ) -> Trained:
        steps = int(
            getattr(families.load_config(families.find(model), {}, tiny=tiny), "max_steps", 1)
        )
        directory = self.checkpoint_dir / model
        member = _TrainRun(self._run, directory, None, steps, self._progress, member=model)
        return families.fit_member(model, history, config, seed, tiny=tiny, run=member)


def _register(
    store: Store,
    what: Plan,
    trained: Trained,
    tags: Mapping[str, str],
    metrics: Mapping[str, float],
    run: tracking.Run,
) -> Version:
    model, spec = what.model, trained.forecaster.spec
    spec = dataclasses.replace(spec, synthetic=what.synthetic(spec))
    text = card.model_card(model.card, model.name, spec, tags, metrics)
    run.text(text, "model_card.md")
    return store.log(
        spec,
        partial(model.family.save, trained.forecaster),
        requirements=[
            name for family in families.families_of(spec) for name in family.requirements
        ],
        example=example_history(what.data.history, spec),
        tags={**tags, **({"symbols": ",".join(spec.universe)} if spec.universe else {})},
        description=text,
    )
