"""Times the work on a user's data set of 5,000 symbols and 2,500 sessions; one function per key.

    make bench ONLY=data

Each operation is a program of its own, imports included: seconds, and the most memory it held. To
add an operation, add a function to OPERATIONS.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import duckdb
import pandas as pd

from jobs.data import catalog, sets
from jobs.data.compile import compile_builtin
from jobs.data.dataset import Splits
from jobs.data.market import MEMBERS, Universe
from jobs.training import configs, families
from jobs.training.references import Unwatched
from registry.forecast import calendars, names
from registry.settings import Settings
from registry.versions import tracking
from registry.versions.store import Store, example_history

SYMBOLS, SESSIONS = 5000, 2500
FIRST = "2013-01-02"
GOALS = {"forecast_5000": 60.0}  # seconds
SIMULATED = f"""
    SELECT 'S' || lpad(i::VARCHAR, 4, '0') AS unique_id, ds,
           0.01 * sqrt(-2 * ln(1 - random())) * cos(2 * pi() * random()) AS y
    FROM range({SYMBOLS}) AS symbols(i), days ORDER BY unique_id, ds
"""


def forecast_5000(settings: Settings) -> tuple[float, float]:
    """`jobs forecast har` of all symbols to CSV, from a set and a version that exist."""
    _write_set(settings)
    _log_har(settings)
    target = settings.var_dir / "forecasts.csv"
    measured = run(
        settings, ["forecast", "har/1", "--data", "large", "--output", "csv", "--to", str(target)]
    )
    rows = len(pd.read_csv(target))
    if rows != 5 * SYMBOLS:
        raise RuntimeError(f"found {rows} rows of forecasts, expected {5 * SYMBOLS}")
    return measured


OPERATIONS: dict[str, Callable[[Settings], tuple[float, float]]] = {
    "forecast_5000": forecast_5000,
}


# A child's peak begins with its parent's memory, so a small program starts it and reads the peak.
WATCHER = (
    "import resource, subprocess, sys; subprocess.run(sys.argv[1:], stdout=2, check=True); "
    "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
)


def run(settings: Settings, words: Sequence[str]) -> tuple[float, float]:
    """Seconds and peak memory (GB) of `python -m jobs WORDS`."""
    environment = os.environ | {"KRONOS_VAR_DIR": str(settings.var_dir)}
    command = [sys.executable, "-m", "jobs", *words]
    begun = time.perf_counter()
    watched = subprocess.run(
        [sys.executable, "-c", WATCHER, *command],
        env=environment,
        stdout=subprocess.PIPE,
        check=True,
    )
    return time.perf_counter() - begun, int(watched.stdout) / 2**20


def _write_set(settings: Settings) -> None:
    """The data set `large`: simulated returns and closes, with market columns."""
    days = calendars.next_sessions("XNYS", pd.Timestamp(FIRST), SESSIONS)
    with duckdb.connect() as connection:
        connection.execute("SELECT setseed(0.5)").fetchall()
        connection.register("given", pd.DataFrame({names.DS: days}))
        connection.execute("CREATE TABLE days AS SELECT ds::DATE AS ds FROM given")
        connection.execute(f"CREATE TABLE returns AS {SIMULATED}")
        connection.execute(
            "CREATE TABLE market AS SELECT ds, avg(abs(y)) AS market_abs_return, "
            f"avg(y) AS index_return, count(*) AS {MEMBERS} FROM returns GROUP BY ds"
        )
        connection.execute(
            "CREATE TABLE rows AS SELECT *, 100 * exp(10 * y) AS close FROM returns JOIN market "
            "USING (ds)"
        )
        columns = (*names.HISTORY, "close", *names.MARKET, MEMBERS)
        symbols = tuple(f"S{i:04d}" for i in range(SYMBOLS))
        universe = Universe(f"large-{SYMBOLS}", symbols)
        splits = Splits(f"{days[-700]:%Y-%m-%d}", f"{days[-400]:%Y-%m-%d}")
        facts = sets.Facts("large", "closes", columns, "XNYS", universe, splits)
        sets.write(settings, facts, connection, "rows")


def _log_har(settings: Settings) -> None:
    """har/1, fitted on the panel; no tag names its universe, so it forecasts any data set."""
    compile_builtin(settings)
    panel = catalog.PANEL.load(settings).history
    model = families.find("har")
    config = replace(configs.load_config(model, {}), data="panel", calendar="XNYS")
    unwatched = Unwatched(Path(os.devnull))
    forecaster = families.fit(model, config, panel, seed=0, run=unwatched).forecaster
    spec = forecaster.spec
    with tracking.start(settings, "train", "har"):
        Store(settings).log(
            spec,
            lambda folder: model.family.save(forecaster, folder),
            requirements=model.family.requirements,
            example=example_history(panel, spec),
            tags={"family": "baselines"},
        )


def main() -> None:
    seconds, peak_gb = {}, {}
    for name, operation in OPERATIONS.items():
        with tempfile.TemporaryDirectory() as folder:
            took, memory = operation(Settings(var_dir=Path(folder)))
        seconds[name], peak_gb[name] = round(took, 2), round(memory, 2)
        print(f"{name}: {took:.1f} s (goal {GOALS[name]:g}), peak {memory:.2f} GB")
    print(json.dumps({"bench": "data", "seconds": seconds, "peak_gb": peak_gb}))


if __name__ == "__main__":
    main()
