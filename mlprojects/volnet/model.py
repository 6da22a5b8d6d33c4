"""linear, mlp, lightgbm: EWMA volatility times a learnt scale times quantiles of the residuals."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from mlprojects.blocks import features
from mlprojects.volnet.inputs import Inputs
from mlprojects.volnet.scales import Networks, Scale, Trees
from registry.forecast.arrays import Floats
from registry.forecast.forecast import Forecast
from registry.forecast.history import History
from registry.forecast.model_folder import read_spec
from registry.forecast.spec import ModelSpec, Request

REQUIREMENTS = ("scipy", "lightgbm", "safetensors")
OWN_WEIGHT = 0.5
UNKNOWN = "a symbol unknown to training gets quantiles pooled over all training symbols"
TREES, WEIGHTS = "trees.txt", "weights.safetensors"


@dataclass(frozen=True)
class Residuals:
    """Quantiles of returns in units of their forecast scale, frozen at training.

    `own` [K, Q]: quantiles of each symbol; `pool` [Q]: quantiles of all symbols together.
    """

    symbols: tuple[str, ...]
    own: Floats
    pool: Floats

    def of(self, names: Sequence[str]) -> Floats:
        """Half own and half pooled quantiles [N, Q]; only pooled ones for an unknown symbol."""
        by_symbol = dict(zip(self.symbols, self.own, strict=True))
        quantiles = np.stack([by_symbol.get(name, self.pool) for name in names])
        return OWN_WEIGHT * quantiles + (1 - OWN_WEIGHT) * self.pool


@dataclass(frozen=True)
class VolNet:
    """Forecaster of one scale model."""

    spec: ModelSpec
    scale: Scale
    residuals: Residuals

    def predict(self, history: History, request: Request) -> Forecast:
        """Forecast of every series; it draws no random number, so the seed changes nothing."""
        width = np.empty((len(history.ids), request.horizon))
        for series, values in history.blocks(self.spec.max_context, features.COLUMNS):
            sessions = history.sessions(series, values.shape[1])
            inputs = Inputs.read(values, sessions, self.spec.max_horizon)
            scaled = inputs.sigma[:, None] * self.scale(inputs)
            width[series] = scaled[:, : request.horizon]
        quantiles = width[:, :, None] * self.residuals.of(history.ids)[:, None]
        all_known = set(history.ids) <= set(self.residuals.symbols)
        notes = {} if all_known else {"unknown_symbol": UNKNOWN}
        return Forecast.of_quantiles(history, self.spec, quantiles, notes)


def save(forecaster: VolNet, directory: Path) -> None:
    """Write symbols (JSON), numbers (safetensors) and trees (LightGBM's text)."""
    residuals = forecaster.residuals
    scale = forecaster.scale
    (directory / "config.json").write_text(json.dumps({"symbols": residuals.symbols}) + "\n")
    arrays = {"own": residuals.own, "pool": residuals.pool}
    if isinstance(scale, Trees):
        (directory / TREES).write_text(scale.text)
    elif isinstance(scale, Networks):
        arrays |= scale.arrays
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    save_file(contiguous, directory / WEIGHTS)


def load(directory: Path) -> VolNet:
    """The forecaster that `save` wrote beside spec.json."""
    spec = read_spec(directory)
    symbols = json.loads((directory / "config.json").read_text())["symbols"]
    arrays = load_file(directory / WEIGHTS)
    trees = directory / TREES
    scale: Scale = Trees(trees.read_text()) if trees.exists() else Networks.of_arrays(arrays)
    return VolNet(spec, scale, Residuals(tuple(symbols), arrays["own"], arrays["pool"]))
