"""One `mlflow models serve` process for one version: start, wait until ready, watch, stop."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import httpx

from registry import interrupts
from registry.attached import attached
from registry.errors import BadParameter, KronosError
from registry.settings import Settings
from registry.versions import environments
from registry.versions.version import Version
from serving.log import Log

READY_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 70.0  # MLflow gives up a request after 60 s; docker-compose.yml waits for longer
HEADER = "kronos-server"  # of every reply: which server it came from
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Scorer:
    """A running scoring server, used as a context manager; the exit stops it and its children."""

    def __init__(
        self, settings: Settings, version: Version, folder: Path, *, host: str, port: int
    ) -> None:
        """`folder` holds the verified files of the version."""
        check_host(settings, host)
        self.version = version
        self.host = host
        self.port = port or _free_port(host)
        check_free(host, self.port)
        self._log = Log(settings.logs_dir / f"serve_{version.name}_{version.version}.log")
        self._token = secrets.token_hex(8)
        self.command = serve_command(str(folder), host, self.port)
        self._environment = environments.of_versions() | {"KRONOS_DEVICE": settings.device}
        # uvicorn reads its options from UVICORN_...; headers are parted by spaces.
        headers = (os.environ.get("UVICORN_HEADERS", ""), f"{HEADER}:{self._token}")
        self._environment["UVICORN_HEADERS"] = " ".join(headers).strip()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        host = "127.0.0.1" if self.host == "0.0.0.0" else self.host
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

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
        self._log.begin(f"{self.version.uri} on {self.url}")
        self._process = subprocess.Popen(
            attached(self.command),
            env=self._environment,
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
        READY_TIMEOUT_S; BadParameter (PORT_TAKEN) if another one took the port meanwhile.
        """
        begun = time.monotonic()
        while (waited := time.monotonic() - begun) < READY_TIMEOUT_S:
            if self.exit_code() is not None:
                check_free(self.host, self.port)
                self.raise_ended()
            if self._answers():
                return
            tick(waited)
            time.sleep(0.2)
        raise KronosError(
            f"{self.version.uri} was not ready in {READY_TIMEOUT_S:.0f} s: {self._last_error()}"
        )

    def _answers(self) -> bool:
        """Whether the port is answered, and by this server."""
        try:
            reply = httpx.get(f"{self.url}/ping", timeout=2)
        except httpx.TransportError:
            return False
        return reply.status_code == 200 and reply.headers.get(HEADER) == self._token

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


def serve_command(uri: str, host: str, port: int) -> list[str]:
    """Command of the stock scoring server for one model URI, in this environment."""
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", uri]
    return [*command, "--env-manager", "local", "--host", host, "--port", str(port)]


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


def _free_port(host: str) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
