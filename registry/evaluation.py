"""Rolling evaluation: a forecaster, a history and origins in; forecasts with outcomes and their scores out."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pandas as pd

from registry import metrics, wire
from registry.contract import Forecaster, History, ModelSpec, at_levels, check_forecast, numeric_columns
from registry.errors import BadHistory, BadInput

ORIGIN = "origin"
KEYS = [wire.UNIQUE_ID, ORIGIN, wire.STEP]
BANDS = (0.5, 0.8, 0.9)


def origins_between(
    history: pd.DataFrame, after: str, until: str | None, horizon: int, *, context: int = 1, every: int = 1
) -> pd.DatetimeIndex:
    """Every `every`-th session after `after` from which some series can be forecast and scored.

    That series has `context` sessions up to it and `horizon` more after it, the last of them not after `until`.
    """
    whole = History.of(history if until is None else history[history[wire.DS] <= pd.Timestamp(until)], ())
    scored = [whole.ds[start + context - 1 : max(end - horizon, start)] for start, end in pairwise(whole.bounds)]
    sessions = np.unique(np.concatenate(scored or [whole.ds]))
    found = sessions[sessions > np.datetime64(pd.Timestamp(after), "D")][::every]
    if not found.size:
        last = f"; the last that has is {sessions[-1]}" if sessions.size else ""
        needed = f"{context} sessions up to it and {horizon} after it"
        raise BadInput(f"no session after {after} has {needed} in any series{last}", code="NO_ORIGINS")
    return pd.DatetimeIndex(found.astype("datetime64[ns]"))


def rolling(
    forecaster: Forecaster,
    history: pd.DataFrame,
    origins: pd.DatetimeIndex,
    horizon: int,
    *,
    levels: Sequence[float] | None = None,
    context: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Forecasts from every origin with what came true: unique_id, origin, step, ds, y, mean, q..., what was measured.

    A series takes part at an origin when it has that session, at least `context` sessions up to it (the model's
    min_context unless told: models that are compared need the same) and `horizon` after it. The forecaster is handed
    rows up to the origin and nothing else, at most `max_context` a series. Rows are sorted by origin, series, step.
    `progress(done, all)` is called per origin.
    """
    spec = forecaster.spec
    levels = tuple(levels or spec.levels)
    context = spec.min_context if context is None else context
    if context < spec.min_context:
        raise BadInput(f"context is {context}; {spec.name} needs {spec.min_context} sessions", code="TOO_SHORT")
    whole = History.of(history, numeric_columns(history, spec))
    places = _places(whole, origins.to_numpy().astype("datetime64[D]"), context, horizon)
    _check_places(places, origins, spec, context, horizon)
    options = {o.name: o.default for o in spec.options}
    forecasts = []
    for done, place in enumerate(places, 1):
        forecast = forecaster.predict(_seen(whole, place, spec.max_context), horizon, levels, 0, options)
        check_forecast(forecast, spec, horizon, levels)
        forecasts.append(forecast)
        if progress:
            progress(done, len(origins))
    which, series = np.nonzero(places >= 0)  # of the origins, of the series: one pair for each forecast series [K]
    rows = (places[which, series, None] + np.arange(1, horizon + 1)).reshape(-1)  # [K * H]
    frame = pd.DataFrame(
        {
            wire.UNIQUE_ID: np.array(whole.ids, dtype=object)[np.repeat(series, horizon)],
            ORIGIN: np.repeat(origins.to_numpy()[which], horizon),
            wire.STEP: np.tile(np.arange(1, horizon + 1), len(which)),
            wire.DS: whole.ds[rows].astype("datetime64[ns]"),
            wire.Y: whole.columns[wire.Y][rows],
            wire.MEAN: np.concatenate([f.mean for f in forecasts]).reshape(-1),
        }
    )
    flat = np.concatenate([f.quantiles for f in forecasts]).reshape(len(frame), -1)
    quantiles = {wire.quantile_column(level): flat[:, i] for i, level in enumerate(levels)}
    measured = {
        name: np.repeat(np.concatenate([f.measured[name] for f in forecasts]), horizon)
        for name in forecasts[0].measured
    }
    return frame.assign(**quantiles, **measured)


def _places(whole: History, origins: npt.NDArray[np.datetime64], context: int, horizon: int) -> npt.NDArray[np.int64]:
    """Row [O, N] of each origin in each series that takes part in it; -1 where the series does not."""
    places = np.full((len(origins), len(whole.ids)), -1)
    for i, (start, end) in enumerate(pairwise(whole.bounds)):
        rows = start + np.searchsorted(whole.ds[start:end], origins)
        enough = (rows - start + 1 >= context) & (rows + horizon < end)
        enough[enough] = whole.ds[rows[enough]] == origins[enough]
        places[enough, i] = rows[enough]
    return places


def _check_places(
    places: npt.NDArray[np.int64], origins: pd.DatetimeIndex, spec: ModelSpec, context: int, horizon: int
) -> None:
    """Some series at every origin; all of them for a joint model."""
    count = (places >= 0).sum(axis=1)
    needed = places.shape[1] if spec.joint else 1
    short = np.flatnonzero(count < needed)
    if short.size:
        raise BadHistory(
            f"{count[short[0]]} of {places.shape[1]} series have {context} sessions up to {origins[short[0]]:%Y-%m-%d} "
            f"and {horizon} after it, {spec.name} needs {needed}; {short.size} of {len(origins)} origins are like that",
            code="NO_ORIGINS",
        )


def _seen(whole: History, place: npt.NDArray[np.int64], max_context: int) -> History:
    """What is known at the close of an origin, at most `max_context` sessions of each series that takes part."""
    which = np.flatnonzero(place >= 0)
    ends = place[which] + 1
    starts = np.maximum(whole.bounds[which], ends - max_context)
    rows = np.concatenate([np.arange(start, end) for start, end in zip(starts, ends, strict=True)])
    bounds = np.concatenate([[0], np.cumsum(ends - starts)])
    columns = {name: values[rows] for name, values in whole.columns.items()}
    return History(tuple(whole.ids[i] for i in which), bounds, whole.ds[rows], columns)


_LEVEL = re.compile(r"q\d+(\.\d+)?(e-\d+)?")


def levels_of(frame: pd.DataFrame) -> tuple[float, ...]:
    """Levels of a frame's quantile columns, in order."""
    return tuple(float(c[1:]) for c in frame.columns if _LEVEL.fullmatch(c))


def scores(forecasts: pd.DataFrame) -> pd.DataFrame:
    """Scores of each row of `rolling`: pinball, crps, absolute error of the median, error and direction of the mean;
    for each central band that the levels span `covered_90`, `winkler_90`, ... (quantiles between levels are
    interpolated); and whatever the forecast measured about itself."""
    levels = levels_of(forecasts)
    q = forecasts[[wire.quantile_column(level) for level in levels]].to_numpy()
    y = forecasts[wire.Y].to_numpy()
    out = forecasts[KEYS].copy()
    out["crps"] = metrics.crps(y, q, levels)
    out["pinball"] = out["crps"] / 2
    if levels[0] <= 0.5 <= levels[-1]:
        out["abs_error"] = np.abs(y - at_levels(q, levels, (0.5,))[:, 0])
    mean = forecasts[wire.MEAN].to_numpy()
    out["bias"] = mean - y
    out["direction"] = metrics.direction(y, mean)
    for band in BANDS:
        edges = (round((1 - band) / 2, 10), round((1 + band) / 2, 10))
        if levels[0] <= edges[0] and edges[1] <= levels[-1]:
            lower, upper = at_levels(q, levels, edges).T
            out[f"covered_{band * 100:.0f}"] = metrics.inside(y, lower, upper)
            out[f"winkler_{band * 100:.0f}"] = metrics.winkler(y, lower, upper, band)
    known = {*KEYS, wire.DS, wire.Y, wire.MEAN, *map(wire.quantile_column, levels)}
    return out.assign(**{name: forecasts[name] for name in forecasts.columns if name not in known})


_NAMES = {"abs_error": "mae_median"} | {f"covered_{b * 100:.0f}": f"coverage_{b * 100:.0f}" for b in BANDS}


def means(scored: pd.DataFrame, by: str | None = None) -> pd.DataFrame:
    """Mean scores under their published names; one row, or one per value of `by` (unique_id, step, origin)."""
    values = scored.drop(columns=KEYS)
    table = values.groupby(scored[by], observed=True).mean() if by else values.mean().to_frame().T
    return table.rename(columns=_NAMES)


def rank_ic(forecasts: pd.DataFrame) -> dict[int, float]:
    """Rank information coefficient of each step: the mean over origins of the rank correlation, across series, of mean
    forecast and outcome. A step at which no origin has enough series is left out (see `metrics.rank_correlation`)."""
    wide = forecasts.pivot(index=[ORIGIN, wire.STEP], columns=wire.UNIQUE_ID, values=[wire.MEAN, wire.Y])
    found = metrics.rank_correlation(wide[wire.MEAN].to_numpy(), wide[wire.Y].to_numpy())
    by_step = pd.Series(found, wide.index.get_level_values(wire.STEP)).groupby(level=0).mean().dropna()
    return dict(zip(by_step.index.tolist(), by_step.tolist(), strict=True))


@dataclass(frozen=True)
class Skill:
    """1 - crps / crps of a reference, and the test of 'both forecast equally well'."""

    skill: float
    test: metrics.DieboldMariano


def against(scored: pd.DataFrame, reference: pd.DataFrame, step: int | None = None, *, every: int = 1) -> Skill:
    """Skill of a model against a reference that was scored on the same rows, from every `every`-th session.

    CRPS is averaged over series (and steps, unless one `step` is asked for) per origin first: every origin weighs the
    same, however many series take part. Outcomes of origins that far apart overlap at horizon / every - 1 lags.
    """
    if not scored[KEYS].astype(str).equals(reference[KEYS].astype(str)):
        raise BadInput("model and reference were not scored on the same rows; evaluate both on the same origins")
    horizon = step or int(scored[wire.STEP].max())
    if step:
        scored, reference = scored[scored[wire.STEP] == step], reference[reference[wire.STEP] == step]
    ours, theirs = (s.groupby(ORIGIN, observed=True)["crps"].mean().to_numpy() for s in (scored, reference))
    if np.array_equal(ours, theirs):
        return Skill(0.0, metrics.DieboldMariano(1.0, 1.0))
    return Skill(1 - float(ours.mean() / theirs.mean()), metrics.diebold_mariano(theirs - ours, -(-horizon // every)))


def reliability(forecasts: pd.DataFrame) -> pd.DataFrame:
    """Observed share of outcomes at or below each quantile: level, observed, n."""
    levels = levels_of(forecasts)
    y = forecasts[wire.Y].to_numpy()
    observed = [float((y <= forecasts[wire.quantile_column(level)].to_numpy()).mean()) for level in levels]
    return pd.DataFrame({"level": levels, "observed": observed, "n": len(y)})
