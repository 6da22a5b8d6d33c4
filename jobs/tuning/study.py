"""A study: which trials there were and what comes next. On disk, shared by processes, whole after any kill."""

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
from registry.training import Space

DATABASE = "studies.db"
ALIVE = "alive"  # in the folder of a process; locked while it lives
STARTUP = 5  # complete trials before any is pruned
WARMUP = 5  # looks at its choice loss before a trial is judged
COMPARED = 3  # complete trials that came as far, or it is not judged
BUSY_S = 60.0  # that a process waits for another one's write

PROCESS, METRICS, GIVEN_UP, RUN = (
    "process",
    "metrics",
    "given_up",
    "run_id",
)  # attributes of a trial
COUNTED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)


class Study:
    """A study as one process sees it. `open_study` makes one.

    What the sampler draws is seeded by (seed, number of trials that count): a study that was killed draws what it would
    have drawn, and with one worker it ends like one that was never killed.
    """

    def __init__(
        self, folder: Path, study: optuna.Study, space: Space, first: Mapping[str, Any] | None, seed: int,
        on_lost: Callable[[FrozenTrial], None],
    ) -> None:  # fmt: skip
        self.optuna, self._folder, self._space, self._first, self._seed = (
            study,
            folder,
            space,
            first,
            seed,
        )
        self._on_lost = on_lost
        self.token = secrets.token_hex(6)  # of this process

    @property
    def name(self) -> str:
        return self.optuna.study_name

    @property
    def scratch(self) -> Path:
        """A folder of this process; it is removed with it."""
        return self._folder / self.token

    @contextmanager
    def alone(self) -> Iterator[None]:
        """No other process and no other thread changes the study meanwhile."""
        with locked(self._folder / "lock"):
            yield

    @contextmanager
    def present(self) -> Iterator[None]:
        """Others see that this process lives, however it ends. What it still runs when it leaves has failed."""
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
        """The next trial; None when the study has `total` of them, finished or running."""
        with self.alone():
            self._fail_the_dead()
            begun = len(self.optuna.get_trials(deepcopy=False, states=COUNTED))
            if begun >= total:
                return None
            if not self.optuna.get_trials(deepcopy=False) and self._first is not None:
                self.optuna.enqueue_trial(dict(self._first))
            self.optuna.sampler = _sampler(self._seed, begun)
            trial = self.optuna.ask(space.distributions(self._space))
            trial.set_user_attr(PROCESS, self.token)
            return trial

    def settings(self, trial: optuna.Trial | FrozenTrial) -> dict[str, Any]:
        """The settings of a trial."""
        return space.settings(self._space, trial.params)

    def finish(self, trial: optuna.Trial, outcome: Outcome) -> None:
        """A trial that was given up counts as pruned."""
        for key, value in ((METRICS, dict(outcome.metrics)), (GIVEN_UP, outcome.given_up)):
            trial.set_user_attr(key, value)
        if outcome.given_up:
            self.optuna.tell(trial, state=TrialState.PRUNED)
        else:
            self.optuna.tell(trial, outcome.metrics["crps"])

    def running(self) -> int:
        """Trials that run somewhere."""
        with self.alone():
            self._fail_the_dead()
            return len(self._running())

    def trials(self) -> list[FrozenTrial]:
        """Trials in the order of their numbers, without those that wait to be run again."""
        return [t for t in self.optuna.get_trials(deepcopy=False) if t.state != TrialState.WAITING]

    def _running(self) -> list[FrozenTrial]:
        return self.optuna.get_trials(deepcopy=False, states=(TrialState.RUNNING,))

    def _fail_the_dead(self) -> None:
        """Trials of processes that are gone have failed; what these left on disk is removed."""
        for trial in self._running():
            if not self._lives(trial.user_attrs.get(PROCESS)):
                self._fail(trial)
        for folder in self._folder.iterdir():
            if folder.is_dir() and not self._lives(folder.name):
                shutil.rmtree(folder, ignore_errors=True)

    def _fail(self, trial: FrozenTrial) -> None:
        """A trial without an outcome is run again."""
        self.optuna.tell(trial.number, state=TrialState.FAIL)
        if set(trial.params) == set(self._space):
            self.optuna.enqueue_trial(trial.params)
        self._on_lost(trial)

    def _lives(self, token: str | None) -> bool:
        """Whether the process of this token holds its lock: the system frees it when a process ends."""
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
    """The study of this name under `folder`, made when there is none; lower values are better.

    `first` are the parameters of its first trial. `on_lost` hears of trials whose process died.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    (folder / name).mkdir(parents=True, exist_ok=True)
    with locked(folder / "lock"):  # making tables is no atomic step
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
        found = Study(folder / name, study, space, first, seed, on_lost)
        with found.present():
            yield found
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _sampler(seed: int, number: int) -> optuna.samplers.TPESampler:
    """Tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011), seeded for one trial."""
    return optuna.samplers.TPESampler(
        seed=int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    )
