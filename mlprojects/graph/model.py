"""graph: one forward pass over the graph of a universe, for all of its series or some."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mlprojects.blocks import features
from mlprojects.blocks.passes import steady
from mlprojects.graph.network import Network, Shape, heard
from registry.errors import BadHistory
from registry.forecast import volatility
from registry.forecast.arrays import Floats
from registry.forecast.forecast import Forecast
from registry.forecast.history import History
from registry.forecast.model_folder import read_spec
from registry.forecast.spec import ModelSpec, Request

REQUIREMENTS = ("scipy", "torch", "torch-geometric", "safetensors")


@dataclass(frozen=True)
class GraphForecaster:
    """A trained network in eval mode, and its graph's weights [N, N].

    The weights are in the order of spec.universe.
    """

    spec: ModelSpec
    net: Network
    weights: Tensor

    def predict(self, history: History, request: Request) -> Forecast:
        self._check_sessions(history)
        x, sigma = self._inputs(history)
        place = np.searchsorted(np.array(self.spec.universe), history.ids)
        quantiles = sigma[:, None, None] * self.scaled(x, place)[:, : request.horizon]
        return Forecast.of_quantiles(history, self.spec, quantiles, self._notes(place))

    @property
    def sessions(self) -> int:
        """Number of sessions in the recurrence."""
        return self.spec.min_context - features.WARMUP + 1

    def _check_sessions(self, history: History) -> None:
        """Raise BadHistory unless all series have the same last sessions.

        One recurrence runs over all of them together.
        """
        recent = history.sessions(np.arange(len(history.ids)), self.sessions)
        other = np.flatnonzero((recent != recent[0]).any(axis=1))
        if other.size:
            raise BadHistory(
                f"series {other[0] + 1} of {len(history.ids)} has other sessions than the first "
                f"among its last {self.sessions}; {self.spec.name} needs the same sessions for all",
                code="SESSIONS_DIFFER",
            )

    def _inputs(self, history: History) -> tuple[Floats, Floats]:
        """Features [n, L, F] and EWMA volatility [n] at the cutoff."""
        x = np.empty((len(history.ids), self.sessions, len(features.NAMES)))
        sigma = np.empty(len(history.ids))
        for series, values in history.blocks(self.spec.max_context, features.COLUMNS):
            days = history.sessions(series, values.shape[1])
            x[series] = features.daily(values, days, self.sessions)
            y = np.ascontiguousarray(values[:, :, 0])
            sigma[series] = volatility.ewma_volatility(y)[:, -1]
        return x, sigma

    @steady()
    def scaled(self, x: Floats, place: npt.NDArray[np.int64]) -> Floats:
        """Quantiles [n, H, Q] in EWMA volatilities.

        `x` [n, L, F] are features of the series at `place` [n] in the universe. The pass is always
        over the whole graph, because the last bits of a product depend on its number of rows.
        """
        present = self._present(place)
        whole = torch.zeros(1, x.shape[1], len(present), x.shape[2])
        whole[0][:, place] = torch.from_numpy(x).float().transpose(0, 1)
        out = self.net(whole, heard(self.weights, present))[0, place]
        quantiles: Floats = out.numpy().astype(np.float64)
        return quantiles

    def _present(self, place: npt.NDArray[np.int64]) -> Tensor:
        """1 for each series [N] of the graph that is at one of these places, else 0."""
        present = torch.zeros(len(self.weights))
        present[place] = 1.0
        return present

    def _notes(self, place: npt.NDArray[np.int64]) -> dict[str, str]:
        """How many series of the graph are missing, and their share of the neighbour weight."""
        count, present = len(self.weights), self._present(place)
        shares = heard(self.weights, torch.ones(count))[place]
        missing = (shares * (1 - present)).sum(dim=1).mean().item()
        if not missing:
            return {}
        absent = f"forecast without {count - len(place)} of the {count} series of its graph"
        return {"graph": f"{absent}; they carry {missing:.0%} of the neighbour weight"}


def save(forecaster: GraphForecaster, directory: Path) -> None:
    """Write sizes (JSON), the network's weights and the graph's (safetensors)."""
    (directory / "config.json").write_text(json.dumps(asdict(forecaster.net.shape)) + "\n")
    state = {k: v.contiguous() for k, v in forecaster.net.state_dict().items()}
    save_file(state, directory / "weights.safetensors")
    save_file({"weights": forecaster.weights.contiguous()}, directory / "adjacency.safetensors")


def load(directory: Path) -> GraphForecaster:
    """The forecaster that `save` wrote beside spec.json."""
    spec = read_spec(directory)
    shape = json.loads((directory / "config.json").read_text())
    shape["levels"] = tuple(shape["levels"])
    with torch.random.fork_rng(devices=[]):  # the constructor draws weights
        net = Network(Shape(**shape))
    net.load_state_dict(load_file(directory / "weights.safetensors"))
    weights = load_file(directory / "adjacency.safetensors")["weights"]
    return GraphForecaster(spec, net.eval(), weights)
