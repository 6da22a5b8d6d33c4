"""Message and exit code of a command line when something is wrong."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from registry import terminal
from registry.errors import KronosError, NotFound
from registry.settings import CHECKOUT


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=CHECKOUT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    "program", [("registry", "list"), ("jobs", "compile"), ("serving", "scorer", "nbeats")]
)
def test_a_wrong_setting_is_one_line_that_names_it(program: tuple[str, ...]) -> None:
    done = run(*program, KRONOS_SERVE_PORT="abc")
    assert done.returncode == 2
    assert done.stdout == ""
    message = "error: BAD_CONFIG: KRONOS_SERVE_PORT: Input should be a valid integer"
    assert done.stderr.startswith(message)
    assert len(done.stderr.splitlines()) == 1


def test_a_registry_out_of_reach_is_not_a_model_that_does_not_exist(tmp_path: Path) -> None:
    settings = {
        "KRONOS_TRACKING_URI": "http://127.0.0.1:9",
        "KRONOS_VAR_DIR": str(tmp_path),
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    }
    done = run("registry", "show", "nbeats", **settings)
    assert done.returncode == 1
    assert done.stderr.startswith("error: TRACKING_UNAVAILABLE: ")
    assert "Traceback" not in done.stderr


def failing(error: Exception) -> Callable[[], None]:
    def main() -> None:
        raise RuntimeError("http://me:secret@host failed") from error

    return main


def test_a_traceback_shows_no_password(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        terminal.run(failing(ValueError("postgresql://me:secret@db")))
    printed = capsys.readouterr().err
    assert ended.value.code == 1
    assert "Traceback (most recent call last)" in printed
    assert "ValueError: postgresql://***@db" in printed
    assert printed.endswith("RuntimeError: http://***@host failed\n")
    assert "secret" not in printed


def test_an_error_shows_no_password_and_outlives_a_failure_to_record_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def main() -> None:
        raise NotFound("nothing at http://me:secret@host")

    def on_error(_: KronosError) -> None:
        raise ConnectionError("MLflow is gone")

    with pytest.raises(SystemExit) as ended:
        terminal.run(main, on_error=on_error)
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: NOT_FOUND: nothing at http://***@host\n"
