"""ssm: an S4D network on the features of the last 512 sessions, run as a recurrence.

Gu, Gupta, Goel and Ré, NeurIPS 2022 (arXiv 2206.11893); see blocks/s4d.py.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file

from mlprojects.blocks import features
from mlprojects.blocks.passes import ROWS, steady
from mlprojects.blocks.s4d import Blocks
from mlprojects.ssm.network import Network, Shape
from registry import volatility
from registry.contract import Floats, Forecast, History, ModelSpec, at_levels, quantile_mean

REQUIREMENTS = ("scipy", "torch", "safetensors")
SETTLED = 64  # sessions in a state before its forecasts count, in training and in a history


def inputs(values: Floats, ds: npt.NDArray[np.datetime64], horizon: int) -> tuple[npt.NDArray[np.float32], Floats]:
    """What the network reads [n, L, F + H G] (features, then each step's season) and own EWMA volatility [n, L].

    They are known at the last L = T - WARMUP + 1 sessions of `values` [n, T, 3], which are features.COLUMNS. Averages
    begin with the first of the T sessions, in training as in a forecast: a session before them changes nothing.
    """
    keep = values.shape[1] - features.WARMUP + 1
    sigma = volatility.ewma_volatility(np.ascontiguousarray(values[:, :, 0]))[:, -keep:]
    season = features.season(values, horizon, keep)
    read = np.concatenate([features.daily(values, ds, keep), season.reshape(*season.shape[:2], -1)], axis=2)
    return read.astype(np.float32), sigma


@dataclass(frozen=True)
class S4DForecaster:
    """A trained network; it is in eval mode and its weights are never written again."""

    spec: ModelSpec
    net: Network

    def predict(
        self, history: History, horizon: int, levels: Sequence[float], seed: int, options: Mapping[str, Any]
    ) -> Forecast:
        quantiles = np.empty((len(history.ids), horizon, len(self.spec.levels)))
        for which, values in history.blocks(self.spec.max_context, features.COLUMNS):
            sessions = history.sessions(which, values.shape[1])
            for i in range(0, len(which), ROWS):
                part = slice(i, i + ROWS)
                x, sigma = inputs(values[part], sessions[part], self.spec.max_horizon)
                quantiles[which[part]] = sigma[:, -1, None, None] * self.scaled(x)[:, :horizon]
        return Forecast(
            unique_id=history.ids,
            cutoffs=history.cutoffs,
            levels=tuple(levels),
            quantiles=at_levels(quantiles, self.spec.levels, levels),
            mean=quantile_mean(quantiles, self.spec.levels),
        )

    @steady()
    def scaled(self, x: npt.NDArray[np.float32]) -> Floats:
        """Quantiles [n, H, Q] in volatilities after inputs [n <= ROWS, L, F + H G], by the recurrence from a state of
        0."""
        padded = np.zeros((ROWS, *x.shape[1:]), dtype=np.float32)
        padded[: len(x)] = x
        _, quantiles = self.net.last(torch.from_numpy(padded), self._blocks)
        return quantiles[: len(x)].numpy().astype(np.float64)

    @cached_property
    def _blocks(self) -> tuple[Blocks, ...]:
        return self.net.blocks()


def save(forecaster: S4DForecaster, directory: Path) -> None:
    """Write the network's weights (safetensors) and shape (JSON)."""
    (directory / "config.json").write_text(json.dumps(asdict(forecaster.net.shape)) + "\n")
    save_file({k: v.contiguous() for k, v in forecaster.net.state_dict().items()}, directory / "weights.safetensors")


def load(directory: Path) -> S4DForecaster:
    """The forecaster that `save` wrote beside spec.json."""
    spec = ModelSpec.from_json(json.loads((directory / "spec.json").read_text()))
    shape = json.loads((directory / "config.json").read_text())
    with torch.random.fork_rng(devices=[]):  # a network is drawn before its weights are read
        net = Network(Shape(**{**shape, "levels": tuple(shape["levels"])}))
    net.load_state_dict(load_file(directory / "weights.safetensors"))
    return S4DForecaster(spec, net.eval())
