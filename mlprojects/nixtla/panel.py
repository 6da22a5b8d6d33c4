"""Checks of a panel before training, and its form for NeuralForecast."""

from itertools import pairwise

import numpy as np
import pandas as pd
from neuralforecast.tsdataset import TimeSeriesDataset

from mlprojects.nixtla.settings import Training
from registry.errors import BadHistory
from registry.forecast import names
from registry.forecast.history import History


def check(history: pd.DataFrame, config: Training) -> int:
    """Number of sessions after config.fit_until. Raises BadHistory if a panel cannot be fitted."""
    later = history[names.DS] > pd.Timestamp(config.fit_until)
    choice_sessions = history.loc[later, names.DS].nunique()
    fitted = (~later).groupby(history[names.UNIQUE_ID]).sum()
    shortest, needed = int(fitted.min()), config.fit_sessions
    if shortest < needed:
        raise BadHistory(
            f"the shortest series has {shortest} sessions up to {config.fit_until}; "
            f"context + horizon needs {needed}",
            code="TOO_SHORT",
        )
    if choice_sessions < config.choice_sessions:
        raise BadHistory(
            f"the choice period after {config.fit_until} has {choice_sessions} sessions, "
            f"expected {config.choice_sessions} or more; move the dates",
            code="TOO_SHORT",
        )
    panel = History.of(history)
    _check_moves(panel, config.context)
    if config.joint:
        _check_calendar(panel)
    return int(choice_sessions)


def _check_moves(panel: History, context: int) -> None:
    """Refuse a window of zeros.

    It has no volatility to divide by, and the session after it would dominate the training.
    """
    for name, (start, end) in zip(panel.ids, pairwise(panel.bounds), strict=True):
        moved = np.concatenate([[0], np.cumsum(panel.columns[names.Y][start:end] != 0)])
        flat = np.flatnonzero(moved[context:] == moved[:-context])
        if flat.size:
            last = panel.ds[start + flat[0] + context - 1]
            raise BadHistory(
                f"all returns of {name} are 0 in the {context} sessions up to {last}, so this "
                "window has no volatility to divide by; leave out the series or these sessions",
                code="CONSTANT",
            )


def _check_calendar(panel: History) -> None:
    """Refuse series with different sessions: a network of all series needs the same ones."""
    all_sessions = np.unique(panel.ds)
    for name, (start, end) in zip(panel.ids, pairwise(panel.bounds), strict=True):
        missing = np.setdiff1d(all_sessions, panel.ds[start:end])
        if missing.size:
            raise BadHistory(
                f"{name} lacks {missing.size} of the {all_sessions.size} sessions of all series, "
                f"first {missing[0]}; a network of all series needs the same sessions of each: "
                "leave out the series or these sessions",
                code="SESSIONS_DIFFER",
            )


def dataset(history: pd.DataFrame, fit_until: str, choice_sessions: int) -> TimeSeriesDataset:
    """unique_id, ds and y; ds numbers the sessions from 0.

    A date frequency would put forecasts on holidays. The library chooses on the last
    `choice_sessions` rows of each series. A series that has fewer sessions after `fit_until` is
    filled up with rows that are marked as not available, so that these begin after `fit_until`.
    """
    parts = []
    for name, series in history.groupby(names.UNIQUE_ID, sort=False):
        y = series[names.Y].to_numpy()
        later = int((series[names.DS] > pd.Timestamp(fit_until)).sum())
        filler = np.resize(y, choice_sessions - later)  # not 0: a window must move
        part = pd.DataFrame({names.UNIQUE_ID: name, names.Y: np.concatenate([y, filler])})
        part["available_mask"] = np.repeat([1.0, 0.0], [len(y), len(filler)])
        parts.append(part)
    frame = pd.concat(parts, ignore_index=True)
    frame[names.DS] = frame.groupby(names.UNIQUE_ID).cumcount()
    dataset, *_ = TimeSeriesDataset.from_df(frame)
    return dataset
