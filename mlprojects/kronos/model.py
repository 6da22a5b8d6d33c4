"""kronos: sampled bars of the Kronos predictor behind the contract; its files, and those of its simulator."""

import json
import os
import shutil
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from mlprojects.kronos import simulated
from mlprojects.kronos.folders import load_predictor, load_tokenizer
from mlprojects.kronos.keys import series_key
from mlprojects.kronos.sampler import STD_FLOOR, Draw, Sampler
from mlprojects.kronos.shapes import (
    CONFIG,
    PREDICTOR,
    SIZES,
    TOKENIZER,
    WEIGHTS,
    PredictorConfig,
    official_size,
)
from mlprojects.kronos.simulated import Simulator
from mlprojects.kronos.specs import MAX_HORIZON, MIN_CONTEXT, spec
from registry.errors import BadConfig, KronosError
from registry.forecast import bars, calendars, names
from registry.forecast.forecast import Forecast
from registry.forecast.history import History
from registry.forecast.model_folder import read_spec
from registry.forecast.spec import ModelSpec, Request

REQUIREMENTS = ("scipy", "torch", "safetensors")
ROWS = 24  # of a pass that several series share: fills the kernels' tiles of rows (see blocks/passes.py)
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16}  # of the option
FINEST = 100 * STD_FLOOR  # standard deviation of closes; below it the floor under it tells
OUT_OF_MEMORY = (
    "out of memory",
    "allocate memory",
    "ALLOC_FAILED",
)  # in what torch says of it, device by device
_DAY = "ds"


@dataclass(frozen=True)
class Kronos:
    """A tokenizer and a predictor that belong together, kept as the official files they came in."""

    spec: ModelSpec
    predictor_dir: Path
    tokenizer_dir: Path
    clip: float
    device: torch.device
    _samplers: dict[str, Sampler] = field(default_factory=dict, compare=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, compare=False, repr=False)

    def sampler(self, precision: str) -> Sampler:
        """The folded model, made at first use."""
        with self._lock:
            if precision not in self._samplers:
                self._samplers[precision] = Sampler(
                    load_tokenizer(self.tokenizer_dir).to(self.device),
                    load_predictor(self.predictor_dir).to(self.device),
                    max_context=self.spec.max_context,
                    clip=self.clip,
                    products=PRECISIONS[precision],
                )
            return self._samplers[precision]

    def predict(self, history: History, request: Request) -> Forecast:
        """Quantiles over sampled bars.

        A path depends on (seed, symbol, cutoff, its index) and the history alone. Raises BadHistory
        for a series that does not move where the model looks, KronosError (code OUT_OF_MEMORY) when
        memory runs out.
        """
        try:
            return self._forecast(history, request)
        except (MemoryError, torch.OutOfMemoryError, RuntimeError) as error:
            if type(error) is RuntimeError and not any(
                sign in str(error) for sign in OUT_OF_MEMORY
            ):
                raise
            raise KronosError(
                f"out of memory on {self.device}: {request.options['num_samples']} paths of "
                f"{len(history.ids)} series; ask for fewer num_samples, send fewer series or shorter "
                "histories, or set KRONOS_DEVICE to a device with more memory",
                code="OUT_OF_MEMORY",
            ) from error

    def _forecast(self, history: History, request: Request) -> Forecast:
        horizon, options = request.horizon, request.options
        values, notes = bars.complete(history.columns)
        columns = {name: values[:, i] for i, name in enumerate(names.BAR)}
        days = history.ds.astype("datetime64[D]").astype(np.float64)
        whole = replace(history, columns={**columns, _DAY: days})
        sessions = calendars.next_sessions_many(self.spec.calendar, history.cutoffs, horizon)
        cutoffs = zip(history.ids, history.cutoffs, strict=True)
        keys = [series_key(request.seed, name, cutoff) for name, cutoff in cutoffs]
        samples, sampler = int(options["num_samples"]), self.sampler(options["precision"])
        group = ROWS // samples if ROWS % samples == 0 else 1
        draw = Draw(float(options["temperature"]), int(options["top_k"]), float(options["top_p"]))
        seen = sampler.sees(self.spec.max_context, self.spec.max_horizon, options["overflow"])
        paths = np.empty((len(history.ids), samples, horizon, len(names.BAR)))
        for which, block in whole.blocks(seen, (*names.BAR, _DAY)):
            known, dates = block[:, :, :-1], block[:, :, -1].astype(np.int64)
            future = sessions[which].astype("datetime64[D]").astype(np.int64)
            sampled = sampler.sample(
                known, stamps(np.concatenate([dates, future], axis=1)), [keys[i] for i in which], samples, draw,
                overflow=options["overflow"], room=self.spec.max_horizon, group=group,
            )  # fmt: skip
            paths[which] = sampled.bars
            if options["anchor"]:  # by the close alone, so that a bar keeps its order
                paths[which, :, :, :4] += (known[:, -1, 3] - sampled.last[:, 3])[
                    :, None, None, None
                ]
            if known[:, :, 3].std(axis=1).min() < FINEST:
                notes["scale"] = (
                    f"closes move by less than {FINEST:g}: below Kronos' resolution; rescale the prices"
                )
        if history.lengths.max() > seen:
            notes["truncated"] = f"only the last {seen} bars of a history were looked at"
        fixed, corrected = bars.correct(paths, history.last(names.OHLC[3]))
        measured = {"bars_corrected": corrected}
        return Forecast.of_price_paths(history, self.spec, fixed, notes=notes, measured=measured)


def stamps(days: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """minute, hour, weekday (Monday 0), day, month [..., 5] of sessions, days since 1970-01-01."""
    date = days.astype("datetime64[D]")
    month = date.astype("datetime64[M]")
    zero = np.zeros_like(days)
    parts = (
        zero,
        zero,
        (days + 3) % 7,
        (date - month).astype(np.int64) + 1,
        month.astype(np.int64) % 12 + 1,
    )
    return np.stack(parts, axis=-1)


def device() -> torch.device:
    """The device that KRONOS_DEVICE names; auto is the first CUDA device where there is one, else the CPU.

    Raises BadConfig for one that is not there.
    """
    wanted = os.environ.get("KRONOS_DEVICE") or "auto"
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(wanted)
        torch.empty(1, device=found)
        if found.type == "meta":
            raise ValueError("it computes nothing")
    except (RuntimeError, AssertionError, ValueError, ImportError) as error:
        raise BadConfig(
            f"KRONOS_DEVICE is {wanted!r}, and torch {torch.__version__} finds no such device here; use auto or cpu",
            code="BAD_DEVICE",
        ) from error
    return found


def from_official(
    model_dir: Path, tokenizer_dir: Path, *, name: str, max_context: int = 0, clip: float = 5.0
) -> Kronos:
    """Official files as a forecaster. Raises NotFound, Corrupt, or BadConfig, also for a wrong pairing.

    `max_context` 0 is the official window of this size; a smaller one may be asked for, a larger one was never trained.
    """
    window = _window(model_dir, max_context)
    needs = spec(name, max_context=window, max_horizon=min(MAX_HORIZON, window - MIN_CONTEXT))
    kronos = Kronos(needs, model_dir, tokenizer_dir, clip, device())
    kronos.sampler("fp32")  # reads and pairs everything
    return kronos


def _window(model_dir: Path, max_context: int) -> int:
    size = official_size(PredictorConfig.read(model_dir / CONFIG))
    if size is None and not max_context:
        raise BadConfig(
            f"{model_dir / CONFIG} is of no official size; say how long its window is (KRONOS_MAX_CONTEXT)"
        )
    longest = SIZES[size].max_context if size else None
    window = max_context or SIZES[str(size)].max_context
    if window < 2 * MIN_CONTEXT or (longest is not None and window > longest):
        expected = (
            f"{2 * MIN_CONTEXT}..{longest} bars for Kronos-{size}"
            if size
            else f"{2 * MIN_CONTEXT} bars or more"
        )
        raise BadConfig(f"max_context is {window}, expected {expected}")
    return window


def save(forecaster: Kronos | Simulator, directory: Path) -> None:
    """Write kind and settings (JSON), and for kronos the official files as they are."""
    if isinstance(forecaster, Simulator):
        (directory / CONFIG).write_text(json.dumps({"kind": "simulated"}) + "\n")
        return
    (directory / CONFIG).write_text(json.dumps({"kind": "kronos", "clip": forecaster.clip}) + "\n")
    for source, name in (
        (forecaster.predictor_dir, PREDICTOR),
        (forecaster.tokenizer_dir, TOKENIZER),
    ):
        (directory / name).mkdir()
        for file in (CONFIG, WEIGHTS):
            shutil.copyfile(source / file, directory / name / file)


def load(directory: Path) -> Kronos | Simulator:
    """The forecaster that `save` wrote beside spec.json."""
    what = read_spec(directory)
    settings = json.loads((directory / CONFIG).read_text())
    if settings["kind"] == "simulated":
        return simulated.Simulator(what)
    kronos = Kronos(what, directory / PREDICTOR, directory / TOKENIZER, settings["clip"], device())
    kronos.sampler("fp32")
    return kronos
