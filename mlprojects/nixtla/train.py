"""Training of NeuralForecast networks: early stop on the choice period, the best weights are kept."""

import warnings
from dataclasses import replace
from typing import Any

import pandas as pd
import pytorch_lightning as pl
import torch

from mlprojects.nixtla import networks, panel
from mlprojects.nixtla.model import WindowForecaster
from mlprojects.nixtla.settings import Training, spec
from registry.errors import KronosError
from registry.forecast.history import History
from registry.training import Trained, TrainRun

REPORT_EVERY = 10  # steps


def train(
    history: pd.DataFrame, config: Training, *, name: str, seed: int, run: TrainRun
) -> Trained:
    """Fit windows that end by config.fit_until; the weights with the lowest loss on the sessions after it are kept."""
    chosen_on = panel.check(history, config)
    series = History.of(history).ids
    needs = spec(name, config)
    if needs.joint:
        needs = replace(needs, universe=series)
    watcher = _Watcher(run, config.patience)
    with networks.own_randomness():
        net = networks.network(needs, config.shape, **_fitting(config, len(series), seed, watcher))
        net.hparams.pop(
            "callbacks"
        )  # Lightning would pickle the hyperparameters, and our run with them
        # The network's own fit: NeuralForecast.fit trains a deep copy of network, callbacks and run.
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", module="pytorch_lightning"
            )  # about its own use of torch and data loaders
            warnings.filterwarnings(
                "ignore", message="Validation loss is not finite"
            )  # never the best; see below
            net.fit(panel.dataset(history), val_size=chosen_on, random_seed=seed)
    if not watcher.best:
        raise KronosError(
            f"the loss of {name} was never a finite number; lower learning_rate", code="DIVERGED"
        )
    net.load_state_dict(watcher.best)
    parameters = sum(p.numel() for p in net.parameters() if p.requires_grad)
    return Trained(
        WindowForecaster(needs, config.shape, net.eval().cpu()),
        params={"parameters": parameters, "best_step": watcher.best_step},
    )


def _fitting(config: Training, series: int, seed: int, watcher: pl.Callback) -> dict[str, Any]:
    """How the library is to train, in its words."""
    decay = {
        "optimizer": torch.optim.AdamW,
        "optimizer_kwargs": {"weight_decay": config.weight_decay},
    }
    return {
        **(decay if config.weight_decay else {}),
        "max_steps": config.max_steps,
        "learning_rate": config.learning_rate,
        "num_lr_decays": 3,
        "batch_size": series,
        "windows_batch_size": config.windows_batch_size,
        "training_data_availability_threshold": [
            1.0,
            0.0,
        ],  # no window that begins before its series does
        "val_check_steps": min(config.val_check_steps, config.max_steps),
        "random_seed": seed,
        "callbacks": [watcher],
        "accelerator": "cpu",  # the same weights wherever it is trained; networks of this size gain nothing elsewhere
        "devices": 1,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "logger": False,
        "deterministic": True,
    }


class _Watcher(pl.Callback):  # type: ignore[misc]
    """Reports losses, keeps the best weights, stops after `patience` checks without a better one."""

    def __init__(self, run: TrainRun, patience: int) -> None:
        self.run, self.patience = run, patience
        self.best: dict[str, torch.Tensor] = {}
        self.best_step, self.best_loss, self.since = 0, float("inf"), 0

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step % REPORT_EVERY == 0 or trainer.global_step == 1:
            self.run.report(
                trainer.global_step, train_loss=float(trainer.callback_metrics["train_loss"])
            )

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
