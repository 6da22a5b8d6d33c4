"""The training loop: it learns, keeps the best, stops, and a killed run ends like any other."""

from pathlib import Path

import numpy.testing as npt
import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from mlprojects.blocks import loop
from mlprojects.blocks.loop import Schedule
from registry.errors import BadConfig, KronosError

TRUTH = torch.tensor([[1.0, -2.0, 0.5]])


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Dropout(0.1), nn.Linear(3, 1))


def run(
    path: Path,
    schedule: Schedule,
    *,
    net: nn.Module | None = None,
    fingerprint: str = "a",
    stop_after: int = 10**9,
) -> tuple[nn.Module, loop.Fitted, dict[int, float]]:
    """Linear regression on random points; `stop_after` reports it is cut, as by a kill."""
    net = net or network()
    losses: dict[int, float] = {}

    def loss(draw: torch.Generator) -> Tensor:
        x = torch.randn(32, 3, generator=draw)
        return (net(x) - x @ TRUTH.t()).square().mean()

    def choice() -> float:
        x = torch.randn(64, 3, generator=torch.Generator().manual_seed(9))
        return float((net(x) - x @ TRUTH.t()).square().mean())

    def report(step: int, reported: dict[str, float]) -> None:
        losses[step] = reported.get("valid_loss", losses.get(step, 0.0))

    fitted = loop.fit(
        net,
        loss,
        choice,
        schedule,
        seed=3,
        checkpoint=path,
        fingerprint=fingerprint,
        report=report,
        should_stop=lambda: len(losses) >= stop_after,
    )
    return net, fitted, losses


def test_every_seed_and_step_draws_numbers_of_its_own() -> None:
    drawn = {}
    for seed in (0, 1, 2, 5, 2**32 - 1):
        for step in (0, 1, 2, 3, 1000):
            drawn[seed, step] = torch.rand((), generator=loop.seeded(seed, step)).item()
    assert len(set(drawn.values())) == len(drawn)
    assert drawn[5, 3] == torch.rand((), generator=loop.seeded(5, 3)).item()


def test_it_learns_and_leaves_the_best_weights(tmp_path: Path) -> None:
    net, fitted, losses = run(
        tmp_path / "c.safetensors", Schedule(300, 0.05, check_every=10, patience=100)
    )
    npt.assert_allclose(net[1].weight.detach(), TRUTH, atol=0.25)  # type: ignore[index, union-attr]
    assert fitted.steps == 300
    checks = {step: loss for step, loss in losses.items() if step % 10 == 0}
    assert fitted.best_loss == min(checks.values())
    assert checks[fitted.best_step] == fitted.best_loss


def test_patience_ends_it(tmp_path: Path) -> None:
    _, fitted, _ = run(tmp_path / "c.safetensors", Schedule(10_000, 0.3, check_every=5, patience=3))
    assert fitted.steps < 10_000
    assert fitted.steps == fitted.best_step + 3 * 5


def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    schedule = Schedule(60, 0.05, check_every=10, patience=100)
    uninterrupted, expected, _ = run(tmp_path / "whole.safetensors", schedule)
    run(tmp_path / "cut.safetensors", schedule, stop_after=3)
    resumed, fitted, losses = run(tmp_path / "cut.safetensors", schedule)
    assert min(losses) > 10  # it did not begin anew
    assert fitted == expected
    for key, value in uninterrupted.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key


def test_a_checkpoint_of_another_training_or_a_broken_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    run(path, Schedule(20, 0.05, check_every=10))
    with pytest.raises(BadConfig, match="of another training"):
        run(path, Schedule(20, 0.05, check_every=10), fingerprint="b")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(BadConfig, match="cannot be read as a checkpoint"):
        run(path, Schedule(20, 0.05, check_every=10))


def test_a_loss_that_is_not_finite_is_an_error(tmp_path: Path) -> None:
    net = network()
    with torch.no_grad():
        net[1].bias.fill_(torch.inf)  # type: ignore[index, union-attr]
    with pytest.raises(KronosError, match="loss is inf at step 0; lower learning_rate") as caught:
        run(tmp_path / "c.safetensors", Schedule(20, 0.05), net=net)
    assert caught.value.code == "DIVERGED"


def test_random_numbers_outside_are_left_alone(tmp_path: Path) -> None:
    net = network()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run(tmp_path / "c.safetensors", Schedule(5, 0.05), net=net)
    assert torch.equal(torch.rand(3), expected)


def test_the_rate_rises_then_falls_to_a_tenth() -> None:
    schedule = Schedule(120, 1.0, warmup=20)
    rates = [schedule.rate(step) for step in range(120)]
    npt.assert_allclose([rates[0], rates[9], rates[19]], [0.05, 0.5, 1.0])
    npt.assert_allclose(rates[70], 0.55, atol=0.01)
    npt.assert_allclose(rates[-1], 0.1, atol=0.001)


def test_best_weights_and_patience_survive_a_cut(tmp_path: Path) -> None:
    """This rate ruins the network, so the first check is the best, before and after the cut."""
    schedule = Schedule(1000, 50.0, warmup=1, check_every=5, patience=4)
    start = {key: value.clone() for key, value in network().state_dict().items()}
    run(tmp_path / "c.safetensors", schedule, stop_after=4)
    resumed, fitted, losses = run(tmp_path / "c.safetensors", schedule)
    assert (fitted.best_step, fitted.steps) == (0, 20)
    assert min(losses) > 5
    for key, value in start.items():
        assert torch.equal(resumed.state_dict()[key], value)


def test_a_choice_that_is_not_finite_is_an_error(tmp_path: Path) -> None:
    net = network()
    schedule = Schedule(20, 0.05)
    with pytest.raises(KronosError, match="the choice loss is nan at step 0") as caught:
        loop.fit(
            net,
            lambda _: net[1].weight.sum(),  # type: ignore[index, union-attr]
            lambda: float("nan"),
            schedule,
            seed=0,
            checkpoint=tmp_path / "c.safetensors",
            fingerprint="a",
            report=lambda *_: None,
        )
    assert caught.value.code == "DIVERGED"


def test_what_is_not_learnt_stays_and_needs_no_state(tmp_path: Path) -> None:
    net = network()
    net.register_parameter("table", nn.Parameter(torch.ones(3), requires_grad=False))
    run(tmp_path / "c.safetensors", Schedule(20, 0.05, check_every=10), net=net)
    assert torch.equal(net.table, torch.ones(3))


def test_gradients_are_clipped(tmp_path: Path) -> None:
    """AdamW's first moment after one step is a tenth of the gradient, and the clipped norm is 1."""
    net = network()
    x = torch.full((4, 3), 1e6)
    loop.fit(
        net, lambda _: net(x).square().mean(), lambda: 0.0, Schedule(1, 0.01), seed=0,
        checkpoint=tmp_path / "c.safetensors", fingerprint="a", report=lambda *_: None,
    )  # fmt: skip
    with safe_open(tmp_path / "c.safetensors", framework="pt") as file:
        keys = [key for key in file.keys() if key.startswith("exp_avg.")]  # noqa: SIM118
        moments = [file.get_tensor(key).flatten() for key in keys]
    npt.assert_allclose(torch.cat(moments).norm(), 0.1, rtol=1e-3)
