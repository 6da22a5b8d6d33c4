"""`python -m serving start` as a process of its own, with all that it starts."""

import json
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
from programs import ROOT, environment
from prometheus_client.parser import text_string_to_metric_families

from registry.settings import Settings

START_S = 180.0  # on a loaded machine
STOP_S = 90.0
_LOOK_S = 0.05
# What a reply says of the calibration where there is none.
IDENTITY = {
    "version": None,
    "state": "uncalibrated",
    "learned_until": None,
    "learned_from": None,
    "age": None,
}


class Gateway:
    """A gateway that runs. Clients of any thread may share it."""

    def __init__(self, process: "subprocess.Popen[bytes]", stderr: Path, url: str) -> None:
        self.process = process
        self.url = url  # empty until it is announced, if the port is 0
        self.announced: dict[str, Any] = {}
        self._stderr = stderr
        self._line = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.client = httpx.Client(timeout=60, limits=httpx.Limits(max_connections=None))

    @property
    def pid(self) -> int:
        return self.process.pid

    # --- requests

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.client.get(self.url + path, **options)

    def post(self, path: str, body: Any = None, **options: Any) -> httpx.Response:
        """Send a body: bytes as they are, anything else as JSON."""
        if isinstance(body, bytes):
            return self.client.post(self.url + path, content=body, **options)
        return self.client.post(self.url + path, json=body, **options)

    def forecast(self, **body: Any) -> httpx.Response:
        return self.post("/forecast", body)

    def models(self) -> dict[str, dict[str, Any]]:
        """What /models shows, by model."""
        return {shown["model"]: shown for shown in self.get("/models").json()["models"]}

    def metric(self, name: str, **labels: str) -> float:
        """Sum of the samples with this name and these labels."""
        total = 0.0
        for family in text_string_to_metric_families(self.get("/metrics").text):
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    total += sample.value
        return total

    # --- processes

    @property
    def children(self) -> list[psutil.Process]:
        """All processes below the gateway."""
        return psutil.Process(self.pid).children(recursive=True)

    def supervisor(self) -> psutil.Process:
        return next(child for child in self.children if "serving.supervisor" in _command(child))

    def scorers(self) -> list[psutil.Process]:
        """The processes that answer /invocations; MLflow's own process is the parent of each."""
        return [child for child in self.children if "uvicorn" in _command(child)]

    @property
    def log(self) -> list[dict[str, Any]]:
        """Lines of its stderr, and of its supervisor's."""
        lines = self._stderr.read_text(errors="replace").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    @property
    def stderr(self) -> str:
        return self._stderr.read_text(errors="replace")

    # --- its life

    def wait_ready(self, timeout_s: float = START_S) -> None:
        """Wait for the line of JSON that it prints when all models answer."""
        self._reader.join(timeout_s)
        if not self._line:
            state = "still starts" if self.process.poll() is None else "has ended"
            raise AssertionError(f"the gateway {state}:\n{self.stderr[-3000:]}")
        self.announced = json.loads(self._line)
        self.url = self.announced["url"]

    def stop(self, number: int = signal.SIGTERM, timeout_s: float = STOP_S) -> int:
        """Send a signal. The exit code."""
        self.process.send_signal(number)
        return self.process.wait(timeout_s)

    def close(self) -> None:
        """Kill all that is left."""
        self.client.close()
        left = [psutil.Process(self.pid), *self.children] if self.process.poll() is None else []
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=10)
        self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self._line = self.process.stdout.readline()


class Connection:
    """A client that sends any bytes, as slowly as it likes."""

    def __init__(self, gateway: Gateway) -> None:
        address = httpx.URL(gateway.url)
        self._socket = socket.create_connection((address.host, address.port or 80), 30)
        self._waiting = b""

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, content: bytes, *, may_break: bool = False) -> None:
        try:
            self._socket.sendall(content)
        except OSError:
            if not may_break:
                raise

    def reply(self) -> tuple[int, bytes]:
        """Status and body of the next reply."""
        head, _, self._waiting = self._until(b"\r\n\r\n").partition(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        while len(self._waiting) < length:
            self._receive()
        body, self._waiting = self._waiting[:length], self._waiting[length:]
        return int(head.split()[1]), body

    def is_closed(self) -> bool:
        """Whether the gateway closes the connection, having sent nothing more."""
        with suppress(ConnectionResetError):
            return self._socket.recv(1) == b""
        return True

    def _until(self, end: bytes) -> bytes:
        while end not in self._waiting:
            self._receive()
        return self._waiting

    def _receive(self) -> None:
        content = self._socket.recv(65_536)
        assert content, "the gateway closed the connection"
        self._waiting += content


@contextmanager
def starting(
    settings: Settings, models: Sequence[str], *arguments: str, port: int = 0, **variables: str
) -> Iterator[Gateway]:
    """A gateway that has just been started. `variables` are added to its environment."""
    command = [sys.executable, "-m", "serving", "start", *models, "--port", str(port), *arguments]
    with tempfile.TemporaryDirectory() as folder:
        stderr = Path(folder) / "stderr"
        with stderr.open("wb") as file:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=file,
                cwd=ROOT,
                env=environment(settings) | variables,
            )
        gateway = Gateway(process, stderr, f"http://127.0.0.1:{port}" if port else "")
        try:
            yield gateway
        finally:
            gateway.close()


@contextmanager
def running(
    settings: Settings, models: Sequence[str], *arguments: str, port: int = 0, **variables: str
) -> Iterator[Gateway]:
    """A gateway whose models answer. `variables` are added to its environment."""
    with starting(settings, models, *arguments, port=port, **variables) as gateway:
        gateway.wait_ready()
        yield gateway


def wait_until(condition: Callable[[], bool], timeout_s: float = 60.0) -> float:
    """Wait until a condition holds; the seconds that it took."""
    begun = time.monotonic()
    while not condition():
        seconds = time.monotonic() - begun
        assert seconds < timeout_s, f"it does not hold after {timeout_s:g} s"
        time.sleep(_LOOK_S)
    return time.monotonic() - begun


def _command(process: psutil.Process) -> str:
    with suppress(psutil.NoSuchProcess):
        return " ".join(process.cmdline())
    return ""
