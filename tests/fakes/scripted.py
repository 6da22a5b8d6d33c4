"""A scorer that answers as a test says: HTTP/1.1 on loopback, packed replies from the request."""

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np

TOKEN = "token"
Script = Callable[[list[str]], Awaitable[tuple[int, Any]]]  # with the symbols of a call


class Scripted:
    """A server; `calls` holds the symbols of each call. Without a script it forecasts sums."""

    def __init__(self, script: Script | None = None) -> None:
        self.calls: list[list[str]] = []
        self.bodies: list[bytes] = []
        self._script = script
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def __aenter__(self) -> "Scripted":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.hang_up()

    def hang_up(self) -> None:
        """Close all connections, as a scorer that crashes."""
        for writer in self._writers:
            writer.close()
        self._writers.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                status, content = await self._answer(await reader.readexactly(length))
                body = json.dumps(content).encode()
                start = f"HTTP/1.1 {status} X\r\nkronos-server: {TOKEN}\r\n"
                writer.write(f"{start}content-length: {len(body)}\r\n\r\n".encode() + body)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def _answer(self, body: bytes) -> tuple[int, Any]:
        self.bodies.append(body)
        columns = json.loads(body)["inputs"]
        symbols = list(dict.fromkeys(columns["unique_id"]))
        self.calls.append(symbols)
        if self._script is not None:
            status, content = await self._script(symbols)
            if content is not None:
                return status, content
        return 200, packed(columns)


def packed(columns: dict[str, list[Any]], notes: dict[str, str] | None = None) -> dict[str, Any]:
    """A reply whose mean is the sum of each series, and whose only quantile is its length."""
    sums: dict[str, list[float]] = {}
    for symbol, y in zip(columns["unique_id"], columns["y"], strict=True):
        sums.setdefault(symbol, []).append(y)
    values = np.array([[[sum(ys), len(ys)]] for ys in sums.values()])
    predictions = {
        "unique_id": list(sums),
        "ds": [["2020-03-02"]] * len(sums),
        "shape": list(values.shape),
        "data": base64.b64encode(values.astype("<f8").tobytes()).decode(),
        "notes": notes or {},
        "model": "ewma",
        "version": 1,
    }
    return {"predictions": predictions}
