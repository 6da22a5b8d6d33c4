"""Processes of scorers: what the gateway is to start, and whether it answers."""

import secrets
import threading
from collections.abc import Callable

from registry.settings import Settings
from serving import launch
from serving.messages import Run
from serving.supervisor.candidates import Candidate
from serving.supervisor.runners import Runner

HOST = "127.0.0.1"
LOADING_S = 0.2  # between two questions to a scorer that loads
WARM_S = 2.0  # and to one that is warm
TIMEOUT_S = 3.0  # of one question
MISSES = 3  # in a row; then a warm scorer hangs

OnAnswer = Callable[[str], None]  # with the id of a scorer


class Starter:
    """Makes what a scorer of a version needs: an id, a port and a token of its own."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._ports: set[int] = set()  # given away by this process; the system may repeat one

    def __call__(self, candidate: Candidate, now: float) -> tuple[Runner, Run]:
        pointer = candidate.pointer
        port = launch.free_port(HOST, self._ports)
        self._ports.add(port)
        server = launch.launch(
            self._settings, pointer.name, pointer.version, candidate.root, host=HOST, port=port
        )
        runner = Runner(
            id=f"{pointer.name}-{pointer.version}-{secrets.token_hex(4)}",
            candidate=candidate,
            host=HOST,
            port=port,
            token=server.token,
            begun=now,
        )
        run = Run(
            scorer=runner.id,
            command=server.command,
            environment=server.environment,
            log=str(server.log),
            title=server.title,
        )
        return runner, run


class Watcher:
    """Asks a scorer again and again, in a thread of its own, whether it answers."""

    def __init__(
        self, runner: Runner, on_ready: OnAnswer, on_hung: OnAnswer, *, ready: bool = False
    ) -> None:
        self._runner = runner
        self._on_ready = on_ready
        self._on_hung = on_hung
        self._ready = ready  # it answered before
        self._over = threading.Event()

    def start(self) -> "Watcher":
        name = f"watch {self._runner.id}"
        threading.Thread(target=self._watch, name=name, daemon=True).start()
        return self

    def stop(self) -> None:
        self._over.set()

    def _watch(self) -> None:
        while not self._ready and not self._over.wait(LOADING_S):
            self._ready = self._answers()
            if self._ready:
                self._on_ready(self._runner.id)
        misses = 0
        while not self._over.wait(WARM_S):
            misses = 0 if self._answers() else misses + 1
            if misses == MISSES and not self._over.is_set():
                self._on_hung(self._runner.id)
                return

    def _answers(self) -> bool:
        runner = self._runner
        return launch.answers(runner.host, runner.port, runner.token, TIMEOUT_S)
