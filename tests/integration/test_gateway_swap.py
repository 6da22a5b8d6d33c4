"""Promotions while clients ask: no request fails, and a bad version never answers."""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import answers
import load
import numpy as np
import psutil
import pytest
from gateways import Gateway, running, wait_until
from load import Load

from mlprojects.baselines import model as baselines
from registry.forecast.spec import ModelSpec
from registry.promotion import moves
from registry.promotion.opening import open_ledger
from registry.settings import Settings
from registry.versions.store import Store
from registry.versions.version import Version

CONTEXTS = {1: 60, 2: 30, 3: 15}  # sessions that a version looks at, so that their answers differ
SWAP_S = 2.0  # from the end of a version's warm-up to its first answer
FLIPS = 6
LOAD_S = 45  # that a version may take; with other work on this machine, a good one takes 20
PATIENT = {"KRONOS_POLL_S": "0.2", "KRONOS_QUEUE_S": "20", "KRONOS_LOAD_S": str(LOAD_S)}


class Served:
    """A registry with three versions of ewma, its gateway, and requests with their answers."""

    def __init__(self, settings: Settings, gateway: Gateway, promote: Callable[..., None]) -> None:
        self.settings = settings
        self.store = Store(settings)
        self.gateway = gateway
        self._promote = promote
        rng = np.random.default_rng(5)
        shown = gateway.models()["ewma"] | {"min_context": 60}
        self.bodies = [answers.draw(rng, shown) for _ in range(40)]
        self.expected = {}
        for number in CONTEXTS:
            with self.store.load(f"ewma/{number}") as version:
                self.expected[number] = load.expected(version, self.bodies)

    def promote(self, version: int) -> float:
        """Promote a version; the time when that was done."""
        self._promote(self.store, "ewma", version)
        return time.monotonic()

    def rollback(self) -> float:
        with open_ledger(self.store) as ledger:
            moves.rollback(self.store, ledger, "ewma", who="tests", why="to go back")
        return time.monotonic()

    def load(self) -> Load:
        return Load(self.gateway, self.bodies, self.expected)

    def wait_for(self, version: int) -> None:
        wait_until(lambda: self.gateway.models()["ewma"]["version"] == version)


@pytest.fixture(scope="module")
def served(
    new_registry: Callable[[Path], Settings],
    log_a_version: Callable[..., Version],
    promote_a_version: Callable[..., None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Served]:
    settings = new_registry(tmp_path_factory.mktemp("swap"))
    store = Store(settings)
    for context in CONTEXTS.values():
        log_a_version(settings, store, {}, max_context=context)
    promote_a_version(store, "ewma", 1)
    with running(settings, ["ewma"], **PATIENT) as gateway:
        yield Served(settings, gateway, promote_a_version)


def test_promotions_fail_no_request_and_every_answer_is_of_the_version_that_it_names(
    served: Served,
) -> None:
    gateway = served.gateway
    with served.load() as clients:
        served.promote(2)
        served.wait_for(2)
        warm = time.monotonic()
        wait_until(lambda: clients.first(2, 0) < float("inf"))
        assert clients.first(2, 0) - warm < SWAP_S

        for flip in range(FLIPS):  # between two warm versions
            version = 1 if flip % 2 == 0 else 2
            since = served.promote(version)
            wait_until(lambda since=since, v=version: clients.first(v, since) < float("inf"))
            assert clients.first(version, since) - since < SWAP_S
        since = served.rollback()
        wait_until(lambda: clients.first(1, since) < float("inf"))
        assert clients.first(1, since) - since < SWAP_S

        started = len(gateway.scorers())
        served.promote(3)
        wait_until(lambda: len(gateway.scorers()) > started)
        since = served.promote(2)  # before 3 is warm
        wait_until(lambda: clients.first(2, since) < float("inf"))
        time.sleep(1)
    assert clients.failed == []
    assert clients.wrong == []
    assert clients.versions == {1, 2}
    assert {one.version for one in clients.sent[-8:]} == {2}
    assert gateway.metric("kronos_swaps_total", model="ewma") == FLIPS + 3
    assert gateway.metric("kronos_model_info", model="ewma", version="2") == 1
    assert gateway.metric("kronos_model_info") == 1


# --- versions that cannot answer --------------------------------------------------------------


def unreadable(spec: ModelSpec, folder: Path) -> None:
    """A version that raises when it is loaded."""
    baselines.save(baselines.Ewma(spec), folder)
    (folder / "config.json").write_text('{"kind": "of tomorrow"}\n')


def not_finite(spec: ModelSpec, folder: Path) -> None:
    """A version that is loaded, and computes NaN."""
    nothing = np.full(5, np.nan)
    model = baselines.Garch(spec, symbols=(), fitted=np.empty((0, 6)), pool=nothing)
    baselines.save(model, folder)


def flip_a_byte(folder: Path) -> None:
    path = next(folder.rglob("config.json"))
    content = path.read_bytes()
    path.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])


@contextmanager
def suspended(supervisor: psutil.Process, folder: Path) -> Iterator[None]:
    """Stop a supervisor for the block, at a moment when it reads no database and so locks none."""
    while True:
        supervisor.suspend()
        wait_until(lambda: _has_stopped(supervisor.pid))
        if all(_is_free(folder / name) for name in ("mlflow.db", "ledger.db")):
            break
        supervisor.resume()
        time.sleep(0.05)
    try:
        yield
    finally:
        supervisor.resume()


def _has_stopped(pid: int) -> bool:
    """Whether all threads of a process have stopped: a signal reaches them one after the other."""
    states = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        states.append((task / "stat").read_text().rpartition(")")[2].split()[0])
    return set(states) == {"T"}


def _is_free(database: Path) -> bool:
    with closing(sqlite3.connect(database, timeout=0.1)) as connection:
        try:
            connection.execute("begin exclusive")
        except sqlite3.OperationalError:
            return False
    return True


@pytest.mark.parametrize("poison", ["byte", "load", "numbers"])
def test_a_version_that_cannot_answer_never_does_and_the_old_one_goes_on(
    served: Served, log_a_version: Callable[..., Version], poison: str
) -> None:
    gateway, store = served.gateway, served.store
    save: dict[str, Any] = {"load": unreadable, "numbers": not_finite}
    version = log_a_version(served.settings, store, {}, save=save.get(poison))
    failures = gateway.metric("kronos_load_failures_total", model="ewma")
    before = gateway.models()["ewma"]["version"]
    with served.load() as clients:
        if poison == "byte":
            with suspended(gateway.supervisor(), served.settings.var_dir):
                served.promote(version.version)
                flip_a_byte(store.fetch(version))
        else:
            served.promote(version.version)
        wait_until(lambda: "failed" in gateway.models()["ewma"])
        shown = gateway.models()["ewma"]
        time.sleep(0.5)
    code = {"byte": "CORRUPT", "load": "LOAD_FAILED", "numbers": "BAD_FORECAST"}[poison]
    assert (shown["version"], shown["state"]) == (before, "serving")
    assert shown["failed"]["version"] == version.version
    assert shown["failed"]["code"] == code
    assert str(served.settings.var_dir) not in shown["failed"]["message"]
    assert (clients.failed, clients.wrong, clients.versions) == ([], [], {before})
    wait_until(lambda: "load_failed" in store.version("ewma", version.version).tags)
    assert store.version("ewma", version.version).tags["load_failed"].startswith(code)
    assert gateway.metric("kronos_load_failures_total", model="ewma") == failures + 1
    served.promote(before)
    wait_until(lambda: "failed" not in gateway.models()["ewma"])


@pytest.mark.parametrize("moment", ["load", "warm-up"])
def test_a_version_that_hangs_never_answers_and_the_old_one_goes_on(
    served: Served, log_a_version: Callable[..., Version], moment: str
) -> None:
    """The processes of its scorer are stopped by a signal while it loads, or once it listens."""
    gateway, store = served.gateway, served.store
    version = log_a_version(served.settings, store, {})
    before = gateway.models()["ewma"]["version"]
    known = {process.pid for process in gateway.scorers()}
    with served.load() as clients:
        served.promote(version.version)
        wait_until(lambda: _new_scorers(gateway, known) != [])
        if moment == "warm-up":
            wait_until(lambda: any(map(_listens, _new_scorers(gateway, known))))
        for process in _new_scorers(gateway, known):
            process.suspend()
        wait_until(lambda: "failed" in gateway.models()["ewma"], LOAD_S + 30)
        shown = gateway.models()["ewma"]
        time.sleep(0.5)
    assert (shown["version"], shown["state"]) == (before, "serving")
    assert shown["failed"]["version"] == version.version
    assert shown["failed"]["code"] == "LOAD_FAILED"
    assert (clients.failed, clients.wrong, clients.versions) == ([], [], {before})
    wait_until(lambda: {process.pid for process in gateway.scorers()} <= known)
    served.promote(before)
    wait_until(lambda: "failed" not in gateway.models()["ewma"])


def _new_scorers(gateway: Gateway, known: set[int]) -> list[psutil.Process]:
    return [process for process in gateway.scorers() if process.pid not in known]


def _listens(process: psutil.Process) -> bool:
    return any(connection.status == "LISTEN" for connection in process.net_connections())
