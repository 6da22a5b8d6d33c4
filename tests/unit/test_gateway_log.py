"""The gateway's log: JSON lines with fixed keys, without secrets, and never an error."""

import io
import json
import math
from datetime import UTC, datetime
from typing import Any

import pytest

from serving.gateway.keys import create
from serving.gateway.log import LONGEST, Log
from serving.lines import line


def lines(stream: io.BytesIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_a_line_with_time_level_and_event_first() -> None:
    stream = io.BytesIO()
    Log(stream).event("warning", "load_failed", model="nbeats", version=3, error_code="CORRUPT")
    [line] = lines(stream)
    assert list(line) == ["time", "level", "event", "model", "version", "error_code"]
    assert list(line.values())[1:] == ["warning", "load_failed", "nbeats", 3, "CORRUPT"]
    time = datetime.fromisoformat(line["time"])
    assert len(line["time"]) == len("2026-11-27T14:00:00.000+00:00")
    assert abs((datetime.now(UTC) - time).total_seconds()) < 60


def test_texts_are_masked_and_stay_on_one_line() -> None:
    stream = io.BytesIO()
    key, _ = create("a")
    log = Log(stream)
    log.event("error", "failed", message=f"http://me:pw@host/ {key}\nsecond \x1b[1m \ud800")
    assert len(stream.getvalue().splitlines()) == 1
    message = lines(stream)[0]["message"]
    assert message == "http://***@host/ ***\\nsecond \\x1b[1m \\ud800"


def test_a_long_text_is_cut() -> None:
    stream = io.BytesIO()
    Log(stream).event("error", "failed", message="://" * 1_000_000)
    assert len(stream.getvalue()) < LONGEST + 200


class Broken(io.BytesIO):
    def write(self, _: Any) -> int:
        raise BrokenPipeError("nobody reads")


def test_an_event_never_raises() -> None:
    Log(Broken()).event("info", "started")
    closed = io.BytesIO()
    closed.close()
    Log(closed).event("info", "started")
    stream = io.BytesIO()
    unfit: Any = {"seconds": math.nan, "count": object()}
    Log(stream).event("info", "started", **unfit)
    assert stream.getvalue() == b""


@pytest.mark.parametrize(
    ("access", "logged"),
    [(False, [500, 502, 504]), (True, [200, 401, 429, 500, 502, 503, 504])],
)
def test_requests_are_logged_if_asked_for_or_failed_by_ourselves(
    access: bool, logged: list[int]
) -> None:
    stream = io.BytesIO()
    log = Log(stream, access=access)
    for status in (200, 401, 429, 500, 502, 503, 504):
        log.request(status=status, endpoint="/forecast", request_id="r1", seconds=0.0012)
    assert [line["status"] for line in lines(stream)] == logged
    levels = {line["status"]: line["level"] for line in lines(stream)}
    assert levels[500] == "error"
    assert levels.get(200, "info") == "info"


def test_on_a_terminal_a_line_is_in_plain_words() -> None:
    fields = {"time": "2026-11-27T15:03:58.303+00:00", "level": "info", "event": "serving"}
    assert line({**fields, "version": 2}, terminal=True) == "15:03:58 serving version=2"
    warning = {**fields, "level": "warning", "process": "supervisor"}
    assert line(warning, terminal=True) == "15:03:58 warning: serving"
