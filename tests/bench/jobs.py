"""Times the nightly jobs: 5,000 simulated symbols on one night, and ten years of the real panel.

    make bench ONLY=jobs

Each job is a program of its own, imports included: seconds, and the most memory it held. Then the
learning of a night beside a plain loop over its rows, in one process and alternating.
"""

import json
import tempfile
import time
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
from data import FIRST, SYMBOLS, log_har, run, write_set
from scipy.special import ndtri
from tracking_reference import Loop

from registry.forecast import calendars, names
from registry.scoring.learning.learner import Learner
from registry.scoring.learning.nights import Matured, Night
from registry.settings import Settings

LARGE = ["--data", "large"]
SESSIONS = 700  # of the large set; har needs 564
NIGHTS, STEPS = 90, 5
SECTORS = 11
TURNS = 5  # nights that the learner and the loop learn in turn, after as many to begin with
RATIO_GOAL = 20.0  # seconds of the loop by those of the learner
GOALS = {"issue_5000": 60.0, "mature_and_calibrate_5000": 10.0, "ten_years": 300.0}  # seconds
Measured = dict[str, tuple[float, float]]  # seconds and peak memory (GB) by job


def large(settings: Settings) -> Measured:
    """Issue one night of all symbols; then mature and calibrate NIGHTS nights."""
    write_set(settings, SESSIONS)
    log_har(settings)
    run(settings, ["data", "load", "large"])
    days = calendars.next_sessions("XNYS", pd.Timestamp(FIRST), SESSIONS)
    until = -1 - STEPS  # the last cutoff whose steps have all matured
    since, last = (f"{days[place]:%Y-%m-%d}" for place in (until - NIGHTS + 1, until))
    issuing = ["forecast", "har/1", "--issue", *LARGE]
    measured = {"issue_5000": run(settings, [*issuing, "--as-of", f"{days[-1]:%Y-%m-%d}"])}
    measured["issue_90_nights"] = run(settings, [*issuing, "--from", since, "--to", last])
    measured["mature_90_nights"] = run(settings, ["mature", *LARGE])
    measured["calibrate_90_nights"] = run(settings, ["calibrate", "har/1", *LARGE])
    return measured


def ten_years(settings: Settings) -> Measured:
    """All nights of 2013 to 2022 of the panel's 20 stocks."""
    log_har(settings)
    run(settings, ["data", "load", "panel"])
    years = ["--from", "2013-01-02", "--to", "2022-12-28"]
    issuing = ["forecast", "har/1", "--issue", "--data", "panel", *years]
    return {
        "issue_ten_years": run(settings, issuing),
        "mature_ten_years": run(settings, ["mature", "--data", "panel"]),
        "calibrate_ten_years": run(settings, ["calibrate", "har/1", "--data", "panel", *years]),
    }


def calibrate_vs_loop() -> float:
    """Fewest seconds of a night by a loop over its rows, by the fewest of the learner."""
    symbols = tuple(f"S{number:04d}" for number in range(SYMBOLS))
    sectors = {symbol: f"Sector {place % SECTORS}" for place, symbol in enumerate(symbols)}
    learner = Learner("tracking", names.LEVELS, STEPS, sectors)
    loop = Loop(names.LEVELS, STEPS, sectors)
    memory = learner.start()
    fast, slow = [], []
    for number in range(2 * TURNS):
        night = _night(number, symbols)
        begun = time.perf_counter()
        memory = learner.learn(memory, night).memory
        between = time.perf_counter()
        loop.learn(night)
        fast.append(between - begun)
        slow.append(time.perf_counter() - between)
    return min(slow[TURNS:]) / min(fast[TURNS:])


def _night(number: int, symbols: tuple[str, ...]) -> Night:
    """Normal forecasts and outcomes of all steps, of different widths."""
    rng = np.random.default_rng(number)
    matured = []
    for step in range(1, STEPS + 1):
        width = 0.01 * np.exp(0.3 * rng.standard_normal(len(symbols)))
        y = width * rng.standard_normal(len(symbols))
        matured.append(Matured(step, symbols, y, width[:, None] * ndtri(names.LEVELS)))
    return Night(date(2013, 1, 2) + timedelta(days=number), tuple(matured))


def main() -> None:
    measured: Measured = {}
    for operations in (large, ten_years):
        with tempfile.TemporaryDirectory() as folder:
            some = operations(Settings(var_dir=Path(folder)))
        for job, (seconds, peak) in some.items():
            print(f"{job}: {seconds:.1f} s, peak {peak:.2f} GB", flush=True)
        measured |= some
    seconds = {job: round(one, 2) for job, (one, _) in measured.items()}
    totals = {
        "issue_5000": seconds["issue_5000"],
        "mature_and_calibrate_5000": sum(
            seconds[f"{job}_90_nights"] for job in ("mature", "calibrate")
        ),
        "ten_years": sum(value for job, value in seconds.items() if job.endswith("ten_years")),
    }
    for name, goal in GOALS.items():
        print(f"{name}: {totals[name]:.1f} s (goal {goal:g})")
    ratio = calibrate_vs_loop()
    print(f"a loop over rows: {ratio:.1f} times the learner (goal {RATIO_GOAL:g})")
    peaks = {job: round(peak, 2) for job, (_, peak) in measured.items()}
    report = {"bench": "jobs", "seconds": seconds, "peak_gb": peaks, "totals": totals}
    print(json.dumps(report | {"ratios": {"calibrate_vs_loop": round(ratio, 1)}}))


if __name__ == "__main__":
    main()
