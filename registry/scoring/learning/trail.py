"""The daily trail: sums of scores of the last sessions, raw and calibrated.

All but CRPS are counts. T sessions, H steps, 2 = raw and calibrated, G sectors.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pandas as pd

from registry.forecast.arrays import Dates, Floats, Places
from registry.scoring import scores
from registry.scoring.learning.keys import sums, total

SESSIONS = 500  # that are kept
BINS = 20  # of a PIT histogram
KINDS = ("raw", "calibrated")
COVERED = tuple(f"covered_{100 * band:.0f}" for band in scores.BANDS)


@dataclass(frozen=True, eq=False)
class Trail:
    """Sums over the outcomes of a session and step. A step without an outcome has n = 0."""

    levels: tuple[float, ...]  # [Q]
    sectors: tuple[str, ...]  # [G]
    sessions: Dates  # [T] ascending
    n: Places  # [T, H] outcomes
    crps: Floats  # [T, H, 2]
    covered: Places  # [T, H, 2, 3] outcomes within the bands of 50, 80 and 90 %
    below: Places  # [T, H, 2, Q] outcomes at or below a quantile
    pit: Places  # [T, H, 2, BINS]
    sector_n: Places  # [T, H, G]
    sector_crps: Floats  # [T, H, 2, G]
    sector_covered_90: Places  # [T, H, 2, G]

    @classmethod
    def empty(cls, levels: Sequence[float], horizon: int) -> "Trail":
        def zeros(*shape: int) -> Places:
            return np.zeros((0, horizon, *shape), dtype=np.int64)

        return cls(
            levels=tuple(levels),
            sectors=(),
            sessions=np.zeros(0, dtype="datetime64[D]"),
            n=zeros(),
            crps=np.zeros((0, horizon, 2)),
            covered=zeros(2, len(COVERED)),
            below=zeros(2, len(levels)),
            pit=zeros(2, BINS),
            sector_n=zeros(0),
            sector_crps=np.zeros((0, horizon, 2, 0)),
            sector_covered_90=zeros(2, 0),
        )

    def followed_by(self, session: "Trail") -> "Trail":
        """This trail and a later session, without sessions that are too old."""
        before = self.with_sectors(session.sectors)
        joined: dict[str, Any] = {}
        for name in _ARRAYS:
            both = np.concatenate([getattr(before, name), getattr(session, name)])
            joined[name] = both[-SESSIONS:]
        return replace(before, **joined)

    def with_sectors(self, sectors: tuple[str, ...]) -> "Trail":
        """The same sums, with room for more sectors."""
        if sectors == self.sectors:
            return self
        places = [sectors.index(name) for name in self.sectors]
        wider: dict[str, Any] = {}
        for name in ("sector_n", "sector_crps", "sector_covered_90"):
            narrow = getattr(self, name)
            wide = np.zeros((*narrow.shape[:-1], len(sectors)), dtype=narrow.dtype)
            wide[..., places] = narrow
            wider[name] = wide
        return replace(self, sectors=sectors, **wider)

    def frame(self) -> pd.DataFrame:
        """One row a session and step that has outcomes.

        Columns: session, step, n, and `crps_raw`, `covered_90_calibrated` and so on: all are sums.
        """
        row, step = np.nonzero(self.n)
        table = {"session": self.sessions[row].astype("datetime64[ns]"), "step": step + 1}
        table["n"] = self.n[row, step]
        for kind, name in enumerate(KINDS):
            table[f"crps_{name}"] = self.crps[row, step, kind]
            for band, column in enumerate(COVERED):
                table[f"{column}_{name}"] = self.covered[row, step, kind, band]
        return pd.DataFrame(table)


_ARRAYS = [field.name for field in fields(Trail) if field.name not in ("levels", "sectors")]


def session_of(
    session: np.datetime64, levels: Sequence[float], sectors: tuple[str, ...], horizon: int
) -> Trail:
    """A trail of one session without outcomes, to which `add` adds."""
    none = Trail.empty(levels, horizon).with_sectors(sectors)
    zeros: dict[str, Any] = {}
    for name in _ARRAYS:
        array = getattr(none, name)
        zeros[name] = np.zeros((1, *array.shape[1:]), dtype=array.dtype)
    zeros["sessions"] = np.array([session], dtype="datetime64[D]")
    return replace(none, **zeros)


def add(trail: Trail, step: int, sectors: Places, y: Floats, both: Sequence[Floats]) -> None:
    """Fill a step of a trail of one session.

    `sectors` [N] are places, -1 without one; `both` are the quantiles [N, Q], raw and calibrated.
    """
    at = (0, step - 1)
    groups = len(trail.sectors)
    trail.n[at] = len(y)
    trail.sector_n[at] = np.bincount(sectors + 1, minlength=groups + 1)[1:]
    for kind, quantiles in enumerate(both):
        of_rows = scores.of_step(y, quantiles, trail.levels)
        covered = np.column_stack([of_rows[name] for name in COVERED])
        trail.crps[at][kind] = total(of_rows["crps"])
        trail.covered[at][kind] = covered.sum(axis=0)
        trail.below[at][kind] = (y[:, None] <= quantiles).sum(axis=0)
        bins = np.minimum((of_rows["pit"] * BINS).astype(np.int64), BINS - 1)
        trail.pit[at][kind] = np.bincount(bins, minlength=BINS)
        trail.sector_crps[at][kind] = sums(of_rows["crps"], sectors, groups)
        trail.sector_covered_90[at][kind] = sums(of_rows["covered_90"], sectors, groups)
