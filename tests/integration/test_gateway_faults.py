"""What a gateway does when its parts, its stores or its clients fail."""

import contextlib
import json
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import answers
import load
import numpy as np
import numpy.testing as npt
import psutil
import pytest
from gateways import Connection, Gateway, running, wait_until
from load import Load

from registry.settings import Settings
from registry.versions.store import Store
from registry.versions.version import Version

FAST = {"KRONOS_POLL_S": "0.3", "KRONOS_QUEUE_S": "20", "KRONOS_TIMEOUT_S": "5"}
START_S = 60.0  # of a scorer on a loaded machine
BODY = {"symbol": "A", "series": [0.01, -0.02] * 20}
HEAD = b"POST /forecast HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"


@dataclass
class Site:
    """A registry with one version of ewma, its gateway, and requests with their answers."""

    settings: Settings
    gateway: Gateway
    bodies: list[answers.Body]
    expected: dict[int, list[answers.Numbers]]

    def load(self, clients: int = 8) -> Load:
        return Load(self.gateway, self.bodies, self.expected, clients)


@pytest.fixture(scope="module")
def site(
    new_registry: Callable[[Path], Settings],
    log_a_version: Callable[..., Version],
    promote_a_version: Callable[..., None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    settings = new_registry(tmp_path_factory.mktemp("faults"))
    store = Store(settings)
    log_a_version(settings, store, {})
    promote_a_version(store, "ewma", 1)
    with running(settings, ["ewma"], **FAST) as gateway:
        rng = np.random.default_rng(1)
        bodies = [answers.draw(rng, gateway.models()["ewma"]) for _ in range(40)]
        with store.load("ewma/1") as version:
            expected = {1: load.expected(version, bodies)}
        yield Site(settings, gateway, bodies, expected)


def _answers(gateway: Gateway) -> bool:
    return gateway.forecast(**BODY).status_code == 200


def _is_gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


# --- clients ----------------------------------------------------------------------------------


def test_slow_clients_are_closed_and_disturb_nobody(site: Site) -> None:
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(Connection(site.gateway)) for _ in range(40)]
        for connection in slow[:20]:  # the others send a head slowly, these a body
            connection.send(HEAD + b"content-length: 1000\r\n\r\n")
        begun = time.monotonic()
        with site.load(clients=2) as clients:
            for byte in (HEAD * 2)[:8]:
                for connection in slow:
                    connection.send(bytes([byte]), may_break=True)
                time.sleep(1)
            replies = [connection.reply() for connection in slow]
        assert time.monotonic() - begun < 15
    assert {status for status, _ in replies} == {408}
    assert site.gateway.metric("kronos_rejected_total", reason="too_slow") == 40
    assert {json.loads(body)["error_code"] for _, body in replies} == {"TOO_SLOW"}
    assert (clients.failed, clients.wrong) == ([], [])
    assert max(one.ended - one.begun for one in clients.sent) < 2


def test_a_thousand_clients_that_go_away_in_mid_request_leave_nothing_behind(site: Site) -> None:
    gateway = site.gateway
    body = json.dumps(BODY).encode()
    whole = HEAD + b"content-length: %d\r\n\r\n" % len(body) + body
    process = psutil.Process(gateway.pid)
    assert _answers(gateway)
    files, threads = process.num_fds(), process.num_threads()
    parts = [whole[:20], whole[: len(HEAD) + 40], whole[:-10], whole]
    for number in range(1000):
        with Connection(gateway) as connection:
            connection.send(parts[number % 4])
    wait_until(lambda: process.num_fds() <= files + 2)
    wait_until(lambda: gateway.metric("kronos_requests_in_progress") == 1)  # its own
    assert process.num_threads() <= threads
    assert _answers(gateway)
    assert gateway.metric("kronos_queue_length") == 0


def test_thousands_of_idle_connections_disturb_nobody(site: Site) -> None:
    gateway = site.gateway
    with contextlib.ExitStack() as stack:
        for _ in range(3000):
            stack.enter_context(Connection(gateway))
        with site.load(clients=2) as clients:
            time.sleep(1)
    assert (clients.failed, clients.wrong) == ([], [])
    assert max(one.ended - one.begun for one in clients.sent) < 1


# --- parts ------------------------------------------------------------------------------------


def test_nobody_notices_that_the_supervisor_is_killed_and_a_new_one_goes_on(site: Site) -> None:
    gateway = site.gateway
    scorers = gateway.scorers()
    with site.load() as clients:
        old = gateway.supervisor()
        old.kill()
        seconds = wait_until(lambda: _new_supervisor(gateway, old))
        wait_until(lambda: len(_begun(gateway)) == 2)
        time.sleep(2)
    assert seconds < 5
    assert (clients.failed, clients.wrong) == ([], [])
    assert gateway.scorers() == scorers
    assert gateway.metric("kronos_supervisor_restarts_total") == 1
    assert gateway.models()["ewma"]["state"] == "serving"


def _new_supervisor(gateway: Gateway, old: psutil.Process) -> bool:
    with contextlib.suppress(StopIteration, psutil.NoSuchProcess):
        return gateway.supervisor().pid != old.pid
    return False


def _begun(gateway: Gateway) -> list[int]:
    """Process ids of all supervisors that began."""
    return [line["pid"] for line in gateway.log if line["event"] == "begun"]


@pytest.mark.parametrize("part", ["worker", "server", "stopped"])
def test_a_scorer_that_ends_or_hangs_is_started_again(site: Site, part: str) -> None:
    """The new supervisor of the test above knows the scorer that an earlier one started."""
    gateway = site.gateway
    restarts = gateway.metric("kronos_scorer_restarts_total", model="ewma")
    worker = gateway.scorers()[0]
    with site.load(clients=3) as clients:
        if part == "worker":
            worker.kill()
        elif part == "server":
            worker.parent().kill()
        else:
            worker.suspend()
        wait_until(lambda: gateway.get("/ready").status_code == 503)
        refused = gateway.forecast(**BODY)
        wait_until(lambda: gateway.get("/ready").status_code == 200, START_S)
        back = time.monotonic()
        time.sleep(0.5)
    assert (refused.status_code, refused.json()["error_code"]) == (503, "NOT_READY")
    assert int(refused.headers["retry-after"]) >= 1
    statuses = {one.status for one in clients.failed}
    assert statuses <= ({503, 504} if part == "stopped" else {503})
    assert {one.status for one in clients.since(back)} == {200}
    assert clients.wrong == []
    assert _is_gone(worker)
    assert gateway.metric("kronos_scorer_restarts_total", model="ewma") == restarts + 1


# --- stores -----------------------------------------------------------------------------------


@contextlib.contextmanager
def _unreadable(path: Path) -> Iterator[None]:
    """A database file whose first bytes are lost for a while."""
    with path.open("r+b") as file:
        head = file.read(4096)
        file.seek(0)
        file.write(bytes(4096))
        file.flush()
        try:
            yield
        finally:
            file.seek(0)
            file.write(head)


@contextlib.contextmanager
def _away(path: Path) -> Iterator[None]:
    """A database file is not there."""
    aside = path.rename(path.with_name(f"{path.name}.aside"))
    try:
        yield
    finally:
        aside.rename(path)


@contextlib.contextmanager
def _blocked(path: Path) -> Iterator[None]:
    """A database file is not there, and nobody can make a new one."""
    with _away(path):
        path.mkdir()
        try:
            yield
        finally:
            path.rmdir()


def test_while_its_registry_is_down_a_gateway_goes_on_and_says_so(site: Site) -> None:
    gateway = site.gateway
    with site.load(clients=4) as clients:
        with _unreadable(site.settings.var_dir / "mlflow.db"):
            wait_until(lambda: gateway.metric("kronos_model_stale", model="ewma") == 1)
            time.sleep(1)
            assert _answers(gateway)
            assert gateway.get("/ready").status_code == 200
        wait_until(lambda: gateway.metric("kronos_model_stale", model="ewma") == 0)
    assert (clients.failed, clients.wrong) == ([], [])


# --- the end ----------------------------------------------------------------------------------


def test_a_gateway_that_is_told_to_end_answers_what_it_has_and_leaves_nothing(site: Site) -> None:
    gateway = site.gateway
    children = gateway.children
    assert len(children) >= 3
    with site.load() as clients:
        wait_until(lambda: len(clients.sent) > 100)
        told = time.monotonic()
        assert gateway.stop(signal.SIGTERM) == 128 + signal.SIGTERM
    cut = [one for one in clients.failed if one.begun < told]
    assert (cut, clients.wrong) == ([], [])
    assert {one.status for one in clients.failed} == {0}
    assert [child for child in children if not _is_gone(child)] == []


def test_without_its_databases_a_gateway_starts_from_its_copies_and_kill_9_ends_all(
    site: Site,
) -> None:
    folder = site.settings.var_dir
    with contextlib.ExitStack() as stack:
        stack.enter_context(_away(folder / "mlflow.db"))
        stack.enter_context(_blocked(folder / "ledger.db"))
        gateway = stack.enter_context(running(site.settings, ["ewma"], **FAST))
        reply = gateway.forecast(**site.bodies[0]).json()
        assert reply["meta"]["stale"] is True
        numbers = answers.numbers(reply)
        npt.assert_allclose(numbers, site.expected[1][0], rtol=0, atol=load.TOLERANCE)
        assert gateway.models()["ewma"]["stale"] is True
        assert gateway.metric("kronos_model_stale", model="ewma") == 1
        by_symbol = gateway.forecast(symbol="AAPL", data="mystocks")
        refused = (by_symbol.status_code, by_symbol.json()["error_code"])
        assert refused == (503, "LEDGER_UNAVAILABLE")
        assert str(folder) not in by_symbol.text
        children = gateway.children
        assert gateway.stop(signal.SIGKILL) == -signal.SIGKILL
        wait_until(lambda: all(map(_is_gone, children)), 15)
