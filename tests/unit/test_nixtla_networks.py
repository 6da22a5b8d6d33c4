"""Networks of nixtla before training: their scale, their output, and our own forward pass."""

import random
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.testing as npt
import pytest
import torch
from neuralforecast.models import StemGNN
from scipy.stats import norm

from jobs.training import configs, families
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
    """The model's network: untrained, or with random weights and statistics if there is a seed."""
    config = configs.load_config(families.find(model), overrides, tiny=tiny)
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


def windows(forecaster: WindowForecaster, seed: int = 0) -> np.ndarray:
    """Returns [4, L]."""
    return 0.01 * np.random.default_rng(seed).standard_t(
        5, (len(UNIVERSE), forecaster.spec.max_context)
    )


def library(forecaster: WindowForecaster, y: np.ndarray) -> np.ndarray:
    """Unsorted quantiles [n, H, Q] by the library's forward pass and the scaling of its predict."""
    z = torch.from_numpy(y.astype(np.float32))
    z = z.T[None] if forecaster.spec.joint else z[:, :, None]  # [batch, L, series]
    _, scale = forecaster.net.scaler.compute_statistics(
        x=z, mask=torch.ones_like(z), dim=1, eps=1e-6
    )
    nothing = dict.fromkeys(("hist_exog", "futr_exog", "stat_exog"))
    with torch.no_grad():
        out = forecaster.net(
            {"insample_y": z / scale, "insample_mask": torch.ones_like(z), **nothing}
        )
    mapped = forecaster.net.loss.domain_map(out) * scale[:, :, :, None]  # [batch, H, series, Q]
    return (mapped[0].transpose(0, 1) if forecaster.spec.joint else mapped[:, :, 0]).numpy()


def scale_by_numpy(y: np.ndarray) -> np.ndarray:
    """Root of the mean of squares, weighted by .94 ** age and normalised over the window."""
    weights = 0.94 ** np.arange(len(y) - 1, -1, -1)
    return np.sqrt(np.average(y**2, weights=weights))


# --- scale ------------------------------------------------------------------------------------


def test_scale_by_hand():
    # ages 1 and 0: (.94 x 3^2 + 1 x 1^2) / 1.94
    scale = ewma_scale(torch.tensor([[3.0, -1.0]], dtype=torch.float64))
    npt.assert_allclose(scale.numpy(), [[np.sqrt((0.94 * 9 + 1) / 1.94)]], rtol=1e-12)


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
    untrained = forecaster(model)
    length, channels = untrained.spec.min_context, 4 if untrained.spec.joint else 1
    windows_and_targets = 0.01 * np.random.default_rng(0).standard_t(
        5, (3, length + STEPS, 1, channels)
    ).astype(np.float32)

    def statistics(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x = torch.from_numpy(x)
        shift, scale = untrained.net.scaler.compute_statistics(
            x=x, mask=torch.ones_like(x), dim=1, eps=1e-6
        )
        return shift.numpy(), scale.numpy()

    shift, scale = statistics(windows_and_targets)
    npt.assert_array_equal(shift, 0)
    expected = np.apply_along_axis(scale_by_numpy, 1, windows_and_targets[:, :length])[
        :, None
    ]  # [3, 1, 1, channels]
    npt.assert_allclose(scale, expected, rtol=1e-5)
    later, last = windows_and_targets.copy(), windows_and_targets.copy()
    later[:, length:] = 7.0
    npt.assert_array_equal(statistics(later)[1], scale)
    last[:, length - 1] = 7.0
    assert (statistics(last)[1] > scale).all()


# --- the start --------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [*SINGLE, *JOINT])
def test_an_untrained_network_says_normal_quantiles_of_the_ewma_volatility(model: str):
    untrained = forecaster(model)
    y = windows(untrained)
    sigma = np.array([scale_by_numpy(row) for row in y])
    expected = np.broadcast_to(sigma[:, None, None] * norm.ppf(names.LEVELS), (4, STEPS, LEVELS))
    # float32; in N-BEATS y / sigma is added and taken off
    npt.assert_allclose(untrained.quantiles(y), expected, rtol=2e-5, atol=1e-8)
    npt.assert_allclose(library(untrained, y), expected, rtol=2e-5, atol=1e-8)


@pytest.mark.parametrize("model", [*SINGLE, *JOINT])
def test_the_last_return_is_not_the_level_of_the_forecast(model: str):
    untrained = forecaster(model)
    y = windows(untrained)
    y[:, -1] = 0.2
    npt.assert_allclose(untrained.quantiles(y)[..., 5], 0.0, atol=1e-6)


def test_every_step_starts_alike_whatever_the_horizon_and_the_knots():
    for horizon, downsample in ((1, "[5,2,1]"), (7, "[3,2,1]"), (12, "[5,4,3]")):
        untrained = forecaster("nhits", horizon=horizon, downsample=downsample)
        y = windows(untrained)
        z = untrained.quantiles(y) / np.array([scale_by_numpy(row) for row in y])[:, None, None]
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
    random_weights = forecaster(model, seed=1, **overrides)
    y = windows(random_weights)
    expected = library(random_weights, y)
    assert (np.diff(expected, axis=2) < 0).any()
    npt.assert_allclose(
        random_weights.quantiles(y),
        np.sort(expected, axis=2),
        rtol=1e-4,
        atol=1e-6 * np.abs(expected).max(),
    )


@pytest.mark.parametrize("model", [*SINGLE, *JOINT])
def test_quantiles_never_cross_and_steps_keep_their_place(model: str):
    random_weights = forecaster(model, seed=2)
    y = windows(random_weights)
    quantiles = random_weights.quantiles(y)
    assert (np.diff(quantiles, axis=2) >= 0).all()
    npt.assert_allclose(
        quantiles.sum(axis=2), library(random_weights, y).sum(axis=2), rtol=1e-3, atol=1e-5
    )


@pytest.mark.parametrize("model", JOINT)
def test_quantiles_of_a_series_are_the_outputs_for_that_series(model: str):
    """The output layer is set to level + 100 h + 1000 n for series n. The library reads outputs
    [H, Q, N] as [H, N, Q], so that a series gets the outputs of others."""
    untrained = forecaster(model)
    net, n = untrained.net, len(UNIVERSE)
    outputs = torch.arange(STEPS)[:, None] * 100.0 + torch.arange(LEVELS)  # [H, Q]
    with torch.no_grad():
        net.output.weight.zero_()
        net.output.bias.copy_(outputs.flatten())
    handle = net.output.register_forward_hook(
        lambda _, __, out: out + 1000 * torch.arange(n)[:, None]
    )
    one_pass = torch.zeros(1, n, untrained.spec.max_context) + 0.1
    out = forward_of(net)(one_pass)[0].detach().unflatten(1, (STEPS, LEVELS))
    handle.remove()
    npt.assert_array_equal(out, outputs + 1000 * torch.arange(n)[:, None, None])


@pytest.mark.parametrize("model", JOINT)
def test_a_series_changes_the_forecast_of_the_others_of_its_universe(model: str):
    random_weights = forecaster(model, seed=1)
    y = windows(random_weights)
    moved = y.copy()
    moved[2] = np.roll(moved[2], 3)
    before, after = random_weights.quantiles(y), random_weights.quantiles(moved)
    assert (np.abs(after - before).max(axis=(1, 2)) > 1e-7).all()


def test_the_graph_of_a_window_is_the_librarys_for_that_window_alone():
    random_weights = forecaster("stemgnn", seed=1)
    x = torch.randn(
        3, random_weights.spec.max_context, 4, generator=torch.Generator().manual_seed(0)
    )
    with torch.no_grad():
        chebyshev, attention = random_weights.net.latent_correlation_layer(x)
        for i in range(3):
            expected, graph = StemGNN.latent_correlation_layer(random_weights.net, x[i : i + 1])
            npt.assert_allclose(chebyshev[i], expected, rtol=1e-4, atol=1e-6)
            npt.assert_allclose(attention[i], graph, rtol=1e-5, atol=1e-7)
        # The flaw of the library: the graph of a batch is not that of its windows.
        together, _ = StemGNN.latent_correlation_layer(random_weights.net, x)
    assert (together - chebyshev[0]).abs().max() > 1e-3


@pytest.mark.parametrize("model", JOINT)
def test_a_window_of_all_series_says_the_same_alone_and_in_a_batch(model: str):
    random_weights = forecaster(model, seed=1)
    x = torch.randn(
        3, random_weights.spec.max_context, 4, generator=torch.Generator().manual_seed(0)
    )
    with torch.no_grad():
        together = random_weights.net({"insample_y": x})
        alone = torch.cat([random_weights.net({"insample_y": window[None]}) for window in x])
    npt.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tiny", [True, False], ids=["tiny", "as committed"])
@pytest.mark.parametrize("model", SINGLE)
def test_a_forecast_alone_in_a_batch_and_among_200_is_the_same_bits(model: str, tiny: bool):
    random_weights = forecaster(model, seed=1, tiny=tiny)
    y = 0.01 * np.random.default_rng(0).standard_t(5, (200, random_weights.spec.max_context))
    together = random_weights.quantiles(y)
    assert together.shape == (200, STEPS, LEVELS)
    for i in (0, 1, ROWS - 1, ROWS, 2 * ROWS - 1, 199):
        npt.assert_array_equal(random_weights.quantiles(y[i : i + 1])[0], together[i])
    npt.assert_array_equal(random_weights.quantiles(y[:130]), together[:130])
    order = np.random.default_rng(0).permutation(200)
    npt.assert_array_equal(random_weights.quantiles(y[order]), together[order])


def test_rows_of_odd_lengths_are_the_same_bits_wherever_they_lie():
    """Windows, pools and layers whose rows begin anywhere in memory."""
    random_weights = forecaster("nhits", seed=1, context=61, width=9)
    y = 0.01 * np.random.default_rng(0).standard_t(5, (ROWS, 61))
    together = random_weights.quantiles(y)
    for i in range(ROWS):
        npt.assert_array_equal(random_weights.quantiles(y[i : i + 1])[0], together[i])
    npt.assert_allclose(
        together,
        np.sort(library(random_weights, y), axis=2),
        rtol=1e-4,
        atol=1e-6 * np.abs(together).max(),
    )


@pytest.mark.parametrize("model", [*SINGLE, *JOINT])
def test_four_times_the_returns_four_times_the_forecast(model: str):
    random_weights = forecaster(model, seed=1)
    y = windows(random_weights)
    npt.assert_allclose(
        random_weights.quantiles(4 * y), 4 * random_weights.quantiles(y), rtol=1e-5, atol=1e-9
    )
