"""Figures of a method of calibration: on what came true, and on planted cases.

A planted case starts from the memory of the true nights, in several sessions. Its figures are means
over them, but for a poisoned night and a delisted symbol, which show the largest change.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from calibration_cases import Fold, biased, broken, fold, poisoned, without

from registry.scoring.difference import diebold_mariano
from registry.scoring.learning.learner import Learner
from registry.scoring.learning.nights import Night

NEVER = 1e9  # sessions
BREAKS = tuple(range(300, 2300, 150))  # numbers of nights; any of them may be before a crisis
SIX = (300, 600, 900, 1350, 1800, 2100)
OF_A_YEAR = (100,)  # of a version that is issued for a year only
AFTER = 140  # nights after a break
SHORT = 100  # nights of the other planted cases
WINDOW = 250  # sessions
Both = tuple[dict[str, float], dict[str, float]]  # raw and issued
GOALS = {
    "coverage_step_1": (0.895, 0.905),
    "coverage_lowest": (0.89, 0.91),
    "coverage_highest": (0.89, 0.91),
    "symbol_gap": (0.0, 0.03),
    "worst_window": (0.84, 1.0),
    "crps_change": (-1.0, 0.0),
    "break_recovered": (0.0, 100.0),
    "break_81_100": (0.88, 0.92),
}


@dataclass(frozen=True, eq=False)
class Learned:
    """The nights of one version, and what a method made of them."""

    learner: Learner
    nights: Sequence[Night]
    true: Fold

    @classmethod
    def of(cls, learner: Learner, nights: Sequence[Night]) -> "Learned":
        keep = {*_starts(nights, BREAKS), *_starts(nights, SIX)}
        return cls(learner, nights, fold(learner, nights, keep=[*keep]))

    def replayed(self, planted: Sequence[Night], start: int) -> pd.DataFrame:
        return fold(self.learner, planted, self.true.memories[start]).rows


def figures(versions: Sequence[Learned]) -> dict[str, dict[str, float]]:
    """Figures of the raw forecasts and of those issued, over all versions of a model."""
    rows = pd.concat([version.true.rows for version in versions], ignore_index=True)
    raw, issued = _scores(rows, "raw_"), _scores(rows, "")
    for of_case in (_of_break, _of_bias):
        of_raw, of_issued = of_case(versions)
        raw |= of_raw
        issued |= of_issued
    issued |= _of_poison(versions) | _of_delisting(versions)
    issued["clipped"] = sum(version.true.clipped for version in versions)
    issued["rejected"] = sum(version.true.rejected for version in versions)
    return {"raw": raw, "issued": issued}


def meets(name: str, value: float) -> bool:
    low, high = GOALS.get(name, (-np.inf, np.inf))
    return bool(low <= value <= high)


def missed(by_label: Mapping[str, Mapping[str, float]]) -> dict[str, list[str]]:
    """Names of the goals that are missed, by label."""
    names = {}
    for label, of_label in by_label.items():
        names[label] = [name for name, value in of_label.items() if not meets(name, value)]
    return names


def _scores(rows: pd.DataFrame, kind: str) -> dict[str, float]:
    covered, crps = f"{kind}covered", f"{kind}crps"
    by_step = rows.groupby("step")[covered].mean()
    by_symbol = rows.groupby(["step", "symbol"])[covered].mean()
    first = rows[rows["step"] == 1].groupby("session")[covered].mean()
    steps = rows.groupby("step")
    change = steps[crps].mean() / steps["raw_crps"].mean() - 1
    sessions = rows.groupby("session")
    differences = (sessions[crps].mean() - sessions["raw_crps"].mean()).to_numpy()
    horizon = int(by_step.index.max())
    scores = {
        "sessions": len(first),
        "crps": rows[crps].mean(),
        "crps_p": diebold_mariano(differences, horizon).p,
        "coverage_step_1": by_step[1],
        "coverage_lowest": by_step.min(),
        "coverage_highest": by_step.max(),
        "symbol_gap": (by_symbol - 0.9).abs().max(),
        "worst_window": first.rolling(WINDOW).mean().min(),
        "crps_change": rows[crps].mean() / rows["raw_crps"].mean() - 1,
        "crps_change_step_1": change[1],
        "crps_change_step_5": change[horizon],
    }
    return {name: round(float(value), 6) for name, value in scores.items()}


# --- planted cases ----------------------------------------------------------------------------


def _starts(nights: Sequence[Night], places: Sequence[int]) -> Sequence[int]:
    return places if len(nights) > max(BREAKS) + AFTER else OF_A_YEAR


def _planted(
    versions: Sequence[Learned], places: Sequence[int]
) -> Iterator[tuple[Learned, Sequence[Night], int]]:
    """Each version with its nights and the number of one before which something is planted."""
    for version in versions:
        for start in _starts(version.nights, places):
            yield version, version.nights, start


def _of_break(versions: Sequence[Learned]) -> Both:
    """Sessions until the coverage of 20 sessions is at least 0.88 again, and that of later ones."""
    replays = []
    for version, nights, start in _planted(versions, BREAKS):
        planted = broken(nights[start : start + AFTER], nights[start - 1])
        replays.append(version.replayed(planted, start))
    return _recovery(replays, "raw_"), _recovery(replays, "")


def _recovery(replays: Sequence[pd.DataFrame], kind: str) -> dict[str, float]:
    covered = np.mean([_path(rows, f"{kind}covered") for rows in replays], axis=0)
    trailing = np.convolve(covered, np.ones(20) / 20, "valid")
    recovered = np.flatnonzero(trailing >= 0.88)
    return {
        "breaks": len(replays),
        "break_recovered": float(recovered[0] + 20) if recovered.size else NEVER,
        "break_81_100": round(float(covered[80:100].mean()), 4),
        "break_101_140": round(float(covered[100:].mean()), 4),
    }


def _of_bias(versions: Sequence[Learned]) -> Both:
    """Coverage, and share of outcomes below the median, 81 to 100 sessions after a bias."""
    replays = []
    for version, nights, start in _planted(versions, SIX):
        replays.append(version.replayed(biased(nights[start : start + SHORT]), start))
    return _of_last_20(replays, "raw_"), _of_last_20(replays, "")


def _of_last_20(replays: Sequence[pd.DataFrame], kind: str) -> dict[str, float]:
    covered = [_path(rows, f"{kind}covered")[80:] for rows in replays]
    below = [_path(rows, f"{kind}below_median")[80:] for rows in replays]
    return {
        "bias_81_100": round(float(np.mean(covered)), 4),
        "bias_below_median": round(float(np.mean(below)), 4),
    }


def _of_poison(versions: Sequence[Learned]) -> dict[str, float]:
    """Largest change of the coverage of the next 60 sessions that one poisoned night makes."""
    changes = []
    for version, nights, start in _planted(versions, SIX):
        rows = version.replayed(poisoned(nights[start : start + 61]), start)
        unpoisoned = _path(version.true.rows, "covered")[start + 1 : start + 61].mean()
        changes.append(abs(_path(rows, "covered")[1:].mean() - unpoisoned))
    return {"poison": round(float(max(changes)), 4)}


def _of_delisting(versions: Sequence[Learned]) -> dict[str, float]:
    """Largest change of the other symbols' coverage in 100 sessions after one is delisted."""
    changes = []
    for version, nights, start in _planted(versions, SIX):
        symbol = nights[0].matured[0].symbols[0]
        rows = version.replayed(without(nights[start : start + SHORT], symbol), start)
        others = version.true.rows[version.true.rows["symbol"] != symbol]
        listed = _path(others, "covered")[start : start + SHORT].mean()
        changes.append(abs(_path(rows, "covered").mean() - listed))
    return {"delisted": round(float(max(changes)), 4)}


def _path(rows: pd.DataFrame, column: str) -> np.ndarray:
    """Mean over the symbols at step 1, by session."""
    first = rows[rows["step"] == 1]
    return first.groupby("session")[column].mean().to_numpy()
