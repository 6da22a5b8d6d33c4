"""Where work runs: in this process, in worker processes, or on Ray. The outcome is the same.

A worker gets settings, reports losses, is answered whether to stop, and returns an outcome. Optuna
and MLflow stay in the process that follows it.
"""

import logging
import multiprocessing
import os
import queue
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

from registry.codes import from_code
from registry.errors import BadParameter, KronosError
from registry.settings import CHECKOUT

LOCAL, RAY = "local", "ray"
THREADS = "OMP_NUM_THREADS"  # read by torch, BLAS and LightGBM when they are loaded

# Gets a step and its losses; True means that the work is to be given up.
Listen = Callable[[int, Mapping[str, float]], bool]
_Event = tuple[
    Any, ...
]  # ("report", step, losses), ("done", outcome) or ("failed", code, message, status)


class Work(Protocol):
    """What is run again and again with other settings. It is pickled once for every worker."""

    def run(self, settings: Mapping[str, Any], listen: Listen) -> Any:
        """The outcome of these settings."""
        ...


class Executor(Protocol):
    """Runs work, one call at a time on each of its workers."""

    workers: int

    def run(self, worker: int, settings: Mapping[str, Any], listen: Listen) -> Any:
        """What comes of a trial. KronosError, code WORKER, when its worker died."""
        ...

    def stop(self) -> None:
        """End every worker; trials that run are lost."""
        ...


@contextmanager
def started(name: str, work: Work, jobs: int) -> Iterator[Executor]:
    """An executor with `jobs` workers, stopped at the end."""
    if name == RAY:
        with _cluster(jobs):
            yield from _stopped(_OnRay(work, jobs))
    elif jobs == 1:
        yield _Here(work)
    else:
        yield from _stopped(_Processes(work, jobs))


def check(name: str, jobs: int) -> None:
    """Raise BadParameter for an executor that does not exist, or none to work on it."""
    if name not in (LOCAL, RAY):
        raise BadParameter(f"executor is {name!r}, expected {LOCAL} or {RAY}")
    if jobs < 1:
        raise BadParameter(f"jobs is {jobs}, expected 1 or more")


def _stopped(executor: Executor) -> Iterator[Executor]:
    try:
        yield executor
    finally:
        executor.stop()


class _Here:
    """This process."""

    workers = 1

    def __init__(self, work: Work) -> None:
        self._work_item = work

    def run(self, worker: int, settings: Mapping[str, Any], listen: Listen) -> Any:  # noqa: ARG002
        return self._work_item.run(settings, listen)

    def stop(self) -> None:
        """There is nothing to end."""


def _follow(event: Callable[[], _Event], answer: Callable[[bool], None], listen: Listen) -> Any:
    """Hear a worker out."""
    while True:
        kind, *content = event()
        if kind == "report":
            answer(listen(*content))
        elif kind == "done":
            return content[0]
        else:
            raise from_code(*content)


def _worked(work: Work, settings: Mapping[str, Any], listen: Listen) -> _Event:
    """What a worker says at the end of a trial. Any other error leaves its traceback on stderr."""
    try:
        return "done", work.run(settings, listen)
    except KronosError as error:
        return "failed", error.code, error.message, error.status
    except BaseException as error:  # report every error, or the parent waits forever
        traceback.print_exc()
        return "failed", "TRIAL", f"{type(error).__name__}: {error}", KronosError.status


# --- processes --------------------------------------------------------------------------------


class _Processes:
    """Processes of this machine, which share its cores."""

    def __init__(self, work: Work, jobs: int) -> None:
        self.workers = jobs
        context = multiprocessing.get_context("spawn")
        self._followed, self._processes = [], []
        with _environment(THREADS, str(max(1, _cores() // jobs))):
            for _ in range(jobs):
                ours, theirs = context.Pipe()
                process = context.Process(target=_serve, args=(theirs,), daemon=True)
                process.start()
                theirs.close()  # or its end would not be heard
                self._followed.append(ours)
                self._processes.append(process)
        try:
            for worker, connection in enumerate(self._followed):
                with self._alive(worker):
                    # Not as an argument of the process: start() waits forever for one that dies before it has read all.
                    connection.send(work)
        except BaseException:
            self.stop()
            raise

    def run(self, worker: int, settings: Mapping[str, Any], listen: Listen) -> Any:
        connection = self._followed[worker]
        with self._alive(worker):
            connection.send(dict(settings))
            return _follow(connection.recv, connection.send, listen)

    @contextmanager
    def _alive(self, worker: int) -> Iterator[None]:
        """Raises KronosError when the worker ends meanwhile."""
        try:
            yield
        except (EOFError, ConnectionError) as error:
            self._processes[worker].join()
            code = self._processes[worker].exitcode
            raise KronosError(
                f"a worker process ended with exit code {code}; -9 is often a lack of memory: use fewer jobs",
                code="WORKER",
            ) from error

    def stop(self) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join()


def _serve(connection: Connection) -> None:
    """A worker process: trial after trial, until the process that follows it is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one that follows
    threading.Thread(target=_die_with_parent, daemon=True).start()

    work: Work = connection.recv()

    def listen(step: int, losses: Mapping[str, float]) -> bool:
        connection.send(("report", step, dict(losses)))
        return bool(connection.recv())

    while True:
        connection.send(_worked(work, connection.recv(), listen))


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """For programs started meanwhile: `value`, unless the user said something else."""
    told = os.environ.get(name)
    os.environ.setdefault(name, value)
    try:
        yield
    finally:
        if told is None:
            del os.environ[name]


# --- ray --------------------------------------------------------------------------------------


class _OnRay:
    """Actors with one CPU each; Ray gives each as many threads."""

    def __init__(self, work: Work, jobs: int) -> None:
        import ray

        self.workers = jobs
        self._ray: Any = ray
        shared = ray.put(work)
        self._actors: list[Any] = [
            ray.remote(_Actor).options(num_cpus=1).remote(shared) for _ in range(jobs)
        ]

    def run(self, worker: int, settings: Mapping[str, Any], listen: Listen) -> Any:
        actor, ray = self._actors[worker], self._ray
        try:
            ray.get(actor.begin.remote(dict(settings)))
            return _follow(
                lambda: ray.get(actor.event.remote()),
                lambda stop: ray.get(actor.answer.remote(stop)),
                listen,
            )
        except ray.exceptions.RayError as error:
            raise KronosError(f"a worker on Ray ended: {error}"[:500], code="WORKER") from error

    def stop(self) -> None:
        for actor in self._actors:
            self._ray.kill(actor)


class _Actor:
    """A worker on Ray. The trial runs in a thread, so that it can be followed."""

    def __init__(self, work: Work) -> None:
        self._work_item = work
        self._events: queue.Queue[_Event] = queue.Queue()
        self._answers: queue.Queue[bool] = queue.Queue()

    def begin(self, settings: Mapping[str, Any]) -> None:
        threading.Thread(target=self._work, args=(settings,), daemon=True).start()

    def event(self) -> _Event:
        """The next thing that the trial says."""
        return self._events.get()

    def answer(self, stop: bool) -> None:
        self._answers.put(stop)

    def _work(self, settings: Mapping[str, Any]) -> None:
        self._events.put(_worked(self._work_item, settings, self._listen))

    def _listen(self, step: int, losses: Mapping[str, float]) -> bool:
        self._events.put(("report", step, dict(losses)))
        return self._answers.get()


@contextmanager
def _cluster(jobs: int) -> Iterator[None]:
    """The cluster of RAY_ADDRESS or of this machine; without one, a cluster of this machine for the time being.

    Raises BadParameter when it has fewer CPUs than jobs. Every node needs this checkout and its environment in the same
    places; data travel with the trials.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report to its makers
    import ray

    ray.init(
        include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR,
        runtime_env={"env_vars": {"PYTHONPATH": str(CHECKOUT)}},
    )  # fmt: skip
    try:
        cpus = int(ray.cluster_resources().get("CPU", 0))  # type: ignore[no-untyped-call]
        if jobs > cpus:
            raise BadParameter(
                f"jobs is {jobs}, the Ray cluster has {cpus} CPUs; ask for no more than that"
            )
        yield
    finally:
        ray.shutdown()
