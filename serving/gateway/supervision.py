"""The supervisor's process, its socket, and the answers to look-ups."""

import asyncio
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec

from registry.attached import attached
from registry.codes import from_code
from registry.errors import KronosError, NotReady, Overloaded
from serving import channel
from serving.gateway.log import Log
from serving.gateway.metrics import Metrics
from serving.messages import (
    Answered,
    Config,
    Down,
    Found,
    Hello,
    LookUp,
    Lost,
    Quit,
    Refusal,
    Served,
)

LOOK_UP_S = 10.0
MOST_LOOK_UPS = 512  # that wait at a time
KEPT = 5_000  # answered requests that wait to be recorded
_AT_ONCE = 200  # of them in one message
_RECORD_S = 0.25  # between two such messages
_LONGEST_WAIT_S = 10.0  # before a supervisor that ends again and again is started anew
_STEADY_S = 30.0  # one that ran for so long did not end at its start


class Supervision:
    """Starts the supervisor, starts it again when it ends, and passes messages."""

    def __init__(
        self,
        config: Config,
        metrics: Metrics,
        log: Log,
        hello: Callable[[], Hello],
        on_message: Callable[[Any], None],
    ) -> None:
        self._config = msgspec.structs.replace(config, keys="", webhook_secret="")
        self._metrics = metrics
        self._log = log
        self._hello = hello
        self._on_message = on_message
        self._process: subprocess.Popen[bytes] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._waiting: dict[int, asyncio.Future[Found]] = {}
        self._number = 0
        self._answered: deque[Served] = deque()
        self._tasks: list[asyncio.Task[None]] = []
        self._ending = False

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._keep()), asyncio.create_task(self._record())]

    def send(self, message: Any) -> None:
        """Send a message, if there is a supervisor: a new one hears of all from `Hello`."""
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(channel.packed(message))

    async def look_up(self, request: dict[str, Any]) -> Found:
        """Histories or covariates from the ledger. Raises what was refused, and NotReady."""
        if self._writer is None:
            raise NotReady("the ledger cannot be asked just now; try again in a moment")
        if len(self._waiting) >= MOST_LOOK_UPS:
            raise Overloaded("too many requests wait for the ledger; try again in a second")
        self._number += 1
        number = self._number
        future: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        self.send(LookUp(id=number, **request))
        try:
            async with asyncio.timeout(LOOK_UP_S):
                return await future
        except TimeoutError as error:
            raise NotReady(f"the ledger did not answer in {LOOK_UP_S:g} s") from error
        finally:
            self._waiting.pop(number, None)

    def record(self, served: Served) -> None:
        """Pass on a request that was answered, soon. Never waits: the oldest ones are dropped."""
        if len(self._answered) >= KEPT:
            self._answered.popleft()
            self._metrics.dropped.inc()
        self._answered.append(served)

    async def stop(self, timeout_s: float) -> None:
        """Pass on what waits, and end the supervisor."""
        self._ending = True
        self._flush()
        self.send(Quit())
        if self._writer is not None:
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._writer.drain()
        process = self._process
        if process is not None:
            await _end(process, timeout_s)
        for task in self._tasks:
            task.cancel()

    # --- the process

    async def _keep(self) -> None:
        wait_s = 0.5
        while not self._ending:
            begun = time.monotonic()
            try:
                await self._run()
            except Exception as error:  # as no memory for a process: the next start may succeed
                message = f"{type(error).__name__}: {error}"
                self._log.event("error", "supervisor failed", message=message)
            if self._ending:
                return
            self._metrics.supervisor_restarts.inc()
            steady = time.monotonic() - begun > _STEADY_S
            wait_s = 0.5 if steady else min(2 * wait_s, _LONGEST_WAIT_S)
            await asyncio.sleep(wait_s)

    async def _run(self) -> None:
        """One supervisor, from its start to its end."""
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "serving.supervisor", str(theirs.fileno())]
        try:
            self._process = subprocess.Popen(
                attached(command),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        reader, writer = await asyncio.open_connection(sock=ours)
        self._writer = writer
        try:
            self.send(self._config)
            self.send(self._hello())
            await self._read(reader)
        finally:
            writer.close()
            self._writer = None
            self._refuse_look_ups()
            await _end(self._process, 0.0)

    def _refuse_look_ups(self) -> None:
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(NotReady("the ledger cannot be asked just now"))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        messages = channel.Reader(Down)
        with suppress(OSError):
            while content := await reader.read(1 << 20):
                for message in messages.feed(content):
                    self._take(message)

    def _take(self, message: Any) -> None:
        if not isinstance(message, Found | Lost):
            self._on_message(message)
            return
        future = self._waiting.get(message.id)
        if future is None or future.done():
            return
        if isinstance(message, Found):
            future.set_result(message)
        else:
            future.set_exception(_error(message.refusal))

    # --- what is to be recorded

    async def _record(self) -> None:
        while True:
            await asyncio.sleep(_RECORD_S)
            self._flush()

    def _flush(self) -> None:
        """Pass on what waits, unless the supervisor does not keep up."""
        writer = self._writer
        while self._answered and writer is not None and not writer.is_closing():
            if writer.transport.get_write_buffer_size() > 1 << 24:
                return
            number = min(_AT_ONCE, len(self._answered))
            self.send(Answered(served=[self._answered.popleft() for _ in range(number)]))


def _error(refusal: Refusal) -> KronosError:
    """A refusal for the caller. The words of a failure may hold a path, so they are left out."""
    if refusal.status >= 500:
        return from_code(refusal.code, "the ledger does not answer as it should", refusal.status)
    return from_code(refusal.code, refusal.message, refusal.status)


async def _end(process: "subprocess.Popen[bytes]", timeout_s: float) -> None:
    """Wait for the end of a process; kill it after a time."""
    until = time.monotonic() + timeout_s
    while process.poll() is None:
        if time.monotonic() >= until:
            process.kill()
        await asyncio.sleep(0.02)
