"""Training of the S4D network: every session of a window is a target.

The weights that are best on the choice period are kept.
"""

from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from mlprojects.blocks import features, head, loop
from mlprojects.ssm import model, timescales
from mlprojects.ssm.network import Network, Shape
from mlprojects.ssm.settings import SETTLED, Config, spec
from mlprojects.ssm.windows import SHARED, Batch, Windows
from registry.training import Trained, TrainRun

CHOICE_BATCH = 64  # windows


def train(history: pd.DataFrame, config: Config, *, name: str, seed: int, run: TrainRun) -> Trained:
    """Fit windows whose targets end by config.fit_until; choose on forecasts made after it."""
    windows = Windows.of(
        history, fit_until=config.fit_until, sessions=config.sessions, horizon=config.horizon
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Network(shape(config))
    net.centre, net.deviation = windows.standard()
    before = timescales.table(net)
    choice = Choice.of(windows)
    fitted = loop.fit(
        net,
        lambda generator: training_loss(net, windows.draw(generator, config.batch)),
        lambda: choice.loss(net),
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
    after = timescales.table(net)
    return Trained(
        model.S4DForecaster(spec(name, config), net),
        params={
            "parameters": sum(p.numel() for p in net.parameters()),
            "best_step": fitted.best_step,
        },
        metrics={"choice_loss_untrained": fitted.first_loss, "choice_loss": fitted.best_loss},
        figures={"time_scales": timescales.figure(before, after, net, config.context)},
        tables={"time_scales": after},
    )


def training_loss(net: Network, batch: Batch) -> Tensor:
    """Mean pinball loss in volatilities, over the sessions from which the state is settled."""
    first = SETTLED - 1
    target = (batch.y / batch.sigma[..., None])[:, first:]
    return head.pinball(target, net(batch.x)[:, first:], net.shape.levels)


@dataclass(frozen=True)
class Choice:
    """The windows to choose on, and a mask of their last SHARED sessions that count."""

    batches: tuple[Batch, ...]
    counts: tuple[Tensor, ...]  # [B, SHARED] bool

    @classmethod
    def of(cls, windows: Windows) -> "Choice":
        masks = torch.from_numpy(windows.counted)[:, None] >= torch.arange(SHARED, 0, -1)
        batches, counts = [], []
        for i in range(0, len(windows.chosen), CHOICE_BATCH):
            batches.append(windows.take(windows.chosen[i : i + CHOICE_BATCH]))
            counts.append(masks[i : i + CHOICE_BATCH])
        return cls(tuple(batches), tuple(counts))

    def loss(self, net: Network) -> float:
        """Mean pinball loss in units of the return: half the CRPS that an evaluation reports."""
        losses, sizes = [], []
        for batch, counts in zip(self.batches, self.counts, strict=True):
            quantiles = (batch.sigma[..., None, None] * net(batch.x))[:, -SHARED:]
            y = batch.y[:, -SHARED:]
            loss = head.pinball(y[counts], quantiles[counts], net.shape.levels)
            size = int(counts.sum())
            losses.append(loss.item() * size)
            sizes.append(size)
        return sum(losses) / sum(sizes)


def shape(config: Config) -> Shape:
    """Sizes of the network for a config."""
    return Shape(
        features=len(features.NAMES),
        season=len(features.SEASON_NAMES),
        horizon=config.horizon,
        levels=config.levels,
        width=config.width,
        states=config.states,
        layers=config.layers,
        start=config.start,
        dropout=config.dropout,
    )
