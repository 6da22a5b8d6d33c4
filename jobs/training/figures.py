"""Pictures of forecasts: fan chart, path chart, reliability diagram."""

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
BEFORE = 20  # sessions up to the cutoff in the path chart


def fan_chart(forecasts: pd.DataFrame, model: str, series: str) -> Figure:
    """Left: one-step bands and outcomes of the last sessions. Right: the last origin's fan.

    In per cent.
    """
    of_series = forecasts[forecasts[names.UNIQUE_ID] == series]
    origin = of_series[ORIGIN].max()
    last = of_series[of_series[ORIGIN] == origin]
    one_step = of_series[of_series[names.STEP] == 1]
    past = one_step[one_step[names.DS] <= origin].tail(SHOWN)
    levels = levels_of(of_series)
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    axes = figure.subplots(1, 2, width_ratios=(5, 2), sharey=True)
    for axis, frame, x in ((axes[0], past, past[names.DS]), (axes[1], last, last[names.STEP])):
        _bands(axis, x, frame, levels)
        lowest = frame[names.quantile_column(levels[0])]
        highest = frame[names.quantile_column(levels[-1])]
        outside = (frame[names.Y] < lowest) | (frame[names.Y] > highest)
        outcome = 100 * frame[names.Y]
        inside = {"s": 9, "color": INK, "zorder": 3, "label": "realised"}
        axis.scatter(x[~outside], outcome[~outside], **inside)
        missed = {"s": 16, "color": RED, "zorder": 3, "label": "outside the band"}
        axis.scatter(x[outside], outcome[outside], **missed)
        axis.axhline(0, color=GREY, linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("log return of the session, %")
    axes[0].set_title(f"{model}, {series}: one session ahead", loc="left", fontsize=10)
    axes[0].tick_params(axis="x", rotation=30)
    axes[0].legend(frameon=False, fontsize=8, loc="upper left", ncols=2)
    axes[1].set_title(f"next sessions after {origin:%Y-%m-%d}", loc="left", fontsize=10)
    axes[1].set_xlabel("step")
    axes[1].set_xticks(last[names.STEP].to_numpy())
    return figure


def _bands(
    axis: matplotlib.axes.Axes, x: pd.Series, frame: pd.DataFrame, levels: tuple[float, ...]
) -> None:
    """Nested bands between symmetric levels, the outermost lightest; the median as a line."""
    half = len(levels) // 2
    for i in range(half):
        low = 100 * frame[names.quantile_column(levels[i])]
        high = 100 * frame[names.quantile_column(levels[-1 - i])]
        label = f"{levels[i]:g} to {levels[-1 - i]:g}" if i == 0 else None
        alpha = 0.12 + 0.08 * i / max(half, 1)
        axis.fill_between(x, low, high, color=BLUE, alpha=alpha, linewidth=0, label=label)
    if len(levels) % 2:
        median = 100 * frame[names.quantile_column(levels[half])]
        axis.plot(x, median, color=BLUE, linewidth=1, label="median")


def path_chart(forecast: Forecast, closes: "pd.Series[float]", model: str, series: str) -> Figure:
    """Sampled closes of one series after its cutoff, their bands, and the actual closes.

    `closes` are indexed by session, before and after the cutoff. `forecast` has this series only.
    """
    if forecast.price_paths is None:
        raise ValueError("a path chart needs sampled prices")
    cutoff = pd.Timestamp(forecast.cutoffs[0])
    paths = forecast.price_paths[0, :, :, 3]  # [S, H]
    horizon = paths.shape[1]
    before = closes[closes.index <= cutoff].tail(BEFORE)
    after = closes[closes.index > cutoff].head(horizon)
    start = np.full((len(paths), 1), before.iloc[-1])
    paths = np.concatenate([start, paths], axis=1)
    steps = np.arange(horizon + 1)
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    axis = figure.subplots()
    axis.plot(steps, paths.T, color=BLUE, alpha=0.15, linewidth=0.6)
    for low, high, alpha in ((0.05, 0.95, 0.15), (0.25, 0.75, 0.35)):
        edges = np.quantile(paths, (low, high), axis=0)
        label = f"{low:g} to {high:g}"
        axis.fill_between(steps, *edges, color=BLUE, alpha=alpha, linewidth=0, label=label)
    label = f"median of {len(paths)} paths"
    axis.plot(steps, np.median(paths, axis=0), color=BLUE, linewidth=1.4, label=label)
    axis.plot(np.arange(1 - len(before), 1), before, color=INK, linewidth=1.2, label="known")
    actual = [before.iloc[-1], *after]
    axis.plot(range(len(actual)), actual, "o-", color=RED, markersize=4, label="what came true")
    axis.axvline(0, color=GREY, linewidth=0.6)
    title = f"{model}, {series}: sampled closes after {cutoff:%Y-%m-%d}"
    axis.set_title(title, loc="left", fontsize=10)
    axis.set_xlabel("sessions from the last known one")
    axis.set_ylabel("close, adjusted")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8, loc="upper left")
    return figure


def reliability_diagram(forecasts: Mapping[str, pd.DataFrame]) -> Figure:
    """Observed minus nominal share at or below each quantile, in percentage points; 0 is ideal."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axis = figure.subplots()
    axis.axhline(0, color=GREY, linewidth=1)
    for (name, frame), colour in zip(forecasts.items(), cycle((BLUE, INK, RED)), strict=False):
        table = reliability(frame)
        difference = 100 * (table["observed"] - table["level"])
        axis.plot(table["level"], difference, "o-", color=colour, markersize=4, label=name)
    reach = max(3.0, float(np.ceil(np.abs(axis.get_ylim()).max())))
    axis.set_ylim(-reach, reach)
    axis.set_xlabel("level of the quantile")
    axis.set_ylabel("observed minus nominal, percentage points")
    axis.set_title("Reliability over the report period", loc="left", fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8)
    return figure
