"""How fast a scorer answers, and so how many requests may wait for it."""

import time

LARGEST = 32  # series in one call; more gained nothing when measured
MOST = 256  # series in one call of a request with many
_PATIENT_S = 1.0  # time that a call should take at most, if its series are slow
_WEIGHT = 0.2  # of a new measurement


class Pace:
    """Averages of recent calls. `queue_s` is the time that a request may wait for its answer."""

    def __init__(self, queue_s: float, call_s: float = 0.0) -> None:
        """`call_s` is the time of a call with one series, if it was measured."""
        self._queue_s = queue_s
        self._series_s = call_s  # by series
        self._any_s = call_s  # of all calls
        self._busy_s = 0.0  # of calls that took as many requests as they could
        self._together = 0.0  # requests in such a call; few if all ask for one symbol

    def measured(self, seconds: float, *, series: int, requests: int, left: int) -> None:
        """Count a call. It answered `requests`, while `left` others had to wait for the next one.

        `series` is 0 for a raw request, whose series nobody counts.
        """
        self._any_s = _average(self._any_s, seconds)
        if series:
            self._series_s = _average(self._series_s, seconds / series)
        if left or requests >= (self._together or self.largest / 2):
            self._busy_s = _average(self._busy_s, seconds)
            self._together = _average(self._together, requests)

    @property
    def call_s(self) -> float:
        return self._busy_s or self._any_s

    @property
    def largest(self) -> int:
        """Series that one call should hold."""
        return self._patient(LARGEST)

    @property
    def most(self) -> int:
        """Series that one call of a request with many should hold."""
        return self._patient(MOST)

    def _patient(self, series: int) -> int:
        if self._series_s * series <= _PATIENT_S:
            return series
        return max(1, int(_PATIENT_S / self._series_s))

    def admits(self, queued: int) -> bool:
        """Whether one more request can be answered in time. Always, if none waits."""
        if not queued:
            return True
        calls = int(queued / (self._together or self.largest)) + 2
        return calls * self.call_s <= self._limit_s

    @property
    def _limit_s(self) -> float:
        return max(self._queue_s, 3 * self.call_s)

    def late_at(self, arrived: float) -> float:
        """Time of the monotonic clock after which a waiting request is given up."""
        return arrived + 1.5 * self._limit_s


def now() -> float:
    return time.monotonic()


def _average(before: float, value: float) -> float:
    return value if not before else before + _WEIGHT * (value - before)
