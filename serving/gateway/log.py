"""The gateway's log: one JSON object a line, with fixed keys. No payload, no key, no symbol."""

import threading
from contextlib import suppress
from datetime import UTC, datetime
from typing import IO, Literal, TypedDict, Unpack

from registry.masking import masked
from registry.text import printable
from serving import lines

Level = Literal["info", "warning", "error"]
LONGEST = 1000  # characters of a text

_UNAVAILABLE = 503  # refusals under load come by the thousand; metrics count them


class Fields(TypedDict, total=False):
    """All keys beside time, level and event."""

    request_id: str
    endpoint: str
    status: int
    seconds: float
    series: int  # of the request
    key: str  # name of the API key
    client: str  # address
    model: str
    name: str  # registered
    version: int
    stage: str
    scorer: str  # id
    pid: int
    exit_code: int
    host: str
    port: int
    error_code: str
    message: str
    count: int


class Log:
    """Writes to a stream, usually stderr, from any thread.

    `access`: one line for each request, not only for the gateway's own failures.
    """

    def __init__(self, stream: IO[bytes], *, access: bool = False) -> None:
        self._stream = stream
        self._access = access
        self._writing = threading.Lock()

    def event(self, level: Level, event: str, **fields: Unpack[Fields]) -> None:
        """Write a line. Never raises: a full disk or a closed pipe must not stop the gateway."""
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        line: dict[str, object] = {"time": time, "level": level, "event": event}
        with suppress(Exception):
            for key, value in fields.items():
                line[key] = _shown(value) if isinstance(value, str) else value
            content = lines.line(line, terminal=self._stream.isatty()).encode() + b"\n"
            with self._writing:
                self._stream.write(content)
                self._stream.flush()

    def wants(self, status: int) -> bool:
        """Whether a request with this status gets a line: all, or failures other than refusals."""
        return self._access or (status >= 500 and status != _UNAVAILABLE)

    def request(self, **fields: Unpack[Fields]) -> None:
        """Write the line of a request that was answered with `status`, if it gets one."""
        status = fields["status"]
        if self.wants(status):
            self.event("error" if status >= 500 else "info", "request", **fields)


def _shown(text: str) -> str:
    """The text without secrets, on one line, cut to `LONGEST` characters."""
    text = printable(masked(text[: 10 * LONGEST]))  # the search for secrets takes its time
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
