"""Training of the graph network: first the graph, from the sessions to fit, then the network."""

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
    """Fit origins with outcomes up to config.fit_until; keep the weights that are best after it."""
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
    trainable = nn.ModuleDict({"net": net, "graph": graph})

    def loss(generator: torch.Generator) -> Tensor:
        batch = windows.draw(generator, config.batch)
        return training_loss(net, graph(), batch, generator, config)

    fitted = loop.fit(
        trainable,
        loss,
        lambda: choice_loss(net, graph(), windows),
        loop.Schedule(
            config.max_steps,
            config.learning_rate,
            weight_decay=config.weight_decay,
            check_every=config.check_every,
            patience=config.patience,
        ),
        seed=seed,
        checkpoint=run.checkpoint_dir / "network.safetensors",
        fingerprint=loop.fingerprint(history, config, seed),
        report=lambda step, losses: run.report(step, **losses),
        should_stop=run.should_stop,
    )
    final_weights = graph().detach()
    model_spec = replace(spec(name, config), universe=whole.ids)
    return Trained(
        model.GraphForecaster(model_spec, net, final_weights),
        params={
            "parameters": sum(p.numel() for p in trainable.parameters()),
            "best_step": fitted.best_step,
            "edges": int((final_weights > 0).sum()),
        },
        metrics={"choice_loss_untrained": fitted.first_loss, "choice_loss": fitted.best_loss},
        **_pictures(final_weights, whole.ids, sectors, config),
    )


def fixed_weights(
    y: Floats, symbols: Sequence[str], sectors: Sequence[str], config: Config
) -> Floats | None:
    """Weights [N, N] of the graph of returns [N, T]; None if training learns the graph."""
    adjacency.check_moves(y, symbols)
    if config.graph == "learned":
        return None
    if config.graph == "none":
        return np.zeros((len(y), len(y)))
    if config.graph == "sector" and not all(sectors):
        raise BadConfig(
            f"graph is sector, but the data set {config.data!r} has no sectors; take another graph"
        )
    if config.graph == "correlation":
        weights = adjacency.correlation(y, config.k)
    else:
        weights = adjacency.partial(y) if config.graph == "partial" else adjacency.sector(sectors)
    return adjacency.with_loops(weights, symbols, config.graph, config.isolated)


def _graph(weights: Floats | None, series: int, embedding: int) -> FixedGraph | LearnedGraph:
    if weights is None:
        return LearnedGraph(series, embedding)
    return FixedGraph(torch.from_numpy(weights).float())


def training_loss(
    net: Network, weights: Tensor, batch: Batch, generator: torch.Generator, config: Config
) -> Tensor:
    """Mean pinball loss in volatilities; a random share of the series is removed from the graph."""
    present = (torch.rand(len(weights), generator=generator) >= config.series_dropout).float()
    target = batch.y / batch.sigma[..., None]
    return head.pinball(target, net(batch.x, heard(weights, present)), config.levels)


def choice_loss(net: Network, weights: Tensor, windows: Windows) -> float:
    """Mean pinball loss over the origins to choose on, in units of the return.

    It is half the CRPS that an evaluation reports.
    """
    shares = heard(weights, torch.ones(len(weights)))
    total = 0.0
    for origins in windows.chosen.split(CHOICE_BATCH):
        batch = windows.take(origins)
        quantiles = batch.sigma[..., None, None] * net(batch.x, shares)
        total += head.pinball(batch.y, quantiles, net.shape.levels).item() * len(origins)
    return total / len(windows.chosen)


def _sectors(history: pd.DataFrame, symbols: Sequence[str]) -> list[str]:
    """Sector of every series; empty if the data have no sectors."""
    if names.SECTOR not in history:
        return [""] * len(symbols)
    first = history.groupby(names.UNIQUE_ID, observed=True)[names.SECTOR].first()
    return [str(first[symbol]) for symbol in symbols]


def _pictures(
    weights: Tensor, symbols: Sequence[str], sectors: Sequence[str], config: Config
) -> dict[str, Any]:
    """The graph as a figure and a table; empty if it has no edges by design."""
    if config.graph == "none":
        return {}
    shares = heard(weights, torch.ones(len(symbols))).numpy().astype(np.float64)
    until = config.choose_until if config.graph == "learned" else config.fit_until
    title = f"graph: {config.graph}, from sessions up to {until}"
    return {
        "figures": {"adjacency": picture.heat_map(shares, symbols, sectors, title)},
        "tables": {"adjacency": picture.edges(weights.numpy().astype(np.float64), shares, symbols)},
    }
