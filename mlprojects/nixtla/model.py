"""nbeats: NeuralForecast's N-BEATS on volatility-scaled returns, forecast by one direct forward pass.

Oreshkin, Carpov, Chapados and Bengio, N-BEATS, ICLR 2020 (arXiv 1905.10437); network by neuralforecast (Apache-2.0).
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from neuralforecast.losses.pytorch import MQLoss
from neuralforecast.models import NBEATS
from safetensors.torch import load_file, save_file
from scipy.stats import norm
from torch.nn.functional import linear

from registry import volatility
from registry.contract import Forecast, History, ModelSpec, at_levels, quantile_mean

REQUIREMENTS = ("scipy", "torch", "neuralforecast", "safetensors")
ROWS = 64  # of every forward pass: the last bits of a matrix product depend on its number of rows

# Lightning's and NeuralForecast's loggers announce devices and seeds at every construction.
for _name in ("lightning.pytorch", "lightning.fabric", "lightning_fabric", "pytorch_lightning", "neuralforecast"):
    logging.getLogger(_name).setLevel(logging.ERROR)


def ewma_scale(y: torch.Tensor) -> torch.Tensor:
    """EWMA volatility [n, 1, ...] at the end of windows [n, L, ...], weights normalised over the window."""
    variance = torch.einsum("nl...,l->n...", y * y, _ewma_weights(y.shape[1]).to(y))
    return variance.sqrt().clamp_min(volatility.FLOOR)[:, None]


@lru_cache
def _ewma_weights(length: int) -> torch.Tensor:
    """Weights [L] of a window's sessions, oldest first; they add up to 1."""
    weights = volatility.DECAY ** torch.arange(length - 1, -1, -1, dtype=torch.float64)
    return weights / weights.sum()


class ReturnsNBEATS(NBEATS):  # type: ignore[misc]
    """NBEATS for returns: windows are divided by their own EWMA volatility, and the last return is no level."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(scaler_type="standard", **kwargs)
        self.scaler.compute_statistics = self._scale

    def _scale(self, x: torch.Tensor, mask: torch.Tensor, dim: int, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Shift 0 and EWMA scale [n, 1, ...] of training windows [n, L + h, ...], from their first L rows."""
        scale = ewma_scale(x[:, : self.input_size])
        return torch.zeros_like(scale), scale

    def forward(self, windows_batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Quantiles [n, H, Q] of scaled windows. NeuralForecast adds the last value: noise, for returns."""
        forecast: torch.Tensor = super().forward(windows_batch)
        return forecast - windows_batch["insample_y"][:, -1:]


def network(spec: ModelSpec, width: int, blocks: int, **training: Any) -> ReturnsNBEATS:
    """Generic stacks (identity basis, so that any horizon works), `width` units in every layer."""
    net = ReturnsNBEATS(
        h=spec.max_horizon,
        input_size=spec.min_context,
        loss=MQLoss(quantiles=list(spec.levels)),
        stack_types=["identity"] * blocks,
        n_blocks=[1] * blocks,
        mlp_units=[[width, width]] * 2,
        **training,
    )
    _start_normal(net, spec)
    return net


@torch.no_grad()
def _start_normal(net: ReturnsNBEATS, spec: ModelSpec) -> None:
    """Let an untrained network forecast normal quantiles of the scaled return: EWMA volatility, before it learns."""
    for block in net.blocks:
        last = block.layers[-1]  # [L + H * Q, width]: backcast, then forecast
        last.weight[spec.min_context :] = 0
        last.bias[spec.min_context :] = 0
    normal = torch.tensor(norm.ppf(spec.levels), dtype=torch.float32)
    net.blocks[0].layers[-1].bias[spec.min_context :] = normal.repeat(spec.max_horizon)


@dataclass(frozen=True)
class NBeats:
    """A trained network; `net` is in eval mode and its weights are never written again."""

    spec: ModelSpec
    width: int
    stacks: int
    net: ReturnsNBEATS

    def predict(
        self, history: History, horizon: int, levels: Sequence[float], seed: int, options: Mapping[str, Any]
    ) -> Forecast:
        [(_, values)] = history.blocks(self.spec.max_context)
        quantiles = self.quantiles(values[:, :, 0])[:, :horizon]
        return Forecast(
            unique_id=history.ids,
            cutoffs=history.cutoffs,
            levels=tuple(levels),
            quantiles=at_levels(quantiles, self.spec.levels, levels),
            mean=quantile_mean(quantiles, self.spec.levels),
        )

    @torch.inference_mode()
    def quantiles(self, windows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Quantiles [n, H, Q] of the sessions after windows of returns [n, L], sorted over the levels."""
        n = len(windows)
        padded = np.zeros((-(-n // ROWS) * ROWS, windows.shape[1]), dtype=np.float32)
        padded[:n] = windows
        out = torch.cat([self._forward(chunk) for chunk in torch.from_numpy(padded).split(ROWS)])
        return out[:n].sort(dim=2).values.numpy().astype(np.float64)

    def _forward(self, y: torch.Tensor) -> torch.Tensor:
        """What ReturnsNBEATS.forward gives for complete windows [n, L], in the units of y.

        Straight through the weights: calling the modules costs as much again for networks of this size.
        """
        scale = ewma_scale(y)
        residual, forecast = (y / scale).flip(1), torch.zeros(())
        for first, *middle, last in self._linear:
            x = linear(residual, *first)
            for weights in middle:
                x = linear(x, *weights).relu_()
            theta = linear(x, *last)
            residual, forecast = residual - theta[:, : y.shape[1]], forecast + theta[:, y.shape[1] :]
        return forecast.reshape(len(y), self.spec.max_horizon, -1) * scale[:, :, None]

    @cached_property
    def _linear(self) -> list[list[tuple[torch.Tensor, torch.Tensor]]]:
        """Weight and bias of every linear layer, block by block."""
        layers = ([m for m in block.layers if isinstance(m, torch.nn.Linear)] for block in self.net.blocks)
        return [[(m.weight.detach(), m.bias.detach()) for m in block] for block in layers]


def save(forecaster: NBeats, directory: Path) -> None:
    """Write the network's weights (safetensors) and shape (JSON)."""
    shape = {"width": forecaster.width, "stacks": forecaster.stacks}
    (directory / "config.json").write_text(json.dumps(shape) + "\n")
    weights = forecaster.net.blocks.state_dict()  # the rest of NeuralForecast's state is its losses
    save_file({k: v.contiguous() for k, v in weights.items()}, directory / "weights.safetensors")


def load(directory: Path) -> NBeats:
    """The forecaster that `save` wrote beside spec.json."""
    spec = ModelSpec.from_json(json.loads((directory / "spec.json").read_text()))
    shape = json.loads((directory / "config.json").read_text())
    net = network(spec, shape["width"], shape["stacks"])
    net.blocks.load_state_dict(load_file(directory / "weights.safetensors"))
    return NBeats(spec, shape["width"], shape["stacks"], net.eval())
