"""The log of nightly jobs: var/logs/nightly.jsonl, one JSON object a line. No secret, no price."""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from registry.errors import KronosError
from registry.masking import masked
from registry.settings import Settings
from registry.text import printable

Level = Literal["info", "warning", "error"]
NAME = "nightly.jsonl"
LONGEST = 1000  # characters of a text


class Log:
    """Appends lines to a file. Several processes may write to it: a line is one write."""

    def __init__(self, settings: Settings) -> None:
        self.path = settings.logs_dir / NAME

    def event(self, level: Level, event: str, **fields: Any) -> None:
        """Write a line with the time, this process, and `fields`.

        A full disk or a folder that cannot be written is said on stderr: it must not end a job.
        """
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {"time": now, "level": level, "event": event, "pid": os.getpid()}
        for key, value in fields.items():
            line[key] = _shown(value) if isinstance(value, str) else value
        content = json.dumps(line, default=str) + "\n"
        try:
            _append(self.path, content.encode())
        except OSError as error:
            print(f"warning: no line in {self.path}: {error.strerror}", file=sys.stderr)

    @contextmanager
    def timed(self, event: str, **fields: Any) -> Iterator[dict[str, Any]]:
        """Write a line when the block ends, with its seconds and what the block adds to the fields.

        The block may set the key `level`. An error makes it a line of level `error`, with code and
        message, and is raised.
        """
        begun = time.monotonic()
        added: dict[str, Any] = {}
        try:
            yield added
        except BaseException as error:
            code = error.code if isinstance(error, KronosError) else type(error).__name__
            added |= {"level": "error", "error_code": code, "message": str(error)}
            raise
        finally:
            seconds = round(time.monotonic() - begun, 3)
            level: Level = added.pop("level", "info")
            self.event(level, event, **{**fields, "seconds": seconds, **added})


def _append(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, content)
    finally:
        os.close(descriptor)


def _shown(text: str) -> str:
    """The text without secrets, on one line, cut to LONGEST characters."""
    text = printable(masked(text))
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
