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
SHARED = 21  # forecasts that one window serves to choose on; the first of them has so many sessions less behind it


@dataclass(frozen=True)
class Batch:
    """Windows of L sessions after the warm-up: features [B, L, F], own EWMA volatility [B, L], returns [B, L, H] of the
    sessions 1 .. H after each."""

    x: Tensor
    sigma: Tensor
    y: Tensor


@dataclass(frozen=True)
class Windows:
    """All windows of a history by their first row: those to fit, and those to choose on with how many of their last
    sessions count."""

    values: Floats  # [rows, 3] of features.COLUMNS
    ds: npt.NDArray[np.datetime64]  # [rows]
    fit: npt.NDArray[np.int64]
    chosen: npt.NDArray[np.int64]
    counted: npt.NDArray[np.int64]  # of each of the chosen
    sessions: int  # in a window, warm-up and all
    horizon: int

    @classmethod
    def of(cls, history: pd.DataFrame, *, fit_until: str, sessions: int, horizon: int) -> "Windows":
        """Windows whose last target is not after `fit_until` are fitted; forecasts from sessions after it choose.

        Raises BadHistory when there is none of either.
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
        starts = np.concatenate(fit), np.concatenate(chosen), np.concatenate(counted)
        found = cls(values, whole.ds, *starts, sessions, horizon)
        for rows, what in (
            (found.fit, f"up to {fit_until}"),
            (found.chosen, f"and a forecast after {fit_until}"),
        ):
            if not len(rows):
                raise BadHistory(
                    f"no series has the warm-up, context and horizon of {features.WARMUP - 1} + "
                    f"{sessions - features.WARMUP + 1} + {horizon} sessions {what}; lower context or move the dates",
                    code="TOO_SHORT",
                )
        return found

    def take(self, first: npt.NDArray[np.int64]) -> Batch:
        """Windows that begin at these rows."""
        rows = first[:, None] + np.arange(self.sessions)
        x, sigma = inputs(self.values[rows], self.ds[rows], self.horizon)
        after = rows[:, -x.shape[1] :, None] + np.arange(1, self.horizon + 1)
        return Batch(
            *(torch.from_numpy(part).float() for part in (x, sigma, self.values[after, 0]))
        )

    def draw(self, generator: torch.Generator, size: int) -> Batch:
        """Windows to fit, drawn from the generator alone."""
        return self.take(
            self.fit[torch.randint(len(self.fit), (size,), generator=generator).numpy()]
        )

    def standard(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation [F] of the features over windows to fit, a context apart."""
        x = self.take(self.fit[:: self.sessions - features.WARMUP + 1]).x.flatten(0, 1)
        return x.mean(dim=0), x.std(dim=0).clamp_min(SMALLEST)
