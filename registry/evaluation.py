"""Rolling evaluation: a forecaster, a history and origins in; forecasts with outcomes and their scores out."""

import re
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pandas as pd

from registry import metrics, wire
from registry.contract import Forecaster, History, at_levels, check_forecast
from registry.errors import BadHistory, BadInput

ORIGIN = "origin"
KEYS = [wire.UNIQUE_ID, ORIGIN, wire.STEP]
BANDS = (0.5, 0.8, 0.9)


def origins_between(history: pd.DataFrame, after: str, until: str | None, horizon: int) -> pd.DatetimeIndex:
    """Sessions after `after`, up to `until`, that all series have and that `horizon` more sessions follow."""
    counts = history.groupby(wire.DS).size()
    common = counts.index[counts == history[wire.UNIQUE_ID].nunique()]
    common = common[common <= pd.Timestamp(until)] if until else common
    found = pd.DatetimeIndex(common[: max(len(common) - horizon, 0)])
    found = found[found > pd.Timestamp(after)]
    if found.empty:
        last = f"; the last is {common.max():%Y-%m-%d}" if len(common) else ""
        raise BadInput(f"no session after {after} has {horizon} more that all series share{last}", code="NO_ORIGINS")
    return found


def rolling(
    forecaster: Forecaster,
    history: pd.DataFrame,
    origins: pd.DatetimeIndex,
    horizon: int,
    *,
    levels: Sequence[float] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Forecasts from every origin with what came true: unique_id, origin, step, ds, y, mean, q....

    At each origin the forecaster is handed rows up to that origin and nothing else, at most `max_context` a
    series. Rows [O * N * H], sorted by origin, series, step. `progress(done, all)` is called per origin.
    """
    spec = forecaster.spec
    levels = tuple(levels or spec.levels)
    whole = History.of(history, spec.columns[2:])
    options = {o.name: o.default for o in spec.options}
    quantiles, mean, targets = [], [], []
    for done, origin in enumerate(origins.to_numpy().astype("datetime64[D]"), 1):
        seen, following = _cut(whole, origin, spec.max_context, horizon)
        if seen.lengths.min() < spec.min_context:
            raise BadHistory(
                f"a series has {seen.lengths.min()} sessions up to an origin, {spec.name} needs {spec.min_context}",
                code="TOO_SHORT",
            )
        forecast = forecaster.predict(seen, horizon, levels, 0, options)
        check_forecast(forecast, spec, horizon, levels)
        quantiles.append(forecast.quantiles)
        mean.append(forecast.mean)
        targets.append(following)
        if progress:
            progress(done, len(origins))
    n, o = len(whole.ids), len(origins)
    rows = np.stack(targets).reshape(-1)  # [O * N * H]
    frame = pd.DataFrame(
        {
            wire.UNIQUE_ID: np.tile(np.repeat(np.array(whole.ids, dtype=object), horizon), o),
            ORIGIN: np.repeat(origins.to_numpy(), n * horizon),
            wire.STEP: np.tile(np.arange(1, horizon + 1), o * n),
            wire.DS: whole.ds[rows].astype("datetime64[ns]"),
            wire.Y: whole.columns[wire.Y][rows],
            wire.MEAN: np.stack(mean).reshape(-1),
        }
    )
    flat = np.stack(quantiles).reshape(len(frame), -1)
    return frame.assign(**{wire.quantile_column(level): flat[:, i] for i, level in enumerate(levels)})


def _cut(whole: History, origin: np.datetime64, context: int, horizon: int) -> tuple[History, npt.NDArray[np.int64]]:
    """What is known at the close of `origin`, at most `context` sessions a series, and the rows [N, H] that follow."""
    spans = list(pairwise(whole.bounds))
    cuts = [start + int(np.searchsorted(whole.ds[start:end], origin, side="right")) for start, end in spans]
    if any(cut + horizon > end for cut, (_, end) in zip(cuts, spans, strict=True)):
        raise BadHistory(f"a series has fewer than {horizon} sessions after an origin", code="NO_OUTCOME")
    starts = [max(start, cut - context) for cut, (start, _) in zip(cuts, spans, strict=True)]
    rows = np.concatenate([np.arange(start, cut) for start, cut in zip(starts, cuts, strict=True)])
    bounds = np.concatenate([[0], np.cumsum(np.subtract(cuts, starts))])
    columns = {name: values[rows] for name, values in whole.columns.items()}
    return History(whole.ids, bounds, whole.ds[rows], columns), np.asarray(cuts)[:, None] + np.arange(horizon)


_LEVEL = re.compile(r"q\d+(\.\d+)?(e-\d+)?")


def levels_of(frame: pd.DataFrame) -> tuple[float, ...]:
    """Levels of a frame's quantile columns, in order."""
    return tuple(float(c[1:]) for c in frame.columns if _LEVEL.fullmatch(c))


def scores(forecasts: pd.DataFrame) -> pd.DataFrame:
    """Scores of each row of `rolling`: pinball, crps, absolute error of the median, error of the mean, and for each
    central band that the levels span `covered_90`, `winkler_90`, ...; quantiles between levels are interpolated."""
    levels = levels_of(forecasts)
    q = forecasts[[wire.quantile_column(level) for level in levels]].to_numpy()
    y = forecasts[wire.Y].to_numpy()
    out = forecasts[KEYS].copy()
    out["crps"] = metrics.crps(y, q, levels)
    out["pinball"] = out["crps"] / 2
    if levels[0] <= 0.5 <= levels[-1]:
        out["abs_error"] = np.abs(y - at_levels(q, levels, (0.5,))[:, 0])
    out["bias"] = forecasts[wire.MEAN].to_numpy() - y
    for band in BANDS:
        edges = (round((1 - band) / 2, 10), round((1 + band) / 2, 10))
        if levels[0] <= edges[0] and edges[1] <= levels[-1]:
            lower, upper = at_levels(q, levels, edges).T
            out[f"covered_{band * 100:.0f}"] = metrics.inside(y, lower, upper)
            out[f"winkler_{band * 100:.0f}"] = metrics.winkler(y, lower, upper, band)
    return out


_NAMES = {"abs_error": "mae_median"} | {f"covered_{b * 100:.0f}": f"coverage_{b * 100:.0f}" for b in BANDS}


def means(scored: pd.DataFrame, by: str | None = None) -> pd.DataFrame:
    """Mean scores under their published names; one row, or one per value of `by` (unique_id, step, origin)."""
    values = scored.drop(columns=KEYS)
    table = values.groupby(scored[by], observed=True).mean() if by else values.mean().to_frame().T
    return table.rename(columns=_NAMES)


def against(scored: pd.DataFrame, reference: pd.DataFrame, step: int | None = None) -> dict[str, float]:
    """Skill of a model against a reference on the same rows: 1 - crps / crps_reference, and both p-values.

    The loss difference is averaged over series (and steps, unless one `step` is asked for) per origin first.
    """
    if not scored[KEYS].astype(str).equals(reference[KEYS].astype(str)):
        raise BadInput("model and reference were not scored on the same rows; evaluate both on the same origins")
    horizon = step or int(scored[wire.STEP].max())
    if step:
        scored, reference = scored[scored[wire.STEP] == step], reference[reference[wire.STEP] == step]
    ours, theirs = (s.groupby(ORIGIN, observed=True)["crps"].mean().to_numpy() for s in (scored, reference))
    skill = 1 - float(ours.mean() / theirs.mean())
    if np.array_equal(ours, theirs):
        return {"skill_vs_fhs": 0.0, "dm_p_hln": 1.0, "dm_p_bartlett": 1.0}
    test = metrics.diebold_mariano(theirs - ours, horizon)
    return {"skill_vs_fhs": skill, "dm_p_hln": test.p_hln, "dm_p_bartlett": test.p_bartlett}


def reliability(forecasts: pd.DataFrame) -> pd.DataFrame:
    """Observed share of outcomes at or below each quantile: level, observed, n."""
    levels = levels_of(forecasts)
    y = forecasts[wire.Y].to_numpy()
    observed = [float((y <= forecasts[wire.quantile_column(level)].to_numpy()).mean()) for level in levels]
    return pd.DataFrame({"level": levels, "observed": observed, "n": len(y)})
