"""Networks of NeuralForecast behind the contract, forecast by one direct forward pass."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file

from mlprojects.blocks.passes import ROWS, steady
from mlprojects.nixtla.direct import Forward, forward_of
from mlprojects.nixtla.networks import Returns, network
from mlprojects.nixtla.scaling import ewma_scale
from registry.contract import Forecast, History, ModelSpec, at_levels, quantile_mean
from registry.errors import BadHistory

REQUIREMENTS = ("scipy", "torch", "neuralforecast", "safetensors")
LOSSES = ("loss.", "valid_loss.")  # a network's state that is its loss's: the levels, which the spec holds


@dataclass(frozen=True)
class WindowForecaster:
    """A trained network of a shape; `net` is in eval mode and its weights are never written again."""

    spec: ModelSpec
    shape: Mapping[str, Any]
    net: Returns

    def predict(
        self, history: History, horizon: int, levels: Sequence[float], seed: int, options: Mapping[str, Any]
    ) -> Forecast:
        [(which, values)] = history.blocks(self.spec.max_context)
        if self.spec.joint:
            self._check_sessions(history.sessions(which, values.shape[1]))
        quantiles = self.quantiles(values[:, :, 0])[:, :horizon]
        return Forecast(
            unique_id=history.ids,
            cutoffs=history.cutoffs,
            levels=tuple(levels),
            quantiles=at_levels(quantiles, self.spec.levels, levels),
            mean=quantile_mean(quantiles, self.spec.levels),
        )

    def _check_sessions(self, ds: npt.NDArray[np.datetime64]) -> None:
        """Raise BadHistory unless all series have the same sessions [n, L]: the network sees them side by side."""
        other = np.flatnonzero((ds != ds[0]).any(axis=1))
        if other.size:
            raise BadHistory(
                f"series {other[0] + 1} of {len(ds)} has other sessions than the first among its last {ds.shape[1]}; "
                f"{self.spec.name} needs the same ones of all",
                code="SESSIONS_DIFFER",
            )

    @steady()
    def quantiles(self, windows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Quantiles [n, H, Q] of the sessions after windows of returns [n, L], sorted over the levels.

        The windows of a network of all series are those of its universe, in that order.
        """
        n = len(windows)
        rows = n if self.spec.joint else ROWS
        padded = np.zeros((-(-n // rows) * rows, windows.shape[1]), dtype=np.float32)
        padded[:n] = windows
        out = torch.cat([self._scaled(chunk) for chunk in torch.from_numpy(padded).split(rows)])
        return out[:n].sort(dim=2).values.numpy().astype(np.float64)

    def _scaled(self, y: torch.Tensor) -> torch.Tensor:
        """Quantiles [rows, H, Q] of windows [rows, L], in the units of y."""
        scale = ewma_scale(y)
        return self._forward(y / scale) * scale[:, :, None]

    @cached_property
    def _forward(self) -> Forward:
        return forward_of(self.net)


def save(forecaster: WindowForecaster, directory: Path) -> None:
    """Write the network's weights (safetensors) and shape (JSON)."""
    (directory / "config.json").write_text(json.dumps(dict(forecaster.shape)) + "\n")
    state = {k: v.contiguous() for k, v in forecaster.net.state_dict().items() if not k.startswith(LOSSES)}
    save_file(state, directory / "weights.safetensors")


def load(directory: Path) -> WindowForecaster:
    """The forecaster that `save` wrote beside spec.json."""
    spec = ModelSpec.from_json(json.loads((directory / "spec.json").read_text()))
    shape = json.loads((directory / "config.json").read_text())
    net = network(spec, shape)
    losses = {k: v for k, v in net.state_dict().items() if k.startswith(LOSSES)}
    net.load_state_dict(load_file(directory / "weights.safetensors") | losses)
    return WindowForecaster(spec, shape, net.eval())
