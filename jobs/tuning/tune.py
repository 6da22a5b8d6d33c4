"""Tune one model: search its hyperparameters on the choice period, as a study that any kill can interrupt."""

import hashlib
import json
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from jobs.running import executors
from jobs.running.executors import Executor
from jobs.running.interrupts import Interrupts
from jobs.training import families, train
from jobs.training.report import FHS, Progress
from jobs.tuning import results, space
from jobs.tuning.results import COMPLETE, FAILED, PRUNED, Result, scored
from jobs.tuning.study import GIVEN_UP, METRICS, RUN, Study, open_study
from jobs.tuning.trial import Setup, Surroundings, score
from registry.errors import BadParameter
from registry.forecast import names
from registry.scoring.rolling import origins_between
from registry.settings import Settings
from registry.training import Space
from registry.versions import tracking

EXPERIMENT = "tuning"
POLL_S = 1.0
CHOICE = "valid_loss"  # the loss that trials are compared by while they run


Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What is going to be searched, checked before anything is started."""

    training: train.Plan  # of the model as it is configured, with the fixed settings
    space: Space
    fixed: tuple[str, ...]

    @property
    def study(self) -> str:
        """Name of the study: the same for the same model, data, code, fixed settings, space and seed."""
        content = json.dumps(
            [self.training.recipe, {k: repr(v) for k, v in sorted(self.space.items())}]
        )
        return f"{self.training.model.name}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"


def plan(
    settings: Settings, model: str, fixed: Mapping[str, Any], *, seed: int, tiny: bool
) -> Plan:
    """Check model, settings, data and search space. Raises BadInput, BadConfig or NotFound; nothing is written."""
    what = train.plan(settings, model, fixed, seed=seed, tiny=tiny)
    return Plan(what, space.space(what.model, what.config, fixed), tuple(fixed))


def tune(
    settings: Settings,
    what: Plan,
    trials: int,
    *,
    jobs: int = 1,
    executor: str = executors.LOCAL,
    timeout_s: float = 0.0,
    progress: Progress = lambda *_: None,
    say: Say = lambda _: None,
) -> Result:
    """Bring the study to `trials` trials, or as far as `timeout_s` (0: no limit) lets it begin; record it as a run.

    What other processes run of the same study is waited for. Raises KronosError, code NO_TRIAL, when none completed.
    """
    executors.check(executor, jobs)
    if trials < 1 or timeout_s < 0:
        raise BadParameter(
            f"trials is {trials} and timeout_s {timeout_s:g}, expected 1 or more, and 0 or more"
        )
    deadline = time.monotonic() + timeout_s if timeout_s else float("inf")
    model, config = what.training.model, what.training.config
    folder = settings.var_dir / "tuning"
    first = space.as_configured(what.space, config)
    client = tracking.connect(settings)
    with ExitStack() as stack:
        interrupts = stack.enter_context(Interrupts())

        def lost(trial: FrozenTrial) -> None:
            if RUN in trial.user_attrs:
                _close(tracking.Run(trial.user_attrs[RUN], client), FAILED)

        study = stack.enter_context(
            open_study(folder, what.study, what.space, first, what.training.seed, lost)
        )
        with study.alone():
            again = study.optuna.user_attrs.get(RUN)
            run = stack.enter_context(
                tracking.start(settings, EXPERIMENT, model.name, tags=_tags(what), again=again)
            )
            study.optuna.set_user_attr(RUN, run.run_id)
        run.params(_params(what))
        progress(f"scoring {FHS}", 0.0)
        with interrupts.heard():
            setup = prepare(what, study.scratch)
            workers = stack.enter_context(executors.started(executor, setup, jobs))
        run.dataset(setup.history, what.training.data.name, what.training.data.digest, "tuning")
        steps = getattr(config, "max_steps", 0)
        _Tuning(study, run, workers, interrupts, trials, deadline, steps, progress, say).run()
        return results.record(study, run, setup, what.fixed)


def prepare(what: Plan, scratch: Path) -> Setup:
    """What every trial gets: nothing after the choice period, and how fhs scores there."""
    model, config, seed = what.training.model, what.training.config, what.training.seed
    history = what.training.data.history
    history = history[history[names.DS] <= pd.Timestamp(config.choose_until)].reset_index(drop=True)
    unwatched = Surroundings(scratch, None, lambda *_: False)
    fhs = families.fit_member(FHS, history, config, seed, tiny=False, run=unwatched).forecaster
    context = max(fhs.spec.min_context, space.longest_context(model, config, what.space))
    origins = origins_between(
        history,
        config.fit_until,
        config.choose_until,
        config.horizon,
        context=context,
        every=config.report_every,
    )
    reference = score(fhs, history, origins, config, context)
    start_dir = what.training.start.model_dir if what.training.start else None
    return Setup(model, config, history, origins, context, reference, seed, start_dir, scratch)


class _Tuning:
    """Workers that take trial after trial until the study has enough of them."""

    def __init__(
        self, study: Study, run: tracking.Run, executor: Executor, interrupts: Interrupts, total: int, deadline: float,
        steps: int, progress: Progress, say: Say,
    ) -> None:  # fmt: skip
        self._study, self._run, self._executor, self._interrupts = study, run, executor, interrupts
        self._total, self._deadline, self._steps = total, deadline, steps
        self._progress, self._say = progress, say
        self._shares: dict[int, float] = {}  # how far the trials that run here are
        self._done, self._told = 0, ""
        self._ended = threading.Event()

    def run(self) -> None:
        """Trials in this thread for one worker, else in a thread for each. The first error ends them all."""
        self._count()
        if self._executor.workers == 1:
            self._work(0)
            return
        with ThreadPoolExecutor(self._executor.workers) as threads:
            try:
                working = [threads.submit(self._work, i) for i in range(self._executor.workers)]
                with self._interrupts.heard():
                    for done in as_completed(working):
                        done.result()
            except BaseException:
                self._ended.set()
                self._executor.stop()
                raise

    def _work(self, worker: int) -> None:
        while time.monotonic() < self._deadline and not self._ended.is_set():
            trial = self._study.begin(self._total)
            if trial is not None:
                self._one(worker, trial)
            elif (
                self._study.running()
            ):  # here or in another process; if that dies, its trials are ours
                with self._interrupts.heard():
                    time.sleep(POLL_S)
            else:
                return

    def _one(self, worker: int, trial: optuna.Trial) -> None:
        """One trial and its run. The outcome is stored last, so an interrupted trial counts as failed."""
        settings = self._study.settings(trial)
        child = self._run.child(f"trial {trial.number}", {"trial": str(trial.number)})
        trial.set_user_attr(RUN, child.run_id)
        child.params(settings)
        looks = 0

        def listen(step: int, losses: Mapping[str, float]) -> bool:
            nonlocal looks
            self._shares[trial.number] = min(step / self._steps, 1.0) if self._steps else 0.0
            self._show()
            with self._interrupts.kept():
                if losses:
                    child.metrics(losses, step)
                if CHOICE not in losses:
                    return False
                trial.report(losses[CHOICE], looks)
                looks += 1
                return trial.should_prune()

        try:
            with self._interrupts.heard():
                outcome = self._executor.run(worker, settings, listen)
        except BaseException as error:
            why = "interrupted" if self._ended.is_set() else f"{type(error).__name__}: {error}"
            child.tags({tracking.ERROR_TAG: why[:5000]})
            raise
        finally:
            self._shares.pop(trial.number, None)
        child.metrics(outcome.metrics)
        if outcome.given_up:
            child.tags({GIVEN_UP: outcome.given_up})
        _close(child, PRUNED if outcome.given_up else COMPLETE)
        self._study.finish(trial, outcome)
        self._say(
            f"trial {trial.number}: {_listed(settings)}: {outcome.given_up or scored(outcome.metrics)}"
        )
        self._count()

    def _count(self) -> None:
        """How far the study is, and its best trial."""
        self._done = sum(
            t.state in (TrialState.COMPLETE, TrialState.PRUNED) for t in self._study.trials()
        )
        best = results.best(self._study)
        told = f", best trial {best.number}: {scored(best.user_attrs[METRICS])}" if best else ""
        self._told = f"{self._done} of {self._total} trials{told}"
        self._show()

    def _show(self) -> None:
        share = (self._done + sum(list(self._shares.values()))) / self._total
        self._progress(self._told, min(share, 1.0))


def _listed(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def _close(run: tracking.Run, state: str) -> None:
    """End the run of a trial."""
    run.tags({"state": state})
    run.end({COMPLETE: "FINISHED", PRUNED: "KILLED", FAILED: "FAILED"}[state])


def _tags(what: Plan) -> dict[str, str]:
    training = what.training
    return {
        "study": what.study,
        "model": training.model.name,
        "family": training.model.family.name,
        "data": training.data.name,
        "data_digest": training.data.digest,
        "universe": training.data.universe.tag,
        "git_commit": tracking.git_commit(),
        "lock_sha256": training.lock_sha256,
        "code_digest": training.code_digest,
        "chosen_on": f"after {training.config.fit_until} to {training.config.choose_until}",
    }


def _params(what: Plan) -> dict[str, Any]:
    """What is the same in all trials, and what is searched."""
    values = {
        key: value for key, value in asdict(what.training.config).items() if key not in what.space
    }
    values["levels"] = ",".join(f"{level:g}" for level in what.training.config.levels)
    searched = {f"search_{name}": str(within) for name, within in what.space.items()}
    return {**values, **searched, "seed": what.training.seed, "model": what.training.model.name}
