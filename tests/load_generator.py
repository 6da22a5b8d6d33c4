"""A load generator: python tests/load_generator.py

One JSON command a line on standard input, one JSON answer a line on standard output. A command
names host, port and path, the file with a body on each line, the number of clients and the seconds.
Without a `rate`, each client sends its next request when the one before it is answered. With one,
so many requests a second come at random times, whether or not earlier ones are answered. Standard
library and uvloop only: it must cost much less than what it measures.
"""

import asyncio
import itertools
import json
import random
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import uvloop

GOOD_S = 0.25  # an answer that comes later helps nobody
TICK_S = 0.001  # between two looks at which requests are due
LATE_S = 2.0  # after the last request, for the answers that are missing
_END = b"\r\n\r\n"
_LENGTH = b"content-length:"

OnReply = Callable[["Client", int], None]  # with the status


class Client(asyncio.Protocol):
    """One connection with one request in flight."""

    def __init__(self, on_reply: OnReply) -> None:
        self.due = 0.0  # when its request was to be sent
        self._on_reply = on_reply
        self._parts = b""
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._parts += data
        at = self._parts.find(_END)
        if at < 0:
            return
        _, _, after = self._parts[:at].lower().partition(_LENGTH)
        length = int(after.partition(b"\r\n")[0])
        if len(self._parts) < at + len(_END) + length:
            return
        status = int(self._parts[9:12])
        self._parts = b""
        self._on_reply(self, status)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._on_reply(self, 0)

    def send(self, request: bytes, due: float) -> None:
        self.due = due
        self._transport.write(request)

    def close(self) -> None:
        self._on_reply = lambda *_: None
        self._transport.close()


class Load:
    """Requests to one server, and what became of them."""

    def __init__(self, host: str, port: int, path: str, bodies: list[bytes]) -> None:
        self._address = (host, port)
        head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        if path.startswith("/health"):
            head, bodies = head.replace("POST", "GET"), [b""]
        self._requests = [b"%bContent-Length: %d\r\n\r\n%b" % (head.encode(), len(b), b)
                          for b in bodies]  # fmt: skip
        self._seconds: dict[int, list[float]] = {}  # by status

    async def closed(self, clients: int, seconds: float) -> dict[str, Any]:
        """Each client with its own requests, one after the other."""
        turns = {}
        until = 0.0
        waiting = clients

        def next_one(client: Client, status: int) -> None:
            nonlocal waiting
            now = time.perf_counter()
            self._seconds.setdefault(status, []).append(now - client.due)
            if status and now < until:
                client.send(next(turns[client]), now)
            else:
                waiting -= 1

        everyone = await self._connect(clients, next_one)
        for number, client in enumerate(everyone):
            turns[client] = itertools.cycle(self._requests[number::clients] or self._requests)
        begun = time.perf_counter()
        until = begun + seconds
        for client in everyone:
            client.send(next(turns[client]), time.perf_counter())
        while waiting:
            await asyncio.sleep(0.01)
        return self._report(everyone, time.perf_counter() - begun)

    async def open(self, clients: int, seconds: float, rate: float) -> dict[str, Any]:
        """Requests at the times of a Poisson process. One that finds no free connection is lost."""
        free: deque[Client] = deque()

        def count(client: Client, status: int) -> None:
            self._seconds.setdefault(status, []).append(time.perf_counter() - client.due)
            free.append(client)

        free.extend(await self._connect(clients, count))
        everyone = list(free)
        turns = itertools.cycle(self._requests)
        times = _times(time.perf_counter(), seconds, rate)
        due = next(times, None)
        sent = lost = 0
        while due is not None:
            now = time.perf_counter()
            while due is not None and due <= now:
                if free:
                    free.popleft().send(next(turns), due)
                    sent += 1
                else:
                    lost += 1
                due = next(times, None)
            await asyncio.sleep(TICK_S)
        await self._settled(sent)
        return self._report(everyone, seconds) | {"sent": sent, "lost": lost}

    async def _settled(self, sent: int) -> None:
        until = time.perf_counter() + LATE_S
        while sum(map(len, self._seconds.values())) < sent and time.perf_counter() < until:
            await asyncio.sleep(0.01)

    async def _connect(self, clients: int, on_reply: OnReply) -> list[Client]:
        loop = asyncio.get_running_loop()
        made = []
        for _ in range(clients):
            _, client = await loop.create_connection(lambda: Client(on_reply), *self._address)
            made.append(client)
        return made

    def _report(self, clients: list[Client], seconds: float) -> dict[str, Any]:
        for client in clients:
            client.close()
        answered = sorted(self._seconds.get(200, []))
        refused = sorted(self._seconds.get(429, []) + self._seconds.get(503, []))
        good = sum(1 for taken in answered if taken <= GOOD_S)
        return {
            "statuses": dict(Counter({status: len(all) for status, all in self._seconds.items()})),
            "rps": round(len(answered) / seconds, 1),
            "good_rps": round(good / seconds, 1),
            "p50": _quantile(answered, 0.5),
            "p99": _quantile(answered, 0.99),
            "refused_p50": _quantile(refused, 0.5),
            "refused_p99": _quantile(refused, 0.99),
        }


def _times(begun: float, seconds: float, rate: float) -> Iterator[float]:
    chance = random.Random(0)
    due = begun + chance.expovariate(rate)
    while due < begun + seconds:
        yield due
        due += chance.expovariate(rate)


def _quantile(ascending: list[float], level: float) -> float | None:
    return ascending[int(level * (len(ascending) - 1))] if ascending else None


async def _run(host: str, port: int, command: dict[str, Any]) -> dict[str, Any]:
    bodies = Path(command["bodies"]).read_bytes().splitlines()
    load = Load(host, port, command["path"], bodies)
    begun = time.process_time()
    if "rate" in command:
        report = await load.open(command["clients"], command["seconds"], command["rate"])
    else:
        report = await load.closed(command["clients"], command["seconds"])
    return report | {"cpu_s": time.process_time() - begun}


def main() -> None:
    for line in sys.stdin:
        command = json.loads(line)
        print(json.dumps(uvloop.run(_run(command["host"], command["port"], command))), flush=True)


if __name__ == "__main__":
    main()
