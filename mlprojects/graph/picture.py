"""A graph as a heat map ordered by sector, and as a table of its edges."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from registry.forecast import names
from registry.forecast.arrays import Floats

INK = "#22313f"


def edges(weights: Floats, shares: Floats, symbols: Sequence[str]) -> pd.DataFrame:
    """A row per edge: unique_id, neighbour, weight, share; each series' largest share first.

    `share` is the edge's part of the series' neighbour weight.
    """
    rows, columns = np.nonzero(weights)
    labels = np.array(symbols, dtype=object)
    frame = pd.DataFrame(
        {
            names.UNIQUE_ID: labels[rows],
            "neighbour": labels[columns],
            "weight": weights[rows, columns],
            "share": shares[rows, columns],
        }
    )
    return frame.sort_values(
        [names.UNIQUE_ID, "share"], ascending=[True, False], kind="stable", ignore_index=True
    )


def heat_map(shares: Floats, symbols: Sequence[str], sectors: Sequence[str], title: str) -> Figure:
    """Shares of each series (row) by neighbour (column), in per cent, ordered by sector."""
    order = sorted(range(len(symbols)), key=lambda i: (sectors[i], symbols[i]))
    labels = [symbols[i] for i in order]
    groups = [sectors[i] for i in order]
    figure = Figure(figsize=(10, 7), layout="constrained")
    axis = figure.subplots()
    percentages = np.ma.masked_equal(100 * shares[np.ix_(order, order)], 0.0)
    image = axis.imshow(percentages, cmap="Blues", vmin=0)
    size = min(9.0, 200 / len(labels))
    axis.set_xticks(range(len(labels)), labels, rotation=90, fontsize=size)
    axis.set_yticks(range(len(labels)), labels, fontsize=size)
    starts = [i for i in range(len(groups)) if i == 0 or groups[i] != groups[i - 1]]
    for start, end in zip(starts, [*starts[1:], len(groups)], strict=True):
        if start:
            axis.axhline(start - 0.5, color=INK, linewidth=0.6)
            axis.axvline(start - 0.5, color=INK, linewidth=0.6)
        middle = (start + end - 1) / 2
        axis.text(len(labels) - 0.3, middle, groups[start], va="center", fontsize=size, color=INK)
    axis.set_xlabel("neighbour")
    axis.set_title(title, loc="left", fontsize=10)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    bar = figure.colorbar(image, shrink=0.6, pad=0.02)
    bar.set_label("share of the series' neighbour weight, %")
    bar.outline.set_visible(False)
    return figure
