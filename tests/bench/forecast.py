"""Direct forecast against NeuralForecast.predict, frame in to frame out, at 1 and 500 series; loading a version.

    make bench ONLY=forecast

Both sides run the same barely trained network on the same windows of real returns, alternating in one process; their
answers are compared before anything is timed. Direct is frame to arrays, forward pass, session dates, frame; neither
side checks its input. Beside it, the same with the contract's checks: what a request costs inside the pyfunc.
"""

import json
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import numpy.testing as npt
import pandas as pd
import torch
from neuralforecast import NeuralForecast

from jobs.data import processed
from jobs.data.compile import compile_builtin
from jobs.training import families, train
from mlprojects.nixtla.model import WindowForecaster
from mlprojects.nixtla.networks import network
from registry.forecast import calendars, names, rendering
from registry.forecast.answer import answer
from registry.forecast.history import History
from registry.settings import Settings
from registry.versions.store import Store

GOAL, GOAL_WITH_CHECKS = 15.0, 10.0
LOAD_GOAL_S = 1.0
CALLS = 10
PAIRS = {1: 10, 500: 5}


def histories(panel: pd.DataFrame, n: int, context: int) -> pd.DataFrame:
    """Real windows [n * context] under made-up names: stock i modulo 20, shifted back by one session each round."""
    by_stock = [frame for _, frame in panel.groupby(names.UNIQUE_ID, observed=True)]
    windows = []
    for i in range(n):
        stock = by_stock[i % len(by_stock)]
        end = len(stock) - i // len(by_stock)
        windows.append(stock[names.Y].to_numpy()[end - context : end])
    symbols = np.repeat([f"S{i:04d}" for i in range(n)], context)
    last = np.tile(by_stock[0][names.DS].tail(context).to_numpy(), n)
    return pd.DataFrame(
        {names.UNIQUE_ID: symbols, names.DS: last, names.Y: np.concatenate(windows)}
    )


def direct(forecaster: WindowForecaster, frame: pd.DataFrame) -> pd.DataFrame:
    """Frame in, frame out, nothing checked."""
    spec = forecaster.spec
    forecast = forecaster.predict(History.of(frame), spec.request())
    sessions = calendars.next_sessions_many(spec.calendar, forecast.cutoffs, forecast.horizon)
    return rendering.frame(forecast, sessions)


def alternate(
    one: Callable[[], object], other: Callable[[], object], pairs: int
) -> tuple[float, float]:
    """Median seconds of a call of each. They run in turn, CALLS at a time, as a process that forecasts does."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(pairs):
        for run, kept in zip((one, other), times, strict=True):
            for _ in range(CALLS):
                begun = time.perf_counter()
                run()
                kept.append(time.perf_counter() - begun)
    return statistics.median(times[0]), statistics.median(times[1])


def main() -> None:
    torch.set_num_threads(1)  # both sides: a second thread only adds noise at these sizes
    for name in list(logging.root.manager.loggerDict):
        if "lightning" in name:
            logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")  # Lightning's about its own trainer, at every predict
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(var_dir=Path(folder))
        compile_builtin(settings)
        panel = processed.load_panel(settings)
        found = families.find("nbeats")
        config = families.load_config(found, {})
        spec = found.spec(config)
        quiet = {
            "enable_progress_bar": False,
            "logger": False,
            "enable_model_summary": False,
            "enable_checkpointing": False,
        }
        net = network(spec, config.shape, max_steps=1, accelerator="cpu", **quiet)
        library = NeuralForecast(models=[net], freq=1)
        library.fit(numbered(panel[list(names.HISTORY)]))
        forecaster = WindowForecaster(spec, config.shape, library.models[0].eval())
        ratios, with_checks, seconds = {}, {}, {}
        for n, pairs in PAIRS.items():
            history = histories(panel, n, config.context)
            sessions = numbered(history)
            ours, theirs = (
                partial(direct, forecaster, history),
                partial(library.predict, df=sessions),
            )
            compare(ours(), theirs())
            fast, slow = alternate(ours, theirs, pairs)
            checked, again = alternate(partial(answer, forecaster, history, {}), theirs, pairs)
            ratios[f"nbeats_{n}"], seconds[f"nbeats_{n}"] = slow / fast, fast
            with_checks[f"nbeats_{n}"] = again / checked
            print(
                f"{n:>4} series: direct {1e3 * fast:7.2f} ms   NeuralForecast.predict {1e3 * slow:7.2f} ms   "
                f"{slow / fast:5.1f} x (goal {GOAL:g}); with checks {again / checked:.1f} x (goal {GOAL_WITH_CHECKS:g})"
            )
        seconds["load"] = _load_seconds(settings)
        print(
            f"load of a verified version: {seconds['load']:.3f} s beyond imports (goal {LOAD_GOAL_S:g})"
        )
    print(
        json.dumps(
            {
                "bench": "forecast",
                "ratios": ratios,
                "ratios_with_checks": with_checks,
                "seconds": seconds,
            }
        )
    )


def numbered(history: pd.DataFrame) -> pd.DataFrame:
    """Sessions as 0..: a date frequency would count holidays."""
    return history.assign(**{names.DS: history.groupby(names.UNIQUE_ID).cumcount()})


def compare(ours: pd.DataFrame, theirs: pd.DataFrame) -> None:
    """Same quantiles, theirs unsorted and in float32."""
    q = [c for c in theirs.columns if c not in (names.UNIQUE_ID, names.DS)]
    expected = np.sort(theirs.sort_values([names.UNIQUE_ID, names.DS])[q].to_numpy(), axis=1)
    found = ours[[c for c in ours.columns if c.startswith("q")]].to_numpy()
    npt.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)


def _load_seconds(settings: Settings) -> float:
    """Median time to find, verify and load a tiny version, after everything was imported by a first load."""
    what = train.plan(settings, "nbeats", {"report_until": "2020-02-28"}, seed=0, tiny=True)
    version = train.train(settings, what, train.Reference()).version
    store, times = Store(settings), []
    for _ in range(6):
        begun = time.perf_counter()
        store.load(f"nbeats/{version.version}").close()
        times.append(time.perf_counter() - begun)
    return statistics.median(times[1:])


if __name__ == "__main__":
    main()
