"""Adaptive conformal inference: each level has a level of its own that moves until it is right.

Gibbs and Candes, arXiv 2106.00170: a moves by gamma x (u - 1{y <= q}) after each outcome. The
quantile of level u is then that of the trailing scores at a. The score is z, the outcome's distance
from the raw median in widths. Quantiles of a symbol's own scores are averaged with those of its
sector and of all symbols. Beyond its scores, at a <= 0 or a >= 1, a quantile is CAP widths away
from the median, not at infinity.
"""

from dataclasses import dataclass

import numpy as np

from registry.forecast.arrays import Floats, Places
from registry.scoring.learning.keys import GLOBAL, Keys, sums
from registry.scoring.learning.method import Parts
from registry.scoring.learning.pooling import key_means, move, shrunk
from registry.scoring.learning.rows import Rows

CAP = 3.0  # widths: ten standard deviations
FEWEST = 20  # scores before they are used


@dataclass(frozen=True)
class Aci:
    """Chosen a priori: gamma as in the paper, and scores of 100 sessions."""

    levels: tuple[float, ...]  # [Q]
    gamma: float = 0.005
    window: int = 100  # scores of a symbol
    kappa: float = 200.0  # scores

    name = "aci"
    shared = ()

    def start(self, horizon: int, levels: int) -> Parts:  # noqa: ARG002
        return {
            "adaptive": np.tile(np.asarray(self.levels), (horizon, 1, 1)),
            "shape": np.zeros((horizon, 1, len(self.levels))),  # trailing mean of the raw shape
            "scores": np.full((horizon, 1, self.window), np.inf),
            "count": np.zeros((horizon, 1)),  # sessions with a score
        }

    def update(self, parts: Parts, rows: Rows) -> int:
        """No outcome is rejected: one score in a hundred moves a quantile little."""
        step = rows.step - 1
        gaps = np.asarray(self.levels) - rows.below()
        rates = (self.gamma, self.gamma, self.gamma)
        move(parts["adaptive"][step], gaps, rates, rows)
        count = parts["count"][step]
        slots = count[rows.symbol_rows].astype(np.int64) % self.window
        parts["scores"][step][rows.symbol_rows, slots] = rows.z
        means, outcomes = key_means(rows.shape, rows)
        present = outcomes > 0
        count += present
        share = present / np.clip(count, 1, self.window)
        parts["shape"][step] += share[:, None] * (means - parts["shape"][step])
        return 0

    def end(self, parts: Parts) -> None:
        pass

    def states(self, parts: Parts, keys: Keys) -> tuple[Floats, Floats, Floats]:
        curves = np.stack(
            [
                self._curves(scores, count, keys)
                for scores, count in zip(parts["scores"], parts["count"], strict=True)
            ]
        )
        n = np.minimum(parts["count"], self.window)
        weights = np.where(n >= FEWEST, n / (n + self.kappa), 0.0)
        weights[:, GLOBAL] = parts["count"][:, GLOBAL] >= FEWEST
        pooled = shrunk(curves, weights, keys)
        offsets = _at(pooled, parts["adaptive"]) - parts["shape"]
        used = (parts["count"][:, GLOBAL] >= FEWEST)[:, None, None]
        # A key without a shape of its own has the offsets of the next wider one.
        bare = (parts["count"] == 0)[..., None]
        offsets = np.where(used, offsets, 0.0)
        first = keys.first_symbol
        offsets[:, first:] = np.where(bare, offsets[:, keys.parents], offsets)[:, first:]
        flat = offsets.shape[:2]
        return np.zeros(flat), np.ones(flat), offsets

    def _curves(self, scores: Floats, count: Floats, keys: Keys) -> Floats:
        """Quantiles [K, W] of each key's scores at evenly spaced levels.

        Those of a sector, and of all, are means over the symbols that have enough scores.
        """
        first = keys.first_symbol
        curves = np.zeros((len(keys), self.window))
        n = np.minimum(count[first:], self.window).astype(np.int64)
        of_symbols = _quantiles(np.sort(scores[first:], axis=1), n, self.window)
        curves[first:] = of_symbols
        enough = n >= FEWEST
        for groups, target in (
            (np.where(enough, 0, -1), curves[:1]),
            (np.where(enough, keys.sector_of, -1), curves[1:first]),
        ):
            members = np.bincount(groups + 1, minlength=len(target) + 1)[1:]
            totals = sums(of_symbols, groups, len(target))
            target[:] = totals / np.maximum(members, 1)[:, None]
        return curves


def _quantiles(ordered: Floats, n: Places, count: int) -> Floats:
    """Quantiles [S, W] of the first n [S] of the ordered scores [S, W], at (j + 0.5) / W."""
    position = (np.arange(count) + 0.5) / count * np.maximum(n - 1, 0)[:, None]
    low = position.astype(np.int64)
    high = np.minimum(low + 1, np.maximum(n - 1, 0)[:, None])
    left = np.take_along_axis(ordered, low, axis=1)
    right = np.take_along_axis(ordered, high, axis=1)
    filled = (n > 0)[:, None]
    left, right = np.where(filled, left, 0.0), np.where(filled, right, 0.0)
    between: Floats = left + (position - low) * (right - left)
    return between


def _at(curves: Floats, levels: Floats) -> Floats:
    """Values [H, K, Q] of quantile curves [H, K, W] at levels [H, K, Q]; CAP beyond 0 and 1."""
    count = curves.shape[-1]
    position = np.clip(levels * count - 0.5, 0, count - 1)
    low = np.minimum(position.astype(np.int64), count - 2)
    left = np.take_along_axis(curves, low, axis=-1)
    right = np.take_along_axis(curves, low + 1, axis=-1)
    inside = np.clip(left + (position - low) * (right - left), -CAP, CAP)
    return np.where(levels <= 0, -CAP, np.where(levels >= 1, CAP, inside))
