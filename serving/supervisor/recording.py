"""Writes what was served into the ledger, in the background: requests for replay, and forecasts.

Serving never waits for it. What comes faster than the ledger takes it, or while the ledger is down,
is kept up to a bound; beyond that the oldest is dropped and counted.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime

import numpy as np

from registry.errors import BadInput, KronosError
from registry.ledger import forecasts, requests
from registry.ledger.issue import SERVED, Blocks, Issue
from registry.ledger.requests import LARGEST, Request
from registry.settings import Settings
from serving.messages import Issued, Served
from serving.supervisor.ledger import DOWN, SharedLedger

KEPT = 20_000  # answers that wait at most
KEPT_BYTES = 64 << 20  # of their bodies
TOGETHER = 500  # answers of one transaction
GATHER_S = 0.2  # for which more answers are waited for
RETRY_S = (0.5, 30.0)  # first and longest wait after a failure
MOMENT_S = 0.2

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Counts:
    """Answers since the start."""

    recorded: int = 0
    dropped: int = 0  # there was no room for them
    refused: int = 0  # the ledger does not take them; the log says why
    waiting: int = 0


class Recorder:
    """A thread that writes. All methods can be called from any thread."""

    def __init__(
        self,
        settings: Settings,
        registry: str,
        ledger: SharedLedger | None = None,
        *,
        kept: int = KEPT,
        kept_bytes: int = KEPT_BYTES,
    ) -> None:
        """`registry` is the id of the registry, as the ledger has it."""
        self._ledger = ledger or SharedLedger(settings)
        self._registry = registry
        self._kept, self._kept_bytes = kept, kept_bytes
        self._waiting: deque[Served] = deque()
        self._bytes = 0
        self._counts = Counts()
        self._condition = threading.Condition()
        self._closing = False
        self._deadline = float("inf")  # after it, nothing is tried again
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    @property
    def counts(self) -> Counts:
        with self._condition:
            return replace(self._counts, waiting=len(self._waiting))

    def put(self, served: Sequence[Served]) -> None:
        """Take answers to be recorded. Neither waits nor raises."""
        with self._condition:
            for one in served:
                self._waiting.append(one)
                self._bytes += len(one.body)
            self._drop_beyond()
            self._condition.notify_all()

    def close(self, timeout_s: float) -> None:
        """Write what waits, as far as that is possible in this time. What is left is dropped."""
        with self._condition:
            self._closing = True
            self._deadline = time.monotonic() + timeout_s
            self._condition.notify_all()
        self._thread.join(timeout_s + 1.0)
        with self._condition:
            self._count(dropped=len(self._waiting))
            self._waiting.clear()

    def _run(self) -> None:
        wait_s, longest_s = RETRY_S
        while batch := self._next():
            try:
                written = self._write(batch)
            except Exception:  # a thread that ends would lose all that comes later
                _log.exception("%d answers could not be recorded", len(batch))
                self._count(refused=len(batch))
                continue
            if written:
                wait_s = RETRY_S[0]
                continue
            self._put_back(batch)
            if time.monotonic() >= self._deadline:
                return
            self._pause(wait_s)
            wait_s = min(2 * wait_s, longest_s)

    def _pause(self, wait_s: float) -> None:
        """Wait until `close` is called, then only a moment, because its caller waits, too."""
        with self._condition:
            if not self._closing:
                self._condition.wait_for(lambda: self._closing, wait_s)
                return
        time.sleep(MOMENT_S)

    def _next(self) -> list[Served]:
        """The next answers, waiting for them; empty at the end."""
        with self._condition:
            self._condition.wait_for(lambda: self._waiting or self._closing)
            self._condition.wait_for(self._is_enough, GATHER_S)
            number = min(len(self._waiting), TOGETHER)
            batch = [self._waiting.popleft() for _ in range(number)]
            self._bytes -= _size(batch)
            return batch

    def _is_enough(self) -> bool:
        return self._closing or len(self._waiting) >= TOGETHER

    def _put_back(self, batch: Sequence[Served]) -> None:
        with self._condition:
            self._waiting.extendleft(reversed(batch))
            self._bytes += _size(batch)
            self._drop_beyond()

    def _drop_beyond(self) -> None:
        while len(self._waiting) > self._kept or self._bytes > self._kept_bytes:
            oldest = self._waiting.popleft()
            self._bytes -= len(oldest.body)
            self._count(dropped=1)

    def _write(self, batch: Sequence[Served]) -> bool:
        """Write a batch; False if the ledger cannot be used now."""
        rows: dict[str, Request] = {}  # a batch of symbols is one request with many forecasts
        issued = []
        refused = 0
        for served in batch:
            try:
                request, issue = _request(served), self._issue(served)
            except (BadInput, ValueError, TypeError) as error:
                refused += 1
                _log.warning("an answer is not recorded: %s", error)
                continue
            rows.setdefault(request.request_id, request)
            issued += issue
        try:
            with self._ledger.opened() as archive:
                requests.record(archive.engine, list(rows.values()))
                errors = forecasts.issue_all(archive.engine, issued)
        except KronosError as error:
            if error.code != DOWN:
                raise
            _log.warning("answers wait to be recorded: %s", error)
            return False
        for one, reason in errors:
            _log.warning("the forecast %s is not recorded: %s: %s", one.id, reason.code, reason)
        refused += len(errors)
        self._count(recorded=len(batch) - refused, refused=refused)
        return True

    def _issue(self, served: Served) -> list[tuple[Issue, Blocks]]:
        """A served forecast as the ledger takes it, if any. Raises ValueError and TypeError."""
        if served.issue is None:
            return []
        issue = Issue(
            registry=self._registry,
            model=served.model,
            version=served.version,
            data=served.issue.data,
            source=SERVED,
            cutoff=date.fromisoformat(served.issue.cutoff),
            issued_at=datetime.fromisoformat(served.received_at),
            calibration=served.issue.calibration,
            forecast_id=served.forecast_id,
        )
        return [(issue, _blocks(served.issue))]

    def _count(self, **more: int) -> None:
        """Add to the counts. They never fall: the gateway takes differences of them."""
        with self._condition:
            added = {name: getattr(self._counts, name) + number for name, number in more.items()}
            self._counts = replace(self._counts, **added)


def _request(served: Served) -> Request:
    return Request(
        request_id=served.request_id,
        forecast_id=served.forecast_id or None,
        model=served.model,
        version=served.version,
        received_at=datetime.fromisoformat(served.received_at),
        status=served.status,
        payload=served.body if len(served.body) <= LARGEST else b"",
    )


def _blocks(issued: Issued) -> Blocks:
    raw = np.array([issued.raw], dtype=np.float64)  # [1, H, 1 + Q]
    calibrated = None
    if issued.calibrated is not None:
        calibrated = np.array([issued.calibrated], dtype=np.float64)
    return Blocks((issued.symbol,), tuple(issued.levels), raw, calibrated)


def _size(batch: Sequence[Served]) -> int:
    return sum(len(served.body) for served in batch)
