"""Training rows: what a model is shown at every session of a history, and the returns that followed."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from mlprojects.blocks import features
from mlprojects.volnet.inputs import Inputs
from registry.errors import BadHistory
from registry.forecast import names
from registry.forecast.arrays import Floats
from registry.forecast.history import check_history
from registry.forecast.spec import ModelSpec


@dataclass(frozen=True)
class Samples:
    """R rows: inputs, returns `y` [R, H] of the sessions ahead, and the place of each row's series [R] in `symbols`."""

    inputs: Inputs
    y: Floats
    series: npt.NDArray[np.int64]
    symbols: tuple[str, ...]

    def take(self, rows: npt.NDArray[np.bool_]) -> "Samples":
        return Samples(self.inputs.take(rows), self.y[rows], self.series[rows], self.symbols)


def split(history: pd.DataFrame, spec: ModelSpec, fit_until: str) -> tuple[Samples, Samples]:
    """Rows to fit, whose last outcome is not after `fit_until`, and rows to choose on, whose session is.

    Features come from the whole history up to a row, where a forecast looks at the last `max_context` sessions: slow
    averages differ by what the seed still weighs. Raises BadHistory when the contract is broken, when a series has no
    row to fit or does not move up to `fit_until`, or when there is no row to choose on.
    """
    whole = check_history(history, spec)
    columns = [names.UNIQUE_ID, names.DS, *features.COLUMNS]
    _check_fitted(
        history.loc[history[names.DS] <= pd.Timestamp(fit_until), columns],
        whole.ids,
        spec,
        fit_until,
    )
    fit, chosen = [], []
    horizon, last = spec.max_horizon, np.datetime64(pd.Timestamp(fit_until), "D")
    for which, values in whole.blocks(len(whole.ds), features.COLUMNS):
        ds = whole.sessions(which, values.shape[1])
        keep = values.shape[1] - features.WARMUP + 1
        ahead = np.lib.stride_tricks.sliding_window_view(
            values[:, -keep + 1 :, 0], horizon, axis=1
        )  # [n, K - H, H]
        inputs = Inputs.read(values, ds, horizon, keep)
        rows = np.arange(len(which) * keep).reshape(len(which), keep)[:, : keep - horizon]
        of_block = Samples(
            Inputs(
                *(part[rows.reshape(-1)] for part in (inputs.daily, inputs.season, inputs.sigma))
            ),
            ahead.reshape(-1, horizon),
            np.repeat(which, keep - horizon),
            whole.ids,
        )
        now, end = (
            ds[:, -keep : ds.shape[1] - horizon].reshape(-1),
            ds[:, -keep + horizon :].reshape(-1),
        )
        fit.append(of_block.take(end <= last))
        chosen.append(of_block.take(now > last))
    if not sum(len(part.y) for part in chosen):
        raise BadHistory(
            f"no series has a session after {fit_until} with {horizon} more after it to choose on; move the dates",
            code="TOO_SHORT",
        )
    return _together(fit), _together(chosen)


def _check_fitted(
    seen: pd.DataFrame, ids: tuple[str, ...], spec: ModelSpec, fit_until: str
) -> None:
    """Every series has a row to fit, and moves."""
    lengths = seen.groupby(names.UNIQUE_ID).size().reindex(list(ids), fill_value=0)
    needed = features.WARMUP + spec.max_horizon
    short = np.flatnonzero(lengths < needed)
    if short.size:
        raise BadHistory(
            f"series {short[0] + 1} of {len(ids)} has {lengths.iloc[short[0]]} sessions up to {fit_until}, "
            f"{spec.name} is fitted on {needed} or more; {short.size} series are too short",
            code="TOO_SHORT",
        )
    moves = seen.groupby(names.UNIQUE_ID)[names.Y].agg(lambda y: bool((y != 0).any()))
    still = np.flatnonzero(~moves)
    if still.size:
        raise BadHistory(
            f"series {still[0] + 1} of {len(ids)} has a return of 0 in every session up to {fit_until}; such a series "
            "has no scale to learn",
            code="CONSTANT",
        )


def _together(parts: list[Samples]) -> Samples:
    inputs = [
        np.concatenate([getattr(part.inputs, name) for part in parts])
        for name in ("daily", "season", "sigma")
    ]
    y, series = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("y", "series")
    )
    return Samples(Inputs(*inputs), y, series, parts[0].symbols)
