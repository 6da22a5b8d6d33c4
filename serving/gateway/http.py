"""Requests and responses over ASGI: bodies within limits, JSON out, errors in one form."""

import asyncio
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from registry.errors import BadParameter, KronosError, NotReady, Overloaded, TooLarge, TooSlow

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

JSON = b"application/json"
REQUEST_ID = b"kronos-request-id"
RETRY_AFTER = (b"retry-after", b"1")  # seconds
HEAD_START_S = 10.0  # for a body; then it must have come at the slowest rate
SLOWEST = 100_000  # bytes a second
MOST_PARAMETERS = 64  # of a query

_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_encode = msgspec.json.Encoder().encode


class Gone(Exception):
    """The client closed the connection before its request was complete."""


@dataclass(slots=True)
class Request:
    """A request whose body is not read yet. Names of headers are in small letters."""

    method: str
    path: str
    query: bytes
    headers: Mapping[bytes, bytes]
    client: str  # address
    id: str
    receive: Receive
    begun: float = field(default_factory=time.perf_counter)
    model: str = ""  # for the metrics, once it is known

    @classmethod
    def of(cls, scope: Mapping[str, Any], receive: Receive) -> "Request":
        headers = dict(scope["headers"])
        client = scope.get("client")
        return cls(
            scope["method"],
            scope["path"],
            scope["query_string"],
            headers,
            client[0] if client else "",
            _id(headers),
            receive,
        )

    def text(self, header: str) -> str | None:
        """A header as text; None without it."""
        value = self.headers.get(header.encode())
        return None if value is None else value.decode("latin-1")

    async def body(self, limit: int) -> bytes:
        """The whole body. Raises TooLarge before it is read, TooSlow and Gone."""
        length = self.headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > limit:
            raise too_large(limit)
        message = await self._more(HEAD_START_S)
        content: bytes = message.get("body", b"")
        if len(content) > limit:  # of a body that came without its length
            raise too_large(limit)
        if not message.get("more_body"):
            return content
        return await self._rest([content], limit)

    async def _rest(self, parts: list[bytes], limit: int) -> bytes:
        size = len(parts[0])
        while True:
            left = HEAD_START_S + size / SLOWEST - (time.perf_counter() - self.begun)
            message = await self._more(left)
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > limit:
                raise too_large(limit)
            if not message.get("more_body"):
                return b"".join(parts)

    async def _more(self, seconds: float) -> dict[str, Any]:
        try:
            async with asyncio.timeout(seconds):
                message = await self.receive()
        except TimeoutError as error:
            raise TooSlow(
                f"the body came too slowly: {SLOWEST} bytes a second are expected after "
                f"{HEAD_START_S:g} s"
            ) from error
        if message["type"] == "http.disconnect":
            raise Gone
        return message


@dataclass(slots=True)
class Response:
    status: int
    body: bytes
    content_type: bytes = JSON
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)

    async def send(self, send: Send, request_id: str) -> None:
        headers = [
            (b"content-type", self.content_type),
            (b"content-length", b"%d" % len(self.body)),
            (REQUEST_ID, request_id.encode()),
            *self.headers,
        ]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


def answer(content: Any, status: int = 200) -> Response:
    """A response in JSON. NaN and infinite numbers would be null: callers check theirs."""
    return Response(status, _encode(content))


def refusal(error: KronosError, request_id: str) -> Response:
    """The one form of all errors."""
    content = {"error_code": error.code, "message": error.message, "request_id": request_id}
    response = answer(content, error.status)
    if isinstance(error, Overloaded | NotReady):
        response.headers.append(RETRY_AFTER)
    if error.status == 401:
        response.headers.append((b"www-authenticate", b"Bearer"))
    if error.status in (408, 413):
        response.headers.append((b"connection", b"close"))
    return response


def too_large(limit: int) -> TooLarge:
    return TooLarge(
        f"the body has more than {limit} bytes; send fewer series, or set KRONOS_MAX_BODY"
    )


def parameter(query: bytes, name: str) -> str | None:
    """A parameter of the query. Raises BadParameter for another one."""
    sent = parameters(query)
    if not sent.keys() <= {name}:
        raise BadParameter(f"the query has other parameters than `{name}`", code="UNKNOWN_PARAM")
    return sent.get(name)


def parameters(query: bytes) -> dict[str, str]:
    """The parameters of a query. Raises BadParameter if it cannot be read, or has one twice."""
    if not query:
        return {}
    try:
        pairs = parse_qsl(
            query.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=MOST_PARAMETERS,
        )
    except ValueError as error:
        raise BadParameter("the query is not of the form name=value&name=value") from error
    sent = dict(pairs)
    if len(sent) < len(pairs):
        raise BadParameter("the query has a parameter twice")
    return sent


def check_no_query(query: bytes) -> None:
    """Raise BadParameter for a query beside a body of JSON, which holds all parameters."""
    if query:
        raise BadParameter(
            "the query is for Arrow bodies; put its parameters into the JSON", code="UNKNOWN_PARAM"
        )


def _id(headers: Mapping[bytes, bytes]) -> str:
    sent = headers.get(REQUEST_ID, b"")
    return sent.decode() if _ID.fullmatch(sent) else secrets.token_hex(8)
