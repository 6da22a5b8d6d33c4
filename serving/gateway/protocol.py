"""HTTP connections: limits that hold before a request is parsed, and cheap refusals.

A refusal here costs a fifth of one by the application. At five times the load that can be answered
that decides whether the rest is answered at all.
"""

import asyncio
import re
import secrets
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.gateway.http import SLOWEST

HEAD_S = 7.0  # for the head of a request; it is looked at every few seconds
LARGEST_HEAD = 65_536  # bytes
READ_S = 10.0  # for a client to read its reply, beside the time at the slowest rate
MOST_CONNECTIONS = 10_000
AT_ONCE_S = 0.01  # a client that asks so soon after a refusal did not wait for anything
HOLD_S = 0.03  # that it waits for the next refusal, so that it does not spin

_FORECAST = (b"POST /forecast ", b"POST /forecast?")
_END_OF_HEAD = b"\r\n\r\n"
_LENGTH = b"\r\ncontent-length:"
_SENT_ID = re.compile(rb"\r\nkronos-request-id:[ \t]*([a-z0-9._-]{1,64})[ \t]*\r\n", re.IGNORECASE)
_CODING = b"\r\ntransfer-encoding:"

Reason = Literal["queue_full", "connections", "too_slow"]


class Limits:
    """What every connection asks before it takes a request.

    `full` says whether a forecast would be refused while so many requests are on their way to the
    application. A thousand may come before its first line runs.
    """

    def __init__(self, full: Callable[[int], bool], on_refused: Callable[[Reason], None]) -> None:
        self.full = full
        self.on_refused = on_refused
        self.coming = 0  # requests that the application has not begun


def protocol(limits: Limits) -> type[HttpToolsProtocol]:
    """The class of connections under these limits, for uvicorn."""
    return type("Connection", (Connection,), {"limits": limits})


class Connection(HttpToolsProtocol):
    """A connection of uvicorn. Written against uvicorn 0.54; a test holds it."""

    limits: Limits
    _head_since: float | None = None  # when what has to be complete in HEAD_S began
    _unread = 0  # bytes since the last whole head or part of a body
    _watch: asyncio.TimerHandle | None = None
    _in_head = False
    _in_body = False
    _slow: asyncio.TimerHandle | None = None  # the end of a client that does not read
    _refused_at = 0.0
    _sent_id = ""  # of the request that is refused
    _held: asyncio.TimerHandle | None = None  # a refusal that waits

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            self.limits.on_refused("connections")
            self._refuse(503, "NOT_READY", "too many connections; try again in a second")
            return
        self._head_since = self.loop.time()
        self._watch = self.loop.call_later(HEAD_S / 3, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._watch is not None:
            self._watch.cancel()
        if self._held is not None:
            self._held.cancel()
        self._stop_slow()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """More of a reply waits than the client takes: from now on it has to be quick."""
        super().pause_writing()
        self._stop_slow()
        seconds = READ_S + self.transport.get_write_buffer_size() / SLOWEST
        self._slow = self.loop.call_later(seconds, self.transport.abort)

    def resume_writing(self) -> None:
        self._stop_slow()
        super().resume_writing()

    def _stop_slow(self) -> None:
        if self._slow is not None:
            self._slow.cancel()

    def shutdown(self) -> None:
        if self._held is not None:
            self._held.cancel()
            self._answer_held()
        super().shutdown()

    def data_received(self, data: bytes) -> None:
        if self.limits.full(self.limits.coming) and self._is_whole_forecast(data):
            self._refuse_forecast(data)
            return
        self._unread += len(data)
        super().data_received(data)
        if self._unread > LARGEST_HEAD and not self.transport.is_closing():
            self._refuse(431, "BAD_INPUT", f"the head has more than {LARGEST_HEAD} bytes")
        elif self._head_since is None and self._is_answered():
            self._head_since = self.loop.time()  # uvicorn stopped its own clock

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_since = self.loop.time()
        self._in_head = True

    def on_headers_complete(self) -> None:
        self._head_since = None
        self._in_head = False
        self._in_body = True
        self._unread = 0
        super().on_headers_complete()

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_body:  # else it comes after a body, where nobody looks for it
            super().on_header(name, value)

    def on_body(self, body: bytes) -> None:
        self._unread = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_body = False
        super().on_message_complete()

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self.limits.coming += 1
        super()._start_asgi_task(cycle, partial(self._begin, app))

    async def _begin(self, app: Any, scope: Any, receive: Any, send: Any) -> None:
        self.limits.coming -= 1
        await app(scope, receive, send)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        self._refuse(400, "BAD_INPUT", "the request is no HTTP/1.1 that can be read")

    # --- refusals

    def _is_whole_forecast(self, data: bytes) -> bool:
        """Whether the data is one request for forecasts, from its first byte to its last."""
        if not data.startswith(_FORECAST) or self._in_head or self._in_body:
            return False
        if self.cycle is not None and not self.cycle.response_complete:
            return False
        head, _, body = data.partition(_END_OF_HEAD)
        head = head.lower()
        if _CODING in head:
            return False
        _, _, after = head.partition(_LENGTH)
        length = after.partition(b"\r\n")[0].strip()
        return length.isdigit() and int(length) == len(body)

    def _refuse_forecast(self, data: bytes) -> None:
        """Answer 429 and keep the connection. Who was just refused waits a little for it."""
        self.limits.on_refused("queue_full")
        self._unset_keepalive_if_required()
        self._head_since = None
        sent = _SENT_ID.search(data.partition(_END_OF_HEAD)[0] + _END_OF_HEAD)
        self._sent_id = sent[1].decode() if sent else ""
        now = self.loop.time()
        if now - self._refused_at < AT_ONCE_S:
            self.transport.pause_reading()
            self._held = self.loop.call_later(HOLD_S, self._answer_held)
            return
        self._answer_refused(now)

    def _answer_held(self) -> None:
        self._held = None
        if not self.transport.is_closing():
            self.transport.resume_reading()
            self._answer_refused(self.loop.time())

    def _answer_refused(self, now: float) -> None:
        self._refused_at = now
        if self._sent_id:
            self.transport.write(_refusal(429, "OVERLOADED", _WAIT, self._sent_id))
        else:
            request_id = secrets.token_hex(8).encode()
            self.transport.write(_BEFORE_ID + request_id + _BETWEEN_IDS + request_id + _AFTER_ID)
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def _refuse(self, status: int, code: str, message: str) -> None:
        """Answer and close. After its answer, the rest of a request gets no other one."""
        if self._in_head or not self._is_answered():
            request_id = secrets.token_hex(8)
            content = _refusal(status, code, message, request_id, "connection: close\r\n")
            self.transport.write(content)
        self.transport.close()

    def _is_answered(self) -> bool:
        """Whether the last request whose head is complete has its answer."""
        return self.cycle is not None and self.cycle.response_complete

    def _look(self) -> None:
        """Close a connection whose request does not arrive."""
        since = self._head_since
        if since is not None and self.loop.time() - since > HEAD_S:
            self.limits.on_refused("too_slow")
            self._refuse(408, "TOO_SLOW", f"the head did not come in {HEAD_S:g} s")
            return
        self._watch = self.loop.call_later(HEAD_S / 3, self._look)


_PHRASES = {
    400: "Bad Request",
    408: "Request Timeout",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}


def _refusal(status: int, code: str, message: str, request_id: str, header: str = "") -> bytes:
    body = msgspec.json.encode({"error_code": code, "message": message, "request_id": request_id})
    retry = "retry-after: 1\r\n" if status in (429, 503) else ""
    head = (
        f"HTTP/1.1 {status} {_PHRASES[status]}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nkronos-request-id: {request_id}\r\n{retry}{header}\r\n"
    )
    return head.encode() + body


# The refusal of a forecast around its request id: it is sent thousands of times a second.
_ID = "0" * 16
_WAIT = "too many requests wait; try again in a second"
_OVERLOADED = _refusal(429, "OVERLOADED", _WAIT, _ID)
_BEFORE_ID, _BETWEEN_IDS, _AFTER_ID = _OVERLOADED.split(_ID.encode())
