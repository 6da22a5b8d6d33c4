"""How far back a network looks: half-lives of its modes as a table, kernel weights as a figure."""

import math

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from mlprojects.ssm.network import Network

BLUE, GREY, INK = "#1f77b4", "#95a5a6", "#22313f"
MARKS = {5: "week", 21: "month", 63: "quarter", 252: "year"}  # sessions


@torch.no_grad()
def table(net: Network) -> pd.DataFrame:
    """A row per mode: layer, channel, mode, half_life, period, weight.

    half_life and period are in sessions; period is inf for a mode that does not turn. A mode's
    response to a single 1 is 2 Re(C B A^l), so half_life = -log 2 / log |A| and
    period = 2 pi / |arg A|. weight = 2 |C B| / (1 - |A|), the sum of the response's envelope.
    """
    tables = []
    for number, layer in enumerate(net.layers, 1):
        a, b, c = (matrix.to(torch.complex128) for matrix in layer.s4d.discrete())
        channel, mode = (index.reshape(-1) + 1 for index in np.indices(a.shape))
        half_life = -math.log(2) / a.abs().log()
        turn = a.angle().abs().numpy().reshape(-1)
        never = np.full_like(turn, np.inf)
        weight = 2 * (c * b).abs() / (1 - a.abs())
        columns = {
            "layer": number,
            "channel": channel,
            "mode": mode,
            "half_life": half_life.numpy().reshape(-1),
            "period": np.divide(2 * math.pi, turn, out=never, where=turn > 0),
            "weight": weight.numpy().reshape(-1),
        }
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def figure(before: pd.DataFrame, after: pd.DataFrame, net: Network, context: int) -> Figure:
    """Left: sorted half-lives of all modes, learnt and before. Right: kernel weight by lag."""
    drawing = Figure(figsize=(10, 4.2), layout="constrained")
    modes, lags = drawing.subplots(1, 2)
    modes.plot(np.sort(after["half_life"]), color=BLUE, linewidth=2.2, label="learnt")
    modes.plot(np.sort(before["half_life"]), "--", color=INK, linewidth=0.9, label="at the start")
    modes.set_yscale("log")
    for sessions, name in MARKS.items():
        modes.axhline(sessions, color=GREY, linewidth=0.5)
        modes.text(0, sessions, name, fontsize=7, color=INK, va="bottom")
    modes.set_xlabel("mode, sorted")
    modes.set_ylabel("half-life, sessions")
    modes.set_title("Half-lives of the state's modes", loc="left", fontsize=10)
    lag = np.arange(1, context + 1)
    for number, share in enumerate(shares(net, context), 1):
        median, low, high = np.quantile(share, (0.5, 0.1, 0.9), axis=0)
        label = f"layer {number}, median channel"
        [line] = lags.plot(lag, median, linewidth=1.4, label=label)
        lags.fill_between(lag, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    lags.set_xscale("log")
    lags.set_xlabel("lag, sessions")
    lags.set_ylabel("share of the kernel's absolute weight")
    lags.set_title(
        "How far back the layers look (band: 10 to 90 % of channels)", loc="left", fontsize=10
    )
    for axis in (modes, lags):
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize=8)
    return drawing


@torch.no_grad()
def shares(net: Network, context: int) -> list[np.ndarray]:
    """Share of each kernel's absolute weight in the last 1 .. L sessions; [D, L] of each layer."""
    by_layer = []
    for layer in net.layers:
        weight = layer.s4d.kernel(context).abs().cumsum(dim=1)
        by_layer.append((weight / weight[:, -1:]).numpy())
    return by_layer
