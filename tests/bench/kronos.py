"""Times Kronos' sampler against the plain loop; every step of every sample reads the whole window.

    make bench ONLY=kronos

Random weights of the mini and small shapes, one thread, both sides in turn in one process; a figure
is the least processor time of several runs, since other work on a machine only adds to it. All
tokens that the plain loop drew are compared in the same run. If a whole run of the plain loop takes
minutes, its time is one step plus H - 1 times a step in the middle, and the printed line says so.
bf16 is the sampler with the predictor's products in bfloat16 against itself in float32, with the
divergence between their distributions per token.
"""

import json
import platform
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import kronos_reference
import numpy as np
import numpy.testing as npt
import psutil
import torch

from mlprojects.kronos.architecture import Predictor, Tokenizer
from mlprojects.kronos.sampler import Draw, Sampler
from mlprojects.kronos.shapes import SIZES, TokenizerConfig

DRAW = Draw(temperature=1.0, top_k=0, top_p=0.9)
# shape, history, horizon, paths, goal, runs of the plain loop (0: extrapolated from single steps)
CASES = {
    "mini_256_30_s1": ("mini", 256, 30, 1, 8.0, 3),
    "mini_256_30_s30": ("mini", 256, 30, 30, 45.0, 1),
    "mini_400_120_s1": ("mini", 400, 120, 1, 15.0, 2),
    "mini_400_120_s30": ("mini", 400, 120, 30, 80.0, 0),
    "small_392_120_s30": ("small", 392, 120, 30, 200.0, 0),
}
BF16_GOAL, MEMORY_GOAL_MB = 1.3, 250.0
RUNS = 5  # of the sampler


class Case:
    """One shape with random weights, a history of random bars, and both ways to continue it."""

    def __init__(self, shape: str, history: int, horizon: int, paths: int) -> None:
        torch.manual_seed(0)
        size = SIZES[shape]
        self.max_context = size.max_context
        self.tokenizer = Tokenizer(TokenizerConfig(group_size=size.group_size)).eval()
        self.predictor = Predictor(size.shape).eval()
        self.history, self.horizon, self.paths = history, horizon, paths
        self.bars = _bars(history + horizon)
        steps = np.arange(history + 2 * horizon)
        zero = np.zeros_like(steps)
        stamps = [zero, zero, steps % 5, steps % 28 + 1, steps // 21 % 12 + 1]
        self.stamps = np.stack(stamps, axis=1)[None]
        sampler = partial(Sampler, self.tokenizer, self.predictor, max_context=self.max_context)
        self.samplers = {dtype: sampler(products=dtype) for dtype in (None, torch.bfloat16)}

    def fast(self, products: torch.dtype | None = None) -> np.ndarray:
        bars = self.bars[:, : self.history]
        stamps = self.stamps[:, : self.history + self.horizon]
        return self.samplers[products].sample(bars, stamps, [7], self.paths, DRAW).tokens

    def plain(self, history: int, steps: int) -> np.ndarray:
        """Tokens of `steps` steps of the plain loop after `history` bars."""
        bars = self.bars[:, :history]
        stamps = self.stamps[:, : history + self.horizon]
        _, tokens = kronos_reference.sample(
            self.tokenizer, self.predictor, bars, stamps, [7], self.paths,
            temperature=DRAW.temperature, top_k=DRAW.top_k, top_p=DRAW.top_p,
            max_context=self.max_context, steps=steps,
        )  # fmt: skip
        return tokens

    def plain_seconds(self) -> tuple[float, np.ndarray]:
        """Estimated seconds of a whole run, and the tokens of its first two steps.

        Two steps are timed from the start, and the other H - 2 count as a step in the middle.
        """
        two_steps, tokens = timed(partial(self.plain, self.history, 2))
        middle = self.history + self.horizon // 2
        one_step, _ = timed(partial(self.plain, middle, 1))
        three_steps, _ = timed(partial(self.plain, middle, 3))
        step = (three_steps - one_step) / 2
        return two_steps + (self.horizon - 2) * step, tokens

    def divergence(self) -> float:
        """Mean KL divergence between float32 and bfloat16 products over the history, in nats per
        s1 token."""
        bars = self.bars[:, : self.history]
        stamps = torch.from_numpy(self.stamps[:, : self.history])
        scaled = (bars - bars.mean(axis=1, keepdims=True)) / bars.std(axis=1, keepdims=True)
        logits = []
        for sampler in self.samplers.values():
            with torch.inference_mode():
                s1, s2 = self.tokenizer.encode(torch.from_numpy(scaled).float())
                folded = sampler._predictor
                x, *_ = folded.stack.read(
                    folded.s1_table[s1] + folded.s2_table[s2] + folded.time(stamps)
                )
                h, *_ = folded._hidden(x[:, None])
                logits.append(folded.s1_logits(h[0, 0]).double().log_softmax(dim=1))
        exact, rounded = logits
        return float((exact.exp() * (exact - rounded)).sum(dim=1).mean())


def _bars(length: int) -> np.ndarray:
    """Random bars [1, T, 6]: their values do not matter for the time."""
    draw = np.random.default_rng(0)
    close = 100 * np.exp(np.cumsum(draw.normal(0, 0.02, length)))
    opened = close * np.exp(draw.normal(0, 0.005, length))
    high = np.maximum(opened, close) * 1.01
    low = np.minimum(opened, close) * 0.99
    volume = draw.lognormal(10, 1, length)
    return np.stack([opened, high, low, close, volume, close * volume], axis=1)[None]


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of processor time, and the result."""
    begun = time.process_time()
    result = run()
    return time.process_time() - begun, result


def processor() -> str:
    """Its name, and what it has for products: ratios differ from processor to processor."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    features = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    return " ".join([*names[:1], *features]) or platform.machine()


def extra_memory(run: Callable[[], Any]) -> float:
    """MB by which the process grows at most while `run` runs."""
    process = psutil.Process()
    done = threading.Event()
    peak = 0
    before = process.memory_info().rss

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    run()
    done.set()
    watcher.join()
    return (peak - before) / 2**20


def main() -> None:
    torch.set_num_threads(1)
    print(processor())
    ratios, seconds, notes = {}, {}, {"processor": processor()}
    for name, (shape, history, horizon, paths, goal, plain_runs) in CASES.items():
        case = Case(shape, history, horizon, paths)
        if name.startswith("small"):
            notes["extra_memory_mb"] = extra_memory(case.fast)
            print(
                f"{name}: {notes['extra_memory_mb']:.0f} MB extra memory (goal {MEMORY_GOAL_MB:g})"
            )
        case.fast()
        sampler_times, plain_times = [], []
        for turn in range(RUNS):
            elapsed, tokens = timed(case.fast)
            sampler_times.append(elapsed)
            if plain_runs and turn < plain_runs:
                elapsed, expected = timed(partial(case.plain, history, horizon))
            elif not plain_runs and turn == 0:
                elapsed, expected = case.plain_seconds()
            else:
                continue
            plain_times.append(elapsed)
            npt.assert_array_equal(tokens[:, :, : expected.shape[2]], expected)
        fast, slow = min(sampler_times), min(plain_times)
        seconds[name], ratios[name] = fast, slow / fast
        estimated = "" if plain_runs else " (extrapolated from steps in the middle)"
        print(
            f"{name:<18} sampler {fast:7.3f} s, {1e3 * fast / horizon:6.2f} ms a step   "
            f"plain loop {slow:8.1f} s{estimated}   "
            f"{ratios[name]:6.1f} x (goal {goal:g})   tokens equal",
            flush=True,
        )
    case = Case(*CASES["small_392_120_s30"][:4])
    case.fast(torch.bfloat16)
    exact_times, rounded_times = [], []
    for _ in range(RUNS):
        exact_times.append(timed(case.fast)[0])
        rounded_times.append(timed(partial(case.fast, torch.bfloat16))[0])
    exact, rounded = min(exact_times), min(rounded_times)
    ratios["small_bf16_s30"], seconds["small_bf16_s30"] = exact / rounded, rounded
    notes["kl_nats_per_token"] = case.divergence()
    print(
        f"small_bf16_s30     {rounded:.3f} s against {exact:.3f} s   "
        f"{exact / rounded:.2f} x (goal {BF16_GOAL:g})   "
        f"KL {notes['kl_nats_per_token']:.1e} nats per s1 token"
    )
    print(json.dumps({"bench": "kronos", "ratios": ratios, "seconds": seconds, **notes}))


if __name__ == "__main__":
    main()
