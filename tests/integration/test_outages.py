"""A server or database that is down is one clear line within seconds, for every command."""

import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from jobs import __main__ as jobs
from registry import __main__ as registry
from registry import terminal, waiting
from registry.errors import KronosError
from registry.ledger.promotions import Ledger
from registry.settings import Settings
from registry.versions import connection, tracking
from serving import __main__ as serving

NOBODY = "me:s3cret@127.0.0.1:9"  # nothing listens on this port
PROGRAMS = {"registry": registry.app, "jobs": jobs.app, "serving": serving.app}
COMMANDS = [
    "registry list", "registry show nbeats", "registry compare nbeats", "registry verify nbeats",
    "registry promote nbeats 1", "registry rollback nbeats", "registry history nbeats",
    "registry doctor", "registry mirror acme/weights", "registry ui",
    "registry push kronos --version 1 --repo acme/weights", "registry export nbeats --to DIR",
    "jobs train naive", "jobs tune nbeats", "jobs evaluate naive", "jobs quickstart",
    "jobs forecast nbeats", "jobs calibrate nbeats", "jobs nightly", "jobs standings",
    "serving scorer nbeats", "serving request nbeats",
]  # fmt: skip
Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(
    compiled: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Run a command in this process, as a shell does: (exit code, stderr). Its stdout is empty."""

    def call(command: str, **variables: str) -> tuple[int, str]:
        monkeypatch.setenv("KRONOS_VAR_DIR", str(compiled.var_dir))
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", command.split())
        with pytest.raises(SystemExit) as ended:
            terminal.run(PROGRAMS[command.split()[0]])
        out, err = capsys.readouterr()
        assert out == ""
        return int(ended.value.code or 0), err

    return call


@pytest.fixture
def silent() -> Iterator[int]:
    """Port of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])


@pytest.fixture
def answering() -> Iterator[Callable[[int, str], str]]:
    """answering(status, body) -> address of a server that answers every request with it."""
    servers = []

    def start(status: int, body: str) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.send_header("Retry-After", "600")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_: Any) -> None:
                """Print nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"me:s3cret@127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_says_in_one_line_that_mlflow_is_down(command: str, run: Run) -> None:
    code, err = run(command, KRONOS_TRACKING_URI=f"http://{NOBODY}")
    assert code == 1
    assert err.splitlines()[-1] == (
        "error: TRACKING_UNAVAILABLE: the MLflow server at http://***@127.0.0.1:9 does not answer: "
        "Connection refused; start it, or correct KRONOS_TRACKING_URI"
    )
    assert "s3cret" not in err
    assert "Traceback" not in err


def test_no_verb_is_missing_from_the_test_above() -> None:
    verbs = {
        f"{name} {command.name or command.callback.__name__}"
        for name, app in PROGRAMS.items()
        for command in app.registered_commands
    }
    needs_no_mlflow = {"jobs compile", "jobs mature", "registry prune", "serving key"}
    needs_no_mlflow.add("serving start")  # a gateway starts from its copies, or waits
    assert verbs - needs_no_mlflow == {" ".join(command.split()[:2]) for command in COMMANDS}


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("http://me:s3cret@no.such.host.invalid", "Name or service not known"),
        (f"postgresql+psycopg2://{NOBODY}/kronos", "Connection refused"),
        ("postgresql+psycopg2://me:s3cret@no.such.host.invalid/kronos", "could not translate host"),
    ],
)
def test_the_line_says_why(uri: str, reason: str, run: Run) -> None:
    code, err = run("registry list", KRONOS_TRACKING_URI=uri)
    assert code == 1
    assert err.startswith("error: TRACKING_UNAVAILABLE: the MLflow ")
    assert reason in err
    assert "s3cret" not in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("uri", "code"),
    [
        ("postgresql://me:s3cret@host/db", "BAD_CONFIG"),  # the driver psycopg is not installed
        ("postgresql+psycopg2://me:s3@cret@host/db", "BAD_CONFIG"),
        ("http://me:s3@cret@host", "BAD_CONFIG"),
        ("http://me:s3/cret@host", "BAD_CONFIG"),
        ("htp://me:s3cret@host", "MLFLOW"),
    ],
)
def test_a_wrong_uri_is_refused_without_its_password(uri: str, code: str, run: Run) -> None:
    exit_code, err = run("registry list", KRONOS_TRACKING_URI=uri)
    assert exit_code == (2 if code == "BAD_CONFIG" else 1)
    assert err.startswith(f"error: {code}: ")
    assert "cret" not in err
    assert len(err.splitlines()) == 1


def test_a_server_that_never_answers_is_named_while_it_is_waited_for(
    silent: int, run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The user's own MLFLOW_HTTP_REQUEST_... are obeyed: a second, once."""
    monkeypatch.setattr(waiting, "AFTER_S", 0.1)
    where = f"127.0.0.1:{silent}"
    own = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "1", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    code, err = run("registry list", KRONOS_TRACKING_URI=f"http://me:s3cret@{where}", **own)
    assert code == 1
    assert f"the MLflow server at http://***@{where} does not answer: timed out" in err
    assert f"waiting for the MLflow server at http://***@{where}" in caplog.messages
    assert "s3cret" not in err + caplog.text


def test_a_database_that_never_answers_is_named_while_it_is_waited_for(
    silent: int, run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(waiting, "AFTER_S", 0.1)
    where = f"127.0.0.1:{silent}/kronos"
    uri = f"postgresql+psycopg2://me:s3cret@{where}?connect_timeout=2"  # libpq's least
    code, err = run("registry list", KRONOS_TRACKING_URI=uri)
    assert code == 1
    assert "timeout expired" in err
    with pytest.raises(KronosError, match="timeout expired") as caught:
        Ledger(Settings(ledger_uri=uri), "1" * 32)
    assert caught.value.code == "LEDGER_UNAVAILABLE"
    shown = f"postgresql+psycopg2://***@{where}?connect_timeout=2"
    assert f"waiting for the MLflow database at {shown}" in caplog.messages
    assert f"waiting for the ledger at {shown}" in caplog.messages
    assert "s3cret" not in err + caplog.text + caught.value.message


def test_a_server_without_its_database_is_not_waited_for_as_long_as_it_asks(
    answering: Callable[[int, str], str], run: Run
) -> None:
    code, err = run("registry list", KRONOS_TRACKING_URI=f"http://{answering(503, '')}")
    assert code == 1
    assert "does not answer: too many 503 error responses" in err


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [(200, "<html>", "not in a valid JSON format"), (404, "no page", "404"), (401, "", "401")],
)
def test_what_is_no_mlflow_server_is_told_apart_from_one_that_is_down(
    status: int, body: str, reason: str, answering: Callable[[int, str], str], run: Run
) -> None:
    code, err = run("registry list", KRONOS_TRACKING_URI=f"http://{answering(status, body)}")
    assert code == 1
    assert err.startswith("error: MLFLOW: http://***@127.0.0.1:")
    assert reason in err
    assert "s3cret" not in err


def test_a_server_that_limits_its_rate_is_no_outage(
    answering: Callable[[int, str], str], tmp_path: Path
) -> None:
    connection.connect(Settings(var_dir=tmp_path, tracking_uri=f"http://{answering(429, '')}"))


def test_a_ledger_that_is_down_is_one_line(bench: Any, run: Run) -> None:
    uri = f"postgresql+psycopg2://{NOBODY}/kronos"
    mlflow_uri = bench.settings.tracking
    code, err = run("registry doctor", KRONOS_TRACKING_URI=mlflow_uri, KRONOS_LEDGER_URI=uri)
    assert code == 1
    assert err.startswith("error: LEDGER_UNAVAILABLE: the ledger at postgresql+psycopg2://***@127")
    assert len(err.splitlines()) == 1
    assert "s3cret" not in err


def test_after_the_first_answer_mlflow_has_the_patience_of_its_own_settings(
    new_registry: Callable[[Path], Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    with connection._defaults(connection._QUICK):
        assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"
        assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "1"
    connection.connect(new_registry(tmp_path))
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "77"
    assert "MLFLOW_HTTP_REQUEST_MAX_RETRIES" not in os.environ
    attempts = 1 + int(connection._QUICK["MLFLOW_HTTP_REQUEST_MAX_RETRIES"])
    assert attempts * int(connection._QUICK["MLFLOW_HTTP_REQUEST_TIMEOUT"]) <= 8


def test_a_run_shows_no_password(new_registry: Callable[[Path], Settings], tmp_path: Path) -> None:
    """Not in its tags, in its params, nor as the error that ended it."""
    uri = "https://me:s3cret@host/x"
    with (  # noqa: PT012
        pytest.raises(RuntimeError),
        tracking.start(new_registry(tmp_path), "tests", "masked", tags={"where": uri}) as run,
    ):
        run.params({"source": uri})
        raise RuntimeError(f"{uri} failed")
    shown = run.client.get_run(run.run_id).data
    assert shown.tags["where"] == shown.params["source"] == "https://***@host/x"
    assert shown.tags[tracking.ERROR_TAG] == "RuntimeError: https://***@host/x failed"
    assert "s3cret" not in str(shown)
