"""The queue of one version: requests go to its scorer together, one call at a time.

Two calls at once make a scorer slower than one after the other: its threads share one interpreter.
After a call that took B series while Q waited, up to GATHER_S pass until 0.7 (B + Q) wait again, so
that callers who just got an answer come along; a single caller never waits.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from registry.errors import KronosError, NotReady, Overloaded, TooLate
from registry.forecast import names
from serving.gateway import calls
from serving.gateway.calls import Answer, Row, Series
from serving.gateway.link import Broken, Link, Reply
from serving.gateway.pace import LARGEST, Pace, now

GATHER_S = 0.004
_GATHERED = 0.7
_FEW = 4  # series; with fewer there is nothing to gather
_NOTED = 10_000  # symbols that are remembered to need calls of their own
Refusal = Literal["queue_full", "deadline"]
# Notes that every reply of a version has. Any other one is about the history of somebody.
_OF_VERSION = {"simulated", "synthetic"}
_OF_SHARED = {*_OF_VERSION, names.REFUSED}  # the rows of the others are right beside it


@dataclass(slots=True)
class Job:
    """Series whose forecasts are asked for together, or a raw request."""

    series: Sequence[Series] = ()  # sorted by symbol
    parameters: bytes = b""
    raw: bytes | None = None  # a body that is passed through
    content_type: bytes = calls.JSON
    arrived: float = field(default_factory=now)
    done: "asyncio.Future[Answer | Reply]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    def goes_with(self, first: "Job") -> bool:
        """Whether one call can hold both."""
        return (
            self.raw is None
            and first.raw is None
            and self.parameters == first.parameters
            and [*self.series[0].columns] == [*first.series[0].columns]
        )

    def finish(self, result: Answer | Reply) -> None:
        if not self.done.done():  # else its caller has gone
            self.done.set_result(result)

    def fail(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)


class Dispatcher:
    """The queue in front of the scorer of one version."""

    def __init__(
        self,
        link: Link,
        *,
        name: str,
        version: int,
        joint: bool,
        timeout_s: float,
        pace: Pace,
        on_hung: Callable[[], None],
        on_batch: Callable[[int], None] = lambda _: None,
        on_refused: Callable[[Refusal], None] = lambda _: None,
    ) -> None:
        self._link = link
        self._name = name
        self._version = version
        self._joint = joint  # its series influence each other
        self._timeout_s = timeout_s
        self._pace = pace
        self._on_hung = on_hung
        self._on_batch = on_batch
        self._on_refused = on_refused
        self._queue: deque[Job] = deque()
        self._arrived = asyncio.Event()
        self._enough: int = 0  # requests for which the gathering waits
        self._gathered = asyncio.Event()
        self._noted: OrderedDict[str, None] = OrderedDict()
        self._worker = asyncio.create_task(self._work())
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def queued(self) -> int:
        return len(self._queue)

    @property
    def most(self) -> int:
        """Series that one call of a request with many should hold."""
        return self._pace.most

    def full(self, coming: int = 0) -> bool:
        """Whether a request would be refused that comes after those in the queue and others."""
        return not self._pace.admits(len(self._queue) + coming)

    async def ask(self, job: Job) -> Answer | Reply:
        """Wait for the answer. Raises Overloaded, NotReady, and KronosError."""
        if self._closed:  # since its caller chose this version
            raise stopped(self._name)
        if self.full():
            self._on_refused("queue_full")
            raise overloaded()
        self._queue.append(job)
        self._arrived.set()
        if len(self._queue) >= self._enough:
            self._gathered.set()
        self._sweep_later()
        return await job.done

    def close(self) -> None:
        self._closed = True
        self._worker.cancel()
        if self._sweeper is not None:
            self._sweeper.cancel()
        for job in self._queue:
            job.fail(stopped(self._name))
        self._queue.clear()
        self._link.close()

    # --- the loop

    async def _work(self) -> None:
        while True:
            await self._arrived.wait()
            if self._queue:
                batch = self._take()
                await self._call(batch)
                await self._gather(sum(len(job.series) for job in batch))
            if not self._queue:
                self._arrived.clear()

    def _take(self) -> list[Job]:
        """The first request that waits, and those that go with it: each symbol with one history."""
        first = self._queue.popleft()
        batch = [first]
        if self._is_alone(first):
            return batch
        taken = {one.symbol: one for one in first.series}
        passed: list[Job] = []
        largest = self._pace.largest
        while self._queue and len(taken) < largest and len(passed) < LARGEST:
            job = self._queue.popleft()
            if self._is_alone(job) or not job.goes_with(first) or not _fits(job.series[0], taken):
                passed.append(job)
            else:
                batch.append(job)
        self._queue.extendleft(reversed(passed))
        return batch

    def _is_alone(self, job: Job) -> bool:
        if job.raw is not None or self._joint or len(job.series) > 1:
            return True
        return bool(self._noted) and job.series[0].symbol in self._noted

    async def _gather(self, taken: int) -> None:
        """Wait a moment for those who come again, if several are about."""
        about = taken + len(self._queue)
        if about < _FEW:
            return
        self._enough = min(int(_GATHERED * about), self._pace.largest)
        if len(self._queue) < self._enough:
            self._gathered.clear()
            try:
                async with asyncio.timeout(GATHER_S):
                    await self._gathered.wait()
            except TimeoutError:
                pass
        self._enough = 0

    # --- a call

    async def _call(self, batch: list[Job]) -> None:
        """Ask the scorer, and give each its answer or error."""
        try:
            await (self._pass_on(batch[0]) if batch[0].raw is not None else self._ask(batch))
        except Broken:
            self._fail(batch, stopped(self._name))
        except TimeoutError:
            self._on_hung()
            self._fail(batch, TooLate(f"{self._name} took longer than {self._timeout_s:g} s"))
        except KronosError as error:
            self._fail(batch, error)
        except asyncio.CancelledError:
            self._fail(batch, stopped(self._name))
            raise
        except Exception as error:  # of a bug; the next requests must not wait forever
            self._fail(batch, KronosError(f"the call of {self._name} failed: {_kind(error)}"))

    async def _pass_on(self, job: Job) -> None:
        assert job.raw is not None
        job.finish(await self._post(job.raw, job.content_type, 0, 1))

    async def _post(self, body: bytes, content_type: bytes, series: int, requests: int) -> Reply:
        left = len(self._queue)
        begun = now()
        reply = await self._link.post(body, content_type, self._timeout_s)
        self._pace.measured(now() - begun, series=series, requests=requests, left=left)
        return reply

    async def _ask(self, batch: list[Job]) -> None:
        by_symbol = {one.symbol: one for job in batch for one in job.series}
        series = [by_symbol[symbol] for symbol in sorted(by_symbol)]
        body = calls.body(series, batch[0].parameters)
        reply = await self._post(body, calls.JSON, len(series), len(batch))
        self._on_batch(len(series))
        if len(batch) == 1:
            self._finish(batch[0], reply)
            return
        answer = None
        if reply.status == 200:
            answer = calls.read(reply.body, self._name, self._version)
        if answer is None or not _OF_SHARED.issuperset(answer.notes):
            await self._one_by_one(batch)  # an error or a note is about one of them: find which
            return
        refused = []  # asked again alone, since the words of an error count the series of its call
        for job in batch:
            if isinstance(answer.rows.get(job.series[0].symbol), Row):
                job.finish(Answer(answer.rows, _of_version(answer.notes)))
            else:
                refused.append(job)
        await self._one_by_one(refused)

    async def _one_by_one(self, batch: list[Job]) -> None:
        for job in batch:
            await self._call([job])

    def _finish(self, job: Job, reply: Reply) -> None:
        if reply.status != 200:
            job.fail(calls.error(reply.status, reply.body))
            return
        answer = calls.read(reply.body, self._name, self._version)
        if not _OF_VERSION.issuperset(answer.notes) and len(job.series) == 1:
            self._remember(job.series[0].symbol)
        job.finish(answer)

    def _remember(self, symbol: str) -> None:
        self._noted[symbol] = None
        self._noted.move_to_end(symbol)
        if len(self._noted) > _NOTED:
            self._noted.popitem(last=False)

    def _fail(self, batch: list[Job], error: Exception) -> None:
        for job in batch:
            job.fail(error)

    # --- requests that wait too long

    def _sweep_later(self) -> None:
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(0.05, self._sweep)

    def _sweep(self) -> None:
        """Give up what waits for too long, also while a call hangs."""
        self._sweeper = None
        late = 0
        for job in self._queue:
            if self._pace.late_at(job.arrived) > now():
                break
            late += 1
        for _ in range(late):
            job = self._queue.popleft()
            self._on_refused("deadline")
            job.fail(overloaded())
        if self._queue:
            self._sweep_later()


def _of_version(notes: dict[str, str]) -> dict[str, str]:
    return {key: text for key, text in notes.items() if key in _OF_VERSION}


def _kind(error: Exception) -> str:
    """Its words may hold what was sent."""
    return type(error).__name__


def overloaded() -> Overloaded:
    return Overloaded("too many requests wait; try again in a second")


def stopped(name: str) -> NotReady:
    return NotReady(f"the scorer of {name} ended; it is started again, try again in a moment")


def _fits(one: Series, taken: dict[str, Series]) -> bool:
    """Add a series to those of a call, unless its symbol has another history there."""
    return taken.setdefault(one.symbol, one) == one
