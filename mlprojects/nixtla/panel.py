"""What a panel must hold so that windows of it can be fitted, and how NeuralForecast is handed it."""

from itertools import pairwise

import numpy as np
import pandas as pd
from neuralforecast.tsdataset import TimeSeriesDataset

from mlprojects.nixtla.settings import Training
from registry.errors import BadHistory
from registry.forecast import names
from registry.forecast.history import History


def check(history: pd.DataFrame, config: Training) -> int:
    """Sessions after config.fit_until, to choose on. Raises BadHistory for what cannot be fitted."""
    chosen_on = history.loc[history[names.DS] > pd.Timestamp(config.fit_until), names.DS].nunique()
    shortest = int(history.groupby(names.UNIQUE_ID).size().min())
    if shortest - chosen_on < config.context + config.horizon:
        raise BadHistory(
            f"the shortest series has {shortest - chosen_on} sessions up to {config.fit_until}; "
            f"context + horizon needs {config.context + config.horizon}",
            code="TOO_SHORT",
        )
    if chosen_on < config.horizon:
        raise BadHistory(
            f"{chosen_on} sessions after {config.fit_until} to choose on, needs {config.horizon}",
            code="TOO_SHORT",
        )
    panel = History.of(history)
    _check_moves(panel, config.context)
    if config.joint:
        _check_calendar(panel)
    return int(chosen_on)


def _check_moves(panel: History, context: int) -> None:
    """No window of zeros: it has no volatility to divide by, and one session after it would decide the training."""
    for name, (start, end) in zip(panel.ids, pairwise(panel.bounds), strict=True):
        moved = np.concatenate([[0], np.cumsum(panel.columns[names.Y][start:end] != 0)])
        flat = np.flatnonzero(moved[context:] == moved[:-context])
        if flat.size:
            last = panel.ds[start + flat[0] + context - 1]
            raise BadHistory(
                f"all returns of {name} are 0 in the {context} sessions up to {last}; "
                "a series is divided by the volatility of its window: leave it out, or those sessions",
                code="CONSTANT",
            )


def _check_calendar(panel: History) -> None:
    """The same sessions in every series: a network of all series sees them side by side."""
    sessions = [panel.ds[start:end] for start, end in pairwise(panel.bounds)]
    every = np.unique(panel.ds)
    for name, found in zip(panel.ids, sessions, strict=True):
        missing = np.setdiff1d(every, found)
        if missing.size:
            raise BadHistory(
                f"{name} lacks {missing.size} of the {every.size} sessions that other series have, first {missing[0]}; "
                "a network of all series needs the same sessions of each: leave the series out, or those sessions",
                code="SESSIONS_DIFFER",
            )


def dataset(history: pd.DataFrame) -> TimeSeriesDataset:
    """unique_id, ds, y with sessions numbered 0.. : a date frequency would put forecasts on holidays."""
    frame = history[[names.UNIQUE_ID, names.Y]].copy()
    frame[names.DS] = frame.groupby(names.UNIQUE_ID).cumcount()
    found, *_ = TimeSeriesDataset.from_df(frame)
    return found
