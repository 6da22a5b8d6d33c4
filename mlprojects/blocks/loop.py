"""A training loop with warm-up and cosine, early stopping on a choice loss, and resumption.

It keeps the weights with the lowest choice loss. All randomness of step n is seeded by (seed, n).
So a run that was killed and resumed ends with the same bits as an uninterrupted run on the same
machine.
"""

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from registry.errors import BadConfig, KronosError
from registry.training import Config

Report = Callable[[int, Mapping[str, float]], None]
REPORT_EVERY = 10  # steps
CLIP_NORM = 1.0


@dataclass(frozen=True)
class Schedule:
    """Training takes at most `steps` steps and checks the choice loss every `check_every` steps.

    It stops after `patience` checks without a lower loss. The learning rate rises over `warmup`
    steps, then falls as a cosine to a tenth.
    """

    steps: int
    learning_rate: float
    warmup: int = 20
    weight_decay: float = 0.01
    check_every: int = 20
    patience: int = 5

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.learning_rate * (0.1 + 0.45 * (1 + math.cos(math.pi * done)))


@dataclass(frozen=True)
class Fitted:
    """Result of training; the network holds the best weights.

    `first_loss` is the choice loss of the weights before training.
    """

    first_loss: float
    best_step: int
    best_loss: float
    steps: int


def fingerprint(history: pd.DataFrame, config: Config, seed: int) -> str:
    """sha256 of data, config and seed; a checkpoint with another hash is refused."""
    content = hashlib.sha256(json.dumps([asdict(config), seed], sort_keys=True).encode())
    content.update(pd.util.hash_pandas_object(history, index=False).to_numpy().tobytes())
    return content.hexdigest()


def mixed(seed: int, step: int) -> int:
    """Generator seed of a step, in 32 bits: torch's generator keeps no more.

    Two neighbouring seeds lie 2^32 divided by the golden ratio steps apart, more than any training
    takes. So no two of their steps share a generator seed.
    """
    return (seed * 0x9E3779B1 + step) % 2**32


def seeded(seed: int, step: int) -> torch.Generator:
    """Random number generator of one step."""
    return torch.Generator().manual_seed(mixed(seed, step))


def fit(
    net: nn.Module,
    loss: Callable[[torch.Generator], Tensor],
    choice: Callable[[], float],
    schedule: Schedule,
    *,
    seed: int,
    checkpoint: Path,
    fingerprint: str,
    report: Report,
    should_stop: Callable[[], bool] = lambda: False,
) -> Fitted:
    """Fit `net` by AdamW; it ends with the weights that have the lowest `choice` loss.

    The starting weights count too, so fine-tuning never ends worse than it began. `loss` draws its
    batch from the generator of the step; dropout is seeded by the step too. `checkpoint` is written
    at every check; training resumes from it if it exists. Raises BadConfig when its fingerprint is
    not `fingerprint`, KronosError for a loss that is not finite.
    """
    resumed = checkpoint.exists()
    state = _State.read(checkpoint, net, fingerprint) if resumed else _State.start(net)
    optimizer = torch.optim.AdamW(
        dict(_learnt(net)).values(), lr=schedule.learning_rate, weight_decay=schedule.weight_decay
    )
    state.hand_to(net, optimizer)
    with torch.random.fork_rng(devices=[]):
        if not resumed:
            _check(state, choice, net)
            state.first_loss = state.last
            report(0, {"valid_loss": state.last})
        while not state.finished(schedule):
            step = state.step
            torch.manual_seed(mixed(seed, step))
            for group in optimizer.param_groups:
                group["lr"] = schedule.rate(step)
            net.train()
            optimizer.zero_grad(set_to_none=True)
            value = loss(seeded(seed, step))
            if not torch.isfinite(value):
                raise KronosError(
                    f"the training loss is {value.item()} at step {step}; lower learning_rate",
                    code="DIVERGED",
                )
            value.backward()
            nn.utils.clip_grad_norm_(net.parameters(), CLIP_NORM)
            optimizer.step()
            state.step += 1
            if state.step % REPORT_EVERY == 0 or step == 0:
                report(state.step, {"train_loss": value.item()})
            if state.step % schedule.check_every == 0 or state.step == schedule.steps:
                _check(state, choice, net)
                report(state.step, {"valid_loss": state.last})
                state.write(checkpoint, net, optimizer, fingerprint)
                if should_stop():
                    break
    net.load_state_dict(state.best)
    net.eval()
    return Fitted(state.first_loss, state.best_step, state.best_loss, state.step)


def _check(state: "_State", choice: Callable[[], float], net: nn.Module) -> None:
    """Compute the choice loss and keep the weights if it is the lowest so far."""
    net.eval()
    with torch.no_grad():
        loss = choice()
    if not math.isfinite(loss):
        raise KronosError(
            f"the choice loss is {loss} at step {state.step}; lower learning_rate", code="DIVERGED"
        )
    state.record(loss, net)


def _learnt(net: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Named parameters that are learnt, without fixed tables."""
    return [(name, weight) for name, weight in net.named_parameters() if weight.requires_grad]


class _State:
    """Progress of training, and the best weights so far."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self.weights = dict(weights)
        self.best = {name: weight.detach().clone() for name, weight in weights.items()}
        self.moments: dict[str, Tensor] = {}
        self.step = self.best_step = self.since = 0
        self.first_loss = self.best_loss = self.last = math.inf

    @classmethod
    def start(cls, net: nn.Module) -> "_State":
        return cls(net.state_dict())

    def finished(self, schedule: Schedule) -> bool:
        return self.step >= schedule.steps or self.since >= schedule.patience

    def record(self, loss: float, net: nn.Module) -> None:
        self.last = loss
        self.since += 1
        if loss < self.best_loss:
            self.best_loss, self.best_step, self.since = loss, self.step, 0
            self.best = {name: v.detach().clone() for name, v in net.state_dict().items()}

    def hand_to(self, net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Restore the weights and AdamW's moments."""
        net.load_state_dict(self.weights)
        if not self.moments:
            return
        for name, parameter in _learnt(net):
            optimizer.state[parameter] = {
                "step": torch.tensor(float(self.step)),
                "exp_avg": self.moments[f"exp_avg.{name}"].to(parameter),
                "exp_avg_sq": self.moments[f"exp_avg_sq.{name}"].to(parameter),
            }

    def write(
        self, path: Path, net: nn.Module, optimizer: torch.optim.Optimizer, fingerprint: str
    ) -> None:
        """Replace the checkpoint in one move, so that a kill leaves the file before it."""
        tensors = {f"net.{name}": v for name, v in net.state_dict().items()}
        tensors |= {f"best.{name}": v for name, v in self.best.items()}
        for name, parameter in _learnt(net):
            for key in ("exp_avg", "exp_avg_sq"):
                tensors[f"{key}.{name}"] = optimizer.state[parameter][key]
        keys = ("step", "best_step", "since", "first_loss", "best_loss")
        numbers = json.dumps({key: getattr(self, key) for key in keys})
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(".new")
        copies = {key: v.detach().cpu().clone() for key, v in tensors.items()}
        save_file(copies, new, metadata={"state": numbers, "fingerprint": fingerprint})
        with new.open("rb") as file:
            os.fsync(file.fileno())
        new.replace(path)

    @classmethod
    def read(cls, path: Path, net: nn.Module, fingerprint: str) -> "_State":
        """The stored state. Raises BadConfig for another fingerprint or an unreadable file."""
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata()
                keys = file.keys()  # the file itself cannot be iterated
                tensors = {key: file.get_tensor(key) for key in keys}
        except SafetensorError as error:
            raise BadConfig(
                f"{path} cannot be read as a checkpoint; remove it to start again"
            ) from error
        if metadata["fingerprint"] != fingerprint:
            raise BadConfig(
                f"{path} is the checkpoint of another training; remove it to start again"
            )
        names = list(net.state_dict())
        state = cls({name: tensors[f"net.{name}"] for name in names})
        state.best = {name: tensors[f"best.{name}"] for name in names}
        state.moments = {key: v for key, v in tensors.items() if key.startswith("exp_avg")}
        for key, value in json.loads(metadata["state"]).items():
            setattr(state, key, value)
        return state
