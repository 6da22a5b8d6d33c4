"""Importance of a network's variables and its attention by lag, as tables and figures.

Lim et al. 2021, section 6: the mean weights of the variable selection networks, and the mean
attention of each forecast step on the sessions before it. The library's `interpret_output` computes
both.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from pytorch_forecasting import TemporalFusionTransformer
from torch import Tensor

from mlprojects.tft import inputs, network
from mlprojects.tft.inputs import Inputs
from registry.forecast.arrays import Floats

INK, BLUE, GREY = "#22313f", "#1f77b4", "#95a5a6"
SHOWN = 16  # bars of a panel
_FEATURE_OF = dict(zip(inputs.STATE, inputs.FEATURES, strict=True))
_TITLES = {
    "static": "static: sector and state at the cutoff",
    "encoder": "context",
    "decoder": "horizon",
}


@dataclass(frozen=True)
class Interpretation:
    """Two tables.

    `importance`: group (static, encoder, decoder), variable, share; the shares of a group add up to
    1, largest first. `attention`: step, session (0 is the cutoff), share; the shares of a step add
    up to 1.
    """

    importance: pd.DataFrame
    attention: pd.DataFrame

    def tables(self) -> dict[str, pd.DataFrame]:
        return {"variable_importance": self.importance, "attention_by_lag": self.attention}

    def figures(self) -> dict[str, Figure]:
        return {
            "variable_importance": importance_figure(self.importance),
            "attention_by_lag": attention_figure(self.attention),
        }


@torch.no_grad()
def of(
    net: TemporalFusionTransformer, batches: Iterable[tuple[Inputs, Tensor, Tensor]]
) -> Interpretation:
    """Means over all windows of the batches."""
    sums: dict[str, Floats] = defaultdict(lambda: np.zeros(()))
    steps = 0
    for x, *_ in batches:
        out = net(network.library(x))
        steps = x.future.shape[1]
        for step in range(steps):
            weights = net.interpret_output(out, reduction="sum", attention_prediction_horizon=step)
            key = f"step {step + 1}"
            sums[key] = sums[key] + weights["attention"].double().numpy()
        for group in _TITLES:
            sums[group] = sums[group] + weights[f"{group}_variables"].double().numpy()
    importance = [
        _importance(group, getattr(net, f"{group}_variables"), sums[group]) for group in _TITLES
    ]
    attention = [_attention(step, sums[f"step {step}"]) for step in range(1, steps + 1)]
    return Interpretation(
        pd.concat(importance, ignore_index=True), pd.concat(attention, ignore_index=True)
    )


def _importance(group: str, names: list[str], weights: Floats) -> pd.DataFrame:
    variables = [_FEATURE_OF.get(name, name) for name in names]
    table = pd.DataFrame({"group": group, "variable": variables, "share": weights / weights.sum()})
    return table.sort_values("share", ascending=False, kind="stable", ignore_index=True)


def _attention(step: int, weights: Floats) -> pd.DataFrame:
    """A step's share of attention on each session of the context and on each earlier step."""
    sessions = np.arange(step - len(weights), step)
    return pd.DataFrame({"step": step, "session": sessions, "share": weights / weights.sum()})


def importance_figure(importance: pd.DataFrame) -> Figure:
    """Sorted bars of the three groups, at most SHOWN of each."""
    groups = {group: importance[importance["group"] == group] for group in _TITLES}
    figure = Figure(figsize=(11, 0.3 * SHOWN + 1.4), layout="constrained")
    left, right = np.asarray(figure.subfigures(1, 2))
    heights = [len(groups[group]) + 2 for group in ("encoder", "decoder")]
    axes = [left.subplots(), *right.subplots(2, 1, height_ratios=heights)]
    for axis, (group, table) in zip(axes, groups.items(), strict=True):
        _bars(axis, table, _TITLES[group])
    figure.suptitle("Variable importance over the choice period", x=0.01, ha="left", fontsize=11)
    return figure


def _bars(axis: Axes, table: pd.DataFrame, title: str) -> None:
    top, count = table.head(SHOWN), len(table)
    bars = axis.barh(top["variable"], top["share"], color=BLUE, height=0.7)
    axis.axvline(1 / count, color=INK, linewidth=0.8, linestyle=":")
    percentages = [f"{share:.1%}" for share in top["share"]]
    labels = axis.bar_label(bars, percentages, padding=3, fontsize=8, color=INK)
    for label in labels:  # readable on the dotted line, too
        label.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.5})
    rest = ""
    if count > SHOWN:
        rest = f"{count - SHOWN} others, together {1 - top['share'].sum():.0%}"
    axis.text(1, 0.01, rest, transform=axis.transAxes, ha="right", fontsize=8, color=INK)
    axis.invert_yaxis()
    axis.margins(x=0.14, y=0.02)
    axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.tick_params(labelsize=8)
    axis.set_title(f"{title} (dotted: equal shares of {count})", loc="left", fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)


def attention_figure(attention: pd.DataFrame) -> Figure:
    """Attention of every step on the sessions of the context and on earlier steps."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    axis = figure.subplots()
    steps = attention["step"].unique()
    for i, (step, table) in enumerate(attention.groupby("step")):
        strength = 1 - 0.75 * i / max(len(steps) - 1, 1)
        axis.plot(
            table["session"],
            table["share"],
            color=BLUE,
            alpha=strength,
            linewidth=1.6,
            label=str(step),
        )
    context = int((attention["session"] <= 0).sum() / len(steps))
    axis.axhline(1 / context, color=INK, linewidth=0.8, linestyle=":")
    axis.axvline(0.5, color=GREY, linewidth=0.8)
    axis.set_ylim(bottom=0)
    axis.margins(x=0.01)
    axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
    axis.tick_params(labelsize=8)
    axis.set_xlabel(
        "session, counted from the cutoff (0); "
        "to the right of the line, earlier steps of the horizon"
    )
    axis.set_ylabel("share of the attention")
    axis.set_title(
        "Attention by lag over the choice period (dotted: the same everywhere)",
        loc="left",
        fontsize=10,
    )
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(
        title="step ahead", frameon=False, fontsize=8, title_fontsize=8, ncols=min(len(steps), 5)
    )
    return figure
