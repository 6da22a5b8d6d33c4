"""The S4D layer: discretisation and kernel; convolution, single steps and blocks agree."""

from typing import get_args

import numpy as np
import numpy.testing as npt
import pytest
import torch
from scipy.linalg import expm

from mlprojects.blocks.s4d import S4D, STEP_SIZES, Start, eigenvalues, zero_order_hold

STARTS = get_args(Start)


def layer(start: Start = "inv", width: int = 3, states: int = 4) -> S4D:
    """A layer in double precision with random weights, so that every weight matters."""
    torch.manual_seed(0)
    s4d = S4D(width, states, start).double()
    with torch.no_grad():
        for parameter in s4d.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return s4d.requires_grad_(False)


def signal(n: int = 2, length: int = 50, width: int = 3, seed: int = 1) -> torch.Tensor:
    return torch.randn(
        n, length, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def stepped(s4d: S4D, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs and last state, one session after the other."""
    state, outputs = u.new_zeros(len(u), *s4d.c.shape[:2]) + 0j, []
    for t in range(u.shape[1]):
        state, y = s4d.step(state, u[:, t])
        outputs.append(y)
    return torch.stack(outputs, dim=1), state


# --- the start --------------------------------------------------------------------------------


def test_eigenvalues_by_hand() -> None:
    pi = np.pi
    npt.assert_allclose(eigenvalues("lin", 3), [-0.5, -0.5 + 1j * pi, -0.5 + 2j * pi])
    # 4 states with the conjugates: 4 / pi (4 / 1 - 1) = 12 / pi, 4 / pi (4 / 3 - 1) = 4 / (3 pi)
    npt.assert_allclose(eigenvalues("inv", 2), [-0.5 + 12j / pi, -0.5 + 4j / (3 * pi)])
    npt.assert_allclose(eigenvalues("real", 3), [-1, -2, -3])


@pytest.mark.parametrize("start", STARTS)
def test_a_layer_starts_with_these_modes_and_evenly_spread_step_sizes(start: Start) -> None:
    s4d = S4D(3, 4, start)
    steps = [STEP_SIZES[0], np.sqrt(STEP_SIZES[0] * STEP_SIZES[1]), STEP_SIZES[1]]
    npt.assert_allclose(s4d.log_step.detach().exp(), steps, rtol=1e-6)
    a, _, _ = s4d.discrete()
    expected = np.exp(np.array(steps)[:, None] * eigenvalues(start, 4).numpy())
    npt.assert_allclose(a.detach(), expected, rtol=1e-5)


def test_modes_stay_stable_whatever_training_does() -> None:
    s4d = S4D(3, 4)
    with torch.no_grad():
        s4d.log_decay += 3 * torch.randn_like(s4d.log_decay)
        s4d.turn += 100 * torch.randn_like(s4d.turn)
    assert (s4d.discrete()[0].abs() < 1).all()


# --- discretisation ---------------------------------------------------------------------------


def test_zero_order_hold_is_the_matrix_exponential_of_the_system() -> None:
    """exp of [[A, B], [0, 0]] dt holds the discrete A and B for an input that is constant over a
    step."""
    a, dt = eigenvalues("inv", 3).numpy(), 0.3
    system = np.zeros((4, 4), dtype=complex)
    system[:3, :3], system[:3, 3] = np.diag(a), 1.0
    exact = expm(dt * system)
    step = torch.tensor([dt], dtype=torch.float64)
    discrete_a, discrete_b = zero_order_hold(torch.from_numpy(a)[None], step)
    npt.assert_allclose(np.diag(discrete_a[0].numpy()), exact[:3, :3], atol=1e-14)
    npt.assert_allclose(discrete_b[0].numpy(), exact[:3, 3], atol=1e-14)


def test_zero_order_hold_by_hand() -> None:
    # A = -1, dt = log 2: exp(-log 2) = 1/2, and (1/2 - 1) / -1 = 1/2
    a, b = zero_order_hold(torch.tensor([[-1.0 + 0j]]), torch.tensor([np.log(2.0)]))
    npt.assert_allclose([a.item(), b.item()], [0.5, 0.5], rtol=1e-7)


# --- kernel and convolution -------------------------------------------------------------------


@pytest.mark.parametrize("start", STARTS)
def test_the_kernel_is_the_slow_recurrence_answering_a_single_1(start: Start) -> None:
    """x[k] = A x[k-1] + B u[k], y[k] = C x[k] with the conjugates written out, in plain numpy."""
    s4d = layer(start)
    a, b, c = (part.numpy() for part in s4d.discrete())
    for channel in range(3):
        both_a, both_b, both_c = (
            np.concatenate([m[channel], m[channel].conj()]) for m in (a, b, c)
        )
        state, answer = np.zeros(8, dtype=complex), []
        for k in range(20):
            state = both_a * state + both_b * (1.0 if k == 0 else 0.0)
            answer.append(both_c @ state)
        npt.assert_allclose(np.imag(answer), 0, atol=1e-14)
        npt.assert_allclose(s4d.kernel(20)[channel], np.real(answer), rtol=0, atol=1e-13)


def test_the_convolution_is_the_sum_over_all_lags() -> None:
    s4d, u = layer(), signal(length=13)
    kernel, expected = s4d.kernel(13), torch.zeros(2, 13, 3, dtype=torch.float64)
    for t in range(13):
        for lag in range(t + 1):
            expected[:, t] += kernel[:, lag] * u[:, t - lag]
    npt.assert_allclose(s4d(u), expected + s4d.d * u, rtol=0, atol=1e-12)


@pytest.mark.parametrize("start", STARTS)
def test_convolution_steps_and_blocks_say_the_same(start: Start) -> None:
    s4d, u = layer(start), signal(length=150)
    expected, state = stepped(s4d, u)
    npt.assert_allclose(s4d(u), expected, rtol=0, atol=1e-10)
    # Blocks that divide the sessions, that do not, and one that is longer.
    for length in (1, 7, 64, 150, 200):
        outputs, last = s4d.blocks(length).scan(u)
        npt.assert_allclose(outputs, expected, rtol=0, atol=1e-10)
        npt.assert_allclose(last, state, rtol=0, atol=1e-10)


def test_in_single_precision_they_differ_by_rounding_alone() -> None:
    s4d, u = layer(width=8, states=8).float(), signal(length=512, width=8).float()
    expected, state = stepped(s4d, u)
    outputs, last = s4d.blocks(64).scan(u)
    for y in (s4d(u), outputs):
        npt.assert_allclose(y, expected, rtol=0, atol=1e-4)  # of outputs of the order of 1
    npt.assert_allclose(last, state, rtol=0, atol=1e-4)


def test_a_state_goes_on_where_it_was_left() -> None:
    s4d, u = layer(), signal(length=80)
    expected, _ = stepped(s4d, u)
    _, state = s4d.blocks(16).scan(u[:, :79])
    _, y = s4d.step(state, u[:, 79])
    npt.assert_allclose(y, expected[:, 79], rtol=0, atol=1e-10)


def test_later_inputs_change_no_earlier_output() -> None:
    s4d, u = layer(), signal()
    changed = u.clone()
    changed[:, 30:] += 5.0
    for run in (s4d, lambda x: s4d.blocks(16).scan(x)[0], lambda x: stepped(s4d, x)[0]):
        npt.assert_allclose(run(changed)[:, :30], run(u)[:, :30], rtol=0, atol=1e-12)
        assert ((run(changed) - run(u))[:, 30:].abs() > 1e-3).all()


def test_series_and_channels_do_not_mix() -> None:
    s4d, u = layer(), signal(n=3)
    changed = u.clone()
    changed[1, :, 2] += 1.0
    unchanged = torch.ones(3, 50, 3, dtype=torch.bool)
    unchanged[1, :, 2] = False
    for run in (s4d, lambda x: s4d.blocks(16).scan(x)[0]):
        npt.assert_array_equal(run(changed)[unchanged], run(u)[unchanged])
        assert (run(changed)[~unchanged] != run(u)[~unchanged]).all()


def test_every_weight_learns() -> None:
    s4d = layer().requires_grad_(True)
    s4d(signal()).square().mean().backward()
    for name, parameter in s4d.named_parameters():
        assert (parameter.grad.abs() > 0).all(), name
