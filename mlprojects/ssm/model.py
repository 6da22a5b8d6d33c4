"""ssm: an S4D network on the features of the last 512 sessions, run as a recurrence.

Gu, Gupta, Goel and Ré, NeurIPS 2022 (arXiv 2206.11893); see blocks/s4d.py.
"""

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file

from mlprojects.blocks import features
from mlprojects.blocks.passes import ROWS, steady
from mlprojects.blocks.s4d import Blocks
from mlprojects.ssm.network import Network, Shape
from registry.forecast import volatility
from registry.forecast.arrays import Floats
from registry.forecast.forecast import Forecast
from registry.forecast.history import History
from registry.forecast.model_folder import read_spec
from registry.forecast.spec import ModelSpec, Request

REQUIREMENTS = ("scipy", "torch", "safetensors")


def inputs(
    values: Floats, ds: npt.NDArray[np.datetime64], horizon: int
) -> tuple[npt.NDArray[np.float32], Floats]:
    """Inputs [n, L, F + H G] (features, then each step's season) and EWMA volatility [n, L].

    They are known at the last L = T - WARMUP + 1 sessions of `values` [n, T, 3], which are
    features.COLUMNS. Averages begin with the first of the T sessions, in training as in a forecast,
    so earlier sessions change nothing.
    """
    keep = values.shape[1] - features.WARMUP + 1
    sigma = volatility.ewma_volatility(np.ascontiguousarray(values[:, :, 0]))[:, -keep:]
    daily = features.daily(values, ds, keep)
    season = features.season(values, horizon, keep)
    flat_season = season.reshape(*season.shape[:2], -1)
    return np.concatenate([daily, flat_season], axis=2).astype(np.float32), sigma


@dataclass(frozen=True)
class S4DForecaster:
    """A trained network in eval mode; its weights never change."""

    spec: ModelSpec
    net: Network

    def predict(self, history: History, request: Request) -> Forecast:
        quantiles = np.empty((len(history.ids), request.horizon, len(self.spec.levels)))
        for series, values in history.blocks(self.spec.max_context, features.COLUMNS):
            sessions = history.sessions(series, values.shape[1])
            for i in range(0, len(series), ROWS):
                part = slice(i, i + ROWS)
                x, sigma = inputs(values[part], sessions[part], self.spec.max_horizon)
                scaled = self.scaled(x)[:, : request.horizon]
                quantiles[series[part]] = sigma[:, -1, None, None] * scaled
        return Forecast.of_quantiles(history, self.spec, quantiles)

    @steady()
    def scaled(self, x: npt.NDArray[np.float32]) -> Floats:
        """Quantiles [n, H, Q] in volatilities after inputs [n <= ROWS, L, F + H G].

        The recurrence starts from a state of 0.
        """
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
    state = {k: v.contiguous() for k, v in forecaster.net.state_dict().items()}
    save_file(state, directory / "weights.safetensors")


def load(directory: Path) -> S4DForecaster:
    """The forecaster that `save` wrote beside spec.json."""
    spec = read_spec(directory)
    shape = json.loads((directory / "config.json").read_text())
    shape["levels"] = tuple(shape["levels"])
    with torch.random.fork_rng(devices=[]):  # the constructor draws weights
        net = Network(Shape(**shape))
    net.load_state_dict(load_file(directory / "weights.safetensors"))
    return S4DForecaster(spec, net.eval())
