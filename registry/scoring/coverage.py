"""Intervals of a coverage that was observed over nights.

All symbols of a night share its market, so nights are what is counted, not outcomes. Few nights get
Wilson's interval on an effective number of outcomes, more a stationary block bootstrap of nights.

Sources: Wilson, JASA 22 (1927); Kish, Survey Sampling (1965), for the effective number.
"""

from dataclasses import dataclass

import numpy as np

from registry.forecast.arrays import Floats
from registry.scoring.learning.verdicts import interval

FEW = 50  # nights; fewer are not resampled
_VARIANCE = 5  # nights; fewer say nothing of the variance between them
CONFIDENCE = 0.95
_NORMAL = 1.959963984540054  # of 95 %
BOOTSTRAP, WILSON = "bootstrap", "Wilson"


@dataclass(frozen=True)
class Coverage:
    """Mean of the nights' coverages, with a 95 % interval and how that was made."""

    share: float
    low: float
    high: float
    method: str  # BOOTSTRAP or WILSON
    effective: float  # number of outcomes (WILSON) or of blocks (BOOTSTRAP) that count


def coverage(nightly: Floats, outcomes: int, overlap: int = 1) -> Coverage:
    """Coverage of nights in order of their cutoffs [T], which hold this many outcomes in all.

    `overlap` is the step h: errors of step h may be correlated over h - 1 nights. Needs T >= 1.
    """
    if len(nightly) < FEW:
        return _wilson(nightly, outcomes, overlap)
    return _bootstrapped(nightly)


def _wilson(nightly: Floats, outcomes: int, overlap: int) -> Coverage:
    share = float(nightly.mean())
    n = _effective(nightly, outcomes, overlap)
    z2 = _NORMAL**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _NORMAL / (1 + z2 / n) * np.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    low, high = max(float(centre - half), 0.0), min(float(centre + half), 1.0)
    return Coverage(share, low, high, WILSON, n)


def _effective(nightly: Floats, outcomes: int, overlap: int) -> float:
    """Number of independent outcomes with the variance that the nights show.

    At least one for each `overlap` nights, at most all. Of very few nights, and of nights that are
    all alike, it is the least.
    """
    number = len(nightly)
    least = max(number / overlap, 1.0)
    share, variance = float(nightly.mean()), float(nightly.var(ddof=1)) if number > 1 else 0.0
    if number < _VARIANCE or variance == 0.0:
        return least
    shown = share * (1 - share) / variance * number / overlap
    return min(max(shown, least), float(outcomes))


def _bootstrapped(nightly: Floats) -> Coverage:
    resampled = interval(nightly, np.ones(len(nightly)), CONFIDENCE)
    blocks = len(nightly) / resampled.block_length
    return Coverage(resampled.coverage, resampled.low, resampled.high, BOOTSTRAP, blocks)
