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
GOALS = {  # seconds
    "compile_parquet": 60.0,
    "compile_csv": 120.0,
    "append": 5.0,
    "forecast_5000": 60.0,
}
RATIO_GOAL = 5.0  # plain pandas' seconds for the CSV file by those of compile_csv
SIMULATED = f"""
    SELECT 'S' || lpad(i::VARCHAR, 4, '0') AS unique_id, ds,
           0.01 * sqrt(-2 * ln(1 - random())) * cos(2 * pi() * random()) AS y
    FROM range({SYMBOLS}) AS symbols(i), days ORDER BY unique_id, ds
"""


def forecast_5000(settings: Settings) -> tuple[float, float]:
    """`jobs forecast har` of all symbols to CSV, from a set and a version that exist."""
    write_set(settings)
    log_har(settings)
    target = settings.var_dir / "forecasts.csv"
    measured = run(
        settings, ["forecast", "har/1", "--data", "large", "--output", "csv", "--to", str(target)]
    )
    rows = len(pd.read_csv(target))
    if rows != 5 * SYMBOLS:
        raise RuntimeError(f"found {rows} rows of forecasts, expected {5 * SYMBOLS}")
    return measured


def compile_parquet(settings: Settings) -> tuple[float, float]:
    """`jobs compile` of simulated bars in one Parquet file."""
    return run(settings, _compile(_write_bars(settings, "parquet"), "parquet"))


def compile_csv(settings: Settings) -> tuple[float, float]:
    """`jobs compile` of the same bars in one CSV file."""
    return run(settings, _compile(_write_bars(settings, "csv"), "csv"))


def append(settings: Settings) -> tuple[float, float]:
    """`jobs compile --append` of one session and the one before it, which the set has."""
    bars = _write_bars(settings, "parquet")
    with duckdb.connect() as connection:
        last = f"(SELECT max(date) FROM '{bars}')"
        old, new = bars.with_name("old.parquet"), bars.with_name("new.parquet")
        connection.execute(f"COPY (FROM '{bars}' WHERE date < {last}) TO '{old}'")
        connection.execute(f"COPY (FROM '{bars}' WHERE date >= {last} - 5) TO '{new}'")
    run(settings, _compile(old, "parquet"))
    return run(settings, [*_compile(new, "parquet"), "--append"])


def plain_pandas(settings: Settings) -> tuple[float, float]:
    """The same set from the CSV file by plain pandas, without any check."""
    return _watched(settings, [sys.executable, "-c", PANDAS, str(_write_bars(settings, "csv"))])


OPERATIONS: dict[str, Callable[[Settings], tuple[float, float]]] = {
    "compile_parquet": compile_parquet,
    "compile_csv": compile_csv,
    "append": append,
    "forecast_5000": forecast_5000,
}

PANDAS = """
import sys
import numpy as np, pandas as pd
bars = pd.read_csv(sys.argv[1], parse_dates=["date"]).sort_values(["symbol", "date"])
bars["y"] = np.log(bars["close"] / bars.groupby("symbol")["close"].shift())
bars = bars[bars["y"].notna()]
bars["amount"] = bars[["open", "high", "low", "close"]].mean(axis=1) * bars["volume"]
market = bars.assign(size=bars["y"].abs()).groupby("date")[["size", "y"]].mean()
bars = bars.merge(market.add_prefix("market_"), on="date").sort_values(["date", "symbol"])
for year, rows in bars.groupby(bars["date"].dt.year):
    rows.to_parquet(f"{sys.argv[1]}.{year}.parquet", index=False)
"""
BARS = f"""
    SELECT 'S' || lpad(i::VARCHAR, 4, '0') AS symbol, ds AS date, close * (1 - 0.005 * a) AS open,
           close * (1 + 0.01 * b) AS high, close * (1 - 0.01 * a) AS low, close,
           round(1e6 * (1 + b)) AS volume
    FROM (
        SELECT i, ds, random() AS a, random() AS b,
               100 * exp(sum(0.02 * (random() + random() - 1)) OVER (PARTITION BY i ORDER BY ds))
                   AS close
        FROM range({SYMBOLS}) AS symbols(i), days
    ) ORDER BY symbol, date
"""


# A child's peak begins with its parent's memory, so a small program starts it and reads the peak.
WATCHER = (
    "import resource, subprocess, sys; subprocess.run(sys.argv[1:], stdout=2, check=True); "
    "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
)


def run(settings: Settings, words: Sequence[str]) -> tuple[float, float]:
    """Seconds and peak memory (GB) of `python -m jobs WORDS`."""
    return _watched(settings, [sys.executable, "-m", "jobs", *words])


def _watched(settings: Settings, command: Sequence[str]) -> tuple[float, float]:
    environment = os.environ | {"KRONOS_VAR_DIR": str(settings.var_dir)}
    begun = time.perf_counter()
    watched = subprocess.run(
        [sys.executable, "-c", WATCHER, *command],
        env=environment,
        stdout=subprocess.PIPE,
        check=True,
    )
    return time.perf_counter() - begun, int(watched.stdout) / 2**20


def _compile(bars: Path, kind: str) -> list[str]:
    source = ["--source", kind, "--from", str(bars)]
    return ["compile", *source, "--name", "bars_of_bench", "--adjusted", "yes"]


def _write_bars(settings: Settings, suffix: str) -> Path:
    """Simulated bars, raw and adjusted alike, in one file of long form."""
    path = settings.var_dir / f"bars.{suffix}"
    days = calendars.next_sessions("XNYS", pd.Timestamp(FIRST), SESSIONS)
    with duckdb.connect(config={"memory_limit": "4GB"}) as connection:
        connection.execute("SELECT setseed(0.5)").fetchall()
        connection.register("given", pd.DataFrame({names.DS: days}))
        connection.execute("CREATE TABLE days AS SELECT ds::DATE AS ds FROM given")
        connection.execute(f"COPY ({BARS}) TO '{path}'")
    return path


def write_set(settings: Settings, sessions: int = SESSIONS) -> None:
    """The data set `large`: simulated returns and closes, with market columns."""
    days = calendars.next_sessions("XNYS", pd.Timestamp(FIRST), sessions)
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
        splits = Splits(f"{days[sessions // 2]:%Y-%m-%d}", f"{days[sessions * 3 // 4]:%Y-%m-%d}")
        facts = sets.Facts("large", "closes", columns, "XNYS", universe, splits)
        sets.write(settings, facts, connection, "rows")


def log_har(settings: Settings) -> None:
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
    with tempfile.TemporaryDirectory() as folder:
        took, memory = plain_pandas(Settings(var_dir=Path(folder)))
    ratio = round(took / seconds["compile_csv"], 2)
    print(f"plain pandas: {took:.1f} s, peak {memory:.2f} GB: {ratio} times (goal {RATIO_GOAL:g})")
    ratios = {"csv_vs_pandas": ratio}
    print(json.dumps({"bench": "data", "seconds": seconds, "peak_gb": peak_gb, "ratios": ratios}))


if __name__ == "__main__":
    main()
