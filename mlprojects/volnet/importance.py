"""Weight of each feature in the scale: a table and a picture."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mlprojects.volnet.inputs import NAMES
from registry.forecast.arrays import Floats

SHOWN = 25  # features in the picture
GAIN = "share of the trees' gain"
SLOPE = "change of the log scale for one deviation of the feature"


def table(weights: Floats) -> pd.DataFrame:
    """Columns feature and weight, the largest weight first.

    Networks: the mean change of the log scale for one deviation of the feature. Trees: the share of
    the gain; for them, the step is a feature too.
    """
    names = (*NAMES, "step")[: len(weights)]
    order = np.argsort(-np.abs(weights), kind="stable")
    return pd.DataFrame({"feature": [names[i] for i in order], "weight": weights[order]})


def chart(importance: pd.DataFrame, name: str, unit: str) -> Figure:
    """Bars of the features with the largest weights; `unit` is the unit of a weight."""
    shown = importance.head(SHOWN).iloc[::-1]
    colours = ["#b5533c" if weight < 0 else "#2f6f8f" for weight in shown["weight"]]
    figure = Figure(figsize=(7, 6), layout="constrained")
    axis = figure.subplots()
    axis.barh(shown["feature"], shown["weight"], color=colours)
    axis.axvline(0, color="black", linewidth=0.5)
    axis.set_title(f"{name}: weights of the features", loc="left", fontsize=10)
    axis.set_xlabel(unit)
    axis.tick_params(axis="y", labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    return figure
