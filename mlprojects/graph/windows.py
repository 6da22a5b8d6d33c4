"""Windows of all series at once: features of the sessions up to an origin, returns after it."""

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
    """Windows of B origins."""

    x: Tensor  # [B, L, N, F] features of the sessions up to the origin
    sigma: Tensor  # [B, N] EWMA volatility at the origin
    y: Tensor  # [B, N, H] returns after the origin


@dataclass(frozen=True)
class Windows:
    """Every session of a history with one calendar, and the origins of its windows."""

    features: Tensor  # [T, N, F]
    sigma: Tensor  # [T, N]
    returns: Floats  # [N, T]
    fit: Tensor  # [O] origins to fit
    chosen: Tensor  # [O] origins to choose on
    sessions: int  # L
    horizon: int
    fitted: int  # sessions up to fit_until; only these make the graph and the features' scales

    @classmethod
    def of(cls, history: History, *, fit_until: str, sessions: int, horizon: int) -> "Windows":
        """Windows of a history with features.COLUMNS.

        The last outcome of an origin to fit is not after `fit_until`; the first outcome of an
        origin to choose on is. Raises BadHistory when the series differ in their sessions, or when
        there is no origin to fit or none to choose on.
        """
        check_calendar(history)
        [(series, values)] = history.blocks(len(history.ds), features.COLUMNS)
        length = values.shape[1]
        ds = history.sessions(series, length)
        fitted = int((ds[0] <= np.datetime64(fit_until)).sum())
        first = features.WARMUP - 1 + sessions - 1
        fit = torch.arange(first, fitted - horizon)
        chosen = torch.arange(max(first, fitted - 1), length - horizon)
        for origins, period in (
            (fit, f"up to {fit_until}"),
            (chosen, f"with all outcomes after {fit_until}"),
        ):
            if not len(origins):
                raise BadHistory(
                    f"{fitted} sessions up to {fit_until} and {length - fitted} after it hold "
                    f"no forecast {period}; warm-up, context and horizon take "
                    f"{features.WARMUP - 1} + {sessions} + {horizon}; "
                    "send more sessions or move the dates",
                    code="TOO_SHORT",
                )
        y = np.ascontiguousarray(values[:, :, 0])
        daily = torch.from_numpy(features.daily(values, ds, length)).float()  # [N, T, F]
        return cls(
            features=daily.transpose(0, 1).contiguous(),
            sigma=torch.from_numpy(volatility.ewma_volatility(y)).float().T,
            returns=y,
            fit=fit,
            chosen=chosen,
            sessions=sessions,
            horizon=horizon,
            fitted=fitted,
        )

    def draw(self, generator: torch.Generator, size: int) -> Batch:
        """Windows of random origins to fit; only the generator decides which."""
        drawn = torch.randint(len(self.fit), (size,), generator=generator)
        return self.take(self.fit[drawn])

    def take(self, origins: Tensor) -> Batch:
        """Windows of these origins."""
        x = self.features[origins[:, None] + torch.arange(1 - self.sessions, 1)]
        after = (origins[:, None] + torch.arange(1, self.horizon + 1)).numpy()
        y = torch.from_numpy(self.returns[:, after]).float().transpose(0, 1)
        return Batch(x, self.sigma[origins], y)

    def standard(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation [F] of the features over the sessions to fit."""
        to_fit = self.features[features.WARMUP - 1 : self.fitted].flatten(0, 1)
        return to_fit.mean(dim=0), to_fit.std(dim=0)


def check_calendar(history: History) -> None:
    """Raise BadHistory unless there are two series or more, all with the same sessions."""
    if len(history.ids) < 2:
        raise BadHistory(
            "found 1 series, expected two or more; a graph needs neighbours", code="UNIVERSE"
        )
    sessions = np.unique(history.ds)
    short = np.flatnonzero(history.lengths < len(sessions))
    if short.size:
        i = short[0]
        present = history.ds[history.bounds[i] : history.bounds[i + 1]]
        missing = np.setdiff1d(sessions, present)
        raise BadHistory(
            f"{history.ids[i]} lacks {len(missing)} of the {len(sessions)} sessions of the "
            f"{len(history.ids)} series, first {missing[0]}; every {names.UNIQUE_ID} of a graph "
            "needs the same sessions: leave it out, or begin later",
            code="SESSIONS_DIFFER",
        )
