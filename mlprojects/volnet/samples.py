"""Training rows: the inputs at each session of a history, and the returns of the sessions ahead."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from mlprojects.blocks import features
from mlprojects.volnet.inputs import Inputs
from registry.errors import BadHistory
from registry.forecast import names
from registry.forecast.arrays import Floats
from registry.forecast.checks import check_training
from registry.forecast.spec import ModelSpec


@dataclass(frozen=True)
class Samples:
    """R rows: their inputs, the returns `y` [R, H] of the sessions ahead, and their series.

    `series` [R] is the index of each row's series in `symbols`.
    """

    inputs: Inputs
    y: Floats
    series: npt.NDArray[np.int64]
    symbols: tuple[str, ...]

    def take(self, rows: npt.NDArray[np.bool_]) -> "Samples":
        return Samples(self.inputs.take(rows), self.y[rows], self.series[rows], self.symbols)


def split(history: pd.DataFrame, spec: ModelSpec, fit_until: str) -> tuple[Samples, Samples]:
    """Rows to fit and rows to choose on.

    The last outcome of a row to fit is not after `fit_until`; the session of a row to choose on is.
    Features use the whole history up to a row, but a forecast uses the last `max_context` sessions.
    So slow averages differ a little: their seed still has some weight in a forecast.

    Raises BadHistory when the history breaks the contract, when a series has no row to fit or does
    not move up to `fit_until`, or when there is no row to choose on.
    """
    whole = check_training(history, spec)
    columns = [names.UNIQUE_ID, names.DS, *features.COLUMNS]
    early = history[names.DS] <= pd.Timestamp(fit_until)
    _check_fitted(history.loc[early, columns], whole.ids, spec, fit_until)
    fit, chosen = [], []
    horizon = spec.max_horizon
    last = np.datetime64(pd.Timestamp(fit_until), "D")
    for series, values in whole.blocks(len(whole.ds), features.COLUMNS):
        sessions = whole.sessions(series, values.shape[1])
        keep = values.shape[1] - features.WARMUP + 1
        returns = values[:, -keep + 1 :, 0]
        ahead = np.lib.stride_tricks.sliding_window_view(returns, horizon, axis=1)  # [n, K - H, H]
        inputs = Inputs.read(values, sessions, horizon, keep)
        has_outcome = np.tile(np.arange(keep) < keep - horizon, len(series))
        rows = Samples(
            inputs.take(has_outcome),
            ahead.reshape(-1, horizon),
            np.repeat(series, keep - horizon),
            whole.ids,
        )
        session = sessions[:, -keep : sessions.shape[1] - horizon].reshape(-1)
        last_outcome = sessions[:, -keep + horizon :].reshape(-1)
        fit.append(rows.take(last_outcome <= last))
        chosen.append(rows.take(session > last))
    if not sum(len(rows.y) for rows in chosen):
        raise BadHistory(
            f"no series has a session after {fit_until} with {horizon} more after it, which the "
            "choice period needs; move the dates",
            code="TOO_SHORT",
        )
    return _joined(fit), _joined(chosen)


def _check_fitted(
    history: pd.DataFrame, ids: tuple[str, ...], spec: ModelSpec, fit_until: str
) -> None:
    """Raise BadHistory unless every series has a row to fit and moves."""
    lengths = history.groupby(names.UNIQUE_ID).size().reindex(list(ids), fill_value=0)
    needed = features.WARMUP + spec.max_horizon
    short = np.flatnonzero(lengths < needed)
    if short.size:
        raise BadHistory(
            f"series {short[0] + 1} of {len(ids)} has {lengths.iloc[short[0]]} sessions up to "
            f"{fit_until}, {spec.name} is fitted on {needed} or more; {short.size} series are too "
            "short",
            code="TOO_SHORT",
        )
    moves = history.groupby(names.UNIQUE_ID)[names.Y].agg(lambda y: bool((y != 0).any()))
    still = np.flatnonzero(~moves)
    if still.size:
        raise BadHistory(
            f"series {still[0] + 1} of {len(ids)} has a return of 0 in every session up to "
            f"{fit_until}; such a series has no scale to learn",
            code="CONSTANT",
        )


def _joined(parts: list[Samples]) -> Samples:
    daily = np.concatenate([part.inputs.daily for part in parts])
    season = np.concatenate([part.inputs.season for part in parts])
    sigma = np.concatenate([part.inputs.sigma for part in parts])
    y = np.concatenate([part.y for part in parts])
    series = np.concatenate([part.series for part in parts])
    return Samples(Inputs(daily, season, sigma), y, series, parts[0].symbols)
