"""A study: its trials and the next one. On disk, shared by processes, whole after any kill."""

import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from jobs.tuning import space
from jobs.tuning.trial import Outcome
from registry.files import is_locked, locked
from registry.processes import this_process
from registry.training import Space

DATABASE = "studies.db"
ALIVE = "alive"  # file in a process's folder; locked while the process lives
STARTUP = 5  # complete trials before any trial is pruned
WARMUP = 5  # reports of its choice loss before a trial may be pruned
COMPARED = 3  # complete trials with a loss at the same report; with fewer, nothing is pruned
BUSY_S = 60.0  # how long a process waits for another one's write

# Attributes of a trial.
PROCESS, METRICS, GIVEN_UP, RUN = "process", "metrics", "given_up", "run_id"
COUNTED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)


class Study:
    """A study as one process sees it; made by `open_study`.

    Each draw is seeded by (seed, number of counted trials), so a killed study draws the same
    settings again. With one worker it ends like one that was never killed.
    """

    def __init__(
        self,
        folder: Path,
        study: optuna.Study,
        space: Space,
        first: Mapping[str, Any] | None,
        seed: int,
        on_lost: Callable[[FrozenTrial], None],
    ) -> None:
        self.optuna = study
        self.token = f"study@{this_process().mark}@{secrets.token_hex(4)}"  # of this process
        self._folder, self._space, self._first = folder, space, first
        self._seed, self._on_lost = seed, on_lost

    @property
    def name(self) -> str:
        return self.optuna.study_name

    @property
    def scratch(self) -> Path:
        """A folder of this process, removed when it leaves."""
        return self._folder / self.token

    @contextmanager
    def alone(self) -> Iterator[None]:
        """No other process and no other thread changes the study meanwhile."""
        with locked(self._folder / "lock"):
            yield

    @contextmanager
    def present(self) -> Iterator[None]:
        """Show other processes that this one lives, until it ends in any way.

        On exit, the trials that it still runs are marked as failed.
        """
        with ExitStack() as stack:
            with self.alone():
                self.scratch.mkdir()
                stack.enter_context(locked(self.scratch / ALIVE))
            try:
                yield
            finally:
                with self.alone():
                    for trial in self._running():
                        if trial.user_attrs.get(PROCESS) == self.token:
                            self._fail(trial)
                    stack.close()
                    shutil.rmtree(self.scratch, ignore_errors=True)

    def begin(self, total: int) -> optuna.Trial | None:
        """The next trial; None when `total` trials are finished or running."""
        with self.alone():
            self._fail_the_dead()
            count = len(self.optuna.get_trials(deepcopy=False, states=COUNTED))
            if count >= total:
                return None
            if not self.optuna.get_trials(deepcopy=False) and self._first is not None:
                self.optuna.enqueue_trial(dict(self._first))
            self.optuna.sampler = _sampler(self._seed, count)
            trial = self.optuna.ask(space.distributions(self._space))
            trial.set_user_attr(PROCESS, self.token)
            return trial

    def settings(self, trial: optuna.Trial | FrozenTrial) -> dict[str, Any]:
        """The settings of a trial."""
        return space.settings(self._space, trial.params)

    def finish(self, trial: optuna.Trial, outcome: Outcome) -> None:
        """Store the outcome of a trial. One that was given up counts as pruned."""
        trial.set_user_attr(METRICS, dict(outcome.metrics))
        trial.set_user_attr(GIVEN_UP, outcome.given_up)
        if outcome.given_up:
            self.optuna.tell(trial, state=TrialState.PRUNED)
        else:
            self.optuna.tell(trial, outcome.metrics["crps"])

    def running(self) -> int:
        """Number of trials that run, in any process."""
        with self.alone():
            self._fail_the_dead()
            return len(self._running())

    def trials(self) -> list[FrozenTrial]:
        """Trials in the order of their numbers, without those that wait to be run again."""
        trials = self.optuna.get_trials(deepcopy=False)
        return [trial for trial in trials if trial.state != TrialState.WAITING]

    def _running(self) -> list[FrozenTrial]:
        return self.optuna.get_trials(deepcopy=False, states=(TrialState.RUNNING,))

    def _fail_the_dead(self) -> None:
        """Mark trials of dead processes as failed, and remove the files of these processes."""
        for trial in self._running():
            if not self._lives(trial.user_attrs.get(PROCESS)):
                self._fail(trial)
        for folder in self._folder.iterdir():
            if folder.is_dir() and not self._lives(folder.name):
                shutil.rmtree(folder, ignore_errors=True)

    def _fail(self, trial: FrozenTrial) -> None:
        """Mark a trial as failed. If all its settings were drawn, it is queued again."""
        self.optuna.tell(trial.number, state=TrialState.FAIL)
        if set(trial.params) == set(self._space):
            self.optuna.enqueue_trial(trial.params)
        self._on_lost(trial)

    def _lives(self, token: str | None) -> bool:
        """Whether the process with this token holds its lock; the system frees it at its end."""
        if token == self.token:
            return True
        if token is None or not (self._folder / token).exists():
            return False
        return is_locked(self._folder / token / ALIVE)


@contextmanager
def open_study(
    folder: Path, name: str, space: Space, first: Mapping[str, Any] | None, seed: int,
    on_lost: Callable[[FrozenTrial], None] = lambda _: None,
) -> Iterator[Study]:  # fmt: skip
    """The study of this name under `folder`, made if missing; lower values are better.

    `first` are the parameters of its first trial. `on_lost` is called with each trial that was lost
    because its process ended.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    (folder / name).mkdir(parents=True, exist_ok=True)
    with locked(folder / "lock"):  # creating tables is not atomic
        storage = optuna.storages.RDBStorage(
            f"sqlite:///{folder.resolve() / DATABASE}",
            engine_kwargs={"connect_args": {"timeout": BUSY_S}},
        )
        pruner = optuna.pruners.MedianPruner(STARTUP, WARMUP, n_min_trials=COMPARED)
        study = optuna.create_study(
            storage=storage,
            study_name=name,
            load_if_exists=True,
            direction="minimize",
            pruner=pruner,
        )
    try:
        opened = Study(folder / name, study, space, first, seed, on_lost)
        with opened.present():
            yield opened
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _sampler(seed: int, number: int) -> optuna.samplers.TPESampler:
    """Tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011), seeded for one trial."""
    state = np.random.SeedSequence([seed, number]).generate_state(1)
    return optuna.samplers.TPESampler(seed=int(state[0]))
