"""Counts wrong and failed answers of running gateways: all families, promotions, flips.

    make bench ONLY=serving_answers

Every number of every reply is compared with a direct forecast of the version that the reply names.
First 10,000 requests each go to nbeats, har and mlp, and hundreds to every other family, from 32
threads: symbols that repeat with other series, several symbols in one request, paths with seeds.
Then versions are promoted under load, one every 2.4 seconds for two minutes, and 50 times between
two warm versions. KRONOS_BENCH_SHARE=0.1 runs a tenth of all that.
"""

import json
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import load
import numpy as np
import pandas as pd
import psutil
from gateways import Gateway, running, wait_until
from load import TOLERANCE, Load

from jobs.data.catalog import Catalog
from jobs.data.compile import compile_builtin
from jobs.training import planning, train
from jobs.training.references import References
from mlprojects.baselines import model as baselines
from registry.forecast import calendars, names
from registry.forecast.spec import ModelSpec
from registry.promotion import moves
from registry.promotion.opening import open_ledger
from registry.settings import Settings
from registry.versions import tracking
from registry.versions.loaded import LoadedVersion
from registry.versions.store import Store, example_history

SHARE = float(os.environ.get("KRONOS_BENCH_SHARE", "1"))
GROUPS = (
    ("nbeats", "har", "kronos"),
    ("itransformer", "stemgnn", "tft"),
    ("graph", "ssm"),
    ("ensemble", "mlp"),
)
REQUESTS = {"nbeats": 10_000, "har": 10_000, "mlp": 10_000, "kronos": 100}
FEW = 500  # to each other model
THREADS = 32
OVERRIDES = {"report_until": "2020-02-28", "report_every": 10}
OF_KRONOS = {"report_until": "2011-03-31", "report_every": 20}
CONTEXTS = (60, 50, 40, 30, 20)  # sessions that versions of ewma look at
LAST = len(CONTEXTS)  # promoted when the others are through
PROMOTED_S, EVERY_S = 120.0, 2.4
FLIPS = 50
PATIENT = {"KRONOS_POLL_S": "0.2", "KRONOS_QUEUE_S": "30", "KRONOS_CALIBRATION_ENABLED": "0"}


def main() -> None:
    report: dict[str, Any] = {"bench": "serving_answers", "requests": {}}
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(var_dir=Path(folder))
        compile_builtin(settings)
        for models in GROUPS:
            for model in models:
                _train(settings, model)
            with running(settings, models, **PATIENT) as gateway:
                for model in models:
                    report["requests"][model] = _count(settings, gateway, model)
        report["promotions"] = _promotions(settings)
    print(json.dumps(report))


def _train(settings: Settings, model: str) -> None:
    overrides = OF_KRONOS if model == "kronos" else OVERRIDES
    plan = planning.plan(settings, model, overrides, seed=3, tiny=True)
    version = train.train(settings, plan, References()).version
    _promote(Store(settings), model, version.version)


def _promote(store: Store, model: str, version: int) -> None:
    with open_ledger(store) as ledger:
        moves.promote(store, ledger, model, version, who="bench", why="to be served")


# --- all families -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """A request, the history that its version sees, and parameters of the direct forecast."""

    body: dict[str, Any]
    history: pd.DataFrame
    parameters: dict[str, Any]


class Requests:
    """Windows of the data set that a version was trained on; series are rescaled at random."""

    def __init__(self, settings: Settings, spec: ModelSpec, data: str) -> None:
        self._spec = spec
        frame = Catalog().load(data, settings).history
        symbols = spec.universe or sorted(frame["unique_id"].unique())[:12]
        frame = frame[frame["unique_id"].isin(symbols)]
        self._series = dict(list(frame.groupby("unique_id")))
        self._symbols = list(symbols)
        columns = [*spec.columns, *spec.optional]
        self._bars = [name for name in names.BAR if name in columns and name in frame]
        known = {*names.HISTORY, *names.BAR}
        self._features = [name for name in columns if name not in known and name in frame]

    def draw(self, rng: np.random.Generator) -> Asked:
        spec = self._spec
        length = int(rng.integers(spec.min_context, spec.min_context + 20))
        end = int(rng.integers(length + 2, min(map(len, self._series.values()))))
        whole = spec.joint and not spec.subset
        number = len(self._symbols) if whole else int(rng.choice([1, 1, 1, 1, 1, 1, 3]))
        symbols = [str(name) for name in rng.choice(self._symbols, number, replace=False)]
        windows = {name: self._window(rng, name, length, end) for name in sorted(symbols)}
        horizon = int(rng.integers(1, spec.max_horizon + 1))
        parameters: dict[str, Any] = {"horizon": horizon, "seed": int(rng.integers(100))}
        items = [self._item(name, window) for name, window in windows.items()]
        body = items[0] if number == 1 else {"forecasts": items}
        first = 1 if self._bars else 0
        history = pd.concat([window.iloc[first:] for window in windows.values()])
        return Asked({"model": spec.name, **parameters, **body}, history, parameters)

    def _window(self, rng: np.random.Generator, symbol: str, length: int, end: int) -> pd.DataFrame:
        """Sessions of a symbol; with bars one more, on which they rest."""
        window = self._series[symbol].iloc[end - length - 1 : end].copy()
        if self._bars:
            window[names.Y] = np.log(window["close"]).diff()
            return window
        window[names.Y] *= rng.uniform(0.5, 1.5)
        return window.iloc[1:]

    def _item(self, symbol: str, window: pd.DataFrame) -> dict[str, Any]:
        days = window[names.DS].dt.strftime("%Y-%m-%d").tolist()
        item: dict[str, Any] = {"symbol": symbol, "ds": days}
        if self._bars:
            item["bars"] = {name: window[name].tolist() for name in self._bars}
        else:
            item["series"] = window[names.Y].tolist()
        if self._features:
            item["features"] = {name: window[name].tolist() for name in self._features}
        return item


def _count(settings: Settings, gateway: Gateway, model: str) -> dict[str, Any]:
    """Numbers of requests, and of wrong and failed answers."""
    number = int(SHARE * REQUESTS.get(model, FEW))
    rng = np.random.default_rng(17)
    with Store(settings).load(f"{model}/1") as version:
        drawn = Requests(settings, version.spec, gateway.models()[model]["data"])
        asked = [drawn.draw(rng) for _ in range(number)]
        begun = time.monotonic()
        with ThreadPoolExecutor(THREADS) as pool:
            replies = list(pool.map(lambda one: gateway.post("/forecast", one.body), asked))
        seconds = time.monotonic() - begun
        good = [reply.status_code == 200 for reply in replies]
        failures = [reply.text[:200] for reply in replies if reply.status_code != 200]
        largest = [
            _error(reply.json(), one, version)
            for reply, one, fine in zip(replies, asked, good, strict=True)
            if fine
        ]
    counts = {
        "requests": number,
        "failed": len(failures),
        "wrong": sum(not error <= TOLERANCE for error in largest),
        "largest_error": max(largest, default=0.0),
    }
    print(f"{model}: {counts} in {seconds:.0f} s", *failures[:1], flush=True)
    return counts


def _error(reply: dict[str, Any], asked: Asked, version: LoadedVersion) -> float:
    """The largest difference from the direct forecast; infinite if one is missing."""
    frame = version.forecast(asked.history, **asked.parameters)
    direct = frame.filter(regex="^(mean|q0)").to_numpy()
    rows = []
    for one in reply.get("forecasts", [reply]):
        for step, mean in one["yhat"].items():
            rows.append([mean, *one["q"][step].values()])
    if len(rows) != len(direct):
        return float("inf")
    return float(np.abs(np.array(rows) - direct).max())


# --- promotions -------------------------------------------------------------------------------


def _promotions(settings: Settings) -> dict[str, Any]:
    """Versions of ewma replace each other under load."""
    store = Store(settings)
    for context in CONTEXTS:
        _log(settings, store, context)
    _promote(store, "ewma", 1)
    rng = np.random.default_rng(5)
    bodies = [_body(rng) for _ in range(60)]
    expected = {}
    for number in range(1, len(CONTEXTS) + 1):
        with store.load(f"ewma/{number}") as version:
            expected[number] = load.expected(version, bodies)
    with running(settings, ["ewma"], **PATIENT) as gateway:
        resident = _resident(gateway)
        with Load(gateway, bodies, expected) as clients:
            _every(store, PROMOTED_S * SHARE)
            _promote(store, "ewma", LAST)
            last_s = _until_served(gateway, clients, LAST)
        report = {"promotions": _counts(clients), "last_served_after_warm_s": last_s}
        with _two_warm(store, gateway) as pair, Load(gateway, bodies, expected) as clients:
            slowest_s = _flip(store, clients, pair, int(FLIPS * SHARE))
        report |= {"flips": _counts(clients), "slowest_flip_s": slowest_s}
        report["resident_mb"] = [resident, _resident(gateway)]
    print(json.dumps(report), flush=True)
    return report


def _log(settings: Settings, store: Store, context: int) -> None:
    """An untrained version of ewma."""
    spec = ModelSpec("ewma", "baselines", min_context=10, max_context=context, max_horizon=5)
    days = calendars.sessions(spec.calendar, "2020-01-02", "2020-05-29")
    y = np.random.default_rng(0).normal(0.0, 0.01, len(days))
    history = pd.DataFrame({names.UNIQUE_ID: "A", names.DS: days, names.Y: y})
    with tracking.start(settings, "train", "ewma"):
        store.log(
            spec,
            lambda folder: baselines.save(baselines.Ewma(spec), folder),
            requirements=baselines.REQUIREMENTS,
            example=example_history(history, spec),
            tags={"family": "baselines"},
        )


def _body(rng: np.random.Generator) -> dict[str, Any]:
    days = calendars.sessions("XNYS", "2021-01-01", "2022-12-28")[-80:]
    series = rng.normal(0, 0.02, 80).tolist()
    symbol = f"S{rng.integers(8)}"
    day_names = days.strftime("%Y-%m-%d").tolist()
    return {"symbol": symbol, "series": series, "ds": day_names, "horizon": int(rng.integers(1, 6))}


def _every(store: Store, seconds: float) -> None:
    """Promote the next version every EVERY_S; many are superseded before they are warm."""
    begun = time.monotonic()
    number = 0
    while time.monotonic() - begun < seconds:
        number += 1
        _promote(store, "ewma", number % (len(CONTEXTS) - 1) + 1)
        time.sleep(max(0.0, begun + number * EVERY_S - time.monotonic()))


def _until_served(gateway: Gateway, clients: Load, version: int) -> float:
    """Seconds from the end of a version's warm-up to its first answer."""
    wait_until(lambda: gateway.models()["ewma"]["version"] == version)
    since = time.monotonic()
    wait_until(lambda: clients.first(version, since) < float("inf"))
    return round(clients.first(version, since) - since, 3)


@contextmanager
def _two_warm(store: Store, gateway: Gateway) -> Iterator[tuple[int, int]]:
    """Versions 1 and 2 are warm, and 2 is served."""
    for version in (1, 2):
        _promote(store, "ewma", version)
        wait_until(lambda version=version: gateway.models()["ewma"]["version"] == version)
    yield 1, 2


def _flip(store: Store, clients: Load, pair: tuple[int, int], flips: int) -> float:
    """The longest time from a promotion to its first answer."""
    slowest = 0.0
    for flip in range(flips):
        version = pair[flip % 2]
        _promote(store, "ewma", version)
        since = time.monotonic()
        wait_until(lambda since=since, v=version: clients.first(v, since) < float("inf"))
        slowest = max(slowest, clients.first(version, since) - since)
    return round(slowest, 3)


def _counts(clients: Load) -> dict[str, Any]:
    counts = {
        "requests": len(clients.sent),
        "failed": len(clients.failed),
        "wrong": len(clients.wrong),
        "versions": sorted(clients.versions),
    }
    print(counts, *clients.failed[:2], flush=True)
    return counts


def _resident(gateway: Gateway) -> int:
    """MB of the process that answers."""
    return round(psutil.Process(gateway.pid).memory_info().rss / 1e6)


if __name__ == "__main__":
    main()
