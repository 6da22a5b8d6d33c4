"""Volatility: the fast forms against plain recursions and loops, and independence of series."""

import numpy as np
import numpy.testing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.forecast import names, volatility

LENGTH = 700
seeds = st.integers(0, 2**32 - 1)


def returns(seed: int = 1, n: int = 3, length: int = LENGTH) -> np.ndarray:
    """Heavy-tailed returns [n, T] with a calm and a wild half."""
    y = 0.01 * np.random.default_rng(seed).standard_t(4, (n, length))
    y[:, length // 2 :] *= 3
    return y


def ewma_by_recursion(x: np.ndarray, decay: float) -> np.ndarray:
    """s[t] = decay s[t-1] + (1 - decay) x[t] with s[-1] the mean of the first 60 values."""
    state, path = float(np.mean(x[:60])), []
    for value in x:
        state = decay * state + (1 - decay) * value
        path.append(state)
    return np.array(path)


def test_two_steps_of_the_average_by_hand():
    values = np.full((1, 60), 2.0)
    values[0, :2] = 5.0, 1.0  # mean of the first 60: (5 + 1 + 58 * 2) / 60 = 122 / 60
    first = 0.75 * 122 / 60 + 0.25 * 5
    npt.assert_allclose(
        volatility.ewma(values, 0.75)[0, :2], [first, 0.75 * first + 0.25], rtol=1e-14
    )


@pytest.mark.parametrize("decay", [0.0, 0.63, 0.94, 0.992])
def test_the_average_is_the_recursion(decay: float):
    values = np.abs(returns())
    expected = [ewma_by_recursion(row, decay) for row in values]
    npt.assert_allclose(volatility.ewma(values, decay), expected, rtol=1e-12)


def test_the_average_of_a_constant_is_the_constant():
    npt.assert_allclose(volatility.ewma(np.full((2, 80), 0.3), 0.94), 0.3, rtol=1e-13)


def test_a_half_life_halves_a_weight():
    npt.assert_allclose(volatility.half_life(1), 0.5, rtol=1e-15)
    for sessions in (1.5, 5, 22, 90):
        npt.assert_allclose(volatility.half_life(sessions) ** sessions, 0.5, rtol=1e-12)


def test_volatility_is_the_root_of_the_averaged_squares():
    y = returns()
    expected = np.sqrt([ewma_by_recursion(row**2, 0.94) for row in y])
    npt.assert_allclose(volatility.ewma_volatility(y), expected, rtol=1e-12)


def test_a_series_that_does_not_move_has_the_smallest_volatility_and_not_zero():
    npt.assert_array_equal(volatility.ewma_volatility(np.zeros((1, 70))), volatility.FLOOR)


@given(seeds, st.floats(0.1, 10))
def test_volatility_scales_with_the_returns(seed: int, factor: float):
    y = returns(seed, n=2, length=100)
    npt.assert_allclose(
        volatility.ewma_volatility(factor * y), factor * volatility.ewma_volatility(y), rtol=1e-9
    )


@given(seeds, st.integers(60, 119))
def test_volatility_at_a_session_does_not_see_later_ones(seed: int, cut: int):
    y = returns(seed, n=2, length=120)
    npt.assert_array_equal(
        volatility.ewma_volatility(y)[:, :cut], volatility.ewma_volatility(y[:, :cut])
    )


@given(seeds)
def test_a_series_has_the_same_bits_alone_and_in_a_batch(seed: int):
    y = returns(seed, n=4)
    scale = volatility.ewma_volatility(y)
    z = volatility.residuals(y, scale, 2)
    q = volatility.empirical_quantiles(z, names.LEVELS)
    for i in range(len(y)):
        alone = y[i : i + 1]
        npt.assert_array_equal(volatility.ewma_volatility(alone), scale[i : i + 1])
        npt.assert_array_equal(volatility.residuals(alone, scale[i : i + 1], 2), z[i : i + 1])
        npt.assert_array_equal(
            volatility.empirical_quantiles(z[i : i + 1], names.LEVELS), q[i : i + 1]
        )


@given(seeds)
def test_the_order_of_the_series_does_not_matter(seed: int):
    y = returns(seed, n=4)
    order = np.random.default_rng(seed).permutation(4)
    npt.assert_array_equal(
        volatility.ewma_volatility(y[order]), volatility.ewma_volatility(y)[order]
    )


def residuals_by_loop(y: np.ndarray, scale: np.ndarray, step: int) -> list[float]:
    """At the last session T - 1: origins T-1-step-499 .. T-1-step (the last matured one), without
    those in the warm-up."""
    last = len(y) - 1
    origins = [t for t in range(last - step - 499, last - step + 1) if t >= volatility.WARMUP - 1]
    return [y[t + step] / scale[t] for t in origins]


@pytest.mark.parametrize("step", [1, 2, 5])
@pytest.mark.parametrize("length", [LENGTH, 560, 300])
def test_residuals_are_the_last_500_matured_ones(length: int, step: int):
    y = returns(length=length)
    scale = volatility.ewma_volatility(y)
    expected = [residuals_by_loop(row, s, step) for row, s in zip(y, scale, strict=True)]
    z = volatility.residuals(y, scale, step)
    npt.assert_array_equal(z, expected)
    assert z.shape[1] == min(500, length - step - 59)


@pytest.mark.parametrize("step", [1, 5])
def test_560_sessions_give_one_step_500_residuals_and_each_further_step_needs_one_more(step: int):
    length = volatility.WARMUP + volatility.WINDOW + step - 1
    y = returns(length=length)
    z = volatility.residuals(y, volatility.ewma_volatility(y), step)
    assert z.shape[1] == volatility.WINDOW
    shorter = y[:, 1:]
    z = volatility.residuals(shorter, volatility.ewma_volatility(shorter), step)
    assert z.shape[1] == volatility.WINDOW - 1


def test_the_scale_of_sessions_without_an_outcome_is_not_looked_at():
    y = returns()
    scale = volatility.ewma_volatility(y)
    changed = scale.copy()
    changed[:, -3:] = np.nan
    npt.assert_array_equal(volatility.residuals(y, changed, 3), volatility.residuals(y, scale, 3))


def test_quantiles_of_0_to_4_by_hand():
    # Hyndman-Fan type 7: position (n - 1) u among the sorted values
    values = np.array([[4.0, 0.0, 3.0, 1.0, 2.0], [40.0, 0.0, 30.0, 10.0, 20.0]])
    expected = [[0.2, 1.0, 2.0, 3.6], [2.0, 10.0, 20.0, 36.0]]
    npt.assert_allclose(
        volatility.empirical_quantiles(values, (0.05, 0.25, 0.5, 0.9)), expected, rtol=1e-14
    )


@given(seeds, st.integers(1, 600))
def test_empirical_quantiles_are_numpys_to_the_last_bit(seed: int, sessions: int):
    values = np.random.default_rng(seed).standard_t(4, (3, sessions))
    values[1] = np.round(values[1])  # many ties
    levels = np.array([0.001, *names.LEVELS, 0.999])
    npt.assert_array_equal(
        volatility.empirical_quantiles(values, levels.tolist()),
        np.quantile(values, levels, axis=1).T,
    )


@given(seeds)
def test_empirical_quantiles_never_cross(seed: int):
    values = np.round(np.random.default_rng(seed).standard_t(3, (3, 500)), 1)  # many ties
    quantiles = volatility.empirical_quantiles(values, np.linspace(0.01, 0.99, 99))
    assert np.all(np.diff(quantiles, axis=1) >= 0)
