"""Training of the library's network: early stop on the choice period, best weights kept."""

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mlprojects.blocks import head, loop
from mlprojects.tft import interpretation, model, network
from mlprojects.tft.settings import Config, spec
from mlprojects.tft.windows import Windows
from registry.training import Trained, TrainRun

CHOICE_BATCH = 512  # windows


def train(history: pd.DataFrame, config: Config, *, name: str, seed: int, run: TrainRun) -> Trained:
    """Fit windows that end by config.fit_until; keep the weights with the lowest loss after it."""
    model_spec = spec(name, config)
    windows = Windows.of(
        history,
        model_spec,
        context=config.context,
        covariates=config.covariates,
        fit_until=config.fit_until,
    )
    arguments = network.arguments(
        windows.known,
        width=config.width,
        inner=config.inner,
        heads=config.heads,
        dropout=config.dropout,
        context=config.context,
        levels=len(config.levels),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = network.build(arguments, config.levels)

    def loss(random: torch.Generator) -> Tensor:
        x, y = windows.draw(random, config.batch, config.unknown_share)
        return head.pinball(y, net(network.library(x)).prediction, config.levels)

    fitted = loop.fit(
        net,
        loss,
        lambda: choice_loss(net, windows, config.levels),
        loop.Schedule(
            config.max_steps,
            config.learning_rate,
            check_every=config.check_every,
            patience=config.patience,
        ),
        seed=seed,
        checkpoint=run.checkpoint_dir / "tft.safetensors",
        fingerprint=loop.fingerprint(history, config, seed),
        report=lambda step, losses: run.report(step, **losses),
        should_stop=run.should_stop,
    )
    interpreted = interpretation.of(net, windows.choosing(CHOICE_BATCH))
    return Trained(
        model.TFT(model_spec, windows.known, arguments, network.weights(net)),
        params={
            "parameters": sum(w.numel() for w in net.parameters()),
            "best_step": fitted.best_step,
        },
        figures=interpreted.figures(),
        tables=interpreted.tables(),
    )


@torch.no_grad()
def choice_loss(net: torch.nn.Module, windows: Windows, levels: tuple[float, ...]) -> float:
    """Mean pinball loss of the windows to choose on, in units of their mean volatility.

    Each window counts in proportion to its own volatility, as in CRPS.
    """
    losses, sizes = [], []
    for x, y, sigma in windows.choosing(CHOICE_BATCH):
        quantiles = net(network.library(x)).prediction * sigma[:, None, None]
        losses.append(float(head.pinball(y * sigma[:, None], quantiles, levels)))
        sizes.append(len(y))
    scale = windows.sigma[windows.chosen, 0].mean()
    return float(np.average(losses, weights=sizes) / scale)
