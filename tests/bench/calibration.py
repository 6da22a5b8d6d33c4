"""Figures of each method of calibration on real prices, and on planted cases.

    make bench ONLY=calibration

Forecasts of `fhs` and `har`, fitted to 2012 and issued in every session of 2013 to 2022, are
learned from night by night. Everything is as issued: by what was known before the cutoff. A
planted case starts from the memory of the true nights, in several sessions. Its figures are means
over them, but for a poisoned night and a delisted symbol, which show the largest change.
"""

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
from calibration_cases import Fold, biased, broken, fold, nights_of, poisoned, without
from scipy.special import ndtri

from jobs.data import catalog
from jobs.data.compile import compile_builtin
from jobs.training import configs, families
from registry.forecast import names
from registry.scoring.difference import diebold_mariano
from registry.scoring.learning.learner import METHODS, Learner
from registry.scoring.learning.nights import Matured, Night
from registry.scoring.rolling import origins_between, rolling
from registry.settings import Settings

MODELS = ("fhs", "har")
FITTED, UNTIL = "2012-12-31", "2022-12-30"
HORIZON = 5
NEVER = 1e9  # sessions
BREAKS = tuple(range(300, 2300, 150))  # numbers of nights; any of them may be before a crisis
SIX = (300, 600, 900, 1350, 1800, 2100)
AFTER = 140  # nights after a break
SHORT = 100  # nights of the other planted cases
WINDOW = 250  # sessions
GOALS = {
    "coverage_step_1": (0.895, 0.905),
    "coverage_lowest": (0.89, 0.91),
    "coverage_highest": (0.89, 0.91),
    "symbol_gap": (0.0, 0.03),
    "worst_window": (0.84, 1.0),
    "crps_change": (-1.0, 0.0),
    "break_recovered": (0.0, 100.0),
}
COLUMNS = {  # of the table, and their headings
    "coverage_step_1": "cov 1", "coverage_lowest": "lowest", "coverage_highest": "highest",
    "symbol_gap": "symbol", "worst_window": "worst", "crps_change": "crps",
    "crps_change_step_1": "crps 1", "crps_change_step_5": "crps 5", "crps_p": "p",
    "break_recovered": "break", "break_81_100": "81-100", "break_101_140": "101-140",
    "bias_81_100": "bias",
    "bias_below_median": "median", "poison": "poison", "delisted": "delisted",
}  # fmt: skip


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(var_dir=Path(folder))
        compile_builtin(settings)
        panel = catalog.PANEL.load(settings).history
    sectors = panel.groupby(names.UNIQUE_ID)[names.SECTOR].first().to_dict()
    report: dict[str, Any] = {"bench": "calibration", "figures": {}, "seconds": {}}
    print(_heading(), flush=True)
    for model in MODELS:
        nights = nights_of(_forecasts(model, panel))
        for method in METHODS:
            start = time.perf_counter()
            figures = _figures(Learner(method, names.LEVELS, HORIZON, sectors), nights)
            report["seconds"][f"{model}_{method}"] = round(time.perf_counter() - start, 1)
            if method == METHODS[0]:
                report["figures"][f"{model}_raw"] = figures["raw"]
                print(_line(f"{model} raw", figures["raw"]), flush=True)
            report["figures"][f"{model}_{method}"] = figures["issued"]
            print(_line(f"{model} {method}", figures["issued"]), flush=True)
    for method in METHODS:
        report["seconds"][f"night_of_5000_{method}"] = round(_night_of_5000(method), 4)
    report["missed"] = _missed(report["figures"])
    print(json.dumps(report))


def _forecasts(model: str, panel: pd.DataFrame) -> pd.DataFrame:
    """Forecasts of every session after FITTED, with their outcomes."""
    family = families.find(model)
    settings = {"fit_until": "2012-12-28", "choose_until": FITTED, "report_until": UNTIL}
    config = configs.load_config(family, settings)
    config = replace(config, horizon=HORIZON)
    silent = SimpleNamespace(report=lambda *_: None)
    trained = families.fit(family, config, panel, seed=0, run=silent)
    context = family.spec(config).min_context
    origins = origins_between(panel, FITTED, UNTIL, HORIZON, context=context)
    return rolling(trained.forecaster, panel, origins, HORIZON, levels=names.LEVELS)


def _figures(learner: Learner, nights: Sequence[Night]) -> Mapping[str, Mapping[str, float]]:
    """Figures of the raw forecasts and of those issued, with the planted cases."""
    true = fold(learner, nights, keep=(*BREAKS, *SIX))
    issued = _scores(true.rows, "")
    issued |= _of_break(learner, nights, true) | _of_bias(learner, nights, true)
    issued |= _of_poison(learner, nights, true) | _of_delisting(learner, nights, true)
    issued |= {"clipped": true.clipped, "rejected": true.rejected}
    return {"raw": _scores(true.rows, "raw_"), "issued": issued}


def _scores(rows: pd.DataFrame, kind: str) -> dict[str, float]:
    covered, crps = f"{kind}covered", f"{kind}crps"
    by_step = rows.groupby("step")[covered].mean()
    by_symbol = rows.groupby(["step", "symbol"])[covered].mean()
    first = rows[rows["step"] == 1].groupby("session")[covered].mean()
    steps = rows.groupby("step")
    change = steps[crps].mean() / steps["raw_crps"].mean() - 1
    sessions = rows.groupby("session")
    differences = (sessions[crps].mean() - sessions["raw_crps"].mean()).to_numpy()
    scores = {
        "crps_p": diebold_mariano(differences, HORIZON).p,
        "coverage_step_1": by_step[1],
        "coverage_lowest": by_step.min(),
        "coverage_highest": by_step.max(),
        "symbol_gap": (by_symbol - 0.9).abs().max(),
        "worst_window": first.rolling(WINDOW).mean().min(),
        "crps_change": rows[crps].mean() / rows["raw_crps"].mean() - 1,
        "crps_change_step_1": change[1],
        "crps_change_step_5": change[HORIZON],
    }
    return {name: round(float(value), 5) for name, value in scores.items()}


# --- planted cases ----------------------------------------------------------------------------


def _of_break(learner: Learner, nights: Sequence[Night], true: Fold) -> dict[str, float]:
    """Sessions until the coverage of 20 sessions is at least 0.88 again, and that of later ones."""
    paths = []
    for start in BREAKS:
        planted = broken(nights[start : start + AFTER], nights[start - 1])
        paths.append(_path(fold(learner, planted, true.memories[start]).rows, "covered"))
    covered = np.mean(paths, axis=0)
    trailing = np.convolve(covered, np.ones(20) / 20, "valid")
    recovered = np.flatnonzero(trailing >= 0.88)
    return {
        "break_recovered": float(recovered[0] + 20) if recovered.size else NEVER,
        "break_81_100": round(float(covered[80:100].mean()), 4),
        "break_101_140": round(float(covered[100:].mean()), 4),
    }


def _of_bias(learner: Learner, nights: Sequence[Night], true: Fold) -> dict[str, float]:
    """Coverage, and share of outcomes below the median, 81 to 100 sessions after a bias."""
    covered, below = [], []
    for start in SIX:
        planted = biased(nights[start : start + SHORT])
        rows = fold(learner, planted, true.memories[start]).rows
        covered.append(_path(rows, "covered")[80:])
        below.append(_path(rows, "below_median")[80:])
    return {
        "bias_81_100": round(float(np.mean(covered)), 4),
        "bias_below_median": round(float(np.mean(below)), 4),
    }


def _of_poison(learner: Learner, nights: Sequence[Night], true: Fold) -> dict[str, float]:
    """Largest change of the coverage of the next 60 sessions that one poisoned night makes."""
    changes = []
    for start in SIX:
        planted = poisoned(nights[start : start + 61])
        rows = fold(learner, planted, true.memories[start]).rows
        unpoisoned = _path(true.rows, "covered")[start + 1 : start + 61].mean()
        changes.append(abs(_path(rows, "covered")[1:].mean() - unpoisoned))
    return {"poison": round(float(max(changes)), 4)}


def _of_delisting(learner: Learner, nights: Sequence[Night], true: Fold) -> dict[str, float]:
    """Largest change of the other symbols' coverage in 100 sessions after one is delisted."""
    changes = []
    symbol = nights[0].matured[0].symbols[0]
    others = true.rows[true.rows["symbol"] != symbol]
    for start in SIX:
        planted = without(nights[start : start + SHORT], symbol)
        rows = fold(learner, planted, true.memories[start]).rows
        listed = _path(others, "covered")[start : start + SHORT].mean()
        changes.append(abs(_path(rows, "covered").mean() - listed))
    return {"delisted": round(float(max(changes)), 4)}


def _path(rows: pd.DataFrame, column: str) -> np.ndarray:
    """Mean over the symbols at step 1, by session."""
    first = rows[rows["step"] == 1]
    return first.groupby("session")[column].mean().to_numpy()


# --- speed ------------------------------------------------------------------------------------


def _night_of_5000(method: str) -> float:
    """Shortest seconds of one night with 5,000 symbols, 5 steps and 11 levels."""
    rng = np.random.default_rng(0)
    symbols = tuple(f"S{number:04d}" for number in range(5000))
    sectors = {symbol: f"sector {number % 11}" for number, symbol in enumerate(symbols)}
    shape = 0.01 * ndtri(np.array(names.LEVELS))
    learner = Learner(method, names.LEVELS, HORIZON, sectors)
    memory, seconds = learner.start(), []
    for day in range(1, 9):
        matured = []
        for step in range(1, HORIZON + 1):
            quantiles = rng.uniform(0.8, 1.2, (5000, 1)) * shape
            matured.append(Matured(step, symbols, rng.normal(0, 0.01, 5000), quantiles))
        night = Night(date(2020, 1, day), tuple(matured))
        start = time.perf_counter()
        memory = learner.learn(memory, night).memory
        seconds.append(time.perf_counter() - start)
    return min(seconds)


# --- the table --------------------------------------------------------------------------------


def _heading() -> str:
    return f"{'':14}" + "".join(f"{heading:>10}" for heading in COLUMNS.values())


def _line(label: str, figures: Mapping[str, float]) -> str:
    """One line; a figure that misses its goal has a star."""
    cells = []
    for name in COLUMNS:
        if name not in figures:
            cells.append(f"{'':>10}")
            continue
        value = figures[name]
        text = f"{100 * value:+.2f} %" if name.startswith("crps_change") else f"{value:.3g}"
        text = "never" if value == NEVER else text
        cells.append(f"{text + ('' if _meets(name, value) else '*'):>10}")
    return f"{label:14}" + "".join(cells)


def _meets(name: str, value: float) -> bool:
    low, high = GOALS.get(name, (-np.inf, np.inf))
    return bool(low <= value <= high)


def _missed(figures: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Goals that the default method misses."""
    missed = []
    for label, of_label in figures.items():
        if not label.endswith(METHODS[0]):
            continue
        for name, value in of_label.items():
            if not _meets(name, value):
                missed.append(f"{label} {name} {value:g}")
    return missed


if __name__ == "__main__":
    main()
