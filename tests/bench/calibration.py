"""Figures of each method of calibration on real prices, and on planted cases.

    make bench ONLY=calibration     fhs and har
    make readme-calibration         with the yearly trained ensemble, into jobs/README.md

Versions that were trained until 2012 (of the ensemble: one for each year) are issued in every
session of 2013 to 2022, matured and calibrated by the jobs. The figures are of the nights that the
ledger then holds, learned again one by one; what is published in the end must be what the job
published, bit by bit. Everything is as issued: by what was known before the cutoff.
"""

import json
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from calibration_figures import NEVER, Learned, figures, meets, missed
from calibration_issued import check_published, issued
from scipy.special import ndtri

from registry.forecast import names
from registry.scoring.learning.learner import DEFAULT, METHODS, Learner
from registry.scoring.learning.nights import Matured, Night
from registry.settings import Settings

MODELS = ("fhs", "har")
HORIZON = 5
COLUMNS = {  # of the table, and their headings
    "coverage_step_1": "cov 1", "coverage_lowest": "lowest", "coverage_highest": "highest",
    "symbol_gap": "symbol", "worst_window": "worst", "crps_change": "crps",
    "crps_change_step_1": "crps 1", "crps_change_step_5": "crps 5", "crps_p": "p",
    "break_recovered": "break", "break_81_100": "81-100", "break_101_140": "101-140",
    "bias_81_100": "bias",
    "bias_below_median": "median", "poison": "poison", "delisted": "delisted",
}  # fmt: skip


def main() -> None:
    """Arguments: a folder that is kept, and models. None: a temporary one, MODELS."""
    folder, *models = sys.argv[1:] or ["", *MODELS]
    report: dict[str, Any] = {"bench": "calibration", "default": DEFAULT}
    report |= {"versions": {}, "refused": [], "seconds": {}, "figures": {}}
    with tempfile.TemporaryDirectory() as temporary:
        settings = Settings(var_dir=Path(folder or temporary).absolute())
        print(_heading(), flush=True)
        for model in models:
            _add(report, settings, model)
    for method in METHODS:
        report["seconds"][f"night_of_5000_{method}"] = round(_night_of_5000(method), 4)
    report["missed"] = missed(report["figures"])
    print(json.dumps(report))


def _add(report: dict[str, Any], settings: Settings, model: str) -> None:
    """Add the figures of a model, raw and by each method, and print them."""
    start = time.perf_counter()
    versions = issued(settings, model)
    report["versions"][model] = len(versions)
    report["seconds"][f"{model}_issued"] = round(time.perf_counter() - start, 1)
    for method in METHODS:
        start = time.perf_counter()
        learned = [Learned.of(version.learner(method), version.nights) for version in versions]
        for version, one in zip(versions, learned, strict=True):
            if not check_published(settings, version, one.true.last):
                report["refused"].append(f"{model}/{version.scope.version} {method}")
        of_method = figures(learned)
        report["seconds"][f"{model}_{method}"] = round(time.perf_counter() - start, 1)
        if method == METHODS[0]:
            report["figures"][f"{model} raw"] = of_method["raw"]
            print(_line(f"{model} raw", of_method["raw"]), flush=True)
        report["figures"][f"{model} {method}"] = of_method["issued"]
        print(_line(f"{model} {method}", of_method["issued"]), flush=True)


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
        cells.append(f"{text + ('' if meets(name, value) else '*'):>10}")
    return f"{label:14}" + "".join(cells)


if __name__ == "__main__":
    main()
