"""Training of the networks, one by one; each keeps its best weights on the choice period."""

from typing import Any

import numpy as np
import torch

from mlprojects.blocks import head, loop
from mlprojects.volnet.inputs import Inputs, Scaling
from mlprojects.volnet.network import ScaleNet
from mlprojects.volnet.samples import Samples
from mlprojects.volnet.scales import Networks
from mlprojects.volnet.settings import LinearConfig
from registry.forecast.arrays import Floats
from registry.training import TrainRun

PER_CENT = 100.0  # losses are reported in per cent; a stock's is around 0.4 a session


def fit_networks(
    fit: Samples,
    chosen: Samples,
    config: LinearConfig,
    name: str,
    seed: int,
    fingerprint: str,
    run: TrainRun,
) -> tuple[Networks, Floats, dict[str, Any]]:
    """Fit the members, each from its own seed.

    The training loss is the mean pinball loss in volatilities. The best weights have the lowest
    pinball loss, in per cent of return, on the rows of the choice period. Returns the networks, the
    mean slope of each feature [F + G], and facts to log.
    """
    scaling = Scaling.of(fit.inputs)
    scaled = scaling(fit.inputs)
    x = _tensors(scaled)
    y = torch.from_numpy(fit.y / fit.inputs.sigma[:, None]).float()
    x_choice = _tensors(scaling(chosen.inputs))
    y_choice = torch.from_numpy(PER_CENT * chosen.y).float()
    sigma = torch.from_numpy(PER_CENT * chosen.inputs.sigma).float()[:, None, None]
    schedule = loop.Schedule(
        config.steps,
        config.learning_rate,
        warmup=config.steps // 5,
        weight_decay=config.weight_decay,
        check_every=config.check_every,
        patience=config.steps,  # no early stop: the best weights are kept anyway
    )
    members, slopes, best_steps = [], [], []
    for k in range(config.seeds):
        member_seed = (seed * config.seeds + k) % 2**32  # two seeds share no network
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(member_seed)
            net = ScaleNet(
                scaled.daily.shape[1], scaled.season.shape[2], y.shape[1], config.levels,
                width=config.width, dropout=config.dropout,
            )  # fmt: skip

        def loss(draw: torch.Generator, net: ScaleNet = net) -> torch.Tensor:
            rows = torch.randint(len(y), (config.batch,), generator=draw)
            return head.pinball(y[rows], net(*(part[rows] for part in x)), config.levels)

        def choice(net: ScaleNet = net) -> float:
            return float(head.pinball(y_choice, net(*x_choice) * sigma, config.levels))

        fitted = loop.fit(
            net,
            loss,
            choice,
            schedule,
            seed=member_seed,
            checkpoint=run.checkpoint_dir / f"{name}-{k}.safetensors",
            fingerprint=fingerprint,
            report=_after(k * config.steps, run),
            should_stop=run.should_stop,
        )
        members.append(net.member())
        slopes.append(_slopes(net, x_choice))
        best_steps.append(fitted.best_step)
        if run.should_stop():
            break
    parameters = len(members) * sum(p.numel() for p in net.parameters())
    facts = {"parameters": parameters, "best_step": ",".join(map(str, best_steps))}
    return Networks(scaling, members), np.mean(slopes, axis=0), facts


def _tensors(scaled: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(scaled.daily).float(), torch.from_numpy(scaled.season).float()


def _after(steps: int, run: TrainRun) -> loop.Report:
    """A report function for a member that is fitted after `steps` steps of other members."""
    return lambda step, losses: run.report(steps + step, **losses)


def _slopes(net: ScaleNet, x: tuple[torch.Tensor, torch.Tensor]) -> Floats:
    """Change of the log scale [F + G] for one deviation of a feature, mean over rows and steps."""
    daily, season = (part.clone().requires_grad_() for part in x)
    rows, horizon, _ = season.shape
    total = net.log_scale(daily, season).sum()
    by_daily, by_season = torch.autograd.grad(total, (daily, season))
    slopes = torch.cat([by_daily.sum(dim=0), by_season.sum(dim=(0, 1))]) / (rows * horizon)
    return slopes.double().numpy()
