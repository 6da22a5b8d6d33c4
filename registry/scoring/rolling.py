"""Rolling evaluation: forecasts of a history from many origins, with their outcomes."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd

from registry.errors import BadHistory
from registry.forecast import names
from registry.forecast.answer import forecast_of
from registry.forecast.arrays import Dates, Places
from registry.forecast.checks import refusal, screened
from registry.forecast.forecast import Forecast, Forecaster
from registry.forecast.history import History, Refused, numeric_columns
from registry.forecast.spec import ModelSpec

OnRefused = Callable[[pd.Timestamp, Refused], None]

ORIGIN = "origin"
KEYS = [names.UNIQUE_ID, ORIGIN, names.STEP]


def origins_between(
    history: pd.DataFrame,
    after: str,
    until: str | None,
    horizon: int,
    *,
    context: int = 1,
    every: int = 1,
    label: str = "",
) -> pd.DatetimeIndex:
    """Every `every`-th origin after `after`.

    An origin is a session from which a series can be forecast and scored: the series has `context`
    sessions up to it and `horizon` sessions after it, the last of them not after `until`. Raises
    BadHistory (code NO_ORIGINS) if there is none; `label` names who needs `context` sessions.
    """
    if until is not None:
        history = history[history[names.DS] <= pd.Timestamp(until)]
    whole = History.of(history, ())
    usable, missing = [], []
    for start, end in pairwise(whole.bounds):
        usable.append(whole.ds[start + context - 1 : max(end - horizon, start)])
        before = int(np.count_nonzero(whole.ds[start:end] <= np.datetime64(after, "D")))
        missing.append(max(before + 1, context) + horizon - (end - start))
    sessions = np.unique(np.concatenate(usable or [whole.ds]))
    origins = sessions[sessions > np.datetime64(pd.Timestamp(after), "D")][::every]
    if not origins.size:
        last = f"; the last such session is {sessions[-1]}" if sessions.size else ""
        needed_by = f"{label} needs {context} sessions up to an origin: " if label else ""
        raise BadHistory(
            f"{needed_by}no session after {after} has {context} sessions up to it and {horizon} "
            f"after it in any series; {min(missing, default=context + horizon)} more are "
            f"needed{last}",
            code="NO_ORIGINS",
        )
    return pd.DatetimeIndex(origins.astype("datetime64[ns]"))


def rolling(
    forecaster: Forecaster,
    history: pd.DataFrame,
    origins: pd.DatetimeIndex,
    horizon: int,
    *,
    levels: Sequence[float] | None = None,
    context: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    on_refused: OnRefused | None = None,
) -> pd.DataFrame:
    """Forecasts from every origin, with their outcomes.

    Columns: unique_id, origin, step, ds, y, mean, q..., and the forecast's `measured` numbers. Rows
    are sorted by origin, series, step.

    A series takes part at an origin if it has that session, at least `context` sessions up to it
    and `horizon` sessions after it. The default of `context` is the model's min_context; models
    that are compared need the same one. The forecaster gets rows up to the origin, at most
    `max_context` a series, after the checks of a request. `on_refused(origin, series)` is called
    for a series that fails them, which is left out there; without `on_refused`, and if nothing is
    left, BadHistory is raised. `progress(done, all)` is called after each origin.
    """
    spec = forecaster.spec
    request = spec.request({"horizon": horizon, "levels": levels or spec.levels})
    context = spec.min_context if context is None else context
    if context < spec.min_context:
        raise BadHistory(
            f"context is {context}; {spec.name} needs {spec.min_context} sessions", code="TOO_SHORT"
        )
    whole = History.of(history, numeric_columns(history, spec))
    places = _places(whole, origins.to_numpy().astype("datetime64[D]"), context, horizon)
    _check_places(places, origins, spec, context, horizon)
    forecasts = []
    for done, (origin, place) in enumerate(zip(origins, places, strict=True), 1):
        until_origin = screened(_until_origin(whole, place, spec.max_context), spec)
        if until_origin.refused:
            _report(until_origin, origin, on_refused)
            place[~np.isin(whole.ids, until_origin.ids)] = -1  # a row of `places`
        if until_origin.ids:
            forecast = forecast_of(forecaster, until_origin, request)
            forecasts.append(forecast.at(request.levels))
        if progress:
            progress(done, len(origins))
    if not forecasts:
        raise refusal(until_origin)
    return _with_outcomes(whole, places, origins, forecasts)


def _report(history: History, origin: pd.Timestamp, on_refused: OnRefused | None) -> None:
    """Hand over the refused series of an origin. Raises BadHistory if nobody listens."""
    if on_refused is None:
        raise refusal(history)
    for series in history.refused:
        on_refused(origin, series)


def _with_outcomes(
    whole: History, places: Places, origins: pd.DatetimeIndex, forecasts: Sequence[Forecast]
) -> pd.DataFrame:
    """One row for each origin, series and step. `places` [O, N] are the rows of the origins."""
    first = forecasts[0]
    horizon = first.horizon
    origin, series = np.nonzero(places >= 0)  # [K], K forecast series in all
    rows = (places[origin, series, None] + np.arange(1, horizon + 1)).reshape(-1)  # [K * H]
    keys = {
        names.UNIQUE_ID: np.array(whole.ids, dtype=object)[np.repeat(series, horizon)],
        ORIGIN: np.repeat(origins.to_numpy()[origin], horizon),
        names.STEP: np.tile(np.arange(1, horizon + 1), len(origin)),
        names.DS: whole.ds[rows].astype("datetime64[ns]"),
        names.Y: whole.columns[names.Y][rows],
        names.MEAN: np.concatenate([f.mean for f in forecasts]).reshape(-1),
    }
    flat = np.concatenate([f.quantiles for f in forecasts]).reshape(len(rows), -1)
    quantiles = {names.quantile_column(level): flat[:, i] for i, level in enumerate(first.levels)}
    measured = {}
    for name in first.measured:
        values = np.concatenate([f.measured[name] for f in forecasts])
        measured[name] = np.repeat(values, horizon)
    return pd.DataFrame(keys | quantiles | measured)


def _places(whole: History, origins: Dates, context: int, horizon: int) -> Places:
    """Row [O, N] of each origin in each series; -1 where the series takes no part."""
    places = np.full((len(origins), len(whole.ids)), -1)
    for i, (start, end) in enumerate(pairwise(whole.bounds)):
        rows = start + np.searchsorted(whole.ds[start:end], origins)
        enough = (rows - start + 1 >= context) & (rows + horizon < end)
        enough[enough] = whole.ds[rows[enough]] == origins[enough]
        places[enough, i] = rows[enough]
    return places


def _check_places(
    places: Places, origins: pd.DatetimeIndex, spec: ModelSpec, context: int, horizon: int
) -> None:
    """At every origin at least one series takes part; for a joint model, all do."""
    count = (places >= 0).sum(axis=1)
    needed = places.shape[1] if spec.joint else 1
    short = np.flatnonzero(count < needed)
    if short.size:
        raise BadHistory(
            f"{count[short[0]]} of {places.shape[1]} series have {context} sessions up to "
            f"{origins[short[0]]:%Y-%m-%d} and {horizon} after it, {spec.name} needs {needed}; "
            f"{short.size} of {len(origins)} origins have too few",
            code="NO_ORIGINS",
        )


def _until_origin(whole: History, place: Places, max_context: int) -> History:
    """The history up to an origin: at most `max_context` sessions of each series taking part."""
    series = np.flatnonzero(place >= 0)
    ends = place[series] + 1
    return whole.part(series, np.maximum(whole.bounds[series], ends - max_context), ends)
