"""Planted cases for a calibration: a break, a bias, a poisoned night, a symbol that is delisted.

Each takes true nights and returns others. Forecasts and outcomes before the first planted session
stay as they are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from registry.scoring import metrics
from registry.scoring.learning.learner import Learner
from registry.scoring.learning.memory import Memory
from registry.scoring.learning.nights import Matured, Night

POISON = 20.0  # times an outcome
BIAS = 0.25  # widths of the forecast


# --- planted nights ---------------------------------------------------------------------------


def broken(nights: Sequence[Night], before: Night, factor: float = 2.0) -> list[Night]:
    """Outcomes times `factor`, of forecasts that are frozen at those of the night before."""
    frozen: dict[tuple[int, str], np.ndarray] = {}
    for matured in before.matured:
        for symbol, quantiles in zip(matured.symbols, matured.quantiles, strict=True):
            frozen[matured.step, symbol] = quantiles
    planted = []
    for night in nights:
        changed = []
        for matured in night.matured:
            rows = []
            for symbol, quantiles in zip(matured.symbols, matured.quantiles, strict=True):
                rows.append(frozen.get((matured.step, symbol), quantiles))
            changed.append(replace(matured, y=factor * matured.y, quantiles=np.stack(rows)))
        planted.append(Night(night.session, tuple(changed)))
    return planted


def biased(nights: Sequence[Night], widths: float = BIAS) -> list[Night]:
    """Outcomes higher by so many widths of their forecast."""
    planted = []
    for night in nights:
        changed = []
        for matured in night.matured:
            width = matured.quantiles[:, -1] - matured.quantiles[:, 0]
            changed.append(replace(matured, y=matured.y + widths * width))
        planted.append(Night(night.session, tuple(changed)))
    return planted


def poisoned(nights: Sequence[Night], factor: float = POISON) -> list[Night]:
    """All outcomes of the first night times `factor`; the other nights stay as they are."""
    first = nights[0]
    changed = [replace(matured, y=factor * matured.y) for matured in first.matured]
    return [Night(first.session, tuple(changed)), *nights[1:]]


def without(nights: Sequence[Night], symbol: str) -> list[Night]:
    """Nights in which a symbol no longer matures."""
    planted = []
    for night in nights:
        changed = []
        for matured in night.matured:
            kept = np.array([name != symbol for name in matured.symbols])
            symbols = tuple(name for name in matured.symbols if name != symbol)
            changed.append(Matured(matured.step, symbols, matured.y[kept], matured.quantiles[kept]))
        planted.append(Night(night.session, tuple(changed)))
    return planted


# --- folds and their scores -------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Fold:
    """Scores of each outcome as issued, and the memory before some nights."""

    rows: pd.DataFrame  # session, step, symbol, covered, below_median, crps, raw_...
    memories: Mapping[int, Memory]  # before the night of this number
    last: Memory
    clipped: int
    rejected: int


def fold(
    learner: Learner,
    nights: Sequence[Night],
    memory: Memory | None = None,
    keep: Sequence[int] = (),
) -> Fold:
    """Learn night by night; `keep` are numbers of nights before which the memory is kept."""
    memory = memory or learner.start()
    kept, frames, clipped, rejected = {}, [], 0, 0
    for number, night in enumerate(nights):
        if number in keep:
            kept[number] = memory
        lesson = learner.learn(memory, night)
        memory = lesson.memory
        clipped += len(lesson.clipped)
        rejected += lesson.rejected
        for matured, quantiles in zip(night.matured, lesson.calibrated, strict=True):
            frames.append(_scored(night, matured, quantiles, learner.levels))
    return Fold(_joined(frames), kept, memory, clipped, rejected)


def _scored(
    night: Night, matured: Matured, quantiles: np.ndarray, levels: Sequence[float]
) -> dict[str, np.ndarray]:
    middle = levels.index(0.5)
    scored = {
        "session": np.full(len(matured.y), np.datetime64(night.session, "ns")),
        "step": np.full(len(matured.y), matured.step),
        "symbol": np.array(matured.symbols, dtype=object),
    }
    for name, both in (("", quantiles), ("raw_", matured.quantiles)):
        low, high = both[:, levels.index(0.05)], both[:, levels.index(0.95)]
        scored[f"{name}covered"] = metrics.inside(matured.y, low, high)
        scored[f"{name}below_median"] = (matured.y <= both[:, middle]).astype(float)
        scored[f"{name}crps"] = metrics.crps(matured.y, both, levels)
    return scored


def _joined(frames: Sequence[dict]) -> pd.DataFrame:
    columns = {}
    for name in frames[0]:
        columns[name] = np.concatenate([frame[name] for frame in frames])
    return pd.DataFrame(columns)
