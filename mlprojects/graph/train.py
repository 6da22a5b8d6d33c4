"""Training of the graph network: the graph first, from the sessions to fit alone, then the network over it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from mlprojects.blocks import features, head, loop
from mlprojects.graph import adjacency, model, picture
from mlprojects.graph.network import FixedGraph, LearnedGraph, Network, Shape, heard
from mlprojects.graph.settings import Config, spec
from mlprojects.graph.windows import Batch, Windows
from registry.errors import BadConfig
from registry.forecast import names
from registry.forecast.arrays import Floats
from registry.forecast.history import History
from registry.training import Trained, TrainRun

CHOICE_BATCH = 64  # origins


def train(history: pd.DataFrame, config: Config, *, name: str, seed: int, run: TrainRun) -> Trained:
    """Fit origins whose outcomes end by config.fit_until; the weights that are best on those after it are kept."""
    whole = History.of(history, features.COLUMNS)
    windows = Windows.of(
        whole, fit_until=config.fit_until, sessions=config.context, horizon=config.horizon
    )
    sectors = _sectors(history, whole.ids)
    weights = fixed_weights(windows.returns[:, : windows.fitted], whole.ids, sectors, config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Network(Shape(config.horizon, config.levels, config.hidden, config.dropout))
        graph = _graph(weights, len(whole.ids), config.embedding)
    net.centre, net.deviation = windows.standard()
    both = nn.ModuleDict({"net": net, "graph": graph})
    fitted = loop.fit(
        both,
        lambda generator: training_loss(net, graph(), windows.draw(generator, config.batch), generator, config),
        lambda: choice_loss(net, graph(), windows),
        loop.Schedule(
            config.max_steps, config.learning_rate, weight_decay=config.weight_decay, check_every=config.check_every,
            patience=config.patience,
        ),
        seed=seed, checkpoint=run.checkpoint_dir / "network.safetensors",
        fingerprint=loop.fingerprint(history, config, seed),
        report=lambda step, losses: run.report(step, **losses),
        should_stop=run.should_stop,
    )  # fmt: skip
    found = graph().detach()
    return Trained(
        model.GraphForecaster(replace(spec(name, config), universe=whole.ids), net, found),
        params={
            "parameters": sum(p.numel() for p in both.parameters()),
            "best_step": fitted.best_step,
            "edges": int((found > 0).sum()),
        },
        metrics={"choice_loss_untrained": fitted.first_loss, "choice_loss": fitted.best_loss},
        **_shown(found, whole.ids, sectors, config),
    )


def fixed_weights(
    y: Floats, symbols: Sequence[str], sectors: Sequence[str], config: Config
) -> Floats | None:
    """Weights [N, N] of the graph of returns [N, T]; None for the one that is learned with the network."""
    adjacency.check_moves(y, symbols)
    if config.graph == "learned":
        return None
    if config.graph == "none":
        return np.zeros((len(y), len(y)))
    if config.graph == "sector" and not all(sectors):
        raise BadConfig(
            f"graph is sector, and the data {config.data!r} say no sectors; take another graph"
        )
    if config.graph == "correlation":
        weights = adjacency.correlation(y, config.k)
    else:
        weights = adjacency.partial(y) if config.graph == "partial" else adjacency.sector(sectors)
    return adjacency.with_loops(weights, symbols, config.graph, config.isolated)


def _graph(weights: Floats | None, series: int, embedding: int) -> FixedGraph | LearnedGraph:
    return (
        LearnedGraph(series, embedding)
        if weights is None
        else FixedGraph(torch.from_numpy(weights).float())
    )


def training_loss(
    net: Network, weights: Tensor, batch: Batch, generator: torch.Generator, config: Config
) -> Tensor:
    """Mean pinball loss in volatilities; a share of the series, drawn for the step, is heard by nobody."""
    present = (torch.rand(len(weights), generator=generator) >= config.series_dropout).float()
    target = batch.y / batch.sigma[..., None]
    return head.pinball(target, net(batch.x, heard(weights, present)), config.levels)


def choice_loss(net: Network, weights: Tensor, windows: Windows) -> float:
    """Mean pinball loss over the origins to choose on, in units of the return: half the CRPS of an evaluation."""
    shares = heard(weights, torch.ones(len(weights)))
    total = 0.0
    for origins in windows.chosen.split(CHOICE_BATCH):
        batch = windows.take(origins)
        quantiles = batch.sigma[..., None, None] * net(batch.x, shares)
        total += head.pinball(batch.y, quantiles, net.shape.levels).item() * len(origins)
    return total / len(windows.chosen)


def _sectors(history: pd.DataFrame, symbols: Sequence[str]) -> list[str]:
    """Sector of every series; empty where the data say none."""
    if names.SECTOR not in history:
        return [""] * len(symbols)
    first = history.groupby(names.UNIQUE_ID, observed=True)[names.SECTOR].first()
    return [str(first[symbol]) for symbol in symbols]


def _shown(
    weights: Tensor, symbols: Sequence[str], sectors: Sequence[str], config: Config
) -> dict[str, Any]:
    """The graph as a figure and a table; nothing of a network without edges."""
    if config.graph == "none":
        return {}
    shares = heard(weights, torch.ones(len(symbols))).numpy().astype(np.float64)
    until = config.choose_until if config.graph == "learned" else config.fit_until
    title = f"graph: {config.graph}, from sessions up to {until}"
    return {
        "figures": {"adjacency": picture.heat_map(shares, symbols, sectors, title)},
        "tables": {"adjacency": picture.edges(weights.numpy().astype(np.float64), shares, symbols)},
    }
