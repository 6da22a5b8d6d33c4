"""Scores of forecasts with outcomes: per row, on average, and the reliability of levels."""

import itertools
import re
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from registry.forecast import names
from registry.forecast.arrays import Floats
from registry.forecast.quantiles import interpolated
from registry.scoring import metrics
from registry.scoring.rolling import KEYS, ORIGIN

BANDS = (0.5, 0.8, 0.9)  # central bands whose coverage is scored
_COVERAGES = {f"covered_{100 * band:.0f}": f"coverage_{100 * band:.0f}" for band in BANDS}
PUBLISHED = {"abs_error": "mae_median"} | _COVERAGES
_LEVEL = re.compile(r"q\d+(\.\d+)?(e-\d+)?")


def levels_of(frame: pd.DataFrame) -> tuple[float, ...]:
    """Levels of a frame's quantile columns, in order."""
    return tuple(float(column[1:]) for column in frame.columns if _LEVEL.fullmatch(column))


def scores(forecasts: pd.DataFrame) -> pd.DataFrame:
    """Scores of each row of `rolling`.

    They are pinball, crps, abs_error of the median, bias and direction of the mean. For each
    central band within the levels, there are `covered_90`, `winkler_90` and so on; the edges of the
    band are interpolated between levels. The forecast's `measured` numbers are copied.
    """
    levels = levels_of(forecasts)
    columns = [names.quantile_column(level) for level in levels]
    q = forecasts[columns].to_numpy()
    y = forecasts[names.Y].to_numpy()
    mean = forecasts[names.MEAN].to_numpy()
    out = forecasts[KEYS].copy()
    out["crps"] = metrics.crps(y, q, levels)
    out["pinball"] = out["crps"] / 2
    if levels[0] <= 0.5 <= levels[-1]:
        out["abs_error"] = np.abs(y - interpolated(q, levels, (0.5,))[:, 0])
    out["bias"] = mean - y
    out["direction"] = metrics.direction(y, mean)
    for band, lower, upper in _bands(q, levels):
        out[f"covered_{100 * band:.0f}"] = metrics.inside(y, lower, upper)
        out[f"winkler_{100 * band:.0f}"] = metrics.winkler(y, lower, upper, band)
    of_rolling = {*KEYS, names.DS, names.Y, names.MEAN, *columns}
    measured = [name for name in forecasts.columns if name not in of_rolling]
    return out.assign(**{name: forecasts[name] for name in measured})


def of_step(y: Floats, quantiles: Floats, levels: Sequence[float]) -> dict[str, Floats]:
    """Scores that the ledger keeps of one step: y [N], quantiles [N, Q]; crps, pit and covered_*.

    A band that reaches beyond the levels has no score.
    """
    scored = {
        "crps": metrics.crps(y, quantiles, levels),
        "pit": metrics.pit(y, quantiles, levels),
    }
    for band, lower, upper in _bands(quantiles, levels):
        scored[f"covered_{100 * band:.0f}"] = metrics.inside(y, lower, upper)
    return scored


def _bands(quantiles: Floats, levels: Sequence[float]) -> Iterator[tuple[float, Floats, Floats]]:
    """Central bands within the levels, with their lower and upper edges [N]."""
    edges = {}
    for band in BANDS:
        lower, upper = round((1 - band) / 2, 10), round((1 + band) / 2, 10)
        if levels[0] <= lower and upper <= levels[-1]:
            edges[band] = (lower, upper)
    if not edges:
        return
    ordered = sorted(itertools.chain(*edges.values()))
    at = dict(zip(ordered, interpolated(quantiles, levels, ordered).T, strict=True))
    for band, (lower, upper) in edges.items():
        yield band, at[lower], at[upper]


def means(scored: pd.DataFrame, by: str | None = None) -> pd.DataFrame:
    """Mean scores under their published names: one row, or one per value of the key `by`."""
    values = scored.drop(columns=KEYS)
    if by is None:
        return values.mean().to_frame().T.rename(columns=PUBLISHED)
    return values.groupby(scored[by], observed=True).mean().rename(columns=PUBLISHED)


def rank_ic(forecasts: pd.DataFrame) -> dict[int, float]:
    """Rank information coefficient of each step.

    It is the rank correlation of mean forecasts and outcomes across series, averaged over origins.
    A step is left out if no origin has enough series (see `metrics.rank_correlation`).
    """
    wide = forecasts.pivot(
        index=[ORIGIN, names.STEP], columns=names.UNIQUE_ID, values=[names.MEAN, names.Y]
    )
    ic = metrics.rank_correlation(wide[names.MEAN].to_numpy(), wide[names.Y].to_numpy())
    steps = wide.index.get_level_values(names.STEP)
    by_step = pd.Series(ic, steps).groupby(level=0).mean().dropna()
    return dict(zip(by_step.index.tolist(), by_step.tolist(), strict=True))


def reliability(forecasts: pd.DataFrame) -> pd.DataFrame:
    """Observed share of outcomes at or below each quantile: level, observed, n."""
    levels = levels_of(forecasts)
    y = forecasts[names.Y].to_numpy()
    observed = []
    for level in levels:
        below = y <= forecasts[names.quantile_column(level)].to_numpy()
        observed.append(float(below.mean()))
    return pd.DataFrame({"level": levels, "observed": observed, "n": len(y)})
