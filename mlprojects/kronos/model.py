"""The forecaster kronos, which samples bars; saving and loading of it and of its simulator."""

import json
import os
import shutil
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from mlprojects.kronos.folders import load_predictor, load_tokenizer
from mlprojects.kronos.keys import series_key
from mlprojects.kronos.sampler import CLOSE, STD_FLOOR, Draw, Sampler
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
# Rows of a pass that several series share; they fill the kernels' row tiles (see blocks/passes.py).
ROWS = 24
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16}  # values of the option `precision`
# Standard deviation of closes; below it, STD_FLOOR is too large a part of the scale.
FINEST = 100 * STD_FLOOR
# Share of sampled bars that may be impossible before a note says so. Four prices in random order
# make a possible bar in 1 of 12 cases: a network that learnt nothing has a share of 0.92. The nano
# size has 0.18 on average.
CORRECTED = 0.5
# Parts of torch's messages, which differ by device.
OUT_OF_MEMORY = ("out of memory", "allocate memory", "ALLOC_FAILED")
_DAY = "ds"


@dataclass(frozen=True)
class Kronos:
    """A tokenizer and its predictor, kept as official files."""

    spec: ModelSpec
    predictor_dir: Path
    tokenizer_dir: Path
    clip: float
    device: torch.device
    _samplers: dict[str, Sampler] = field(default_factory=dict, compare=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, compare=False, repr=False)

    def sampler(self, precision: str) -> Sampler:
        """The folded model; the first call makes it."""
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

        A path depends only on the history and on (seed, symbol, cutoff, path index). Raises
        BadHistory if all closes of a series are equal in the bars that are used, KronosError (code
        OUT_OF_MEMORY) if memory runs out.
        """
        try:
            return self._forecast(history, request)
        except (MemoryError, torch.OutOfMemoryError, RuntimeError) as error:
            text = str(error)
            if type(error) is RuntimeError and not any(part in text for part in OUT_OF_MEMORY):
                raise
            raise KronosError(
                f"out of memory on {self.device}: {request.options['num_samples']} paths of "
                f"{len(history.ids)} series; ask for fewer num_samples, send fewer series or "
                "shorter histories, or set KRONOS_DEVICE to a device with more memory",
                code="OUT_OF_MEMORY",
            ) from error

    def _forecast(self, history: History, request: Request) -> Forecast:
        horizon, options = request.horizon, request.options
        values, notes = bars.complete(history.columns)
        columns = {name: values[:, i] for i, name in enumerate(names.BAR)}
        columns[_DAY] = history.ds.astype("datetime64[D]").astype(np.float64)
        completed = replace(history, columns=columns)
        sessions = calendars.next_sessions_many(self.spec.calendar, history.cutoffs, horizon)
        cutoffs = zip(history.ids, history.cutoffs, strict=True)
        keys = [series_key(request.seed, name, cutoff) for name, cutoff in cutoffs]
        samples, overflow = int(options["num_samples"]), options["overflow"]
        sampler = self.sampler(options["precision"])
        group = ROWS // samples if ROWS % samples == 0 else 1
        draw = Draw(float(options["temperature"]), int(options["top_k"]), float(options["top_p"]))
        context = sampler.bars_used(self.spec.max_context, self.spec.max_horizon, overflow)
        paths = np.empty((len(history.ids), samples, horizon, len(names.BAR)))
        for series, block in completed.blocks(context, (*names.BAR, _DAY)):
            past, days = block[:, :, :-1], block[:, :, -1].astype(np.int64)
            future_days = sessions[series].astype("datetime64[D]").astype(np.int64)
            sampled = sampler.sample(
                past,
                stamps(np.concatenate([days, future_days], axis=1)),
                [keys[i] for i in series],
                samples,
                draw,
                overflow=overflow,
                room=self.spec.max_horizon,
                group=group,
            )
            paths[series] = sampled.bars
            if options["anchor"]:
                # All prices move with the close, so that a bar keeps its order.
                shift = past[:, -1, CLOSE] - sampled.last[:, CLOSE]
                paths[series, :, :, :4] += shift[:, None, None, None]
            if past[:, :, CLOSE].std(axis=1).min() < FINEST:
                notes["scale"] = (
                    f"closes move by less than {FINEST:g}: below Kronos' resolution; "
                    "rescale the prices"
                )
        if history.lengths.max() > context:
            notes["truncated"] = f"only the last {context} bars of a history were looked at"
        fixed, corrected = bars.correct(paths, history.last(names.OHLC[3]))
        many = np.count_nonzero(corrected > CORRECTED)
        if many:
            notes["corrected"] = (
                f"{many} of {len(corrected)} series: more than {CORRECTED:.0%} of the sampled bars "
                "were impossible (a high below the close, a negative volume) and were corrected; "
                "highs, lows and volumes mean little"
            )
        measured = {"bars_corrected": corrected}
        return Forecast.of_price_paths(history, self.spec, fixed, notes=notes, measured=measured)


def stamps(days: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Stamps [..., 5] of sessions, given as days since 1970-01-01.

    The five are minute, hour, weekday (Monday is 0), day and month.
    """
    date = days.astype("datetime64[D]")
    month = date.astype("datetime64[M]")
    minute = hour = np.zeros_like(days)
    weekday = (days + 3) % 7
    day = (date - month).astype(np.int64) + 1
    month_number = month.astype(np.int64) % 12 + 1
    return np.stack([minute, hour, weekday, day, month_number], axis=-1)


def device() -> torch.device:
    """The device that KRONOS_DEVICE names; auto is the first CUDA device, or the CPU without one.

    Raises BadConfig if torch cannot use the device.
    """
    name = os.environ.get("KRONOS_DEVICE") or "auto"
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        usable = torch.device(name)
        torch.empty(1, device=usable)
        if usable.type == "meta":
            raise ValueError("the meta device computes nothing")
    except (RuntimeError, AssertionError, ValueError, ImportError) as error:
        raise BadConfig(
            f"KRONOS_DEVICE is {name!r}, but torch {torch.__version__} has no such device here; "
            "use auto or cpu",
            code="BAD_DEVICE",
        ) from error
    return usable


def from_official(
    model_dir: Path, tokenizer_dir: Path, *, name: str, max_context: int = 0, clip: float = 5.0
) -> Kronos:
    """Official files as a forecaster.

    `max_context` 0 is the official window of this size. A smaller window is allowed; a larger one
    is refused, because the model was not trained on it. Raises NotFound, Corrupt or BadConfig;
    BadConfig also if tokenizer and predictor do not belong together.
    """
    window = _window(model_dir, max_context)
    horizon = min(MAX_HORIZON, window - MIN_CONTEXT)
    model_spec = spec(name, max_context=window, max_horizon=horizon)
    kronos = Kronos(model_spec, model_dir, tokenizer_dir, clip, device())
    kronos.sampler("fp32")  # reads both folders and checks that they belong together
    return kronos


def _window(model_dir: Path, max_context: int) -> int:
    size = official_size(PredictorConfig.read(model_dir / CONFIG))
    if size is None and not max_context:
        raise BadConfig(
            f"{model_dir / CONFIG} is of no official size; set KRONOS_MAX_CONTEXT to the bars "
            "in its window"
        )
    longest = SIZES[size].max_context if size else None
    window = max_context or SIZES[str(size)].max_context
    shortest = 2 * MIN_CONTEXT
    if window < shortest or (longest is not None and window > longest):
        expected = (
            f"{shortest}..{longest} bars for Kronos-{size}" if size else f"{shortest} or more bars"
        )
        raise BadConfig(f"max_context is {window}, expected {expected}")
    return window


def save(forecaster: Kronos | Simulator, directory: Path) -> None:
    """Write kind and settings as JSON; for kronos also copy the official files."""
    if isinstance(forecaster, Simulator):
        (directory / CONFIG).write_text(json.dumps({"kind": "simulated"}) + "\n")
        return
    (directory / CONFIG).write_text(json.dumps({"kind": "kronos", "clip": forecaster.clip}) + "\n")
    sources = {PREDICTOR: forecaster.predictor_dir, TOKENIZER: forecaster.tokenizer_dir}
    for name, source in sources.items():
        (directory / name).mkdir()
        for file in (CONFIG, WEIGHTS):
            shutil.copyfile(source / file, directory / name / file)


def load(directory: Path) -> Kronos | Simulator:
    """The forecaster that `save` wrote beside spec.json."""
    model_spec = read_spec(directory)
    settings = json.loads((directory / CONFIG).read_text())
    if settings["kind"] == "simulated":
        return Simulator(model_spec)
    kronos = Kronos(
        model_spec, directory / PREDICTOR, directory / TOKENIZER, settings["clip"], device()
    )
    kronos.sampler("fp32")  # reads both folders and checks that they belong together
    return kronos
