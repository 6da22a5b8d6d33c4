"""Where work runs: in this process, in worker processes, or on Ray. The outcome is the same.

A worker gets settings, reports losses, is told after each report whether to stop, and returns an
outcome. Optuna and MLflow stay in the parent process.
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

from registry import interrupts
from registry.codes import from_code
from registry.errors import BadParameter, KronosError
from registry.settings import CHECKOUT

LOCAL, RAY = "local", "ray"
POLL_S = 0.5  # how long a signal waits for Ray
THREADS = "OMP_NUM_THREADS"  # read by torch, BLAS and LightGBM when they are loaded

# Gets a step and its losses; True means: give the work up.
Listen = Callable[[int, Mapping[str, float]], bool]
# ("report", step, losses), ("done", outcome) or ("failed", code, message, status)
_Event = tuple[Any, ...]


class Work(Protocol):
    """A function of settings, run many times. It is pickled once for every worker."""

    def run(self, settings: Mapping[str, Any], listen: Listen) -> Any:
        """The outcome of these settings."""
        ...


class Executor(Protocol):
    """Runs work, one call at a time on each of its workers."""

    workers: int

    def run(self, worker: int, settings: Mapping[str, Any], listen: Listen) -> Any:
        """The outcome of a trial. Raises KronosError, code WORKER, when its worker died."""
        ...

    def stop(self) -> None:
        """End every worker; running trials are lost."""
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
    """Raise BadParameter for an unknown executor, or for fewer than one job."""
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
        self._work = work

    def run(self, worker: int, settings: Mapping[str, Any], listen: Listen) -> Any:  # noqa: ARG002
        return self._work.run(settings, listen)

    def stop(self) -> None:
        """There is nothing to end."""


def _follow(event: Callable[[], _Event], answer: Callable[[bool], None], listen: Listen) -> Any:
    """Pass reports to `listen` and its answers back, until the worker returns or fails."""
    while True:
        kind, *content = event()
        if kind == "report":
            answer(listen(*content))
        elif kind == "done":
            return content[0]
        else:
            raise from_code(*content)


def _last_event(work: Work, settings: Mapping[str, Any], listen: Listen) -> _Event:
    """Run a trial and return its last event.

    The traceback of an error that is no KronosError goes to stderr.
    """
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
        self._connections, self._processes = [], []
        threads = max(1, _cores() // jobs)
        with _environment(THREADS, str(threads)):
            for _ in range(jobs):
                connection, worker_end = context.Pipe()
                process = context.Process(target=_serve, args=(worker_end,), daemon=True)
                with interrupts.no_ctrl_c_for_children():
                    process.start()
                worker_end.close()  # or recv() would not notice that the worker ended
                self._connections.append(connection)
                self._processes.append(process)
        try:
            for worker, connection in enumerate(self._connections):
                with self._alive(worker):
                    # Not an argument of the process: if it dies while it reads its arguments,
                    # start() waits forever.
                    connection.send(work)
        except BaseException:
            self.stop()
            raise

    def run(self, worker: int, settings: Mapping[str, Any], listen: Listen) -> Any:
        connection = self._connections[worker]
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
                f"a worker process ended with exit code {code}; "
                "-9 often means too little memory: use fewer jobs",
                code="WORKER",
            ) from error

    def stop(self) -> None:
        for process in self._processes:
            process.kill()  # Lightning would turn SIGTERM into an error of the trial
        for process in self._processes:
            process.join()


def _serve(connection: Connection) -> None:
    """A worker process: runs trial after trial until its parent ends."""
    # For a SIGTERM to the whole group; Lightning, which catches it, calls the handler before it.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))
    threading.Thread(target=_die_with_parent, daemon=True).start()

    work: Work = connection.recv()

    def listen(step: int, losses: Mapping[str, float]) -> bool:
        connection.send(("report", step, dict(losses)))
        return bool(connection.recv())

    while True:
        settings = connection.recv()
        connection.send(_last_event(work, settings, listen))


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Set a variable for programs that are started meanwhile, unless the user has set it."""
    set_by_user = name in os.environ
    os.environ.setdefault(name, value)
    try:
        yield
    finally:
        if not set_by_user:
            del os.environ[name]


# --- ray --------------------------------------------------------------------------------------


class _OnRay:
    """Actors with one CPU and one thread each."""

    def __init__(self, work: Work, jobs: int) -> None:
        import ray

        self.workers = jobs
        self._ray: Any = ray
        shared = ray.put(work)
        actor = ray.remote(_Actor).options(num_cpus=1)
        self._actors: list[Any] = [actor.remote(shared) for _ in range(jobs)]

    def run(self, worker: int, settings: Mapping[str, Any], listen: Listen) -> Any:
        actor = self._actors[worker]
        try:
            self._get(actor.begin.remote(dict(settings)))
            return _follow(
                lambda: self._get(actor.event.remote()),
                lambda stop: self._get(actor.answer.remote(stop)),
                listen,
            )
        except self._ray.exceptions.RayError as error:
            raise KronosError(f"a worker on Ray ended: {error}"[:500], code="WORKER") from error

    def _get(self, reference: Any) -> Any:
        """The value of a reference. While it waits, Ray would lose the exception of a signal."""
        ready: list[Any] = []
        while not ready:
            with interrupts.deferred():
                ready, _ = self._ray.wait([reference], timeout=POLL_S)
        with interrupts.deferred():
            return self._ray.get(reference)

    def stop(self) -> None:
        for actor in self._actors:
            self._ray.kill(actor)


class _Actor:
    """A worker on Ray. The trial runs in a thread, so that the actor can answer meanwhile."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._events: queue.Queue[_Event] = queue.Queue()
        self._answers: queue.Queue[bool] = queue.Queue()

    def begin(self, settings: Mapping[str, Any]) -> None:
        threading.Thread(target=self._run_and_report, args=(settings,), daemon=True).start()

    def event(self) -> _Event:
        """The trial's next event."""
        return self._events.get()

    def answer(self, stop: bool) -> None:
        self._answers.put(stop)

    def _run_and_report(self, settings: Mapping[str, Any]) -> None:
        self._events.put(_last_event(self._work, settings, self._listen))

    def _listen(self, step: int, losses: Mapping[str, float]) -> bool:
        self._events.put(("report", step, dict(losses)))
        return self._answers.get()


@contextmanager
def _cluster(jobs: int) -> Iterator[None]:
    """Connect to the cluster of RAY_ADDRESS or of this machine; without one, start one here.

    Raises BadParameter when it has fewer CPUs than `jobs`. Every node needs this checkout and its
    environment at the same paths; data travel with the trials.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no usage reports to Ray's makers
    import ray

    with (
        interrupts.deferred(),
        interrupts.handlers_kept(),
        interrupts.no_ctrl_c_for_children(),
    ):
        ray.init(
            include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR,
            runtime_env={"env_vars": {"PYTHONPATH": str(CHECKOUT)}},
        )  # fmt: skip
    try:
        cpus = int(ray.cluster_resources().get("CPU", 0))  # type: ignore[no-untyped-call]
        if jobs > cpus:
            raise BadParameter(
                f"jobs is {jobs}, expected at most {cpus}, the CPUs of the Ray cluster"
            )
        yield
    finally:
        ray.shutdown()
