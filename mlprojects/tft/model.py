"""tft: a Temporal Fusion Transformer on volatility-scaled returns; a forecast is one forward pass.

Lim, Arik, Loeff and Pfister, Temporal Fusion Transformers for Interpretable Multi-horizon Time
Series Forecasting, 2021 (arXiv 1912.09363). Training uses pytorch-forecasting; serving does not
import it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file

from mlprojects.blocks import features, head
from mlprojects.blocks.passes import ROWS, steady
from mlprojects.tft import inputs
from mlprojects.tft.direct import Direct
from mlprojects.tft.inputs import DataParameters, Days, Inputs
from registry.forecast import calendars, volatility
from registry.forecast.arrays import Floats
from registry.forecast.forecast import Forecast
from registry.forecast.history import History
from registry.forecast.model_folder import read_spec
from registry.forecast.spec import ModelSpec, Request

REQUIREMENTS = ("scipy", "torch", "safetensors")


@dataclass(frozen=True)
class TFT:
    """A trained network: its weights and constructor arguments under the library's names.

    They never change.
    """

    spec: ModelSpec
    known: DataParameters
    arguments: Mapping[str, Any]
    weights: Mapping[str, torch.Tensor]

    def predict(self, history: History, request: Request) -> Forecast:
        """Forecast of every series."""
        quantiles = self.quantiles(history)[:, : request.horizon]
        return Forecast.of_quantiles(history, self.spec, quantiles, self._notes(history))

    def quantiles(self, history: History) -> Floats:
        """Quantiles [N, H, Q] of the sessions after each series."""
        x, sigma = self.inputs(history)
        return self.scaled(x) * sigma[:, None, None]

    def inputs(self, history: History) -> tuple[Inputs, Floats]:
        """Inputs of the network for each series, and the EWMA volatilities [N] at their cutoffs."""
        coming = calendars.next_sessions_many(
            self.spec.calendar, history.cutoffs, self.spec.max_horizon
        )
        sectors = self.known.categories(history.ids)
        sigma = np.empty(len(history.ids))
        indices, parts = [], []
        for series, values in history.blocks(self.spec.max_context, self.known.columns):
            days = history.sessions(series, values.shape[1])
            part, sigma[series] = self._block(values, days, coming[series], sectors[series])
            indices.append(series)
            parts.append(part)
        order = torch.from_numpy(np.argsort(np.concatenate(indices)))
        return Inputs.joined(parts).map(lambda part: part[order]), sigma

    def _block(
        self, values: Floats, days: Days, coming: Days, sector: npt.NDArray[np.int64]
    ) -> tuple[Inputs, Floats]:
        """Inputs and EWMA volatilities [n] of series of equal length; `values` [n, T, 3 + K]."""
        market = values[:, :, :3]
        columns = np.ascontiguousarray(np.moveaxis(market, 2, 0))
        sigma = np.stack([volatility.ewma_volatility(column)[:, -1] for column in columns], axis=1)
        length = self.arguments["max_encoder_length"]
        x = inputs.windows(
            self.known,
            values=values[:, -length:],
            sigma=sigma,
            state=self.known.scaled_state(features.daily(market, days, 1)[:, 0]),
            days=days[:, -length:],
            coming=coming,
            sector=sector,
        )
        return x, sigma[:, 0]

    @steady()
    def scaled(self, x: Inputs) -> Floats:
        """Quantiles [n, H, Q] of windows in their own volatilities, never crossing."""
        n = len(x.sector)
        padded = -(-n // ROWS) * ROWS  # whole chunks; the last window is repeated to fill them
        rows = torch.arange(padded).clamp_max(n - 1)
        chunks = [
            self._direct(x.map(lambda part, chunk=chunk: part[chunk])) for chunk in rows.split(ROWS)
        ]
        out: Floats = head.spread(torch.cat(chunks).double(), self.spec.levels)[:n].numpy()
        return out

    @cached_property
    def _direct(self) -> Direct:
        return Direct(self.weights, self.arguments)

    def _notes(self, history: History) -> dict[str, str]:
        """Number of symbols that were not in training; their names are the caller's data."""
        unknown = sum(name not in self.known.sector_of for name in history.ids)
        if not unknown:
            return {}
        count = f"{unknown} of {len(history.ids)} series"
        return {"sector": f"{count} were not in training: their sector is unknown"}


def save(forecaster: TFT, directory: Path) -> None:
    """Write weights (safetensors), constructor arguments and data parameters (JSON)."""
    config = {"network": dict(forecaster.arguments), "data": forecaster.known.to_json()}
    (directory / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    save_file(dict(forecaster.weights), directory / "weights.safetensors")


def load(directory: Path) -> TFT:
    """The forecaster that `save` wrote beside spec.json."""
    spec = read_spec(directory)
    config = json.loads((directory / "config.json").read_text())
    data = DataParameters.from_json(config["data"])
    return TFT(spec, data, config["network"], load_file(directory / "weights.safetensors"))
