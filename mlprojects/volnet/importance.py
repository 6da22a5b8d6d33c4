"""Which features the scale follows: as a table and a picture."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mlprojects.volnet.inputs import NAMES
from registry.forecast.arrays import Floats

SHOWN = 25  # features in the picture
GAIN, SLOPE = "share of the trees' gain", "change of the log scale for one deviation of the feature"


def table(weights: Floats) -> pd.DataFrame:
    """feature, weight; the largest first. Of networks the mean change of the log scale for one deviation of the
    feature, of trees the share of the gain, where the step is a feature, too."""
    names = (*NAMES, "step")[: len(weights)]
    order = np.argsort(-np.abs(weights), kind="stable")
    return pd.DataFrame({"feature": [names[i] for i in order], "weight": weights[order]})


def chart(importance: pd.DataFrame, name: str, unit: str) -> Figure:
    """Bars of the features that weigh most; `unit` says what a weight is."""
    shown = importance.head(SHOWN).iloc[::-1]
    figure = Figure(figsize=(7, 6), layout="constrained")
    axis = figure.subplots()
    axis.barh(
        shown["feature"],
        shown["weight"],
        color=["#b5533c" if w < 0 else "#2f6f8f" for w in shown["weight"]],
    )
    axis.axvline(0, color="black", linewidth=0.5)
    axis.set_title(f"{name}: what its scale follows", loc="left", fontsize=10)
    axis.set_xlabel(unit)
    axis.tick_params(axis="y", labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    return figure
