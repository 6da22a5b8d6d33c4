"""Training of NeuralForecast networks: early stop on the choice period, the best weights are kept."""

import warnings
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pytorch_lightning as pl
import torch
from neuralforecast.tsdataset import TimeSeriesDataset

from mlprojects.nixtla import model
from registry import contract, wire
from registry.contract import ModelSpec, Trained, TrainRun
from registry.errors import BadConfig, BadHistory

REPORT_EVERY = 10  # steps


@dataclass(frozen=True, kw_only=True)
class Config(contract.Config):
    """context: sessions in a window; width: units per layer; stacks: blocks; the rest is training."""

    context: int = 60
    width: int = 32
    stacks: int = 3
    max_steps: int = 300
    learning_rate: float = 1e-3
    windows_batch_size: int = 256
    val_check_steps: int = 20
    patience: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("context", "width", "stacks", "max_steps", "windows_batch_size", "val_check_steps", "patience"):
            if getattr(self, name) < 1:
                raise BadConfig(f"{name} is {getattr(self, name)}, expected 1 or more")
        if not 0 < self.learning_rate < 1:
            raise BadConfig(f"learning_rate is {self.learning_rate}, expected a number between 0 and 1")


def spec(name: str, config: Config) -> ModelSpec:
    return ModelSpec(
        name=name,
        family="nixtla",
        min_context=config.context,
        max_context=config.context,
        max_horizon=config.horizon,
        levels=config.levels,
    )


def train(history: pd.DataFrame, config: Config, *, name: str, seed: int, run: TrainRun) -> Trained:
    """Fit windows that end by config.fit_until; the weights with the lowest loss on the sessions after it are kept."""
    chosen_on = history.loc[history[wire.DS] > pd.Timestamp(config.fit_until), wire.DS].nunique()
    shortest = int(history.groupby(wire.UNIQUE_ID).size().min())
    if shortest - chosen_on < config.context + config.horizon:
        raise BadHistory(
            f"the shortest series has {shortest - chosen_on} sessions up to {config.fit_until}; "
            f"context + horizon needs {config.context + config.horizon}",
            code="TOO_SHORT",
        )
    if chosen_on < config.horizon:
        raise BadHistory(
            f"{chosen_on} sessions after {config.fit_until} to choose on, needs {config.horizon}", code="TOO_SHORT"
        )
    what = spec(name, config)
    watcher = _Watcher(run, config.patience)
    net = model.network(
        what,
        config.width,
        config.stacks,
        max_steps=config.max_steps,
        learning_rate=config.learning_rate,
        batch_size=int(history[wire.UNIQUE_ID].nunique()),
        windows_batch_size=config.windows_batch_size,
        val_check_steps=min(config.val_check_steps, config.max_steps),
        random_seed=seed,
        callbacks=[watcher],
        accelerator="cpu",  # the same weights wherever it is trained; a network of this size gains nothing elsewhere
        devices=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        logger=False,
        deterministic=True,
    )
    net.hparams.pop("callbacks")  # Lightning would pickle the hyperparameters, and our run with them
    # The network's own fit: NeuralForecast.fit trains a deep copy of network, callbacks and run.
    dataset, *_ = TimeSeriesDataset.from_df(_numbered(history))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pytorch_lightning")  # about its own use of torch and data loaders
        net.fit(dataset, val_size=int(chosen_on), random_seed=seed)
    net.load_state_dict(watcher.best)
    parameters = sum(p.numel() for p in net.parameters() if p.requires_grad)
    return Trained(
        model.NBeats(what, config.width, config.stacks, net.eval().cpu()),
        params={"parameters": parameters, "best_step": watcher.best_step},
    )


def _numbered(history: pd.DataFrame) -> pd.DataFrame:
    """unique_id, ds, y with sessions numbered 0.. : a date frequency would put forecasts on holidays."""
    frame = history[[wire.UNIQUE_ID, wire.Y]].copy()
    frame[wire.DS] = frame.groupby(wire.UNIQUE_ID).cumcount()
    return frame


class _Watcher(pl.Callback):  # type: ignore[misc]
    """Reports losses, keeps the best weights, stops after `patience` checks without a better one."""

    def __init__(self, run: TrainRun, patience: int) -> None:
        self.run, self.patience = run, patience
        self.best: dict[str, torch.Tensor] = {}
        self.best_step, self.best_loss, self.since = 0, float("inf"), 0

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step % REPORT_EVERY == 0 or trainer.global_step == 1:
            self.run.report(trainer.global_step, train_loss=float(trainer.callback_metrics["train_loss"]))

    def on_validation_end(self, trainer: Any, module: Any) -> None:
        if trainer.sanity_checking:
            return
        loss = float(trainer.callback_metrics["valid_loss"])
        self.run.report(trainer.global_step, valid_loss=loss)
        self.since += 1
        if loss < self.best_loss:
            self.best_loss, self.best_step, self.since = loss, trainer.global_step, 0
            self.best = {k: v.detach().clone() for k, v in module.state_dict().items()}
        if self.since >= self.patience or self.run.should_stop():
            trainer.should_stop = True
