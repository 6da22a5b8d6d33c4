"""Training of the library's network on windows: early stop on the choice period, the best weights are kept."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mlprojects.blocks import features, head, loop
from mlprojects.tft import interpretation, model, network
from mlprojects.tft.windows import Windows
from registry import training
from registry.errors import BadConfig
from registry.forecast import names
from registry.forecast.spec import ModelSpec
from registry.training import Range, Trained, TrainRun

CHOICE_BATCH = 512  # windows

SEARCH: dict[str, Range | tuple[Any, ...]] = {
    "learning_rate": Range(3e-4, 5e-3, log=True),
    "dropout": Range(0.1, 0.5),
    "width": (16, 24, 32),
    "context": (20, 40, 60),
    "batch": (128, 256, 512),
}


@dataclass(frozen=True, kw_only=True)
class Config(training.Config):
    """context: sessions that the network reads one by one; width, inner, heads: hidden size, size of a number's
    embedding, attention heads; unknown_share: training windows whose sector is hidden; covariates: counts that the
    history must then have; the rest is training.
    """

    context: int = 60
    width: int = 16
    inner: int = 8
    heads: int = 4
    dropout: float = 0.3
    covariates: tuple[str, ...] = ()
    unknown_share: float = 0.1
    max_steps: int = 400
    learning_rate: float = 2e-3
    batch: int = 256
    check_every: int = 40
    patience: int = 6

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("context", "width", "inner", "heads", "max_steps", "batch", "check_every", "patience"):
            if getattr(self, name) < 1:
                raise BadConfig(f"{name} is {getattr(self, name)}, expected 1 or more")
        if not 0 < self.learning_rate < 1:
            raise BadConfig(f"learning_rate is {self.learning_rate}, expected a number between 0 and 1")
        for name in ("dropout", "unknown_share"):
            if not 0 <= getattr(self, name) < 1:
                raise BadConfig(f"{name} is {getattr(self, name)}, expected 0 or more and less than 1")
        if self.width % 8 or self.width % self.heads:
            raise BadConfig(f"width is {self.width}, expected a multiple of 8 and of heads ({self.heads})")
        if self.inner % 4 or self.inner >= self.width:
            raise BadConfig(f"inner is {self.inner}, expected a multiple of 4 below width ({self.width})")
        if self.context > features.WARMUP:
            raise BadConfig(f"context is {self.context}, expected {features.WARMUP} sessions or fewer")
        if self.data != "panel":
            raise BadConfig(f"data is {self.data!r}, which has no sectors; tft is trained on the panel")
        if len(set(self.covariates)) < len(self.covariates) or not set(self.covariates) <= set(names.COUNTS):
            raise BadConfig(f"covariates are {list(self.covariates)}, expected some of {list(names.COUNTS)}, each once")


def spec(name: str, config: Config) -> ModelSpec:
    return ModelSpec(
        name=name,
        family="tft",
        min_context=features.WARMUP,
        max_context=model.CONTEXT,
        max_horizon=config.horizon,
        levels=config.levels,
        columns=(*names.HISTORY, *names.MARKET, *config.covariates),
    )


def train(history: pd.DataFrame, config: Config, *, name: str, seed: int, run: TrainRun) -> Trained:
    """Fit windows that end by config.fit_until; the weights with the lowest loss on the sessions after it are kept."""
    what = spec(name, config)
    windows = Windows.of(
        history, what, context=config.context, covariates=config.covariates, fit_until=config.fit_until
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
        loop.Schedule(config.max_steps, config.learning_rate, check_every=config.check_every, patience=config.patience),
        seed=seed,
        checkpoint=run.checkpoint_dir / "tft.safetensors",
        fingerprint=loop.fingerprint(history, config, seed),
        report=lambda step, losses: run.report(step, **losses),
        should_stop=run.should_stop,
    )
    shown = interpretation.of(net, windows.choosing(CHOICE_BATCH))
    return Trained(
        model.TFT(what, windows.known, arguments, network.weights(net)),
        params={"parameters": sum(w.numel() for w in net.parameters()), "best_step": fitted.best_step},
        figures=shown.figures(),
        tables=shown.tables(),
    )


@torch.no_grad()
def choice_loss(net: torch.nn.Module, windows: Windows, levels: tuple[float, ...]) -> float:
    """Mean pinball loss of the windows to choose on, in mean volatilities; a window weighs as in CRPS, by its own."""
    losses, weights = [], []
    for x, y, sigma in windows.choosing(CHOICE_BATCH):
        losses.append(
            float(head.pinball(y * sigma[:, None], net(network.library(x)).prediction * sigma[:, None, None], levels))
        )
        weights.append(len(y))
    scale = windows.sigma[windows.chosen, 0].mean()
    return float(np.average(losses, weights=weights) / scale)
