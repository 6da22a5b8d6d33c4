"""Whether the forecasts of a version and step are calibrated, with the evidence."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from registry.forecast.arrays import Floats
from registry.scoring.calibration_table import OLDEST
from registry.scoring.learning.trail import COVERED, KINDS, Trail

CALIBRATED, STALE, UNCALIBRATED = "calibrated", "stale", "uncalibrated"
LEVEL = 0.90  # of the band whose coverage is judged
MINIMUM = 120  # matured sessions
WINDOW = 250  # sessions that are judged
DRIFT = 60  # the last of them, judged alone
TOLERANCE = 0.01  # a coverage this near is calibrated, however narrow the interval
CONFIDENCE = 0.95
# The last 60 sessions are looked at every night: at 95 % they would say drift every month.
DRIFT_CONFIDENCE = 0.99
RESAMPLES = 2000
SEED = 20130102


@dataclass(frozen=True)
class Interval:
    """Coverage of some sessions, and the interval that a block bootstrap puts around it."""

    coverage: float
    low: float
    high: float
    block_length: float  # sessions

    def holds(self, level: float) -> bool:
        inside = self.low <= level <= self.high
        return inside or abs(self.coverage - level) <= TOLERANCE


@dataclass(frozen=True)
class Verdict:
    """State of one step, and why. Numbers are None without an outcome."""

    state: str  # calibrated, stale or uncalibrated
    coverage: float | None  # of the 90 % band over the last 250 sessions, as issued
    low: float | None
    high: float | None
    sessions: int  # matured, at most those of the trail
    newest: str | None  # last matured session
    block_length: float | None
    reason: str

    def evidence(self) -> dict[str, Any]:
        """The verdict as JSON has it."""
        return asdict(self)


def verdict(trail: Trail, step: int, newest_session_age: int) -> Verdict:
    """Verdict of a step; the age is that of its newest matured session, in sessions of the data.

    Coverage is the calibrated one, as it was issued.
    """
    place = step - 1
    matured = trail.n[:, place] > 0
    sessions = int(matured.sum())
    if not sessions:
        return Verdict(UNCALIBRATED, None, None, None, 0, None, None, "nothing has matured")
    kind, band = KINDS.index("calibrated"), COVERED.index("covered_90")
    covered = trail.covered[matured, place, kind, band].astype(np.float64)
    n = trail.n[matured, place].astype(np.float64)
    whole = interval(covered[-WINDOW:], n[-WINDOW:], CONFIDENCE)
    last = interval(covered[-DRIFT:], n[-DRIFT:], DRIFT_CONFIDENCE)
    state, reason = _judged(sessions, newest_session_age, whole, last)
    return Verdict(
        state=state,
        coverage=whole.coverage,
        low=whole.low,
        high=whole.high,
        sessions=sessions,
        newest=str(trail.sessions[matured][-1]),
        block_length=whole.block_length,
        reason=reason,
    )


def _judged(sessions: int, age: int, whole: Interval, last: Interval) -> tuple[str, str]:
    if sessions < MINIMUM:
        return UNCALIBRATED, f"{sessions} sessions have matured, {MINIMUM} are needed"
    if age > OLDEST:
        return STALE, f"the newest outcome is {age} sessions old, at most {OLDEST} are allowed"
    if not last.holds(LEVEL):
        return STALE, f"drift: the last {DRIFT} sessions have {_text(last)}"
    if not whole.holds(LEVEL):
        return UNCALIBRATED, f"the last {min(sessions, WINDOW)} sessions have {_text(whole)}"
    return CALIBRATED, f"the last {min(sessions, WINDOW)} sessions have {_text(whole)}"


def _text(of: Interval) -> str:
    return f"coverage {of.coverage:.3f}, interval {of.low:.3f} to {of.high:.3f}, for {LEVEL:.2f}"


def interval(covered: Floats, n: Floats, confidence: float) -> Interval:
    """Percentile interval of sum(covered) / sum(n) over sessions [T].

    Stationary block bootstrap (Politis and Romano, JASA 89, 1994) with the block length of Politis
    and White (Econometric Reviews 23, 2004) as corrected in 2009. Equal input, equal interval.
    """
    length = block_length(covered / n)
    places = _resamples(len(n), length)
    shares = covered[places].sum(axis=1) / n[places].sum(axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(shares, [tail, 1 - tail])
    return Interval(float(covered.sum() / n.sum()), float(low), float(high), length)


def block_length(x: Floats) -> float:
    """Best mean length of a stationary bootstrap's blocks for a series [T], in observations.

    Politis and White, eq. 9 and section 3.2, with the correction of Patton, Politis and White
    (2009); the same numbers as `arch.bootstrap.optimal_block_length`, which the image of the
    gateway does not have. At least 1; 1 if the series does not vary, or has fewer than 10 values.
    """
    count = len(x)
    if count < 10 or np.ptp(x) == 0:
        return 1.0
    centred = x - x.mean()
    quiet = max(5, int(np.log10(count)))  # lags that have to be insignificant, one after another
    last = int(np.ceil(np.sqrt(count))) + quiet
    lags = np.arange(min(last, count - 2) + 1)
    products = np.array([centred[lag:] @ centred[: count - lag] for lag in lags])
    sizes = []
    for lag in lags + 1:
        sizes.append((centred[lag:] @ centred[lag:]) * (centred[:-lag] @ centred[:-lag]))
    small = np.abs(products) < 2 * np.sqrt(np.log10(count) / count) * np.sqrt(sizes)
    runs = np.flatnonzero(np.convolve(small[:-1], np.ones(quiet), "valid") == quiet)
    width = min(2 * max(int(runs[0]), 1), lags[-1]) if runs.size else lags[-1]
    used = lags[1 : width + 1]
    window = np.minimum(1.0, 2 * (1 - used / width))  # flat top
    covariance = products / count
    slope = 2 * (window * used * covariance[1 : width + 1]).sum()
    variance = covariance[0] + 2 * (window * covariance[1 : width + 1]).sum()
    if variance == 0:
        return 1.0
    best = (slope / variance) ** 2 * count
    longest = np.ceil(min(3 * np.sqrt(count), count / 3))
    return float(np.clip(np.cbrt(best), 1.0, longest))


def _resamples(count: int, length: float) -> "np.ndarray[Any, np.dtype[np.int64]]":
    """Places [RESAMPLES, T]: blocks of geometric length with this mean, on a circle."""
    rng = np.random.default_rng(SEED)
    starts = rng.integers(0, count, (RESAMPLES, count))
    new = rng.random((RESAMPLES, count)) < 1 / length
    new[:, 0] = True
    column = np.arange(count)
    block = np.maximum.accumulate(np.where(new, column, 0), axis=1)
    places: np.ndarray[Any, np.dtype[np.int64]] = (
        np.take_along_axis(starts, block, axis=1) + column - block
    ) % count
    return places
