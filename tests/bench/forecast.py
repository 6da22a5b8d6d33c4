"""Times the direct forecast against NeuralForecast.predict at 1 and 500 series, and a load.

    make bench ONLY=forecast

Both sides take a frame and return a frame. They run the same barely trained network on the same
windows of real returns, alternating in one process; their forecasts are compared before anything is
timed. The direct side is frame to arrays, forward pass, session dates, frame; neither side checks
its input. The direct side is also timed with the contract's checks, as a request in the pyfunc.
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

from jobs.data import catalog
from jobs.data.compile import compile_builtin
from jobs.training import configs, families, planning, train
from jobs.training.references import References
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
PAIRS = {1: 10, 500: 5}  # series: repetitions
# Options of Lightning's trainer that print or write.
TALK = ("enable_progress_bar", "logger", "enable_model_summary", "enable_checkpointing")


def histories(panel: pd.DataFrame, n: int, context: int) -> pd.DataFrame:
    """Real windows [n * context] under made-up names.

    Window i is of stock i modulo their number; each round starts one session earlier.
    """
    by_stock = [frame for _, frame in panel.groupby(names.UNIQUE_ID, observed=True)]
    windows = []
    for i in range(n):
        stock = by_stock[i % len(by_stock)]
        end = len(stock) - i // len(by_stock)
        windows.append(stock[names.Y].to_numpy()[end - context : end])
    symbols = np.repeat([f"S{i:04d}" for i in range(n)], context)
    ds = np.tile(by_stock[0][names.DS].tail(context).to_numpy(), n)
    y = np.concatenate(windows)
    return pd.DataFrame({names.UNIQUE_ID: symbols, names.DS: ds, names.Y: y})


def direct(forecaster: WindowForecaster, frame: pd.DataFrame) -> pd.DataFrame:
    """A forecast without the contract's checks."""
    spec = forecaster.spec
    forecast = forecaster.predict(History.of(frame), spec.request())
    sessions = calendars.next_sessions_many(spec.calendar, forecast.cutoffs, forecast.horizon)
    return rendering.frame(forecast, sessions)


def alternate(
    direct_call: Callable[[], object], library_call: Callable[[], object], pairs: int
) -> tuple[float, float]:
    """Median seconds of a call of each. They run in turn, CALLS calls at a time, as in a process
    that forecasts repeatedly."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(pairs):
        for run, seconds in zip((direct_call, library_call), times, strict=True):
            for _ in range(CALLS):
                begun = time.perf_counter()
                run()
                seconds.append(time.perf_counter() - begun)
    return statistics.median(times[0]), statistics.median(times[1])


def main() -> None:
    torch.set_num_threads(1)  # for both sides: a second thread only adds noise at these sizes
    for name in list(logging.root.manager.loggerDict):
        if "lightning" in name:
            logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")  # Lightning warns about its own trainer at every predict
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(var_dir=Path(folder))
        compile_builtin(settings)
        panel = catalog.PANEL.load(settings).history
        model = families.find("nbeats")
        config = configs.load_config(model, {})
        spec = model.spec(config)
        quiet = dict.fromkeys(TALK, False)
        net = network(spec, config.shape, max_steps=1, accelerator="cpu", **quiet)
        library = NeuralForecast(models=[net], freq=1)
        library.fit(numbered(panel[list(names.HISTORY)]))
        forecaster = WindowForecaster(spec, config.shape, library.models[0].eval())
        ratios, with_checks, seconds = {}, {}, {}
        for n, pairs in PAIRS.items():
            history = histories(panel, n, config.context)
            sessions = numbered(history)
            direct_call = partial(direct, forecaster, history)
            checked_call = partial(answer, forecaster, history, {})
            library_call = partial(library.predict, df=sessions)
            compare(direct_call(), library_call())
            fast, slow = alternate(direct_call, library_call, pairs)
            checked, slow_again = alternate(checked_call, library_call, pairs)
            key = f"nbeats_{n}"
            ratios[key], seconds[key] = slow / fast, fast
            with_checks[key] = slow_again / checked
            print(
                f"{n:>4} series: direct {1e3 * fast:7.2f} ms   "
                f"NeuralForecast.predict {1e3 * slow:7.2f} ms   "
                f"{ratios[key]:5.1f} x (goal {GOAL:g}); "
                f"with checks {with_checks[key]:.1f} x (goal {GOAL_WITH_CHECKS:g})"
            )
        seconds["load"] = _load_seconds(settings)
        print(
            f"load of a verified version: {seconds['load']:.3f} s beyond imports "
            f"(goal {LOAD_GOAL_S:g})"
        )
    result = {"bench": "forecast", "ratios": ratios, "ratios_with_checks": with_checks}
    print(json.dumps({**result, "seconds": seconds}))


def numbered(history: pd.DataFrame) -> pd.DataFrame:
    """The history with sessions 0, 1, ...: a date frequency would count holidays."""
    return history.assign(**{names.DS: history.groupby(names.UNIQUE_ID).cumcount()})


def compare(direct_frame: pd.DataFrame, library_frame: pd.DataFrame) -> None:
    """Same quantiles; the library's are unsorted and in float32."""
    columns = [name for name in library_frame.columns if name not in (names.UNIQUE_ID, names.DS)]
    ordered = library_frame.sort_values([names.UNIQUE_ID, names.DS])
    expected = np.sort(ordered[columns].to_numpy(), axis=1)
    quantiles = direct_frame[
        [name for name in direct_frame.columns if name.startswith("q")]
    ].to_numpy()
    npt.assert_allclose(quantiles, expected, rtol=1e-4, atol=1e-7)


def _load_seconds(settings: Settings) -> float:
    """Median time to find, verify and load a tiny version; the first load, with imports, is out."""
    plan = planning.plan(settings, "nbeats", {"report_until": "2020-02-28"}, seed=0, tiny=True)
    version = train.train(settings, plan, References()).version
    store = Store(settings)
    times = []
    for _ in range(6):
        begun = time.perf_counter()
        store.load(f"nbeats/{version.version}").close()
        times.append(time.perf_counter() - begun)
    return statistics.median(times[1:])


if __name__ == "__main__":
    main()
