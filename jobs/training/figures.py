"""Pictures of forecasts: the fan chart and the reliability diagram."""

from collections.abc import Mapping
from itertools import cycle

import matplotlib
import numpy as np
import pandas as pd

from registry.scoring.rolling import ORIGIN
from registry.scoring.scores import levels_of, reliability

matplotlib.use("Agg")

from matplotlib.figure import Figure

from registry.forecast import names
from registry.forecast.forecast import Forecast

INK, BLUE, RED, GREY = "#22313f", "#1f77b4", "#c0392b", "#95a5a6"
SHOWN = 120  # sessions of one-step forecasts in the fan chart
BEFORE = 20  # known sessions in the path chart


def fan_chart(forecasts: pd.DataFrame, model: str, series: str) -> Figure:
    """One-step bands over the last sessions with what came true, and the fan of the last origin, in per cent."""
    one = forecasts[forecasts[names.UNIQUE_ID] == series]
    last = one[one[ORIGIN] == one[ORIGIN].max()]
    past = one[(one[names.STEP] == 1) & (one[names.DS] <= last[ORIGIN].iloc[0])].tail(SHOWN)
    levels = levels_of(one)
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    axes = figure.subplots(1, 2, width_ratios=(5, 2), sharey=True)
    for axis, frame, x in ((axes[0], past, past[names.DS]), (axes[1], last, last[names.STEP])):
        _bands(axis, x, frame, levels)
        outside = (frame[names.Y] < frame[names.quantile_column(levels[0])]) | (
            frame[names.Y] > frame[names.quantile_column(levels[-1])]
        )
        axis.scatter(
            x[~outside],
            100 * frame.loc[~outside, names.Y],
            s=9,
            color=INK,
            zorder=3,
            label="realised",
        )
        axis.scatter(
            x[outside],
            100 * frame.loc[outside, names.Y],
            s=16,
            color=RED,
            zorder=3,
            label="outside the band",
        )
        axis.axhline(0, color=GREY, linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("log return of the session, %")
    axes[0].set_title(f"{model}, {series}: one session ahead", loc="left", fontsize=10)
    axes[0].tick_params(axis="x", rotation=30)
    axes[0].legend(frameon=False, fontsize=8, loc="upper left", ncols=2)
    axes[1].set_title(
        f"next sessions after {last[ORIGIN].iloc[0]:%Y-%m-%d}", loc="left", fontsize=10
    )
    axes[1].set_xlabel("step")
    axes[1].set_xticks(last[names.STEP].to_numpy())
    return figure


def _bands(
    axis: matplotlib.axes.Axes, x: pd.Series, frame: pd.DataFrame, levels: tuple[float, ...]
) -> None:
    """Nested bands between symmetric levels, the outermost lightest; the median as a line."""
    half = len(levels) // 2
    for i in range(half):
        low, high = (
            100 * frame[names.quantile_column(levels[j])] for j in (i, len(levels) - 1 - i)
        )
        label = f"{levels[i]:g} to {levels[-1 - i]:g}" if i == 0 else None
        axis.fill_between(
            x, low, high, color=BLUE, alpha=0.12 + 0.08 * i / max(half, 1), linewidth=0, label=label
        )
    if len(levels) % 2:
        axis.plot(
            x,
            100 * frame[names.quantile_column(levels[half])],
            color=BLUE,
            linewidth=1,
            label="median",
        )


def path_chart(forecast: Forecast, closes: "pd.Series[float]", model: str, series: str) -> Figure:
    """Sampled closes of one series from its cutoff with their bands, and the known closes before and after it.

    `closes` are indexed by session; those after the cutoff came true. `forecast` is of this series alone.
    """
    if forecast.price_paths is None:
        raise ValueError("a path chart needs sampled prices")
    cutoff = pd.Timestamp(forecast.cutoffs[0])
    paths = forecast.price_paths[0, :, :, 3]  # [S, H]
    horizon = paths.shape[1]
    known = closes[closes.index <= cutoff].tail(BEFORE)
    after = closes[closes.index > cutoff].head(horizon)
    start = np.full((len(paths), 1), known.iloc[-1])
    paths = np.concatenate([start, paths], axis=1)
    steps = np.arange(horizon + 1)
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    axis = figure.subplots()
    axis.plot(steps, paths.T, color=BLUE, alpha=0.15, linewidth=0.6)
    for low, high, alpha in ((0.05, 0.95, 0.15), (0.25, 0.75, 0.35)):
        edges = np.quantile(paths, (low, high), axis=0)
        axis.fill_between(
            steps, *edges, color=BLUE, alpha=alpha, linewidth=0, label=f"{low:g} to {high:g}"
        )
    axis.plot(
        steps,
        np.median(paths, axis=0),
        color=BLUE,
        linewidth=1.4,
        label=f"median of {len(paths)} paths",
    )
    axis.plot(np.arange(1 - len(known), 1), known, color=INK, linewidth=1.2, label="known")
    axis.plot(
        np.arange(len(after) + 1),
        [known.iloc[-1], *after],
        "o-",
        color=RED,
        markersize=4,
        label="what came true",
    )
    axis.axvline(0, color=GREY, linewidth=0.6)
    axis.set_title(
        f"{model}, {series}: sampled closes after {cutoff:%Y-%m-%d}", loc="left", fontsize=10
    )
    axis.set_xlabel("sessions from the last known one")
    axis.set_ylabel("close, adjusted")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8, loc="upper left")
    return figure


def reliability_diagram(forecasts: Mapping[str, pd.DataFrame]) -> Figure:
    """Observed minus nominal share at or below each quantile, in percentage points; 0 is calibrated."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axis = figure.subplots()
    axis.axhline(0, color=GREY, linewidth=1)
    for (name, frame), colour in zip(forecasts.items(), cycle((BLUE, INK, RED)), strict=False):
        table = reliability(frame)
        axis.plot(
            table["level"],
            100 * (table["observed"] - table["level"]),
            "o-",
            color=colour,
            markersize=4,
            label=name,
        )
    reach = max(3.0, float(np.ceil(np.abs(axis.get_ylim()).max())))
    axis.set_ylim(-reach, reach)
    axis.set_xlabel("level of the quantile")
    axis.set_ylabel("observed minus nominal, percentage points")
    axis.set_title("Reliability over the report period", loc="left", fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8)
    return figure
