"""Fan charts of the closes after the cutoff or, without closes, of the return since it."""

from math import ceil, sqrt

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jobs.forecasting.forecast import Result, per_cent
from jobs.forecasting.history import CLOSE
from jobs.forecasting.table import pairs, since_title
from jobs.training.figures import BLUE, GREY, INK
from registry.forecast import names
from registry.forecast.arrays import Floats
from registry.text import printable

PANELS = 9  # series in one picture
BEFORE = 20  # sessions up to the cutoff
TICKS = 6  # dates below a panel


def fans(result: Result) -> Figure:
    """A panel for each of the first PANELS series: the latest sessions, then nested bands."""
    number = min(len(result.forecast.unique_id), PANELS)
    columns = ceil(sqrt(number))
    rows = ceil(number / columns)
    size = (max(6.4, 3.8 * columns), max(4.2, 2.7 * rows + 0.6))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).reshape(-1)
    for i in range(number):
        _panel(axes[i], result, i)
    for axis in axes[number:]:
        axis.set_axis_off()
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, frameon=False, fontsize=8, loc="outside upper right", ncols=len(labels)
    )
    for axis in axes[:number:columns]:
        axis.set_ylabel(since_title(result).replace("$", r"\$"), fontsize=8)
    figure.supxlabel(_caption(result), fontsize=8)
    return figure


def _panel(axis: Axes, result: Result, i: int) -> None:
    known, fan = _levels_of(result, i)
    _label_sessions(axis, result, i)
    steps = np.arange(result.forecast.horizon + 1)
    bands = pairs(result.levels)
    for shade, (mass, low, high) in enumerate(reversed(bands)):
        alpha = 0.15 + 0.12 * shade
        axis.fill_between(
            steps, fan[:, low], fan[:, high], color=BLUE, alpha=alpha, linewidth=0,
            label=f"{mass:.0%}",
        )  # fmt: skip
    if 0.5 in result.levels:
        median = fan[:, result.levels.index(0.5)]
        axis.plot(steps, median, color=BLUE, linewidth=1.2, label="median")
    axis.plot(np.arange(1 - len(known), 1), known, color=INK, linewidth=1.1, label="known")
    axis.axvline(0, color=GREY, linewidth=0.6)
    cutoff = np.datetime_as_string(result.forecast.cutoffs[i], unit="D")
    title = f"{result.forecast.unique_id[i]}, after {cutoff}"
    axis.set_title(printable(title).replace("$", r"\$"), loc="left", fontsize=9)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def _label_sessions(axis: Axes, result: Result, i: int) -> None:
    """Month and day at every few sessions, counted from the cutoff, which is at 0."""
    known = _known(result, i)[names.DS].to_numpy().astype("datetime64[D]")
    days = np.concatenate([known, result.sessions[i].astype("datetime64[D]")])
    numbers = np.arange(len(days)) + 1 - len(known)
    shown = numbers % ceil(len(days) / TICKS) == 0
    axis.set_xticks(numbers[shown], [str(day)[5:] for day in days[shown]])


def _known(result: Result, i: int) -> pd.DataFrame:
    """The latest sessions of a series, up to its cutoff."""
    symbol = result.forecast.unique_id[i]
    return result.frame[result.frame[names.UNIQUE_ID] == symbol].tail(BEFORE)


def _levels_of(result: Result, i: int) -> tuple[Floats, Floats]:
    """Latest values [T] up to the cutoff; the fan [1 + H, Q] from the cutoff on."""
    rows = _known(result, i)
    if result.closes is not None and result.prices is not None:
        fan = np.vstack([np.full(len(result.levels), result.closes[i]), result.prices[i]])
        return rows[CLOSE].to_numpy(), fan
    since = rows[names.Y].cumsum().to_numpy()
    cumulative = np.vstack([np.zeros(len(result.levels)), result.cumulative[i]])
    return per_cent(since - since[-1]), per_cent(cumulative)


def _caption(result: Result) -> str:
    notes = result.forecast.notes
    remarks = [notes[name] for name in ("simulated", "synthetic") if name in notes]
    bands = f"{result.version.reference} on {result.data}: {result.method}"
    lines = ["session (month-day); the line is the cutoff", "; ".join([bands, *remarks])]
    number = len(result.forecast.unique_id)
    if number > PANELS:
        lines.insert(0, f"{PANELS} of {number} symbols; name others with --symbols")
    return "\n".join(map(printable, lines))
