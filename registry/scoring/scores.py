"""Scores of forecasts with outcomes, row by row and on average, and how reliable the levels are."""

import re

import numpy as np
import pandas as pd

from registry.forecast import names
from registry.forecast.forecast import interpolated
from registry.scoring import metrics
from registry.scoring.rolling import KEYS, ORIGIN

BANDS = (0.5, 0.8, 0.9)  # central bands whose coverage is scored
PUBLISHED = {"abs_error": "mae_median"} | {
    f"covered_{100 * band:.0f}": f"coverage_{100 * band:.0f}" for band in BANDS
}
_LEVEL = re.compile(r"q\d+(\.\d+)?(e-\d+)?")


def levels_of(frame: pd.DataFrame) -> tuple[float, ...]:
    """Levels of a frame's quantile columns, in order."""
    return tuple(float(c[1:]) for c in frame.columns if _LEVEL.fullmatch(c))


def scores(forecasts: pd.DataFrame) -> pd.DataFrame:
    """Scores of each row of `rolling`.

    pinball, crps, abs_error of the median, bias and direction of the mean; `covered_90`,
    `winkler_90` and so on for each central band that the levels span, its edges interpolated
    between levels; and whatever the forecast measured about itself.
    """
    levels = levels_of(forecasts)
    columns = [names.quantile_column(level) for level in levels]
    q = forecasts[columns].to_numpy()
    y, mean = forecasts[names.Y].to_numpy(), forecasts[names.MEAN].to_numpy()
    out = forecasts[KEYS].copy()
    out["crps"] = metrics.crps(y, q, levels)
    out["pinball"] = out["crps"] / 2
    if levels[0] <= 0.5 <= levels[-1]:
        out["abs_error"] = np.abs(y - interpolated(q, levels, (0.5,))[:, 0])
    out["bias"] = mean - y
    out["direction"] = metrics.direction(y, mean)
    for band in BANDS:
        edges = (round((1 - band) / 2, 10), round((1 + band) / 2, 10))
        if levels[0] <= edges[0] and edges[1] <= levels[-1]:
            lower, upper = interpolated(q, levels, edges).T
            out[f"covered_{100 * band:.0f}"] = metrics.inside(y, lower, upper)
            out[f"winkler_{100 * band:.0f}"] = metrics.winkler(y, lower, upper, band)
    known = {*KEYS, names.DS, names.Y, names.MEAN, *columns}
    measured = [name for name in forecasts.columns if name not in known]
    return out.assign(**{name: forecasts[name] for name in measured})


def means(scored: pd.DataFrame, by: str | None = None) -> pd.DataFrame:
    """Mean scores under their published names: one row, or one per value of `by`, a key."""
    values = scored.drop(columns=KEYS)
    if by is None:
        return values.mean().to_frame().T.rename(columns=PUBLISHED)
    return values.groupby(scored[by], observed=True).mean().rename(columns=PUBLISHED)


def rank_ic(forecasts: pd.DataFrame) -> dict[int, float]:
    """Rank information coefficient of each step: the mean over origins of the rank correlation,
    across series, of mean forecast and outcome.

    A step at which no origin has enough series is left out (see `metrics.rank_correlation`).
    """
    index, columns = [ORIGIN, names.STEP], names.UNIQUE_ID
    wide = forecasts.pivot(index=index, columns=columns, values=[names.MEAN, names.Y])
    ic = metrics.rank_correlation(wide[names.MEAN].to_numpy(), wide[names.Y].to_numpy())
    steps = wide.index.get_level_values(names.STEP)
    by_step = pd.Series(ic, steps).groupby(level=0).mean().dropna()
    return dict(zip(by_step.index.tolist(), by_step.tolist(), strict=True))


def reliability(forecasts: pd.DataFrame) -> pd.DataFrame:
    """Observed share of outcomes at or below each quantile: level, observed, n."""
    levels = levels_of(forecasts)
    y = forecasts[names.Y].to_numpy()
    below = [y <= forecasts[names.quantile_column(level)].to_numpy() for level in levels]
    observed = [float(part.mean()) for part in below]
    return pd.DataFrame({"level": levels, "observed": observed, "n": len(y)})
