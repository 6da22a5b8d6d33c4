"""Forecasters around networks of NeuralForecast: one direct forward pass makes the forecast."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mlprojects.blocks.passes import passes, steady
from mlprojects.nixtla.direct import Forward, forward_of
from mlprojects.nixtla.networks import Returns, network
from mlprojects.nixtla.scaling import ewma_weights
from registry.errors import BadHistory
from registry.forecast import volatility
from registry.forecast.arrays import Dates, Floats
from registry.forecast.forecast import Forecast
from registry.forecast.history import History
from registry.forecast.model_folder import read_spec
from registry.forecast.spec import ModelSpec, Request

REQUIREMENTS = ("scipy", "torch", "neuralforecast", "safetensors")
# Prefixes of a network's state that belongs to its losses: the levels, which the spec holds.
LOSSES = ("loss.", "valid_loss.")


@dataclass(frozen=True)
class WindowForecaster:
    """A trained network and its shape; `net` is in eval mode and its weights never change."""

    spec: ModelSpec
    shape: Mapping[str, Any]
    net: Returns

    def predict(self, history: History, request: Request) -> Forecast:
        [(series, values)] = history.blocks(self.spec.max_context)
        if self.spec.joint:
            self._check_sessions(history.sessions(series, values.shape[1]))
        quantiles = self.quantiles(values[:, :, 0])[:, : request.horizon]
        return Forecast.of_quantiles(history, self.spec, quantiles)

    def _check_sessions(self, ds: Dates) -> None:
        """Raise BadHistory unless all series have the same sessions [n, L]."""
        different = np.flatnonzero((ds != ds[0]).any(axis=1))
        if different.size:
            raise BadHistory(
                f"series {different[0] + 1} of {len(ds)} has other sessions than the first series "
                f"among its last {ds.shape[1]}; {self.spec.name} needs the same sessions of all "
                "series",
                code="SESSIONS_DIFFER",
            )

    @steady()
    def quantiles(self, windows: Floats) -> Floats:
        """Quantiles [n, H, Q] of the sessions after windows of returns [n, L], sorted.

        A network of all series takes the windows of its universe, in that order, as one pass.
        """
        y = torch.from_numpy(windows).float()[None] if self.spec.joint else passes(windows)
        scale = self._scale(y)
        out = self._forward(y / scale).mul_(scale).flatten(0, 1)[: len(windows)]
        levels = out.unflatten(1, (self.spec.max_horizon, -1)).numpy()
        return np.sort(levels, axis=2).astype(np.float64)

    def _scale(self, y: Tensor) -> Tensor:
        """EWMA volatility [P, R, 1] at the end of the windows of passes [P, R, L]."""
        variance = (y * y).mul_(self._weights).sum(dim=2, keepdim=True)
        return variance.sqrt_().clamp_min_(volatility.FLOOR)

    @cached_property
    def _weights(self) -> Tensor:
        return ewma_weights(self.spec.max_context).float()

    @cached_property
    def _forward(self) -> Forward:
        return forward_of(self.net)


def save(forecaster: WindowForecaster, directory: Path) -> None:
    """Write the network's weights (safetensors) and shape (JSON)."""
    (directory / "config.json").write_text(json.dumps(dict(forecaster.shape)) + "\n")
    state = forecaster.net.state_dict()
    weights = {key: v.contiguous() for key, v in state.items() if not key.startswith(LOSSES)}
    save_file(weights, directory / "weights.safetensors")


def load(directory: Path) -> WindowForecaster:
    """The forecaster that `save` wrote beside spec.json."""
    spec = read_spec(directory)
    shape = json.loads((directory / "config.json").read_text())
    net = network(spec, shape)
    losses = {key: v for key, v in net.state_dict().items() if key.startswith(LOSSES)}
    net.load_state_dict(load_file(directory / "weights.safetensors") | losses)
    return WindowForecaster(spec, shape, net.eval())
