"""One connection to a scorer: requests over HTTP/1.1, one after the other."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import httptools

from registry.errors import KronosError

HEADER = b"kronos-server"  # of every reply: which server it came from
_REQUEST = (
    b"POST /invocations HTTP/1.1\r\nHost: %b\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n"
)


class Broken(Exception):
    """The connection ended, or could not be made, before a whole reply came."""


@dataclass(slots=True)
class Reply:
    """A scorer's reply. Names of headers are in small letters."""

    status: int = 0
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""


class _Connection(asyncio.Protocol):
    """What httptools parses becomes the reply of the request that waits."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.waiting: asyncio.Future[Reply] | None = None
        self.begun = False  # bytes of the reply came
        self._parser: Any = None
        self._reply = Reply()
        self._parts: list[bytes] = []

    # --- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self.begun = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, AttributeError):  # no request waits for it
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if self.waiting is not None and not self.waiting.done():
            self.waiting.set_exception(Broken(str(exc or "closed")))

    # --- httptools

    def on_header(self, name: bytes, value: bytes) -> None:
        self._reply.headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)

    def on_message_complete(self) -> None:
        self._reply.status = self._parser.get_status_code()
        self._reply.body = b"".join(self._parts)
        if self.waiting is not None and not self.waiting.done():
            self.waiting.set_result(self._reply)
        if not self._parser.should_keep_alive():
            self.close()

    # --- a request

    def send(self, head: bytes, body: bytes) -> "asyncio.Future[Reply]":
        self.begun = False
        self._parser = httptools.HttpResponseParser(self)
        self._reply, self._parts = Reply(), []
        self.waiting = asyncio.get_running_loop().create_future()
        if self.transport is None:
            raise Broken("closed")
        self.transport.write(head + body if len(body) < 65_536 else head)
        if len(body) >= 65_536:
            self.transport.write(body)
        return self.waiting

    def close(self) -> None:
        if self.transport is not None:
            self.transport.close()
            self.transport = None


class Link:
    """Requests to one scorer. The caller sends one at a time."""

    def __init__(self, host: str, port: int, token: str) -> None:
        self._address = (host, port)
        self._token = token.encode()
        self._host = f"{host}:{port}".encode()
        self._connection: _Connection | None = None

    async def post(self, body: bytes, content_type: bytes, timeout_s: float) -> Reply:
        """The reply to a POST of /invocations.

        A connection that the scorer closed while it was idle is made anew, once. Raises Broken, and
        TimeoutError after `timeout_s`: the connection is closed then, since its reply may still
        come.
        """
        head = _REQUEST % (self._host, content_type, len(body))
        connection = self._connection
        if connection is not None and connection.transport is not None:
            try:
                return await self._exchange(connection, head, body, timeout_s)
            except Broken:
                if connection.begun:
                    raise
        return await self._exchange(await self._connect(timeout_s), head, body, timeout_s)

    async def _connect(self, timeout_s: float) -> _Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout_s):
                _, connection = await loop.create_connection(_Connection, *self._address)
        except TimeoutError:  # an OSError, too
            raise
        except OSError as error:
            raise Broken(str(error)) from error
        self._connection = connection
        return connection

    async def _exchange(
        self, connection: _Connection, head: bytes, body: bytes, timeout_s: float
    ) -> Reply:
        try:
            async with asyncio.timeout(timeout_s):
                reply = await connection.send(head, body)
        except BaseException:
            connection.close()
            raise
        if reply.headers.get(HEADER) != self._token:
            connection.close()
            raise KronosError("another server answered on the port of the scorer")
        return reply

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
