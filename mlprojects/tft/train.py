"""Training of the library's network on windows: early stop on the choice period, the best weights are kept."""

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
    """Fit windows that end by config.fit_until; the weights with the lowest loss on the sessions after it are kept."""
    what = spec(name, config)
    windows = Windows.of(
        history,
        what,
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
    shown = interpretation.of(net, windows.choosing(CHOICE_BATCH))
    return Trained(
        model.TFT(what, windows.known, arguments, network.weights(net)),
        params={
            "parameters": sum(w.numel() for w in net.parameters()),
            "best_step": fitted.best_step,
        },
        figures=shown.figures(),
        tables=shown.tables(),
    )


@torch.no_grad()
def choice_loss(net: torch.nn.Module, windows: Windows, levels: tuple[float, ...]) -> float:
    """Mean pinball loss of the windows to choose on, in mean volatilities; a window weighs as in CRPS, by its own."""
    losses, weights = [], []
    for x, y, sigma in windows.choosing(CHOICE_BATCH):
        losses.append(
            float(
                head.pinball(
                    y * sigma[:, None],
                    net(network.library(x)).prediction * sigma[:, None, None],
                    levels,
                )
            )
        )
        weights.append(len(y))
    scale = windows.sigma[windows.chosen, 0].mean()
    return float(np.average(losses, weights=weights) / scale)
