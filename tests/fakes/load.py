"""Clients that send forecasts one after the other, and what is wrong with the replies."""

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import answers
import httpx
import numpy as np
from gateways import Gateway

from registry.versions.loaded import LoadedVersion

PAUSE_S = 0.02  # of a client between two requests: scorers start beside it
TOLERANCE = 1e-9


@dataclass(frozen=True)
class Sent:
    """A request, and how it went. Times are those of time.monotonic()."""

    begun: float
    ended: float
    status: int  # 0: no reply came
    version: int = 0
    wrong: bool = False
    error: str = ""


@dataclass
class Load:
    """Several clients in a loop, as a context manager.

    `expected` are the direct forecasts of each version for each body: those of the version that a
    reply names must be its numbers.
    """

    gateway: Gateway
    bodies: Sequence[dict[str, Any]]
    expected: Mapping[int, Sequence[answers.Numbers]]
    clients: int = 8
    pause_s: float = PAUSE_S
    sent: list[Sent] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> "Load":
        for number in range(self.clients):
            thread = threading.Thread(target=self._run, args=(number,), daemon=True)
            self._threads.append(thread)
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    @property
    def failed(self) -> list[Sent]:
        return [one for one in self.sent if one.status != 200]

    @property
    def wrong(self) -> list[Sent]:
        return [one for one in self.sent if one.wrong]

    @property
    def versions(self) -> set[int]:
        """The versions that answered."""
        return {one.version for one in self.sent if one.status == 200}

    def since(self, instant: float) -> list[Sent]:
        """The requests that began after an instant."""
        return [one for one in self.sent if one.begun >= instant]

    def first(self, version: int, since: float) -> float:
        """When a version answered first after an instant."""
        ends = [one.ended for one in self.since(since) if one.version == version]
        return min(ends, default=float("inf"))

    def _run(self, client: int) -> None:
        limits = httpx.Limits(max_keepalive_connections=1)
        with httpx.Client(base_url=self.gateway.url, timeout=60, limits=limits) as connection:
            number = client
            while not self._over.is_set():
                number = (number + self.clients) % len(self.bodies)
                self.sent.append(self._send(connection, number))
                time.sleep(self.pause_s)

    def _send(self, connection: httpx.Client, number: int) -> Sent:
        begun = time.monotonic()
        try:
            reply = connection.post("/forecast", json=self.bodies[number])
        except httpx.HTTPError as error:
            return Sent(begun, time.monotonic(), 0, error=repr(error))
        ended = time.monotonic()
        if reply.status_code != 200:
            return Sent(begun, ended, reply.status_code, error=reply.text)
        content = reply.json()
        version = content["meta"]["ver"]
        numbers = answers.numbers(content)
        expected = self.expected[version][number]
        wrong = not np.allclose(numbers, expected, rtol=0, atol=TOLERANCE)
        return Sent(begun, ended, 200, version, wrong)


def expected(version: LoadedVersion, bodies: Sequence[dict[str, Any]]) -> list[answers.Numbers]:
    """The direct forecasts of a version for each body."""
    return [answers.direct(body, version) for body in bodies]
