"""Windows of a history: what a forecast looks at, and the returns after each of its sessions."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from mlprojects.blocks import features
from mlprojects.ssm.model import inputs
from registry.errors import BadHistory
from registry.forecast.arrays import Floats
from registry.forecast.history import History

SMALLEST = 1e-6  # standard deviation of a feature that never changes
# Forecasts per window to choose on; the earliest has SHARED - 1 fewer sessions behind it.
SHARED = 21


@dataclass(frozen=True)
class Batch:
    """B windows of L sessions after the warm-up."""

    x: Tensor  # [B, L, F + H G] inputs of the network
    sigma: Tensor  # [B, L] the series' EWMA volatility
    y: Tensor  # [B, L, H] returns of sessions 1 .. H after each


@dataclass(frozen=True)
class Windows:
    """Windows of a history, by their first row: those to fit, and those to choose on."""

    values: Floats  # [rows, 3] of features.COLUMNS
    ds: npt.NDArray[np.datetime64]  # [rows]
    fit: npt.NDArray[np.int64]
    chosen: npt.NDArray[np.int64]
    counted: npt.NDArray[np.int64]  # how many last sessions of each chosen window count
    sessions: int  # in a window, with its warm-up
    horizon: int

    @classmethod
    def of(cls, history: pd.DataFrame, *, fit_until: str, sessions: int, horizon: int) -> "Windows":
        """Windows to fit have their last target by `fit_until`; forecasts made after it choose.

        Raises BadHistory when there is no window to fit or none to choose on.
        """
        whole = History.of(history, features.COLUMNS)
        fitted = whole.ds <= np.datetime64(pd.Timestamp(fit_until), "D")
        fit, chosen, counted = [], [], []
        for start, end in zip(whole.bounds[:-1], whole.bounds[1:], strict=True):
            until = start + int(fitted[start:end].sum())  # the first row after fit_until
            fit.append(np.arange(start, until - sessions - horizon + 1))
            first = max(until, start + sessions - 1)
            lasts = np.arange(end - horizon - 1, first - 1, -SHARED)
            chosen.append(lasts - sessions + 1)
            counted.append(np.minimum(SHARED, lasts - first + 1))
        values = np.stack([whole.columns[name] for name in features.COLUMNS], axis=1)
        windows = cls(
            values,
            whole.ds,
            np.concatenate(fit),
            np.concatenate(chosen),
            np.concatenate(counted),
            sessions,
            horizon,
        )
        for first_rows, period in (
            (windows.fit, f"up to {fit_until}"),
            (windows.chosen, f"and a forecast after {fit_until}"),
        ):
            if not len(first_rows):
                raise BadHistory(
                    f"no series has the warm-up, context and horizon of {features.WARMUP - 1} + "
                    f"{sessions - features.WARMUP + 1} + {horizon} sessions {period}; "
                    "lower context or move the dates",
                    code="TOO_SHORT",
                )
        return windows

    def take(self, first: npt.NDArray[np.int64]) -> Batch:
        """Windows that begin at these rows."""
        rows = first[:, None] + np.arange(self.sessions)
        x, sigma = inputs(self.values[rows], self.ds[rows], self.horizon)
        after = rows[:, -x.shape[1] :, None] + np.arange(1, self.horizon + 1)
        arrays = (x, sigma, self.values[after, 0])
        return Batch(*(torch.from_numpy(array).float() for array in arrays))

    def draw(self, generator: torch.Generator, size: int) -> Batch:
        """Random windows to fit; only the generator decides which."""
        drawn = torch.randint(len(self.fit), (size,), generator=generator).numpy()
        return self.take(self.fit[drawn])

    def standard(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the inputs [F + H G], over windows to fit, a context apart."""
        context = self.sessions - features.WARMUP + 1
        x = self.take(self.fit[::context]).x.flatten(0, 1)
        return x.mean(dim=0), x.std(dim=0).clamp_min(SMALLEST)
