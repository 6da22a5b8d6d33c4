"""Networks of nixtla before they are trained: what scales them, what they say, and our own forward pass."""

import random
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.testing as npt
import pytest
import torch
from neuralforecast.models import StemGNN
from scipy.stats import norm

from jobs.training import families
from mlprojects.blocks.passes import ROWS
from mlprojects.nixtla import networks, settings
from mlprojects.nixtla.direct import forward_of
from mlprojects.nixtla.model import WindowForecaster
from mlprojects.nixtla.scaling import ewma_scale
from registry.forecast import names
from registry.forecast.spec import ModelSpec

SINGLE, JOINT = ("nbeats", "nhits", "patchtst"), ("itransformer", "stemgnn")
UNIVERSE = ("A", "B", "C", "D")
STEPS, LEVELS = 5, len(names.LEVELS)


def forecaster(
    model: str, *, seed: int | None = None, tiny: bool = True, **overrides: Any
) -> WindowForecaster:
    """The model's network: untrained, or with every weight and statistic drawn anew."""
    config = families.load_config(families.find(model), overrides, tiny=tiny)
    spec: ModelSpec = settings.spec(model, config)
    spec = replace(spec, universe=UNIVERSE) if spec.joint else spec
    net = networks.network(spec, config.shape).eval()
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        for name, values in net.state_dict().items():
            if name.endswith("running_var"):
                values.uniform_(0.5, 2, generator=generator)
            elif values.is_floating_point() and "loss" not in name and not name.endswith("scale"):
                values.normal_(0, 0.2, generator=generator)
    return WindowForecaster(spec, config.shape, net)


def windows(made: WindowForecaster, seed: int = 0) -> np.ndarray:
    """Returns [4, L]."""
    return 0.01 * np.random.default_rng(seed).standard_t(5, (len(UNIVERSE), made.spec.max_context))


def library(made: WindowForecaster, y: np.ndarray) -> np.ndarray:
    """Quantiles [n, H, Q], unsorted, by the network's own forward pass and what its predict does around it."""
    z = torch.from_numpy(y.astype(np.float32))
    z = z.T[None] if made.spec.joint else z[:, :, None]  # [batch, L, series]
    _, scale = made.net.scaler.compute_statistics(x=z, mask=torch.ones_like(z), dim=1, eps=1e-6)
    nothing = dict.fromkeys(("hist_exog", "futr_exog", "stat_exog"))
    with torch.no_grad():
        out = made.net({"insample_y": z / scale, "insample_mask": torch.ones_like(z), **nothing})
    mapped = made.net.loss.domain_map(out) * scale[:, :, :, None]  # [batch, H, series, Q]
    return (mapped[0].transpose(0, 1) if made.spec.joint else mapped[:, :, 0]).numpy()


def scale_by_numpy(y: np.ndarray) -> np.ndarray:
    """Root of the mean of squares, weighted by .94 ** age and normalised over the window."""
    weights = 0.94 ** np.arange(len(y) - 1, -1, -1)
    return np.sqrt(np.average(y**2, weights=weights))


# --- scale ------------------------------------------------------------------------------------


def test_scale_by_hand():
    # ages 1 and 0: (.94 x 3^2 + 1 x 1^2) / 1.94
    found = ewma_scale(torch.tensor([[3.0, -1.0]], dtype=torch.float64))
    npt.assert_allclose(found.numpy(), [[np.sqrt((0.94 * 9 + 1) / 1.94)]], rtol=1e-12)


def test_scale_is_the_weighted_root_mean_square_of_each_window():
    y = 0.01 * np.random.default_rng(0).standard_t(5, (3, 60))
    expected = [[scale_by_numpy(row)] for row in y]
    npt.assert_allclose(ewma_scale(torch.from_numpy(y)).numpy(), expected, rtol=1e-12)
    npt.assert_allclose(
        ewma_scale(torch.from_numpy(y)[:, :, None]).numpy()[:, :, 0], expected, rtol=1e-12
    )
    npt.assert_array_equal(ewma_scale(torch.zeros(1, 5)).numpy(), np.float32(1e-8))


@pytest.mark.parametrize("model", [*SINGLE, *JOINT])
def test_the_scaler_of_training_windows_looks_only_at_their_context(model: str):
    made = forecaster(model)
    length, channels = made.spec.min_context, 4 if made.spec.joint else 1
    whole = 0.01 * np.random.default_rng(0).standard_t(5, (3, length + STEPS, 1, channels)).astype(
        np.float32
    )

    def statistics(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x = torch.from_numpy(x)
        shift, scale = made.net.scaler.compute_statistics(
            x=x, mask=torch.ones_like(x), dim=1, eps=1e-6
        )
        return shift.numpy(), scale.numpy()

    shift, scale = statistics(whole)
    npt.assert_array_equal(shift, 0)
    expected = np.apply_along_axis(scale_by_numpy, 1, whole[:, :length])[
        :, None
    ]  # [3, 1, 1, channels]
    npt.assert_allclose(scale, expected, rtol=1e-5)
    later, last = whole.copy(), whole.copy()
    later[:, length:] = 7.0
    npt.assert_array_equal(statistics(later)[1], scale)
    last[:, length - 1] = 7.0
    assert (statistics(last)[1] > scale).all()


# --- the start --------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [*SINGLE, *JOINT])
def test_an_untrained_network_says_normal_quantiles_of_the_ewma_volatility(model: str):
    made = forecaster(model)
    y = windows(made)
    sigma = np.array([scale_by_numpy(row) for row in y])
    expected = np.broadcast_to(sigma[:, None, None] * norm.ppf(names.LEVELS), (4, STEPS, LEVELS))
    # float32; in N-BEATS y / sigma is added and taken off
    npt.assert_allclose(made.quantiles(y), expected, rtol=2e-5, atol=1e-8)
    npt.assert_allclose(library(made, y), expected, rtol=2e-5, atol=1e-8)


@pytest.mark.parametrize("model", [*SINGLE, *JOINT])
def test_the_last_return_is_not_the_level_of_the_forecast(model: str):
    made = forecaster(model)
    y = windows(made)
    y[:, -1] = 0.2
    npt.assert_allclose(made.quantiles(y)[..., 5], 0.0, atol=1e-6)


def test_every_step_starts_alike_whatever_the_horizon_and_the_knots():
    for horizon, downsample in ((1, "[5,2,1]"), (7, "[3,2,1]"), (12, "[5,4,3]")):
        made = forecaster("nhits", horizon=horizon, downsample=downsample)
        y = windows(made)
        z = made.quantiles(y) / np.array([scale_by_numpy(row) for row in y])[:, None, None]
        npt.assert_allclose(
            z, np.broadcast_to(norm.ppf(names.LEVELS), (4, horizon, LEVELS)), rtol=2e-5, atol=1e-6
        )


def test_building_a_network_leaves_the_generators_and_torch_as_they_were():
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    expected = torch.rand(1), np.random.rand(), random.random()
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    forecaster("stemgnn")
    assert (torch.rand(1), np.random.rand(), random.random()) == expected
    assert not torch.are_deterministic_algorithms_enabled()


# --- forward pass -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "overrides"),
    [
        ("nbeats", {"stacks": 3}),
        ("nhits", {"pools": "[8,4,1]", "downsample": "[5,2,1]"}),
        ("nhits", {"horizon": 12, "pools": "[7,2]", "downsample": "[4,3]"}),
        ("patchtst", {}),
        ("patchtst", {"layers": 3, "patch": 10, "stride": 7}),
        ("itransformer", {"layers": 2}),
        ("stemgnn", {}),
    ],
)
def test_the_direct_forecast_is_the_librarys_sorted_over_the_levels(
    model: str, overrides: dict[str, Any]
):
    made = forecaster(model, seed=1, **overrides)
    y = windows(made)
    expected = library(made, y)
    assert (np.diff(expected, axis=2) < 0).any()
    npt.assert_allclose(
        made.quantiles(y), np.sort(expected, axis=2), rtol=1e-4, atol=1e-6 * np.abs(expected).max()
    )


@pytest.mark.parametrize("model", [*SINGLE, *JOINT])
def test_quantiles_never_cross_and_steps_keep_their_place(model: str):
    made = forecaster(model, seed=2)
    y = windows(made)
    found = made.quantiles(y)
    assert (np.diff(found, axis=2) >= 0).all()
    npt.assert_allclose(found.sum(axis=2), library(made, y).sum(axis=2), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("model", JOINT)
def test_quantiles_of_a_series_are_the_outputs_for_that_series(model: str):
    """The output layer says level + 100 h + 1000 n when the features of series n are told so. In the library's own
    order of outputs, [H, Q, N] read as [H, N, Q], a series gets what other series said."""
    made = forecaster(model)
    net, n = made.net, len(UNIVERSE)
    said = torch.arange(STEPS)[:, None] * 100.0 + torch.arange(LEVELS)  # [H, Q]
    with torch.no_grad():
        net.output.weight.zero_()
        net.output.bias.copy_(said.flatten())
    handle = net.output.register_forward_hook(
        lambda _, __, out: out + 1000 * torch.arange(n)[:, None]
    )
    one_pass = torch.zeros(1, n, made.spec.max_context) + 0.1
    out = forward_of(net)(one_pass)[0].detach().unflatten(1, (STEPS, LEVELS))
    handle.remove()
    npt.assert_array_equal(out, said + 1000 * torch.arange(n)[:, None, None])


@pytest.mark.parametrize("model", JOINT)
def test_a_series_changes_the_forecast_of_the_others_of_its_universe(model: str):
    made = forecaster(model, seed=1)
    y = windows(made)
    moved = y.copy()
    moved[2] = np.roll(moved[2], 3)
    before, after = made.quantiles(y), made.quantiles(moved)
    assert (np.abs(after - before).max(axis=(1, 2)) > 1e-7).all()


def test_the_graph_of_a_window_is_the_librarys_for_that_window_alone():
    made = forecaster("stemgnn", seed=1)
    x = torch.randn(3, made.spec.max_context, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        chebyshev, attention = made.net.latent_correlation_layer(x)
        for i in range(3):
            expected, graph = StemGNN.latent_correlation_layer(made.net, x[i : i + 1])
            npt.assert_allclose(chebyshev[i], expected, rtol=1e-4, atol=1e-6)
            npt.assert_allclose(attention[i], graph, rtol=1e-5, atol=1e-7)
        # What is wrong with the library's: the graph of a batch is not that of its windows.
        together, _ = StemGNN.latent_correlation_layer(made.net, x)
    assert (together - chebyshev[0]).abs().max() > 1e-3


@pytest.mark.parametrize("model", JOINT)
def test_a_window_of_all_series_says_the_same_alone_and_in_a_batch(model: str):
    made = forecaster(model, seed=1)
    x = torch.randn(3, made.spec.max_context, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        together = made.net({"insample_y": x})
        alone = torch.cat([made.net({"insample_y": window[None]}) for window in x])
    npt.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tiny", [True, False], ids=["tiny", "as committed"])
@pytest.mark.parametrize("model", SINGLE)
def test_a_forecast_alone_in_a_batch_and_among_200_is_the_same_bits(model: str, tiny: bool):
    made = forecaster(model, seed=1, tiny=tiny)
    y = 0.01 * np.random.default_rng(0).standard_t(5, (200, made.spec.max_context))
    whole = made.quantiles(y)
    assert whole.shape == (200, STEPS, LEVELS)
    for i in (0, 1, ROWS - 1, ROWS, 2 * ROWS - 1, 199):
        npt.assert_array_equal(made.quantiles(y[i : i + 1])[0], whole[i])
    npt.assert_array_equal(made.quantiles(y[:130]), whole[:130])
    order = np.random.default_rng(0).permutation(200)
    npt.assert_array_equal(made.quantiles(y[order]), whole[order])


def test_rows_of_odd_lengths_are_the_same_bits_wherever_they_lie():
    """Windows, pools and layers whose rows begin anywhere in memory."""
    made = forecaster("nhits", seed=1, context=61, width=9)
    y = 0.01 * np.random.default_rng(0).standard_t(5, (ROWS, 61))
    whole = made.quantiles(y)
    for i in range(ROWS):
        npt.assert_array_equal(made.quantiles(y[i : i + 1])[0], whole[i])
    npt.assert_allclose(
        whole, np.sort(library(made, y), axis=2), rtol=1e-4, atol=1e-6 * np.abs(whole).max()
    )


@pytest.mark.parametrize("model", [*SINGLE, *JOINT])
def test_four_times_the_returns_four_times_the_forecast(model: str):
    made = forecaster(model, seed=1)
    y = windows(made)
    npt.assert_allclose(made.quantiles(4 * y), 4 * made.quantiles(y), rtol=1e-5, atol=1e-9)
