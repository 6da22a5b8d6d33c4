"""One `mlflow models serve` process for one version: start, wait until ready, watch, stop."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from registry import interrupts
from registry.attached import attached
from registry.errors import BadParameter, KronosError
from registry.settings import Settings
from registry.versions.version import Version
from serving import launch
from serving.launch import STOP_TIMEOUT_S
from serving.log import Log

LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Scorer:
    """A running scoring server, used as a context manager; the exit stops it and its children."""

    def __init__(
        self, settings: Settings, version: Version, folder: Path, *, host: str, port: int
    ) -> None:
        """`folder` holds the verified files of the version."""
        check_host(settings, host)
        self.version = version
        port = port or launch.free_port(host)
        check_free(host, port)
        self.launch = launch.launch(
            settings, version.name, version.version, folder, host=host, port=port
        )
        self._load_s = settings.load_s
        self._log = Log(self.launch.log)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return self.launch.url

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    def __enter__(self) -> "Scorer":
        try:
            with interrupts.deferred():
                self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def _start(self) -> None:
        self._log.begin(self.launch.title)
        self._process = subprocess.Popen(
            attached(self.launch.command),
            env=self.launch.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        if self._process.stdout is not None:
            self._log.follow(self._process.stdout, self._process.pid)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def wait_ready(self, tick: Callable[[float], None] = lambda _: None) -> None:
        """Return once this very server answers /ping; call `tick(seconds)` while waiting.

        Raises KronosError with the last error of the log, if the server ends or is not ready in
        KRONOS_LOAD_S; BadParameter (PORT_TAKEN) if another one took the port meanwhile.
        """
        begun = time.monotonic()
        while (waited := time.monotonic() - begun) < self._load_s:
            if self.exit_code() is not None:
                check_free(self.launch.host, self.launch.port)
                self.raise_ended()
            if self._answers():
                return
            tick(waited)
            time.sleep(0.2)
        raise KronosError(
            f"{self.version.uri} was not ready in {self._load_s:g} s (KRONOS_LOAD_S): "
            f"{self._last_error()}"
        )

    def _answers(self) -> bool:
        return launch.answers(self.launch.host, self.launch.port, self.launch.token)

    def raise_ended(self) -> None:
        """Raise KronosError with the server's exit code and the last error of its log."""
        raise KronosError(
            f"the server of {self.version.uri} ended (exit code {self.exit_code()}): "
            f"{self._last_error()}"
        )

    def exit_code(self) -> int | None:
        return self._process.poll() if self._process else None

    @interrupts.deferred()
    def stop(self) -> None:
        """Send SIGTERM to the process group, then SIGKILL after STOP_TIMEOUT_S.

        At SIGTERM, uvicorn takes no more connections and answers the requests that it has. The port
        is free by then, so the end is known from the pipe that all processes of the group hold.
        """
        if self._process is None:
            return
        for number, timeout_s in ((signal.SIGTERM, STOP_TIMEOUT_S), (signal.SIGKILL, 5.0)):
            if self._log.ended():
                break
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            self._log.ended(timeout_s)
        self._process.wait()

    def _last_error(self) -> str:
        self._log.ended(1.0)  # so that its last lines are there, if it has ended
        return f"{self._log.last_error()} (full log: {self._log.path})"


def check_host(settings: Settings, host: str) -> None:
    """Raise BadParameter for an address beyond loopback: the stock server asks for no key."""
    if host not in LOOPBACK and not settings.private_network:
        raise BadParameter(
            f"{host} is reachable from outside and `mlflow models serve` asks for no key; "
            "use 127.0.0.1, or set KRONOS_PRIVATE_NETWORK=true inside a container whose port is "
            "published on loopback",
            code="NOT_LOOPBACK",
        )


def check_free(host: str, port: int) -> None:
    """Raise BadParameter when another process uses the port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise BadParameter(
                f"port {port} of {host} is taken ({error.strerror}); choose another with --port",
                code="PORT_TAKEN",
            ) from error
