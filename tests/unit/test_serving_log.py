"""The log of a scoring server: times, a header, a bound, and no loss to a second server."""

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from registry.errors import KronosError
from serving import log
from serving.log import Log


def followed(path: Path, text: bytes, pid: int = 7) -> Log:
    """A log that has read this output to its end."""
    read, write = os.pipe()
    written = Log(path)
    written.begin("models:/nbeats/1")
    written.follow(os.fdopen(read, "rb"), pid)
    assert not written.ended()
    os.write(write, text)
    os.close(write)
    assert written.ended(10)
    return written


def test_every_line_has_a_time_and_a_process_and_a_second_server_appends(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "serve.log"
    before = datetime.now(UTC)
    followed(path, b"one\n\ntwo \xff", pid=7)
    followed(path, b"three\n", pid=8)
    rows = [line.split(" ", 2) for line in path.read_text().splitlines()]
    assert [(pid, text) for _, pid, text in rows] == [
        (str(os.getpid()), "--- models:/nbeats/1"),
        ("7", "one"),
        ("7", ""),
        ("7", "two \N{REPLACEMENT CHARACTER}"),
        (str(os.getpid()), "--- models:/nbeats/1"),
        ("8", "three"),
    ]
    times = [datetime.fromisoformat(time) for time, _, _ in rows]
    assert times == sorted(times)
    assert (times[0] - before).total_seconds() > -0.001


def test_the_files_stay_below_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "LIMIT", 2000)
    path = tmp_path / "serve.log"
    lines = [f"{n:04d} {'x' * 45}" for n in range(200)]
    followed(path, "\n".join(lines).encode())
    older = tmp_path / "serve.log.1"
    assert sorted(tmp_path.iterdir()) == [path, older]
    assert older.stat().st_size < 2200
    assert path.stat().st_size < 2200
    kept = [line.split(" ", 2)[2] for line in (older.read_text() + path.read_text()).splitlines()]
    assert kept == lines[-len(kept) :]
    assert len(kept) > 20


def test_the_last_error_is_that_of_this_server(tmp_path: Path) -> None:
    path = tmp_path / "serve.log"
    output = b"registry.errors.Corrupt: weights differ\nINFO: bye\n"
    assert followed(path, output).last_error() == "weights differ"
    assert followed(path, b"INFO: hello\n\n").last_error() == "INFO: hello"
    assert followed(path, b"").last_error() == "it printed nothing"


def test_a_log_that_cannot_be_written_does_not_stop_the_server(tmp_path: Path) -> None:
    path = tmp_path / "serve.log"
    read, write = os.pipe()
    written = Log(path)
    written.begin("models:/nbeats/1")
    written.follow(os.fdopen(read, "rb"), 7)
    path.unlink()
    path.mkdir()
    for _ in range(100):  # more than the pipe holds
        os.write(write, b"x" * 1000 + b"\n")
    os.close(write)
    assert written.ended(10)
    assert written.last_error() == "x" * 1000


@pytest.mark.parametrize("obstacle", ["folder", "file"])
def test_a_log_that_cannot_be_begun_is_an_error_before_the_server_starts(
    tmp_path: Path, obstacle: str
) -> None:
    path = tmp_path / "logs" / "serve.log"
    if obstacle == "folder":
        path.mkdir(parents=True)
    else:
        path.parent.write_text("")
    with pytest.raises(KronosError, match="cannot be written") as caught:
        Log(path).begin("models:/nbeats/1")
    assert caught.value.code == "NOT_WRITABLE"


def test_the_exception_of_the_server_counts_and_not_that_of_the_program_around_it(
    tmp_path: Path,
) -> None:
    of_mlflow = b"Exception: Command '['bash', '-c', 'exec uvicorn']' returned non zero\n"
    text = b"Traceback:\njson.decoder.JSONDecodeError: Expecting value\nend\n" + of_mlflow
    assert followed(tmp_path / "a.log", text).last_error() == (
        "json.decoder.JSONDecodeError: Expecting value"
    )
    assert followed(tmp_path / "b.log", of_mlflow).last_error() == of_mlflow.decode().strip()
