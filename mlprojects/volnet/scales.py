"""Scale models as they serve: networks in numpy, trees in LightGBM. Both say how many volatilities a session is wide.

Every row gets the same bits alone as in a batch: a matrix product's last bits depend on its number of rows, so features
are added up one by one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from mlprojects.volnet.inputs import Inputs, Scaling
from registry.errors import KronosError
from registry.forecast.arrays import Floats

REACH = 1.5  # of the log scale: the forecast is within a factor of 4.5 of the EWMA volatility


class Scale(Protocol):
    """Width [R, H] of the sessions ahead, in EWMA volatilities, of R sessions."""

    def __call__(self, raw: Inputs) -> Floats: ...


@dataclass(frozen=True)
class Member:
    """One network: log scale u = a + REACH tanh-bounded, a = x . direct + step + silu(x . hidden + hidden_step) . out.

    direct [F + G], step [H], hidden [F + G, W], hidden_step [H, W], out [W]; W is 0 for a linear one.
    """

    direct: Floats
    step: Floats
    hidden: Floats
    hidden_step: Floats
    out: Floats

    def __call__(self, scaled: Inputs) -> Floats:
        first = scaled.daily.shape[1]
        weights = np.concatenate([self.direct[:, None], self.hidden], axis=1)  # [F + G, 1 + W]
        found = _product(scaled.daily, weights[:first])[:, None] + _product(
            scaled.season, weights[first:]
        )
        z = found[:, :, 1:] + self.hidden_step
        total = (
            found[:, :, 0] + self.step + _product(z / (1 + np.exp(-z)), self.out[:, None])[:, :, 0]
        )
        log_scale: Floats = REACH * np.tanh(total / REACH)
        return np.exp(log_scale)


@dataclass(frozen=True)
class Networks:
    """The mean of the members' scales: they are multiplied by the same quantiles, so it is the mean of quantiles."""

    scaling: Scaling
    members: Sequence[Member]

    def __call__(self, raw: Inputs) -> Floats:
        scaled = self.scaling(raw)
        total = np.zeros(raw.season.shape[:2])
        for member in self.members:
            total += member(scaled)
        return total / len(self.members)

    @property
    def arrays(self) -> dict[str, Floats]:
        """Everything that was learnt, members stacked first."""
        stacked = {
            f.name: np.stack([getattr(m, f.name) for m in self.members]) for f in fields(Member)
        }
        return {"mean": self.scaling.mean, "deviation": self.scaling.deviation, **stacked}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, Floats]) -> "Networks":
        stacked = {f.name: arrays[f.name] for f in fields(Member)}
        members = [
            Member(**{k: v[i] for k, v in stacked.items()}) for i in range(len(arrays["out"]))
        ]
        return cls(Scaling(arrays["mean"], arrays["deviation"]), members)


@dataclass(frozen=True)
class Trees:
    """Boosted trees in LightGBM's own text format; the step (1..H) is their last feature."""

    text: str

    def __call__(self, raw: Inputs) -> Floats:
        found: Floats = self.booster.predict(tree_rows(raw), num_threads=1)
        return found.reshape(raw.season.shape[:2])

    @cached_property
    def booster(self) -> Any:
        """LightGBM's Booster; imported here, so that networks are served without the library."""
        return library().Booster(model_str=self.text)


def library() -> ModuleType:
    """The package lightgbm. Raises KronosError where the system lacks the OpenMP runtime: its wheel brings none."""
    try:
        import lightgbm
    except OSError as error:
        raise KronosError(
            f"LightGBM cannot be loaded ({error}); install the OpenMP runtime (Debian: libgomp1, macOS: libomp)"
        ) from error
    package: ModuleType = lightgbm
    return package


def tree_rows(raw: Inputs) -> Floats:
    """Unscaled features and step [R * H, F + G + 1]."""
    rows, horizon, _ = raw.season.shape
    parts = (
        np.repeat(raw.daily[:, None], horizon, axis=1),
        raw.season,
        np.broadcast_to(np.arange(1.0, horizon + 1)[:, None], (rows, horizon, 1)),
    )
    return np.concatenate(parts, axis=2).reshape(rows * horizon, -1)


def _product(x: Floats, weights: Floats) -> Floats:
    """x [..., F] times weights [F, W]."""
    total = np.zeros((*x.shape[:-1], weights.shape[1]))
    for i, row in enumerate(weights):
        total += x[..., i, None] * row
    return total
