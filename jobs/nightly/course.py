"""Scores over the nights of a range, before and after calibration.

T sessions, H steps, 2 = raw and calibrated, as in the trail of a memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from datetime import date
from typing import Any

import numpy as np
import pandas as pd

from registry.forecast.arrays import Floats, Places
from registry.scoring.learning.nights import Night
from registry.scoring.learning.trail import COVERED, KINDS, Trail

WINDOW = 250  # sessions that a metric of a night is the mean of
SHOWN = 500  # nights of a range whose metrics are points of a curve
_BAND = COVERED.index("covered_90")
_NAMES = ("before", "after")  # of KINDS, for people
_SUMS = [field.name for field in fields(Trail) if field.name not in ("levels", "sectors")]


class Recorder:
    """Gathers the trail of a range, and of the sessions before it."""

    def __init__(self) -> None:
        self._parts: list[Trail] = []

    def add(self, trail: Trail, night: Night) -> None:
        """The trail after a night of the range."""
        if not self._parts:  # the first metrics are about the sessions before the range, too
            self._parts = [_copy(trail, slice(-WINDOW, None))]
        elif night.matured:
            self._parts.append(_copy(trail, slice(-1, None)))

    def course(self, nights: Sequence[date]) -> "Course | None":
        """None if there was no night."""
        return Course(_joined(self._parts), tuple(nights)) if self._parts else None


@dataclass(frozen=True, eq=False)
class Course:
    """The trail of a range and of up to WINDOW sessions before it, and the nights of the range."""

    trail: Trail
    nights: tuple[date, ...]

    @property
    def steps(self) -> list[int]:
        """Steps with an outcome."""
        return [int(step) + 1 for step in np.flatnonzero(self.trail.n.sum(axis=0))]

    def metrics(self) -> dict[str, dict[date, float]]:
        """Means over the WINDOW sessions until each night that has outcomes, by key."""
        trail = self.trail
        sums = {
            "coverage_90": trail.covered[..., _BAND].astype(np.float64),  # [T, H, 2]
            "crps": trail.crps,
        }
        by_key = {}
        for name, values in sums.items():
            for kind, when in enumerate(_NAMES):
                pooled = values[..., kind].sum(axis=1)
                by_key[f"{name}_{when}"] = self._means(pooled, trail.n.sum(axis=1))
                for step in self.steps:
                    of_step = values[:, step - 1, kind]
                    key = f"{name}_{when}_step_{step}"
                    by_key[key] = self._means(of_step, trail.n[:, step - 1])
        return by_key

    def shown(self) -> tuple[date, ...]:
        """At most SHOWN nights of the range, evenly apart, with the last one."""
        apart = -(-len(self.nights) // SHOWN)
        return self.nights[::-1][::apart][::-1]

    def last(self) -> dict[str, float]:
        """The metrics of the last night."""
        finals = {}
        for key, by_day in self.metrics().items():
            if by_day:
                finals[key] = by_day[max(by_day)]
        return finals

    def by_sector(self) -> pd.DataFrame:
        """sector, step, n, and coverage and CRPS before and after; over all sessions."""
        trail = self.trail
        n = trail.sector_n.sum(axis=0)  # [H, G]
        step, sector = np.nonzero(n)
        count = n[step, sector]
        table = {"sector": np.array(trail.sectors, dtype=object)[sector], "step": step + 1}
        table["n"] = count
        sums = {"coverage_90": trail.sector_covered_90, "crps": trail.sector_crps}
        for name, values in sums.items():
            totals = values.sum(axis=0)  # [H, 2, G]
            for kind, when in enumerate(_NAMES):
                table[f"{name}_{when}"] = totals[step, kind, sector] / count
        return pd.DataFrame(table)

    def reliability(self) -> tuple[Floats, Floats]:
        """Shares at or below each quantile [H, Q] of `steps`, before and after."""
        places = np.array(self.steps) - 1
        n = self.trail.n.sum(axis=0)[places, None]
        below = self.trail.below.sum(axis=0)[places]  # [H, 2, Q]
        return below[:, 0] / n, below[:, 1] / n

    def pit(self) -> tuple[Floats, Floats]:
        """Counts of the probability integral transform, of all steps, before and after."""
        counts = self.trail.pit.sum(axis=(0, 1)).astype(np.float64)
        return counts[0], counts[1]

    def coverage(self, step: int) -> tuple[list[date], Floats, tuple[Floats, Floats]]:
        """Sessions, outcomes [T], and outcomes within the 90 % band before and after."""
        place = step - 1
        counts = self.trail.n[:, place].astype(np.float64)
        inside = self.trail.covered[:, place, :, _BAND].astype(np.float64)
        days: list[date] = self.trail.sessions.tolist()
        return days, counts, (inside[:, 0], inside[:, 1])

    def frame(self) -> pd.DataFrame:
        """One row a session and step of the range: outcomes, and means before and after."""
        sums = self.trail.frame()
        inside = sums["session"] >= pd.Timestamp(self.nights[0])
        table = sums.loc[inside, ["session", "step", "n"]].reset_index(drop=True)
        for kind, when in zip(KINDS, _NAMES, strict=True):
            for column in ("crps", *COVERED):
                shown = column.replace("covered", "coverage")
                total = sums.loc[inside, f"{column}_{kind}"].reset_index(drop=True)
                table[f"{shown}_{when}"] = total / table["n"]
        return table

    def _means(self, values: Floats, n: Places) -> dict[date, float]:
        """sum(values) / sum(n) over the WINDOW sessions until each night that has outcomes."""
        totals = _windowed(np.asarray(values, dtype=np.float64))
        counts = _windowed(np.asarray(n, dtype=np.float64))
        wanted = set(self.nights)
        means = {}
        for place, day in enumerate(self.trail.sessions.tolist()):
            if day in wanted and counts[place] > 0:
                means[day] = float(totals[place] / counts[place])
        return means


def _windowed(values: Floats) -> Floats:
    """Sums [T] over the WINDOW sessions until each one, each added up by itself."""
    padded = np.concatenate([np.zeros(WINDOW - 1), values])
    sums: Floats = np.lib.stride_tricks.sliding_window_view(padded, WINDOW).sum(axis=1)
    return sums


def _copy(trail: Trail, some: slice) -> Trail:
    """Some sessions of a trail, which do not keep the others in memory."""
    copied: dict[str, Any] = {}
    for name in _SUMS:
        copied[name] = getattr(trail, name)[some].copy()
    return replace(trail, **copied)


def _joined(parts: Sequence[Trail]) -> Trail:
    """Trails one after the other, with the sectors of the last one."""
    last = parts[-1]
    wide = [part.with_sectors(last.sectors) for part in parts]
    joined: dict[str, Any] = {}
    for name in _SUMS:
        joined[name] = np.concatenate([getattr(part, name) for part in wide])
    return replace(last, **joined)
