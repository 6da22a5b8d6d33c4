"""The supervisor's log: one line on stderr for each event, without data and secrets."""

import logging
import sys
import threading
import traceback
from datetime import UTC, datetime
from typing import Any

from registry.masking import masked
from serving import lines

_printing = threading.Lock()


def log(event: str, *, level: str = "info", **facts: Any) -> None:
    """Print an event; facts that are None are left out."""
    time = datetime.now(UTC).isoformat(timespec="milliseconds")
    fields: dict[str, Any] = {"time": time, "level": level, "event": event, "process": "supervisor"}
    fields |= {key: value for key, value in facts.items() if value is not None}
    text = masked(lines.line(fields, terminal=sys.stderr.isatty()))
    with _printing:
        print(text, file=sys.stderr, flush=True)


class Handler(logging.Handler):
    """What libraries log becomes such lines."""

    def emit(self, record: logging.LogRecord) -> None:
        trace = None
        if record.exc_info and record.exc_info[0] is not None:
            trace = "".join(traceback.format_exception(*record.exc_info))
        level = record.levelname.lower()
        log(record.name, level=level, message=record.getMessage(), trace=trace)
