"""Inputs of the network for a window: static, observed and known variables, by name.

Static: the sector, and the state at the cutoff (past-only features of volatility, market and
leverage). Observed over the context: the return, its size, the market's and the index's, each in
its own EWMA volatility at the cutoff, and the counts in the config's `covariates`. Known over
context and horizon: weekday and month of the session, and its distance from the cutoff.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mlprojects.blocks import features
from registry.forecast.arrays import Floats

UNKNOWN = "unknown"  # the sector of a symbol that was not in training; category 0
OBSERVED = ("return", "return_size", "market_size", "index_return")
STEP = "step"  # sessions from the cutoff, divided by the length of the context
CALENDAR = {"weekday": 7, "month": 12}  # categories of a session
FEATURES = features.NAMES[: features.NAMES.index("since_shock") + 1]  # levels, leverage, shocks
STATE = tuple(name.replace(".", "_") for name in FEATURES)  # torch allows no dot in a name
CLIP = 8.0  # volatilities
STATE_CLIP = 4.0  # deviations of the training windows

Days = npt.NDArray[np.datetime64]
States = npt.NDArray[np.float32 | np.float64]


@dataclass(frozen=True)
class DataParameters:
    """Data parameters fixed by training: categories, scales of the state [S] and log counts [K]."""

    sectors: tuple[str, ...]  # UNKNOWN first
    sector_of: Mapping[str, str]  # of every symbol in training
    covariates: tuple[str, ...]  # counts, a part of names.COUNTS
    state_mean: tuple[float, ...]
    state_deviation: tuple[float, ...]
    count_mean: tuple[float, ...]
    count_deviation: tuple[float, ...]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "DataParameters":
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in data.items()
        }
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of a window's values, in order."""
        return (*features.COLUMNS, *self.covariates)

    def categories(self, symbols: Sequence[str]) -> npt.NDArray[np.int64]:
        """Category [N] of each symbol's sector; 0 for a symbol that was not in training."""
        return np.array([self.sectors.index(self.sector_of.get(name, UNKNOWN)) for name in symbols])

    def scaled_state(self, daily: Floats) -> Floats:
        """State [..., S] of features [..., F], in deviations of the training windows."""
        centred = daily[..., : len(FEATURES)] - np.asarray(self.state_mean)
        scaled = centred / np.asarray(self.state_deviation)
        clipped: Floats = np.clip(scaled, -STATE_CLIP, STATE_CLIP)
        return clipped

    def scaled_counts(self, counts: Floats) -> Floats:
        """log(1 + count) [..., K] in deviations of the training sessions."""
        centred = np.log1p(counts) - np.asarray(self.count_mean)
        scaled: Floats = centred / np.asarray(self.count_deviation)
        return scaled


@dataclass(frozen=True)
class Inputs:
    """n windows of L sessions of context and H to forecast; numbers float32, categories int64."""

    sector: Tensor  # [n]
    state: Tensor  # [n, S]
    past: Tensor  # [n, L, E] observed variables, counts, step
    past_days: Tensor  # [n, L, 2] weekday, month
    future: Tensor  # [n, H, 1] step
    future_days: Tensor  # [n, H, 2]

    def map(self, change: Any) -> "Inputs":
        return Inputs(**{f.name: change(getattr(self, f.name)) for f in fields(self)})

    @classmethod
    def joined(cls, parts: Sequence["Inputs"]) -> "Inputs":
        tensors = {}
        for field in fields(cls):
            tensors[field.name] = torch.cat([getattr(part, field.name) for part in parts])
        return cls(**tensors)


def windows(
    data: DataParameters,
    *,
    values: Floats,
    sigma: Floats,
    state: States,
    days: Days,
    coming: Days,
    sector: npt.NDArray[np.int64],
) -> Inputs:
    """Inputs of n windows.

    `values` [n, L, 3 + K] are data.columns, `sigma` [n, 3] the EWMA volatilities of the first three
    at the cutoff, `state` [n, S] the scaled state there, `days` [n, L] the sessions, `coming`
    [n, H] the sessions to forecast, `sector` [n] the categories.
    """
    n, length = days.shape
    scaled = np.clip(values[:, :, :3] / sigma[:, None], -CLIP, CLIP)
    y, market, index = np.moveaxis(scaled, 2, 0)
    counts = data.scaled_counts(values[:, :, 3:])
    past_steps = np.arange(1 - length, 1) / length
    future_steps = np.arange(1, 1 + coming.shape[1]) / length
    past = [
        y,
        np.abs(y),
        market,
        index,
        *np.moveaxis(counts, 2, 0),
        np.broadcast_to(past_steps, (n, length)),
    ]
    future = np.broadcast_to(future_steps[:, None], (n, len(future_steps), 1))
    return Inputs(
        torch.from_numpy(sector),
        _float32(state),
        _float32(np.stack(past, axis=2)),
        calendar(days),
        _float32(future),
        calendar(coming),
    )


def calendar(days: Days) -> Tensor:
    """Weekday (0 is Monday) and month (0 is January) [..., 2] of sessions [...]."""
    weekday = (days.astype("datetime64[D]").astype(np.int64) + 3) % 7  # 1970-01-01 was a Thursday
    month = days.astype("datetime64[M]").astype(np.int64) % 12
    return torch.from_numpy(np.stack([weekday, month], axis=-1))


def _float32(values: Floats | States) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))
