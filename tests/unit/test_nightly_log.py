"""The log of nightly jobs."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from jobs.nightly.log import Log
from registry.errors import NotFound
from registry.settings import Settings


def lines(log: Log) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.path.read_text().splitlines()]


def test_a_line_has_time_level_event_and_fields_and_no_secret(settings: Settings) -> None:
    log = Log(settings)
    log.event("warning", "issue", data="panel", message="postgresql://me:secret@host/db is\ngone")
    [line] = lines(log)
    assert log.path == settings.logs_dir / "nightly.jsonl"
    assert (line["level"], line["event"], line["data"]) == ("warning", "issue", "panel")
    assert line["time"].endswith("+00:00")
    assert "secret" not in line["message"]
    assert "\n" not in line["message"]


def test_a_block_is_one_line_with_its_seconds_and_counts(settings: Settings) -> None:
    log = Log(settings)
    with log.timed("mature", night="2022-12-28") as counts:
        counts["scores"] = 100
    [line] = lines(log)
    assert line["seconds"] >= 0
    assert (line["night"], line["scores"], line["level"]) == ("2022-12-28", 100, "info")


def test_a_block_may_set_the_level_of_its_line(settings: Settings) -> None:
    log = Log(settings)
    with log.timed("calibrate") as line:
        line |= {"level": "warning", "refused": ["worse"]}
    assert [each["level"] for each in lines(log)] == ["warning"]


def test_an_error_of_a_block_is_in_its_line_and_is_raised(settings: Settings) -> None:
    log = Log(settings)
    with pytest.raises(NotFound), log.timed("issue", model="har"):
        raise NotFound("no version of har")
    [line] = lines(log)
    assert (line["level"], line["error_code"]) == ("error", "NOT_FOUND")
    assert line["message"] == "no version of har"


def test_lines_of_several_writers_are_whole(settings: Settings) -> None:
    def write(number: int) -> None:
        log = Log(settings)
        for _ in range(50):
            log.event("info", "issue", number=number, text="x" * 500)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert len(lines(Log(settings))) == 200


def test_a_log_that_cannot_be_written_ends_no_job(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    settings.logs_dir.write_text("a file in its place")
    Log(settings).event("info", "issue")
    assert "warning: no line in" in capsys.readouterr().err
