"""One `mlflow models serve` process for one version: start, wait until ready, watch, stop."""

import os
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

from registry.errors import BadParameter, KronosError
from registry.settings import Settings
from registry.versions.tracking import process_environment
from registry.versions.version import Version

READY_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 15.0
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
        self.log = settings.logs_dir / f"serve_{version.name}_{version.version}.log"
        self.command = serve_command(str(folder), host, self.port)
        self._environment = process_environment(settings)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        host = "127.0.0.1" if self.host == "0.0.0.0" else self.host
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    def __enter__(self) -> "Scorer":
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self.command,
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def wait_ready(self, tick: Callable[[float], None] = lambda _: None) -> None:
        """Return once /ping answers; call `tick(seconds)` while waiting.

        Raises KronosError with the last error of the log, if the server ends or is not ready in
        READY_TIMEOUT_S.
        """
        begun = time.monotonic()
        while (waited := time.monotonic() - begun) < READY_TIMEOUT_S:
            if self.exit_code() is not None:
                self.raise_ended()
            try:
                if httpx.get(f"{self.url}/ping", timeout=2).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            tick(waited)
            time.sleep(0.2)
        raise KronosError(
            f"{self.version.uri} was not ready in {READY_TIMEOUT_S:.0f} s: {self._last_error()}"
        )

    def raise_ended(self) -> None:
        """Raise KronosError with the server's exit code and the last error of its log."""
        raise KronosError(
            f"the server of {self.version.uri} ended (exit code {self.exit_code()}): "
            f"{self._last_error()}"
        )

    def exit_code(self) -> int | None:
        return self._process.poll() if self._process else None

    def stop(self) -> None:
        """Send SIGTERM to the process group, then SIGKILL after STOP_TIMEOUT_S.

        SIGTERM lets the server answer the requests in flight.
        """
        if self._process is None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            deadline = time.monotonic() + STOP_TIMEOUT_S
            while time.monotonic() < deadline and self._group_runs():
                time.sleep(0.05)
        self._process.wait()

    def _group_runs(self) -> bool:
        """Whether the server still runs, or one of its processes still holds the port."""
        return self._process is not None and (self._process.poll() is None or self._port_held())

    def _port_held(self) -> bool:
        try:
            check_free(self.host, self.port)
        except BadParameter:
            return True
        return False

    def _last_error(self) -> str:
        """The last error of `registry` in the log, or the last line if it has none."""
        text = self.log.read_text(errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        errors = [line.partition(": ")[2] for line in lines if line.startswith("registry.errors.")]
        last = (errors or lines or ["the log is empty"])[-1]
        return f"{last} (full log: {self.log})"


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
