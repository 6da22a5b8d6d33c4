"""The windows of a panel: which ones are fitted, which ones choose, and batches of them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from mlprojects.blocks import features
from mlprojects.tft import inputs
from mlprojects.tft.inputs import UNKNOWN, DataParameters, Inputs
from registry.errors import BadHistory
from registry.forecast import calendars, names, volatility
from registry.forecast.arrays import Floats
from registry.forecast.checks import check_training
from registry.forecast.history import History
from registry.forecast.spec import ModelSpec

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Windows:
    """Sessions of a panel, one a row, series after series; and the cutoffs (rows) of windows."""

    known: DataParameters
    values: Floats  # [rows, 3 + K] of known.columns
    sigma: Floats  # [rows, 3] EWMA volatilities of the first three
    state: inputs.States  # [rows, S] scaled
    days: inputs.Days  # [rows]
    coming: inputs.Days  # [rows, H] sessions after each
    sector: Rows  # [rows] category
    fit: Rows  # cutoffs to fit
    chosen: Rows  # cutoffs to choose on
    context: int

    @classmethod
    def of(
        cls,
        frame: pd.DataFrame,
        spec: ModelSpec,
        *,
        context: int,
        covariates: tuple[str, ...],
        fit_until: str,
    ) -> "Windows":
        """Windows to fit and windows to choose on.

        The horizon of a window to fit ends by `fit_until`; that of a window to choose on begins
        after it. Only the windows and sessions to fit set the scales. Raises BadHistory for a
        panel that cannot be fitted.
        """
        sector_of = _sectors(frame)
        history = check_training(frame, spec)
        sectors = (UNKNOWN, *sorted(set(sector_of.values())))
        unscaled = DataParameters(sectors, sector_of, covariates, (), (), (), ())
        values = np.stack([history.columns[name] for name in unscaled.columns], axis=1)
        sigma, daily = _past(history)
        fit, chosen = _cutoffs(history, spec, fit_until)
        _check_moves(history, np.concatenate([fit, chosen]), context)
        in_training = history.ds <= np.datetime64(fit_until)
        data = _scaled(unscaled, daily[fit], np.log1p(values[in_training, 3:]))
        return cls(
            data,
            values,
            sigma,
            data.scaled_state(daily).astype(np.float32),
            history.ds,
            calendars.next_sessions_many(spec.calendar, history.ds, spec.max_horizon),
            np.repeat(data.categories(history.ids), history.lengths),
            fit,
            chosen,
            context,
        )

    def draw(
        self, random: torch.Generator, size: int, unknown_share: float
    ) -> tuple[Inputs, Tensor]:
        """Random windows to fit and their targets [size, H] in volatilities.

        In a share of the windows the sector is unknown.
        """
        drawn = torch.randint(len(self.fit), (size,), generator=random).numpy()
        cutoffs = self.fit[drawn]
        masked = torch.rand(size, generator=random) < unknown_share
        x = self.at(cutoffs)
        return replace(x, sector=x.sector.masked_fill(masked, 0)), self.targets(cutoffs)

    def choosing(self, size: int) -> Iterator[tuple[Inputs, Tensor, Tensor]]:
        """All windows to choose on: inputs, targets in volatilities, volatilities [n]."""
        for first in range(0, len(self.chosen), size):
            cutoffs = self.chosen[first : first + size]
            yield self.at(cutoffs), self.targets(cutoffs), torch.from_numpy(self.sigma[cutoffs, 0])

    def at(self, cutoffs: Rows) -> Inputs:
        """Inputs of the windows with these cutoffs."""
        rows = cutoffs[:, None] + np.arange(1 - self.context, 1)
        return inputs.windows(
            self.known,
            values=self.values[rows],
            sigma=self.sigma[cutoffs],
            state=self.state[cutoffs],
            days=self.days[rows],
            coming=self.coming[cutoffs],
            sector=self.sector[cutoffs],
        )

    def targets(self, cutoffs: Rows) -> Tensor:
        """Returns [n, H] after the cutoffs, in volatilities there."""
        rows = cutoffs[:, None] + np.arange(1, self.coming.shape[1] + 1)
        scaled = self.values[rows, 0] / self.sigma[cutoffs, :1]
        return torch.from_numpy(scaled.astype(np.float32))


def _sectors(frame: pd.DataFrame) -> dict[str, str]:
    """Sector of every symbol. Raises BadHistory unless each symbol has exactly one."""
    if names.SECTOR not in frame.columns:
        raise BadHistory(
            f"the history has no column {names.SECTOR}, which tft is trained with",
            code="MISSING_COLUMN",
        )
    named = frame[[names.UNIQUE_ID, names.SECTOR]].drop_duplicates()
    several = named[named[names.UNIQUE_ID].duplicated() | named[names.SECTOR].isna()]
    if len(several):
        raise BadHistory(
            f"{several[names.UNIQUE_ID].iloc[0]} has no sector, or more than one; "
            "give every symbol one sector",
            code="BAD_SECTOR",
        )
    return dict(zip(named[names.UNIQUE_ID], named[names.SECTOR], strict=True))


def _past(history: History) -> tuple[Floats, Floats]:
    """EWMA volatilities [rows, 3] and features [rows, F] of every session.

    Features of the warm-up are 0.
    """
    count = len(history.ds)
    sigma = np.empty((count, 3))
    daily = np.zeros((count, len(features.NAMES)))
    for series, values in history.blocks(count, features.COLUMNS):
        length = values.shape[1]
        rows = history.bounds[series, None] + np.arange(length)
        for i in range(3):
            sigma[rows, i] = volatility.ewma_volatility(np.ascontiguousarray(values[:, :, i]))
        keep = length - features.WARMUP + 1
        days = history.sessions(series, length)
        daily[rows[:, -keep:]] = features.daily(values, days, keep)
    return sigma, daily


def _cutoffs(history: History, spec: ModelSpec, fit_until: str) -> tuple[Rows, Rows]:
    """Cutoffs of the windows to fit and to choose on.

    Raises BadHistory when a series has no window to fit, or no series has one to choose on.
    """
    last, horizon = np.datetime64(fit_until), spec.max_horizon
    fit, chosen = [], []
    for i, (start, end) in enumerate(pairwise(history.bounds)):
        cutoffs = np.arange(start + spec.min_context - 1, end - horizon)
        fit.append(cutoffs[history.ds[cutoffs + horizon] <= last])
        chosen.append(cutoffs[history.ds[cutoffs + 1] > last])
        if not len(fit[-1]):
            raise BadHistory(
                f"{history.ids[i]} has no window up to {fit_until} to fit: none in its "
                f"{end - start} sessions has {spec.min_context} up to its cutoff and {horizon} "
                "after it; send more sessions or move the dates",
                code="TOO_SHORT",
            )
    if not any(map(len, chosen)):
        raise BadHistory(
            f"no series has a window after {fit_until} to choose on, with {horizon} sessions after "
            "its cutoff; send more sessions or move the dates",
            code="TOO_SHORT",
        )
    return np.concatenate(fit), np.concatenate(chosen)


def _check_moves(history: History, cutoffs: Rows, context: int) -> None:
    """Raise BadHistory if all returns of a window are 0.

    There is no volatility to divide by, and a single later return would dominate training.
    """
    moved = np.concatenate([[0], np.cumsum(history.columns[names.Y] != 0)])
    still = cutoffs[moved[cutoffs + 1] == moved[cutoffs + 1 - context]]
    if len(still):
        name = history.ids[int(np.searchsorted(history.bounds, still[0], side="right")) - 1]
        raise BadHistory(
            f"all returns of {name} are 0 in the {context} sessions up to {history.ds[still[0]]}, "
            "and returns are divided by their volatility; leave out the series or those sessions",
            code="CONSTANT",
        )


def _scaled(data: DataParameters, daily: Floats, log_counts: Floats) -> DataParameters:
    """The data parameters with mean and deviation of the features and of log counts."""
    state = daily[:, : len(inputs.STATE)]
    return replace(
        data,
        state_mean=_numbers(state.mean(axis=0)),
        state_deviation=_deviations(state),
        count_mean=_numbers(log_counts.mean(axis=0)),
        count_deviation=_deviations(log_counts),
    )


def _deviations(values: Floats) -> tuple[float, ...]:
    """Standard deviations; 1 where nothing varies."""
    deviations = values.std(axis=0)
    return _numbers(np.where(deviations > 0, deviations, 1.0))


def _numbers(values: Floats) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
