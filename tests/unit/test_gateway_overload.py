"""Refusals below the application: whole requests for forecasts while the queue is full."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import uvicorn

from serving.gateway.protocol import HOLD_S, Limits, protocol

BODY = b'{"symbol": "AAPL"}'
FORECAST = b"POST /forecast HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
HEALTH = b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n"


class Server:
    """A server whose application answers 200, with a queue that a test fills."""

    def __init__(self) -> None:
        self.full = False
        self.most = 1000  # requests that may be on their way to the application
        self.refused: list[str] = []
        self.bodies: list[bytes] = []
        self.reply = b"ok"
        limits = Limits(lambda coming: self.full or coming >= self.most, self.refused.append)
        self._server = uvicorn.Server(
            uvicorn.Config(
                self._answer,
                interface="asgi3",
                port=0,
                http=protocol(limits),
                lifespan="off",
                log_config=None,
            )
        )

    async def _answer(self, _: Any, receive: Any, send: Any) -> None:
        message = await receive()
        self.bodies.append(message["body"])
        headers = [(b"content-length", b"%d" % len(self.reply))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": self.reply})

    @asynccontextmanager
    async def running(self) -> Any:
        serving = asyncio.create_task(self._server.serve())
        while not self._server.started:
            await asyncio.sleep(0.01)
        yield self._server.servers[0].sockets[0].getsockname()[1]
        await self.stop()
        await serving

    async def stop(self) -> None:
        self._server.should_exit = True


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def of(cls, port: int) -> "Client":
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def ask(self, *parts: bytes) -> tuple[int, dict[bytes, bytes], bytes]:
        """Status, headers and body of the reply to a request that is sent in parts."""
        for part in parts:
            self.send(part)
            await asyncio.sleep(0.02 if len(parts) > 1 else 0)
        return await self.reply()

    def send(self, content: bytes) -> None:
        self._writer.write(content)

    async def reply(self) -> tuple[int, dict[bytes, bytes], bytes]:
        head = await self._reader.readuntil(b"\r\n\r\n")
        first, *lines = head.strip().split(b"\r\n")
        headers = dict(line.lower().split(b": ", 1) for line in lines)
        body = await self._reader.readexactly(int(headers[b"content-length"]))
        return int(first.split()[1]), headers, body

    def close(self) -> None:
        self._writer.close()


def run(test: Callable[[Server, int], Awaitable[None]]) -> None:
    async def main() -> None:
        server = Server()
        async with asyncio.timeout(20), server.running() as port:
            await test(server, port)

    asyncio.run(main())


def test_a_forecast_with_a_query_is_refused_at_the_door_too():
    async def test(server: Server, port: int) -> None:
        client = await Client.of(port)
        server.full = True
        assert (await client.ask(FORECAST.replace(b"forecast", b"forecast?seed=1")))[0] == 429
        assert server.refused == ["queue_full"]
        client.close()

    run(test)


def test_a_refusal_is_an_error_like_any_other_and_keeps_the_connection():
    async def test(server: Server, port: int) -> None:
        client = await Client.of(port)
        server.full = True
        status, headers, body = await client.ask(FORECAST)
        content = json.loads(body)
        assert (status, content["error_code"]) == (429, "OVERLOADED")
        assert headers[b"retry-after"] == b"1"
        assert headers[b"kronos-request-id"].decode() == content["request_id"]
        assert server.refused == ["queue_full"]
        server.full = False
        assert (await client.ask(FORECAST))[0] == 200
        assert server.bodies == [BODY]
        client.close()

    run(test)


def test_of_many_requests_at_once_those_count_that_the_application_has_not_begun():
    async def test(server: Server, port: int) -> None:
        clients = [await Client.of(port) for _ in range(50)]
        server.most = 10
        for client in clients:
            client.send(FORECAST)
        time.sleep(0.05)  # so that all of them come together
        statuses = Counter([(await client.reply())[0] for client in clients])
        assert statuses[200] >= 10
        assert statuses[429] >= 20
        assert (await clients[0].ask(FORECAST))[0] == 200
        for client in clients:
            client.close()

    run(test)


def test_other_paths_are_answered_while_the_queue_is_full():
    async def test(server: Server, port: int) -> None:
        client = await Client.of(port)
        server.full = True
        assert (await client.ask(HEALTH))[0] == 200
        assert server.refused == []
        client.close()

    run(test)


def test_a_request_in_parts_reaches_the_application():
    async def test(server: Server, port: int) -> None:
        client = await Client.of(port)
        server.full = True
        assert (await client.ask(FORECAST[:40], FORECAST[40:]))[0] == 200
        assert server.bodies == [BODY]
        client.close()

    run(test)


def test_a_header_that_looks_like_a_request_is_part_of_its_head():
    async def test(server: Server, port: int) -> None:
        client = await Client.of(port)
        server.full = True
        value = b"POST /forecast HTTP/1.1\r\nContent-Length: 0\r\n\r\n"
        assert (await client.ask(b"GET /health HTTP/1.1\r\nHost: h\r\nX: ", value))[0] == 200
        assert server.refused == []
        client.close()

    run(test)


def test_a_client_that_asks_again_at_once_waits_a_little():
    async def test(server: Server, port: int) -> None:
        loop = asyncio.get_running_loop()
        client = await Client.of(port)
        server.full = True
        await client.ask(FORECAST)
        begun = loop.time()
        for _ in range(3):
            assert (await client.ask(FORECAST))[0] == 429
        assert loop.time() - begun > 2.5 * HOLD_S > 0
        server.full = False
        assert (await client.ask(FORECAST))[0] == 200
        client.close()

    run(test)


def test_a_refusal_that_is_held_comes_before_the_end():
    async def test(server: Server, port: int) -> None:
        client = await Client.of(port)
        server.full = True
        await client.ask(FORECAST)
        held = asyncio.ensure_future(client.ask(FORECAST))
        await asyncio.sleep(HOLD_S / 10)
        await server.stop()
        assert (await held)[0] == 429
        client.close()

    run(test)


def test_a_client_that_leaves_while_it_is_held_harms_nobody():
    async def test(server: Server, port: int) -> None:
        server.full = True
        leaving = await Client.of(port)
        await leaving.ask(FORECAST)
        held = asyncio.ensure_future(leaving.ask(FORECAST))
        await asyncio.sleep(HOLD_S / 10)
        held.cancel()
        leaving.close()
        await asyncio.sleep(2 * HOLD_S)
        other = await Client.of(port)
        assert (await other.ask(FORECAST))[0] == 429
        other.close()

    run(test)


# --- requests that are odd, or never end --------------------------------------------------------


def test_a_body_that_looks_like_a_request_is_none():
    async def test(server: Server, port: int) -> None:
        client = await Client.of(port)
        head = b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % (len(FORECAST) + 1)
        assert (await client.ask(head + b"x"))[0] == 200  # it does not wait for the body
        server.full = True
        client.send(FORECAST)
        await asyncio.sleep(0.05)
        assert server.refused == []
        assert (await client.ask(HEALTH))[0] == 200
        client.close()

    run(test)


def test_the_length_of_a_whole_request_is_that_of_its_own_header():
    async def test(server: Server, port: int) -> None:
        client = await Client.of(port)
        server.full = True
        length = b"X-Content-Length: %d\r\nContent-Length: 2" % (2 + len(FORECAST))
        first = b"POST /forecast HTTP/1.1\r\nHost: h\r\n%b\r\n\r\nab" % length
        client.send(first + FORECAST)
        statuses = [(await client.reply())[0], (await client.reply())[0]]
        assert statuses == [200, 200]
        client.close()

    run(test)


@pytest.mark.parametrize("rest", [b"\r\n", b"POST /x HTTP/1.1\r\nContent-Length: 9\r\n\r\n"])
def test_a_connection_with_half_a_request_is_closed(
    monkeypatch: pytest.MonkeyPatch, rest: bytes
) -> None:
    monkeypatch.setattr("serving.gateway.protocol.HEAD_S", 0.3)

    async def test(_: Server, port: int) -> None:
        client = await Client.of(port)
        assert (await client.ask(HEALTH))[0] == 200
        if rest != b"\r\n":
            assert (await client.ask(rest + b"a"))[0] == 200
            client.send(b"b")  # of a body whose request has its answer
        else:
            client.send(rest)
        async with asyncio.timeout(3):
            assert await client._reader.read() == b""
        client.close()

    run(test)


@pytest.mark.parametrize("answered", [True, False])
def test_headers_after_a_body_have_a_limit(answered: bool) -> None:
    async def test(_: Server, port: int) -> None:
        client = await Client.of(port)
        head = b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
        if answered:
            assert (await client.ask(head + b"1\r\na\r\n"))[0] == 200
            client.send(b"0\r\n")
        else:
            client.send(head + b"0\r\n")
        client.send(b"a: b\r\n" * 100_000)
        expected = b"" if answered else b"HTTP/1.1 431"
        async with asyncio.timeout(3):
            with suppress(ConnectionError):
                assert (await client._reader.read()).startswith(expected)
        client.close()

    run(test)


def test_a_long_body_is_no_long_head():
    async def test(_: Server, port: int) -> None:
        client = await Client.of(port)
        body = b"x" * 3_000_000
        head = b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(body)
        assert (await client.ask(head + body))[0] == 200
        assert (await client.ask(HEALTH))[0] == 200
        client.close()

    run(test)


def test_a_client_that_does_not_read_its_reply_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.gateway.protocol.READ_S", 0.2)
    monkeypatch.setattr("serving.gateway.protocol.SLOWEST", 1e9)

    async def test(server: Server, port: int) -> None:
        server.reply = b"x" * 50_000_000
        client = await Client.of(port)
        client.send(HEALTH)
        await asyncio.sleep(0.1)
        connections = server._server.server_state.connections
        assert len(connections) == 1
        await asyncio.sleep(0.5)
        assert not connections
        client.close()

    run(test)


def test_a_refusal_has_the_id_of_its_request():
    async def test(server: Server, port: int) -> None:
        client = await Client.of(port)
        server.full = True
        sent = FORECAST.replace(b"Host: h", b"Kronos-Request-Id: Mine-7\r\nHost: h")
        _, headers, body = await client.ask(sent)
        assert headers[b"kronos-request-id"] == b"mine-7"  # the test lowers all headers
        assert json.loads(body)["request_id"] == "Mine-7"
        client.close()

    run(test)
