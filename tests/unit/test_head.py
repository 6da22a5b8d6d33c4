"""Quantiles that cannot cross: order, the normal start, and the loss."""

import numpy as np
import numpy.testing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from mlprojects.blocks import head
from registry.forecast import names
from registry.scoring import metrics

GRIDS = [names.LEVELS, (0.5,), (0.05, 0.95), (0.9,), (0.1, 0.2, 0.3)]
NUMBERS = st.lists(st.floats(-50, 50, width=32), min_size=11, max_size=11)


@given(raw=NUMBERS)
def test_quantiles_never_cross_whatever_the_network_says(raw: list[float]):
    quantiles = head.spread(torch.tensor([raw]), names.LEVELS)[0]
    assert (quantiles.diff() >= 0).all()
    npt.assert_allclose(quantiles[5], raw[5])


@given(raw=st.lists(st.floats(-9, 9, width=32), min_size=11, max_size=11))
def test_quantiles_rise_strictly_where_float32_can_say_so(raw: list[float]):
    assert (head.spread(torch.tensor([raw]), names.LEVELS)[0].diff() > 0).all()


def test_gaps_are_counted_from_the_centre_outwards():
    # softplus(0) = log 2; levels .1 .5 .9: centre 3, one gap to each side
    quantiles = head.spread(torch.tensor([0.0, 3.0, 0.0]), (0.1, 0.5, 0.9))
    npt.assert_allclose(quantiles, [3 - np.log(2), 3, 3 + np.log(2)], rtol=1e-6)


@pytest.mark.parametrize("levels", GRIDS, ids=str)
@pytest.mark.parametrize("deviation", [1.0, 0.5])
def test_the_start_is_the_normal_distribution(levels: tuple[float, ...], deviation: float):
    quantiles = head.spread(head.normal_start(levels, deviation), levels)
    npt.assert_allclose(quantiles, norm.ppf(levels) * deviation, atol=1e-6)


def test_every_number_moves_some_quantile():
    raw = head.normal_start(names.LEVELS).requires_grad_()
    weights = torch.arange(1.0, 12.0)
    (head.spread(raw, names.LEVELS) * weights).sum().backward()
    assert (raw.grad != 0).all()


def test_pinball_is_that_of_the_metrics():
    rng = np.random.default_rng(0)
    y, quantiles = rng.normal(size=(4, 5)), np.sort(rng.normal(size=(4, 5, 11)), axis=2)
    expected = metrics.crps(y, quantiles, names.LEVELS).mean() / 2
    loss = head.pinball(torch.tensor(y), torch.tensor(quantiles), names.LEVELS)
    npt.assert_allclose(loss, expected, rtol=1e-12)
    # level .9: an outcome 1 above costs .9, one 1 below .1
    loss = head.pinball(torch.tensor([1.0, -1.0]), torch.zeros(2, 1), (0.9,))
    npt.assert_allclose(loss, 0.5, rtol=1e-6)
