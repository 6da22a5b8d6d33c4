"""How a stock scoring server of one version is started: command, environment, port, token, log."""

import http.client
import os
import secrets
import socket
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from registry.settings import Settings
from registry.versions import environments

HEADER = "kronos-server"  # of every reply: which server it came from
STOP_TIMEOUT_S = 70.0  # MLflow gives up a request after 60 s; docker-compose.yml waits for longer
_PING_TIMEOUT_S = 2.0


@dataclass(frozen=True)
class Launch:
    """One server. Whoever answers on its port with another token, or none, is another server."""

    command: list[str]
    environment: dict[str, str]
    host: str
    port: int
    token: str
    log: Path
    title: str  # first line in the log

    @property
    def url(self) -> str:
        return url_of(self.host, self.port)


def launch(
    settings: Settings, name: str, version: int, folder: Path, *, host: str, port: int
) -> Launch:
    """The server of a version whose verified files are in `folder`. It knows no store."""
    token = secrets.token_hex(8)
    environment = environments.of_versions() | {"KRONOS_DEVICE": settings.device}
    # uvicorn reads its options from UVICORN_...; headers are parted by spaces.
    headers = (os.environ.get("UVICORN_HEADERS", ""), f"{HEADER}:{token}")
    environment["UVICORN_HEADERS"] = " ".join(headers).strip()
    return Launch(
        command=serve_command(str(folder), host, port),
        environment=environment,
        host=host,
        port=port,
        token=token,
        log=settings.logs_dir / f"serve_{name}_{version}.log",
        title=f"models:/{name}/{version} on {url_of(host, port)}",
    )


def serve_command(uri: str, host: str, port: int) -> list[str]:
    """Command of the stock scoring server for one model URI, in this environment."""
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", uri]
    return [*command, "--env-manager", "local", "--host", host, "--port", str(port)]


def url_of(host: str, port: int) -> str:
    """Address for a client on this machine."""
    host = "127.0.0.1" if host == "0.0.0.0" else host
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def answers(host: str, port: int, token: str, timeout_s: float = _PING_TIMEOUT_S) -> bool:
    """Whether the port is answered in time, and by the server with this token."""
    host = "127.0.0.1" if host == "0.0.0.0" else host
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.request("GET", "/ping")
        reply = connection.getresponse()
        return reply.status == 200 and reply.headers.get(HEADER) == token
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def free_port(host: str, taken: Collection[int] = ()) -> int:
    """A port that nothing listens on now, and that is not among `taken`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    while True:
        with socket.socket(family) as probe:
            probe.bind((host, 0))
            port = int(probe.getsockname()[1])
        if port not in taken:
            return port
