"""Times the gateway against the stock `mlflow models serve`, in pairs on one version.

    make bench ONLY=serving

Both sides get the same series: 60 sessions, horizon 5, 11 levels. Stock gets them as a long
`dataframe_split`, the gateway by /forecast. A load generator in a process of its own asks them in
turn. Everything runs on this machine and shares its cores, so only the ratios mean much.

Overload is requests at random times, five times as many as the gateway answers at its peak. One
that finds all of the generator's connections busy is lost, and is no good answer.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
import psutil
from kronos import processor

from mlprojects.baselines import model as baselines
from registry.forecast import calendars, names
from registry.forecast.spec import ModelSpec
from registry.promotion import moves
from registry.promotion.opening import open_ledger
from registry.scoring.calibration_table import Table
from registry.settings import Settings
from registry.versions import tracking
from registry.versions.store import Store, example_history
from registry.versions.version import Version
from serving.gateway import replies
from serving.gateway.calls import Row
from serving.gateway.tables import Calibration
from serving.scorer import Scorer

MODEL = "ewma"
CONTEXT, HORIZON = 60, 5
SYMBOLS = 320  # ten for each of 32 clients
PAIRS = {1: 12, 32: 6}  # by clients
PAIR_S = {1: 0.6, 32: 1.5}  # of each half
RUN_S = 1.5  # of other measurements
OVERLOADS = 3
OVERLOAD_S = 4.0
TIMES_PEAK = 5
CONNECTIONS = 512
ROOT = Path(__file__).parents[2]
GOALS = {"p50_1": 1.3, "rps_32": 8.0, "goodput_overload": 0.8}
MOST_MB, MOST_REFUSAL_S, MOST_CALIBRATION_MS = 120, 0.1, 1.0


@dataclass(frozen=True)
class Target:
    """A server, and the file with the bodies of its requests."""

    host: str
    port: int
    path: str
    bodies: Path

    def named(self, **load: Any) -> dict[str, Any]:
        where = {"host": self.host, "port": self.port, "path": self.path}
        return {**where, "bodies": str(self.bodies), **load}


class Generator:
    """The load generator's process."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "load_generator.py")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __enter__(self) -> "Generator":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def load(self, target: Target, **load: Any) -> dict[str, Any]:
        """What became of a load. Without a rate, the clients wait for their answers."""
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the load generator has no pipes")
        self._process.stdin.write(json.dumps(target.named(**load)) + "\n")
        self._process.stdin.flush()
        report: dict[str, Any] = json.loads(self._process.stdout.readline())
        return report


# --- a registry, and servers ------------------------------------------------------------------


def promoted(settings: Settings) -> Version:
    """An EWMA in Production. It needs no data to be trained."""
    store = Store(settings)
    spec = ModelSpec(MODEL, "baselines", min_context=10, max_context=1000, max_horizon=HORIZON)
    history = series("A", 0)
    with tracking.start(settings, "train", MODEL) as run:
        run.metrics({"crps": 0.005})
        version = store.log(
            spec,
            lambda folder: baselines.save(baselines.Ewma(spec), folder),
            requirements=baselines.REQUIREMENTS,
            example=example_history(history, spec),
            tags={"family": "baselines"},
        )
    with open_ledger(store) as ledger:
        moves.promote(store, ledger, MODEL, version.version, who="bench", why="to be timed")
    return version


def series(symbol: str, seed: int) -> pd.DataFrame:
    ds = calendars.sessions("XNYS", "2019-10-01", "2020-02-28")[-CONTEXT:]
    y = np.random.default_rng(seed).normal(0.0, 0.01, CONTEXT)
    return pd.DataFrame({names.UNIQUE_ID: symbol, names.DS: ds, names.Y: y})


@contextmanager
def gateway(settings: Settings, folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    """Its URL and its process, from when it is ready."""
    variables = {"KRONOS_VAR_DIR": str(settings.var_dir), "KRONOS_PORT": "0", "PYTHONPATH": "."}
    log = folder / "gateway.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "serving", "start", MODEL],
            stdout=subprocess.PIPE, stderr=errors, cwd=ROOT, env=os.environ | variables,
        )  # fmt: skip
    try:
        first = process.stdout.readline() if process.stdout else b""
        if not first:
            raise RuntimeError(f"the gateway ended: {log.read_text()[-2000:]}")
        yield json.loads(first)["url"], psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


# --- requests ---------------------------------------------------------------------------------


def stock_body(symbol: str, seed: int) -> bytes:
    frame = series(symbol, seed)
    days = frame[names.DS].dt.strftime("%Y-%m-%d")
    rows = [[symbol, day, y] for day, y in zip(days, frame[names.Y], strict=True)]
    split = {"columns": list(names.HISTORY), "data": rows}
    return json.dumps({"dataframe_split": split, "params": {"horizon": HORIZON}}).encode()


def gateway_body(symbol: str, seed: int) -> bytes:
    frame = series(symbol, seed)
    days = frame[names.DS].dt.strftime("%Y-%m-%d").tolist()
    content = {"symbol": symbol, "horizon": HORIZON, "series": frame[names.Y].tolist(), "ds": days}
    return json.dumps(content).encode()


def written(path: Path, body: Callable[[str, int], bytes], symbols: list[str]) -> Path:
    bodies = [body(symbol, seed) for seed, symbol in enumerate(symbols)]
    path.write_bytes(b"\n".join(bodies))
    return path


# --- measurements -----------------------------------------------------------------------------


@dataclass
class Bench:
    """Servers under load, and what was measured."""

    generator: Generator
    stock: Target
    forecast: Target
    same_symbol: Target  # every client asks for AAPL
    process: psutil.Process  # of the gateway

    def pairs(self, clients: int, key: str) -> list[tuple[float, float]]:
        """The same number of stock and gateway, in turn."""
        pairs = []
        for _ in range(PAIRS[clients]):
            halves = []
            for target in (self.stock, self.forecast):
                report = self.generator.load(target, clients=clients, seconds=PAIR_S[clients])
                check(report, {"200"})
                halves.append(report[key])
            pairs.append((halves[0], halves[1]))
        return pairs

    def of_generator(self) -> float:
        """Requests a second that the generator gets through if the server has nothing to do."""
        health = replace(self.forecast, path="/health")
        rps: float = self.generator.load(health, clients=32, seconds=RUN_S)["rps"]
        print(f"load generator: {rps:,.0f} requests/s of /health at 32 clients", flush=True)
        return rps

    def latency(self) -> float:
        """p50 at one client: gateway by stock, of the best runs."""
        pairs = self.pairs(1, "p50")
        stock, ours = (min(half) for half in zip(*pairs, strict=True))
        singles = sorted(pair[1] / pair[0] for pair in pairs)
        print(
            f"1 client: p50 {1e3 * ours:.2f} ms, stock {1e3 * stock:.2f} ms: "
            f"{ours / stock:.2f} x (goal at most {GOALS['p50_1']:g}); "
            f"pairs {singles[0]:.2f} to {singles[-1]:.2f}",
            flush=True,
        )
        return ours / stock

    def throughput(self) -> float:
        """Requests a second at 32 clients: gateway by stock, median of pairs."""
        pairs = self.pairs(32, "rps")
        singles = sorted(pair[1] / pair[0] for pair in pairs)
        ratio = statistics.median(singles)
        stock, ours = (statistics.median(half) for half in zip(*pairs, strict=True))
        print(
            f"32 clients: {ours:,.0f} requests/s, stock {stock:,.0f}: {ratio:.1f} x "
            f"(goal {GOALS['rps_32']:g}); pairs {singles[0]:.1f} to {singles[-1]:.1f}",
            flush=True,
        )
        return ratio

    def of_one_symbol(self) -> float:
        """Requests a second when a call can hold one of them only."""
        report = self.generator.load(self.same_symbol, clients=32, seconds=RUN_S)
        check(report, {"200", "429", "503"})
        rps: float = report["rps"]
        print(f"32 clients that all ask for AAPL: {rps:,.0f} requests/s", flush=True)
        return rps

    def overload(self) -> tuple[float, float]:
        """Good answers by those of the peak, and the time of the slow refusals."""
        shares, refusals = [], []
        for _ in range(OVERLOADS):
            peak = self.generator.load(self.forecast, clients=64, seconds=RUN_S)["rps"]
            rate = TIMES_PEAK * peak
            report = self.generator.load(
                self.forecast, clients=CONNECTIONS, seconds=OVERLOAD_S, rate=rate
            )
            check(report, {"200", "429", "503"})
            shares.append(report["good_rps"] / peak)
            refusals.append(report["refused_p99"] or 0.0)
            print(
                f"overload: {rate:,.0f} requests/s come, {report['good_rps']:,.0f} of "
                f"{peak:,.0f} are answered in time ({shares[-1]:.0%}); refusals in "
                f"{1e3 * (report['refused_p50'] or 0.0):.1f} ms, p99 {1e3 * refusals[-1]:.0f} ms; "
                f"{report['lost'] / (report['sent'] + report['lost']):.1%} lost",
                flush=True,
            )
        return statistics.median(shares), statistics.median(refusals)

    def processor_time(self) -> float:
        """Microseconds of the gateway's processor time for one request."""
        before = self._cpu_s()
        report = self.generator.load(self.forecast, clients=32, seconds=2 * RUN_S)
        answered = report["rps"] * 2 * RUN_S
        return 1e6 * (self._cpu_s() - before) / float(answered)

    def _cpu_s(self) -> float:
        times = self.process.cpu_times()
        return float(times.user + times.system)


def check(report: dict[str, Any], statuses: set[str]) -> None:
    """Raise RuntimeError for an answer that no client should get."""
    if not report["statuses"].keys() <= statuses:
        raise RuntimeError(f"answers by status: {report['statuses']}, expected {sorted(statuses)}")


def calibration_ms() -> float:
    """p99 of the time that a calibration of 20 symbols adds to a forecast."""
    symbols = [f"S{number:04d}" for number in range(20)]
    keys, steps = [], []
    for symbol in symbols:
        keys += [("symbol", symbol)] * HORIZON
        steps += range(1, 1 + HORIZON)
    rng = np.random.default_rng(0)
    table = Table.of_lists(
        levels=names.LEVELS,
        keys=keys,
        steps=steps,
        bias=rng.normal(0, 0.1, len(keys)).tolist(),
        scale=rng.uniform(0.8, 1.2, len(keys)).tolist(),
        offsets=rng.normal(0, 0.01, (len(keys), len(names.LEVELS))).tolist(),
    )
    values = np.sort(rng.normal(size=(HORIZON, 1 + len(names.LEVELS))))
    row = Row([""] * HORIZON, values)
    plain, learned = Calibration(), Calibration(1, table=table)
    taken = {}
    for calibration in (plain, learned):
        times = []
        for number in range(2000):
            symbol = symbols[number % len(symbols)]
            begun = time.thread_time()  # on a busy machine, a clock would time the others
            replies.numbers(row, symbol, names.LEVELS, calibration)
            times.append(time.thread_time() - begun)
        taken[calibration.number] = np.quantile(times, 0.99)
    return 1e3 * float(taken[1] - taken[None])


# --- all of it --------------------------------------------------------------------------------


@contextmanager
def bench() -> Iterator[Bench]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        settings = Settings(var_dir=folder / "var", tracking_uri="", ledger_uri="")
        version = promoted(settings)
        root = Store(settings).fetch(version)
        scorer = stack.enter_context(Scorer(settings, version, root, host="127.0.0.1", port=0))
        url, process = stack.enter_context(gateway(settings, folder))
        scorer.wait_ready()
        symbols = [f"S{number:04d}" for number in range(SYMBOLS)]
        stock = written(folder / "stock", stock_body, symbols)
        ours = written(folder / "gateway", gateway_body, symbols)
        same = written(folder / "same", gateway_body, ["AAPL"] * SYMBOLS)
        host, port = urlsplit(url).hostname or "", urlsplit(url).port or 0
        yield Bench(
            stack.enter_context(Generator()),
            Target("127.0.0.1", scorer.launch.port, "/invocations", stock),
            Target(host, port, "/forecast", ours),
            Target(host, port, "/forecast", same),
            process,
        )


def main() -> None:
    with bench() as servers:
        for target in (servers.stock, servers.forecast):  # the first requests are slower
            servers.generator.load(target, clients=8, seconds=RUN_S)
        health = servers.of_generator()
        ratios = {"p50_1": servers.latency(), "rps_32": servers.throughput()}
        same = servers.of_one_symbol()
        cpu_us = servers.processor_time()
        ratios["goodput_overload"], refusal_s = servers.overload()
        mb = servers.process.memory_info().rss / 2**20
        calibration = calibration_ms()
    print(
        f"overload: {ratios['goodput_overload']:.0%} of the peak (goal "
        f"{GOALS['goodput_overload']:.0%}), refusals p99 {1e3 * refusal_s:.0f} ms (goal below "
        f"{1e3 * MOST_REFUSAL_S:.0f}); gateway {mb:.0f} MB (goal below {MOST_MB}), "
        f"{cpu_us:.0f} us of processor time for a request; calibration p99 {calibration:.2f} ms "
        f"(goal at most {MOST_CALIBRATION_MS:g})"
    )
    measured = {"mb": round(mb), "cpu_us": round(cpu_us), "calibration_ms": round(calibration, 3)}
    rounded = {key: round(value, 2) for key, value in ratios.items()}
    print(
        json.dumps(
            {
                "bench": "serving",
                "ratios": rounded,
                "rps_one_symbol": round(same),
                "rps_health": round(health),
                "refusal_p99_s": round(refusal_s, 4),
                **measured,
                "processor": processor(),
            }
        )
    )


if __name__ == "__main__":
    main()
