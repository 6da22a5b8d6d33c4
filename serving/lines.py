"""A line of a log: JSON for programs, plain words on a terminal."""

import json
from collections.abc import Mapping
from typing import Any

_HEAD = ("time", "level", "event", "process")


def line(fields: Mapping[str, Any], *, terminal: bool) -> str:
    """`fields` begin with time (ISO 8601), level and event."""
    if not terminal:
        return json.dumps(fields, default=str, allow_nan=False)
    level = "" if fields["level"] == "info" else f"{fields['level']}: "
    words = [fields["time"][11:19], f"{level}{fields['event']}"]
    words += [f"{key}={value}" for key, value in fields.items() if key not in _HEAD]
    return " ".join(words)
