"""Training of NeuralForecast networks, with early stopping on the choice period."""

import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
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
SERIES = 200  # in a batch; the library copies every window of them


def train(
    history: pd.DataFrame, config: Training, *, name: str, seed: int, run: TrainRun
) -> Trained:
    """Fit windows that end by config.fit_until; keep the weights with the lowest loss after it."""
    choice_sessions = panel.check(history, config)
    series = History.of(history).ids
    model_spec = spec(name, config)
    if model_spec.joint:
        model_spec = replace(model_spec, universe=series)
    watcher = _Watcher(run, config.patience)
    options = _options(config, len(series), seed, watcher)
    with networks.own_randomness():
        net = networks.network(model_spec, config.shape, **options)
        # Lightning would pickle the hyperparameters, and our run with them.
        net.hparams.pop("callbacks")
        with warnings.catch_warnings():
            # Lightning warns about its own use of torch and of data loaders.
            warnings.filterwarnings("ignore", module="pytorch_lightning")
            # A loss that is not finite is never the best; see the check of watcher.best.
            warnings.filterwarnings("ignore", message="Validation loss is not finite")
            # Not NeuralForecast.fit: it trains a deep copy of network, callbacks and run.
            with _interruptible():
                net.fit(
                    panel.dataset(history, config.fit_until, choice_sessions),
                    val_size=choice_sessions,
                    random_seed=seed,
                )
    if not watcher.best:
        raise KronosError(
            f"the loss of {name} was never a finite number; lower learning_rate", code="DIVERGED"
        )
    net.load_state_dict(watcher.best)
    parameters = sum(p.numel() for p in net.parameters() if p.requires_grad)
    return Trained(
        WindowForecaster(model_spec, config.shape, net.eval().cpu()),
        params={"parameters": parameters, "best_step": watcher.best_step},
    )


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C and SIGTERM end the training as KeyboardInterrupt, and the next Ctrl-C counts again.

    That is for callers from Python; Lightning lets pass what our programs make of a signal.
    Lightning 2.6 makes SystemExit of KeyboardInterrupt and of a SIGTERM that the program does not
    handle itself, which would be success to a shell. It ignores every later Ctrl-C.
    """
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from error


def _options(config: Training, series: int, seed: int, watcher: pl.Callback) -> dict[str, Any]:
    """Training options under the library's names."""
    decay = {
        "optimizer": torch.optim.AdamW,
        "optimizer_kwargs": {"weight_decay": config.weight_decay},
    }
    return {
        **(decay if config.weight_decay else {}),
        "max_steps": config.max_steps,
        "learning_rate": config.learning_rate,
        "num_lr_decays": 3,
        "batch_size": series if config.joint else min(series, SERIES),
        "windows_batch_size": config.windows_batch_size,
        # No window begins before its series does.
        "training_data_availability_threshold": [1.0, 0.0],
        "val_check_steps": min(config.val_check_steps, config.max_steps),
        "random_seed": seed,
        "callbacks": [watcher],
        # With or without a GPU, the training is the same; such small networks gain nothing on one.
        "accelerator": "cpu",
        "devices": 1,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "logger": False,
        "deterministic": True,
    }


class _Watcher(pl.Callback):  # type: ignore[misc]
    """Reports losses, keeps the best weights, stops after `patience` checks without a lower one."""

    def __init__(self, run: TrainRun, patience: int) -> None:
        self.run = run
        self.patience = patience
        self.best: dict[str, torch.Tensor] = {}
        self.best_step = 0
        self.best_loss = float("inf")
        self.since = 0

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
            self.best = {name: v.detach().clone() for name, v in module.state_dict().items()}
        if self.since >= self.patience or self.run.should_stop():
            trainer.should_stop = True
