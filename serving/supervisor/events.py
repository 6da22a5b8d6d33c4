"""The supervisor's log: one line of JSON on stderr for each event, without data and secrets."""

import json
import sys
import threading
from datetime import UTC, datetime
from typing import Any

from registry.masking import masked

_printing = threading.Lock()


def log(event: str, *, level: str = "info", **facts: Any) -> None:
    """Print an event; facts that are None are left out."""
    time = datetime.now(UTC).isoformat(timespec="milliseconds")
    line: dict[str, Any] = {"time": time, "level": level, "event": event, "process": "supervisor"}
    line |= {key: value for key, value in facts.items() if value is not None}
    text = masked(json.dumps(line, default=str))
    with _printing:
        print(text, file=sys.stderr, flush=True)
