"""Pictures of a calibration: reliability, PIT histogram and coverage, before and after."""

from collections.abc import Sequence
from datetime import date

import matplotlib
import numpy as np

matplotlib.use("Agg")

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jobs.training.figures import BLUE, GREY, RED
from registry.forecast.arrays import Floats

BEFORE, AFTER = "raw", "calibrated the night before"
NOMINAL = 0.90
WINDOW = 60  # sessions of the running mean of the coverage
_COLUMNS = 3  # steps beside each other
_REACH = 3.0  # percentage points that a reliability diagram shows at least


def reliability(
    levels: Sequence[float], before: Floats, after: Floats, steps: Sequence[int], title: str
) -> Figure:
    """Observed minus nominal share at or below each quantile, in percentage points, by step.

    `before` and `after` are observed shares [H, Q]; 0 is ideal.
    """
    rows = -(-len(steps) // _COLUMNS)
    columns = min(len(steps), _COLUMNS)
    figure = Figure(figsize=(3.6 * columns + 1, 2.9 * rows + 0.6), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    nominal = np.asarray(levels)
    for axis, step, raw, issued in zip(axes, steps, before, after, strict=False):
        axis.axhline(0, color=GREY, linewidth=1)
        axis.plot(nominal, 100 * (raw - nominal), "o-", color=RED, markersize=3, label=BEFORE)
        axis.plot(nominal, 100 * (issued - nominal), "o-", color=BLUE, markersize=3, label=AFTER)
        axis.set_title(f"step {step}", loc="left", fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[len(steps) :]:
        axis.set_visible(False)
    largest = max(_REACH, float(np.ceil(np.abs(axes[0].get_ylim()).max())))
    axes[0].set_ylim(-largest, largest)
    axes[0].legend(frameon=False, fontsize=8)
    figure.supxlabel("level of the quantile", fontsize=9)
    figure.supylabel("observed minus nominal, percentage points", fontsize=9)
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    return figure


def pit(before: Floats, after: Floats, title: str) -> Figure:
    """Histograms of the probability integral transform; flat at 1 is ideal.

    `before` and `after` are counts [B] in equal bins of 0 .. 1.
    """
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, counts, colour, label in (
        (axes[0], before, RED, BEFORE),
        (axes[1], after, BLUE, AFTER),
    ):
        edges = np.linspace(0, 1, len(counts) + 1)
        density = counts * len(counts) / max(1.0, float(counts.sum()))
        axis.stairs(density, edges, fill=True, color=colour, alpha=0.6)
        axis.axhline(1, color=GREY, linewidth=1)
        axis.set_title(label, loc="left", fontsize=9)
        axis.set_xlabel("probability integral transform")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("density")
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    return figure


def coverage(
    sessions: Sequence[date],
    counts: Floats,
    inside: tuple[Floats, Floats],
    band: tuple[float, float] | None,
    title: str,
) -> Figure:
    """Coverage of the 90 % band over nights: running means, before and after.

    `counts` [T] are outcomes of each session, `inside` those within the band before and after.
    `band` is the interval that the verdict allows; None: there is none yet.
    """
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axis: Axes = figure.subplots()
    if band is not None:
        label = f"interval of the last verdict, {band[0]:.3f} to {band[1]:.3f}"
        axis.axhspan(*band, color=GREY, alpha=0.25, linewidth=0, label=label)
    axis.axhline(NOMINAL, color=GREY, linewidth=1)
    days = np.array(sessions, dtype="datetime64[D]")
    for kept, colour, label in ((inside[0], RED, BEFORE), (inside[1], BLUE, AFTER)):
        axis.plot(days, _running_share(kept, counts), color=colour, linewidth=1.2, label=label)
    axis.set_ylabel(f"coverage of the 90 % band,\nmean of {WINDOW} sessions")
    axis.set_title(title, loc="left", fontsize=10)
    axis.tick_params(axis="x", rotation=30)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8)
    return figure


def _running_share(inside: Floats, counts: Floats) -> Floats:
    """Share inside over the last WINDOW sessions [T], over fewer at the start."""
    sums = np.cumsum(inside)
    totals = np.cumsum(counts)
    sums[WINDOW:] -= np.cumsum(inside)[:-WINDOW]
    totals[WINDOW:] -= np.cumsum(counts)[:-WINDOW]
    share: Floats = np.full(len(sums), np.nan)
    np.divide(sums, totals, out=share, where=totals > 0)
    return share
