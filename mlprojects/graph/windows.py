"""Windows of all series at once: features of the sessions up to an origin, and the returns after it."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mlprojects.blocks import features
from registry.errors import BadHistory
from registry.forecast import names, volatility
from registry.forecast.arrays import Floats
from registry.forecast.history import History


@dataclass(frozen=True)
class Batch:
    """Origins: features [B, L, N, F], EWMA volatility [B, N] there, returns [B, N, H] after them."""

    x: Tensor
    sigma: Tensor
    y: Tensor


@dataclass(frozen=True)
class Windows:
    """Every session of a history with one calendar, and the origins [O] to fit and to choose on."""

    features: Tensor  # [T, N, F]
    sigma: Tensor  # [T, N]
    returns: Floats  # [N, T]
    fit: Tensor
    chosen: Tensor
    sessions: int  # L
    horizon: int
    fitted: int  # sessions up to fit_until: what the graph and the scales of the features may see

    @classmethod
    def of(cls, history: History, *, fit_until: str, sessions: int, horizon: int) -> "Windows":
        """`history` holds features.COLUMNS. Fitted are origins whose last outcome is not after `fit_until`, chosen on
        those whose first outcome is.

        Raises BadHistory when the series differ in their sessions, or when there is no origin of either sort.
        """
        check_calendar(history)
        [(which, values)] = history.blocks(len(history.ds), features.COLUMNS)
        length = values.shape[1]
        ds = history.sessions(which, length)
        fitted = int((ds[0] <= np.datetime64(fit_until)).sum())
        first = features.WARMUP - 1 + sessions - 1
        fit, chosen = (
            torch.arange(first, fitted - horizon),
            torch.arange(max(first, fitted - 1), length - horizon),
        )
        for origins, what in (
            (fit, f"up to {fit_until}"),
            (chosen, f"with all outcomes after {fit_until}"),
        ):
            if not len(origins):
                raise BadHistory(
                    f"{fitted} sessions up to {fit_until} and {length - fitted} after it hold no forecast {what}; the "
                    f"warm-up, context and horizon take {features.WARMUP - 1} + {sessions} + {horizon}",
                    code="TOO_SHORT",
                )
        y = np.ascontiguousarray(values[:, :, 0])
        return cls(
            features=torch.from_numpy(features.daily(values, ds, length))
            .float()
            .transpose(0, 1)
            .contiguous(),
            sigma=torch.from_numpy(volatility.ewma_volatility(y)).float().T,
            returns=y,
            fit=fit,
            chosen=chosen,
            sessions=sessions,
            horizon=horizon,
            fitted=fitted,
        )

    def draw(self, generator: torch.Generator, size: int) -> Batch:
        """Origins to fit, drawn from the generator alone."""
        return self.take(self.fit[torch.randint(len(self.fit), (size,), generator=generator)])

    def take(self, origins: Tensor) -> Batch:
        """Windows that end at these sessions."""
        x = self.features[origins[:, None] + torch.arange(1 - self.sessions, 1)]
        after = (origins[:, None] + torch.arange(1, self.horizon + 1)).numpy()
        y = torch.from_numpy(self.returns[:, after]).float().transpose(0, 1)
        return Batch(x, self.sigma[origins], y)

    def standard(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation [F] of the features over the sessions to fit."""
        seen = self.features[features.WARMUP - 1 : self.fitted].flatten(0, 1)
        return seen.mean(dim=0), seen.std(dim=0)


def check_calendar(history: History) -> None:
    """Raise BadHistory unless there are two series or more, all with the same sessions."""
    if len(history.ids) < 2:
        raise BadHistory("a graph is trained on two series or more, found 1", code="UNIVERSE")
    sessions = np.unique(history.ds)
    short = np.flatnonzero(history.lengths < len(sessions))
    if short.size:
        i = short[0]
        lacks = np.setdiff1d(sessions, history.ds[history.bounds[i] : history.bounds[i + 1]])
        raise BadHistory(
            f"{history.ids[i]} lacks {len(lacks)} of the {len(sessions)} sessions of the {len(history.ids)} series, "
            f"first {lacks[0]}; {names.UNIQUE_ID}s of one graph need one calendar: leave it out, or begin later",
            code="SESSIONS_DIFFER",
        )
