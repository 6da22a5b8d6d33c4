"""Quantile tracking: each level moves until outcomes fall below it as often as it says.

Angelopoulos, Candes and Tibshirani, Conformal PID control, arXiv 2307.16895, the P of PID. The
offset of level u moves by rate x (u - 1{y <= q}) after each outcome. It is in widths of the
forecast, so the rate has no unit. A symbol's offset is the sum of a global part, a part of its
sector and a part of its own. Each moves at its own rate, by the mean over its symbols.
"""

from dataclasses import dataclass

import numpy as np

from registry.forecast.arrays import Floats
from registry.scoring.learning.keys import GLOBAL, Keys, sums
from registry.scoring.learning.method import Parts
from registry.scoring.learning.rows import Rows


@dataclass(frozen=True)
class Tracking:
    """Rates of the global, sector and symbol parts, in widths."""

    levels: tuple[float, ...]  # [Q]
    global_rate: float = 0.006
    sector_rate: float = 0.002
    symbol_rate: float = 0.002

    name = "tracking"

    def start(self, horizon: int, levels: int) -> Parts:
        return {"offsets": np.zeros((horizon, 1, levels))}

    def update(self, parts: Parts, rows: Rows) -> int:
        gaps = np.asarray(self.levels) - rows.below()
        offsets = parts["offsets"][rows.step - 1]
        everyone = np.zeros(len(gaps), dtype=np.int64)
        sector_count = len(rows.keys.sectors)
        counts = np.bincount(rows.sectors + 1, minlength=sector_count + 1)[1:, None]
        sector_means = sums(gaps, rows.sectors, sector_count) / np.maximum(counts, 1)
        offsets[GLOBAL] += self.global_rate * sums(gaps, everyone, 1)[0] / len(gaps)
        offsets[1 : 1 + sector_count] += self.sector_rate * sector_means
        offsets[rows.symbol_rows] += self.symbol_rate * gaps
        return 0

    def states(self, parts: Parts, keys: Keys) -> tuple[Floats, Floats, Floats]:
        own = parts["offsets"]
        offsets = own.copy()
        first = keys.first_symbol
        offsets[:, 1:first] += own[:, :1]
        offsets[:, first:] += offsets[:, keys.parents[first:]]
        flat = offsets.shape[:2]
        return np.zeros(flat), np.ones(flat), offsets
