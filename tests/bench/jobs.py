"""Times the nightly jobs: 5,000 simulated symbols on one night, and ten years of the real panel.

    make bench ONLY=jobs

Each job is a program of its own, imports included: seconds, and the most memory it held. Then the
learning of a night beside a plain loop over its rows, in one process and alternating.
"""

import json
import tempfile
from pathlib import Path

import pandas as pd
from data import FIRST, log_har, run, write_set

from registry.forecast import calendars
from registry.settings import Settings

LARGE = ["--data", "large"]
SESSIONS = 700  # of the large set; har needs 564
NIGHTS, STEPS = 90, 5
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
    peaks = {job: round(peak, 2) for job, (_, peak) in measured.items()}
    print(json.dumps({"bench": "jobs", "seconds": seconds, "peak_gb": peaks, "totals": totals}))


if __name__ == "__main__":
    main()
