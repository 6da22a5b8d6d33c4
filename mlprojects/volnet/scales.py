"""Scale models in serving: networks in numpy, trees in LightGBM.

A scale is the width of a session ahead, in EWMA volatilities. Every row gets the same bits alone as
in a batch. The last bits of a matrix product depend on its number of rows, so features are added up
one by one.
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

REACH = 1.5  # bound of the log scale: a forecast is within a factor of 4.5 of the EWMA volatility


class Scale(Protocol):
    """Width [R, H] of the H sessions ahead of each of R sessions, in EWMA volatilities."""

    def __call__(self, raw: Inputs) -> Floats: ...


@dataclass(frozen=True)
class Member:
    """One network, with the log scale REACH tanh(a / REACH).

    a = x . direct + step + silu(x . hidden + hidden_step) . out
    direct [F + G], step [H], hidden [F + G, W], hidden_step [H, W], out [W]; W is 0 without a
    hidden layer.
    """

    direct: Floats
    step: Floats
    hidden: Floats
    hidden_step: Floats
    out: Floats

    def __call__(self, scaled: Inputs) -> Floats:
        first = scaled.daily.shape[1]
        weights = np.concatenate([self.direct[:, None], self.hidden], axis=1)  # [F + G, 1 + W]
        by_daily = _product(scaled.daily, weights[:first])[:, None]
        by_season = _product(scaled.season, weights[first:])
        sums = by_daily + by_season  # [R, H, 1 + W]
        z = sums[:, :, 1:] + self.hidden_step
        hidden = _product(z / (1 + np.exp(-z)), self.out[:, None])[:, :, 0]
        total = sums[:, :, 0] + self.step + hidden
        log_scale: Floats = REACH * np.tanh(total / REACH)
        return np.exp(log_scale)


@dataclass(frozen=True)
class Networks:
    """The mean of the members' scales.

    All members share the same residual quantiles, so this is also the mean of their quantiles.
    """

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
        """All learnt arrays; those of the members are stacked along the first axis."""
        arrays = {"mean": self.scaling.mean, "deviation": self.scaling.deviation}
        for field in fields(Member):
            arrays[field.name] = np.stack([getattr(member, field.name) for member in self.members])
        return arrays

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, Floats]) -> "Networks":
        stacked = [arrays[field.name] for field in fields(Member)]
        members = [Member(*parts) for parts in zip(*stacked, strict=True)]
        return cls(Scaling(arrays["mean"], arrays["deviation"]), members)


@dataclass(frozen=True)
class Trees:
    """Boosted trees in LightGBM's text format; their last feature is the step (1..H)."""

    text: str

    def __call__(self, raw: Inputs) -> Floats:
        scale: Floats = self.booster.predict(tree_rows(raw), num_threads=1)
        return scale.reshape(raw.season.shape[:2])

    @cached_property
    def booster(self) -> Any:
        """LightGBM's Booster, imported here so that networks are served without the library."""
        return library().Booster(model_str=self.text)


def library() -> ModuleType:
    """The package lightgbm. Its wheel lacks the OpenMP runtime.

    Raises KronosError if the system has no OpenMP runtime either.
    """
    try:
        import lightgbm
    except OSError as error:
        raise KronosError(
            f"LightGBM cannot be loaded ({error}); install the OpenMP runtime "
            "(Debian: libgomp1, macOS: libomp)"
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
