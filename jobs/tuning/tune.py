"""Tune one model: search its hyperparameters on the choice period. Safe to kill at any time."""

import hashlib
import json
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from jobs.running import executors
from jobs.running.executors import Executor
from jobs.running.progress import Progress, Say, silent
from jobs.training import members, planning, record
from jobs.training.references import FHS
from jobs.tuning import results, space
from jobs.tuning.results import COMPLETE, FAILED, PRUNED, Result, score_text
from jobs.tuning.study import GIVEN_UP, METRICS, RUN, Study, open_study
from jobs.tuning.trial import Setup, TrialRun, score
from registry import interrupts
from registry.errors import BadParameter
from registry.forecast import names
from registry.scoring.rolling import origins_between
from registry.settings import Settings
from registry.training import Space
from registry.versions import tracking
from registry.versions.connection import connect

EXPERIMENT = "tuning"
POLL_S = 1.0
CHOICE = "valid_loss"  # the loss that decides on pruning while a trial runs


@dataclass(frozen=True)
class Search:
    """A model and the settings to search, checked before anything starts."""

    plan: planning.Plan  # of the model as it is configured, with the fixed settings
    space: Space
    fixed: tuple[str, ...]

    @property
    def study(self) -> str:
        """The model's name and a hash of recipe (data, code, fixed settings, seed) and space."""
        searched = {name: repr(values) for name, values in sorted(self.space.items())}
        content = json.dumps([self.plan.recipe, searched])
        return f"{self.plan.model.name}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"


def plan(
    settings: Settings, model: str, fixed: Mapping[str, Any], *, seed: int, tiny: bool
) -> Search:
    """Check model, settings, data and search space. Nothing is written.

    Raises BadInput, BadConfig or NotFound.
    """
    training = planning.plan(settings, model, fixed, seed=seed, tiny=tiny)
    searched = space.space(training.model, training.config, fixed)
    return Search(training, searched, tuple(fixed))


def tune(
    settings: Settings,
    search: Search,
    trials: int,
    *,
    jobs: int = 1,
    executor: str = executors.LOCAL,
    timeout_s: float = 0.0,
    progress: Progress = silent,
    say: Say = lambda _: None,
) -> Result:
    """Bring the study to `trials` trials and record it as a run.

    No trial begins after `timeout_s` seconds (0: no limit). Trials of the same study in other
    processes count; the function waits for those that run. Raises KronosError, code NO_TRIAL, when
    none completed.
    """
    executors.check(executor, jobs)
    if trials < 1 or timeout_s < 0:
        raise BadParameter(
            f"trials is {trials} and timeout_s {timeout_s:g}, expected 1 or more, and 0 or more"
        )
    deadline = time.monotonic() + timeout_s if timeout_s else float("inf")
    training = search.plan
    config = training.config
    client = connect(settings)
    with ExitStack() as stack:
        stack.enter_context(interrupts.deferred())

        def close_lost(trial: FrozenTrial) -> None:
            if RUN in trial.user_attrs:
                _close(tracking.Run(trial.user_attrs[RUN], client), FAILED)

        folder = settings.var_dir / "tuning"
        first = space.as_configured(search.space, config)
        study = stack.enter_context(
            open_study(folder, search.study, search.space, first, training.seed, close_lost)
        )
        with study.alone():
            again = study.optuna.user_attrs.get(RUN)
            name, tags = training.model.name, _tags(search)
            run = stack.enter_context(
                tracking.start(settings, EXPERIMENT, name, tags=tags, again=again)
            )
            study.optuna.set_user_attr(RUN, run.run_id)
        run.params(_params(search))
        progress(f"scoring {FHS}", 0.0)
        with interrupts.allowed():
            setup = prepare(search, study.scratch)
            workers = stack.enter_context(executors.started(executor, setup, jobs))
        data = training.data
        run.dataset(setup.history, data.dataset.name, data.digest, "tuning")
        steps = getattr(config, "max_steps", 0)
        _Tuning(study, run, workers, trials, deadline, steps, progress, say).run()
        return results.record(study, run, setup, search.fixed)


def prepare(search: Search, scratch: Path) -> Setup:
    """Inputs of every trial: history up to the choice period's end, and scores of fhs on it."""
    plan = search.plan
    model, config = plan.model, plan.config
    choice_end = pd.Timestamp(config.choose_until)
    history = plan.data.history
    history = history[history[names.DS] <= choice_end].reset_index(drop=True)
    unwatched = TrialRun(scratch, None, lambda *_: False)
    fhs = members.fit_member(FHS, history, config, plan.seed, tiny=False, run=unwatched).forecaster
    context = max(fhs.spec.min_context, space.longest_context(model, config, search.space))
    origins = origins_between(
        history,
        config.fit_until,
        config.choose_until,
        config.horizon,
        context=context,
        every=config.report_every,
    )
    reference = score(fhs, history, origins, config, context)
    start_dir = plan.start.model_dir if plan.start else None
    return Setup(model, config, history, origins, context, reference, plan.seed, start_dir, scratch)


class _Tuning:
    """Workers that run trials until the study has enough of them."""

    def __init__(
        self, study: Study, run: tracking.Run, executor: Executor, total: int, deadline: float,
        steps: int, progress: Progress, say: Say,
    ) -> None:  # fmt: skip
        self._study, self._run, self._executor = study, run, executor
        self._total, self._deadline, self._steps = total, deadline, steps
        self._progress, self._say = progress, say
        self._shares: dict[int, float] = {}  # share done of each trial that runs here
        self._done, self._label = 0, ""
        self._ended = threading.Event()

    def run(self) -> None:
        """Run one worker in this thread, or several in a thread each. An error ends them all."""
        self._count()
        if self._executor.workers == 1:
            self._work(0)
            return
        with ThreadPoolExecutor(self._executor.workers) as threads:
            try:
                workers = range(self._executor.workers)
                futures = [threads.submit(self._work, worker) for worker in workers]
                with interrupts.allowed():
                    for future in as_completed(futures):
                        future.result()
            except BaseException:
                self._ended.set()
                self._executor.stop()
                raise

    def _work(self, worker: int) -> None:
        while time.monotonic() < self._deadline and not self._ended.is_set():
            trial = self._study.begin(self._total)
            if trial is not None:
                self._run_trial(worker, trial)
            elif self._study.running():  # if another process dies, its trials are run here
                with interrupts.allowed():
                    time.sleep(POLL_S)
            else:
                return

    def _run_trial(self, worker: int, trial: optuna.Trial) -> None:
        """One trial and its run.

        The outcome is stored last, so an interrupted trial counts as failed.
        """
        settings = self._study.settings(trial)
        child = self._run.child(f"trial {trial.number}", {"trial": str(trial.number)})
        trial.set_user_attr(RUN, child.run_id)
        child.params(settings)
        looks = 0

        def listen(step: int, losses: Mapping[str, float]) -> bool:
            nonlocal looks
            self._shares[trial.number] = min(step / self._steps, 1.0) if self._steps else 0.0
            self._show()
            with interrupts.deferred():
                if losses:
                    child.metrics(losses, step)
                if CHOICE not in losses:
                    return False
                trial.report(losses[CHOICE], looks)
                looks += 1
                return trial.should_prune()

        try:
            with interrupts.allowed():
                outcome = self._executor.run(worker, settings, listen)
        except BaseException as error:
            reason = f"{type(error).__name__}: {error}"
            if self._ended.is_set() or interrupts.received():
                reason = "interrupted"
            child.tags({tracking.ERROR_TAG: reason[:5000]})
            raise
        finally:
            self._shares.pop(trial.number, None)
        child.metrics(outcome.metrics)
        if outcome.given_up:
            child.tags({GIVEN_UP: outcome.given_up})
        _close(child, PRUNED if outcome.given_up else COMPLETE)
        self._study.finish(trial, outcome)
        result = outcome.given_up or score_text(outcome.metrics)
        self._say(f"trial {trial.number}: {_listed(settings)}: {result}")
        self._count()

    def _count(self) -> None:
        """Update the count of finished trials and the label with the best one."""
        finished = (TrialState.COMPLETE, TrialState.PRUNED)
        self._done = sum(trial.state in finished for trial in self._study.trials())
        label = f"{self._done} of {self._total} trials"
        best = results.best(self._study)
        if best is not None:
            label += f", best trial {best.number}: {score_text(best.user_attrs[METRICS])}"
        self._label = label  # whole at once: other threads show it, too
        self._show()

    def _show(self) -> None:
        share = (self._done + sum(list(self._shares.values()))) / self._total
        self._progress(self._label, min(share, 1.0))


def _listed(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def _close(run: tracking.Run, state: str) -> None:
    """End the run of a trial; in MLflow, one that a signal ended is KILLED."""
    run.tags({"state": state})
    status = {COMPLETE: tracking.FINISHED, PRUNED: tracking.KILLED, FAILED: tracking.FAILED}[state]
    run.end(tracking.KILLED if interrupts.received() and state == FAILED else status)


def _tags(search: Search) -> dict[str, str]:
    plan = search.plan
    return {
        "study": search.study,
        "model": plan.model.name,
        "family": plan.model.family.name,
        **record.data_tags(plan.data),
        "lock_sha256": plan.lock_sha256,
        "code_digest": plan.code_digest,
        "chosen_on": f"after {plan.config.fit_until} to {plan.config.choose_until}",
    }


def _params(search: Search) -> dict[str, Any]:
    """The settings that all trials share, and the values that are searched."""
    plan = search.plan
    shared = {
        key: value
        for key, value in record.params_of(plan.config).items()
        if key not in search.space
    }
    searched = {f"search_{name}": str(values) for name, values in search.space.items()}
    return {**shared, **searched, "seed": plan.seed, "model": plan.model.name}
