"""What a training needs of a history: enough sessions, and of a joint model the same of all series.

Checked before anything is trained; the message says how much is missing.
"""

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import pandas as pd

from registry import training
from registry.errors import BadHistory
from registry.forecast import names
from registry.forecast.checks import screened
from registry.forecast.history import History, numeric_columns
from registry.forecast.spec import ModelSpec


def check(history: pd.DataFrame, config: training.Config, spec: ModelSpec, label: str) -> None:
    """Raise BadHistory unless a model can be trained on a history; `label` names the model.

    `history` has the sessions of the report, too.
    """
    if spec.joint:
        _check_together(_until(history, config.report_until), config, label)
    until_choice = _until(history, config.choose_until)
    _check_sessions(until_choice, config, label)
    _check_moves(until_choice, config, spec, label)


def unfit(history: pd.DataFrame, config: training.Config, spec: ModelSpec) -> Mapping[str, str]:
    """Series that a family would refuse to fit, and why. Empty if none is left without them.

    `history` ends at config.choose_until.
    """
    reasons: dict[str, str] = {}
    if config.fits_each:
        fitted = _sessions(history, config)["fit"]
        for name, sessions in fitted[fitted < config.fit_sessions].items():
            reasons[str(name)] = (
                f"has {sessions} sessions up to {config.fit_until}, "
                f"{config.fit_sessions} are fitted"
            )
    for name, until in _still(history, config.moving_sessions).items():
        reasons.setdefault(name, _all_zero(config, until))
    if config.screens:
        rest = history[~history[names.UNIQUE_ID].isin(reasons)]
        if len(rest):
            whole = History.of(rest, numeric_columns(rest, spec))
            for series in screened(whole, spec).refused:
                reasons[series.unique_id] = f"{series.code}: {series.message}"
    return reasons if len(reasons) < history[names.UNIQUE_ID].nunique() else {}


def _until(history: pd.DataFrame, last: str | None) -> pd.DataFrame:
    return history[history[names.DS] <= pd.Timestamp(last)] if last else history


def _sessions(history: pd.DataFrame, config: training.Config) -> pd.DataFrame:
    """Sessions of each series up to fit_until (`fit`) and after it (`choice`)."""
    early = history[names.DS] <= pd.Timestamp(config.fit_until)
    by_series = early.groupby(history[names.UNIQUE_ID])
    counts = pd.DataFrame({"fit": by_series.sum(), "all": by_series.size()})
    return counts.assign(choice=counts["all"] - counts["fit"])


def _check_sessions(history: pd.DataFrame, config: training.Config, label: str) -> None:
    """Raise BadHistory unless a series is long enough to fit, and one of those to choose on."""
    counts = _sessions(history, config)
    longest = int(counts["fit"].max()) if len(counts) else 0
    if longest < config.fit_sessions:
        raise BadHistory(
            f"{label} is fitted on {config.fit_sessions} sessions or more of a series up to "
            f"fit_until ({config.fit_until}); the longest of {config.data} has {longest}, "
            f"{config.fit_sessions - longest} are missing: move the dates, or bring older prices",
            code="TOO_SHORT",
        )
    enough = counts["fit"] >= config.fit_sessions
    most = int(counts.loc[enough, "choice"].max())
    if most < config.choice_sessions:
        raise BadHistory(
            f"{label} is chosen on {config.choice_sessions} sessions or more after fit_until "
            f"({config.fit_until}), up to choose_until ({config.choose_until}); {config.data} has "
            f"{most}, {config.choice_sessions - most} are missing: move the dates",
            code="TOO_SHORT",
        )


def _check_moves(
    history: pd.DataFrame, config: training.Config, spec: ModelSpec, label: str
) -> None:
    """Raise BadHistory for a window without a move: of any series, if they are fitted together.

    Else there must be a series that can be fitted.
    """
    still = _still(history, config.moving_sessions)
    if not still or not (spec.joint or len(still) == history[names.UNIQUE_ID].nunique()):
        return
    name, until = next(iter(still.items()))
    more = f", and {len(still) - 1} others have such" if len(still) > 1 else ""
    raise BadHistory(
        f"{label} divides by the volatility of {config.moving_sessions} sessions, and {name} "
        f"{_all_zero(config, until)}{more}: train it on a set without them",
        code="CONSTANT",
    )


def _all_zero(config: training.Config, until: np.datetime64) -> str:
    return f"has only returns of 0 in the {config.moving_sessions} sessions up to {until}"


def _still(history: pd.DataFrame, sessions: int) -> dict[str, np.datetime64]:
    """Series with so many returns of 0 in a row, and the last session of the first such window."""
    if not sessions:
        return {}
    still = {}
    whole = History.of(history)
    for name, (start, end) in zip(whole.ids, pairwise(whole.bounds), strict=True):
        moved = np.concatenate([[0], np.cumsum(whole.columns[names.Y][start:end] != 0)])
        flat = np.flatnonzero(moved[sessions:] == moved[:-sessions])
        if flat.size:
            still[name] = whole.ds[start + flat[0] + sessions - 1]
    return still


def _check_together(history: pd.DataFrame, config: training.Config, label: str) -> None:
    """Raise BadHistory unless there are two series or more, all with every session."""
    whole = History.of(history)
    if len(whole.ids) < 2:
        raise BadHistory(
            f"{label} forecasts its series together and needs two or more; {config.data} has "
            f"{len(whole.ids)}",
            code="UNIVERSE",
        )
    sessions = np.unique(whole.ds)
    short = np.flatnonzero(whole.lengths < len(sessions))
    if not short.size:
        return
    first = int(short[0])
    present = whole.ds[whole.bounds[first] : whole.bounds[first + 1]]
    missing = np.setdiff1d(sessions, present)
    more = f", and {short.size - 1} others lack some" if short.size > 1 else ""
    raise BadHistory(
        f"{label} forecasts its series together, so each needs every session of {config.data}; "
        f"{whole.ids[first]} lacks {missing.size} of {sessions.size}, first {missing[0]}{more}: "
        "train it on a set without them",
        code="SESSIONS_DIFFER",
    )
