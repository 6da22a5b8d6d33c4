"""ssm: the untrained network, agreement of its modes of running, its inputs, its training."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.testing as npt
import pandas as pd
import pytest
import torch
from scipy.stats import norm
from watched import Run

from jobs.training import configs, families
from mlprojects.blocks import features, head
from mlprojects.blocks.passes import ROWS
from mlprojects.ssm import model, timescales, train
from mlprojects.ssm import settings as family_settings
from mlprojects.ssm.network import Network
from mlprojects.ssm.windows import SHARED, Windows
from registry.errors import BadConfig, BadHistory
from registry.forecast import names, volatility
from registry.forecast.answer import forecast_of
from registry.forecast.checks import check_history
from registry.forecast.forecast import Forecast
from registry.training import Trained

SERIES = ("AAPL", "JNJ", "XOM")
CONTEXT, HORIZON = 96, 5
SESSIONS = features.WARMUP - 1 + CONTEXT


@pytest.fixture(scope="module")
def slice_of_panel(panel: pd.DataFrame) -> pd.DataFrame:
    """Three stocks, 2017 to 2019: chosen on the last year."""
    stocks = panel[panel[names.UNIQUE_ID].isin(SERIES)]
    period = stocks[names.DS].between("2017-01-01", "2019-12-31")
    return stocks[period].reset_index(drop=True)


def tiny(**overrides: Any) -> family_settings.Config:
    config = configs.load_config(families.find("ssm"), overrides, tiny=True)
    assert isinstance(config, family_settings.Config)
    return config


def fitted(history: pd.DataFrame, run: Run, *, seed: int = 0, **overrides: Any) -> Trained:
    return train.train(history, tiny(**overrides), name="ssm", seed=seed, run=run)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def trained(slice_of_panel: pd.DataFrame, run: Run) -> Trained:
    return fitted(slice_of_panel, run)


@pytest.fixture
def untrained() -> model.S4DForecaster:
    return model.S4DForecaster(family_settings.spec("ssm", tiny()), network())


def network(**changes: Any) -> Network:
    """An untrained network of the tiny config."""
    torch.manual_seed(0)
    return Network(replace(train.shape(tiny()), **changes)).eval()


def stirred(**changes: Any) -> Network:
    """A network with noise on every weight, so that none is 0 or as at the start."""
    net = network(**changes)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return net


def windows(net: Network, n: int = 2, length: int = 100, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, length, len(net.centre), generator=generator, dtype=net.gaps.dtype)


def predict(
    forecaster: model.S4DForecaster, frame: pd.DataFrame, horizon: int = HORIZON
) -> Forecast:
    request = forecaster.spec.request({"horizon": horizon})
    return forecast_of(forecaster, check_history(frame, forecaster.spec), request)


def weights(trained: Trained, folder: Path) -> bytes:
    folder.mkdir(parents=True)
    model.save(trained.forecaster, folder)
    return (folder / "weights.safetensors").read_bytes()


# --- network ----------------------------------------------------------------------------------


def test_an_untrained_network_says_normal_quantiles_of_the_ewma_volatility(
    untrained: model.S4DForecaster, slice_of_panel: pd.DataFrame
) -> None:
    quantiles = predict(untrained, slice_of_panel).quantiles
    last = slice_of_panel.groupby(names.UNIQUE_ID).tail(SESSIONS)
    y = np.stack([part.to_numpy() for _, part in last.groupby(names.UNIQUE_ID)[names.Y]])
    sigma = volatility.ewma_volatility(y)[:, -1]
    expected = np.broadcast_to(sigma[:, None, None] * norm.ppf(names.LEVELS), quantiles.shape)
    npt.assert_allclose(quantiles, expected, rtol=1e-5, atol=1e-8)


def test_convolution_steps_and_blocks_say_the_same() -> None:
    net = stirred(layers=3).double()
    x = windows(net)
    with torch.no_grad():
        convolved = net(x)
        states, steps = net.start(len(x)), []
        for t in range(x.shape[1]):
            states, quantiles = net.step(states, x[:, t])
            steps.append(quantiles)
        last_states, last = net.last(x, net.blocks())
    npt.assert_allclose(torch.stack(steps, dim=1), convolved, rtol=0, atol=1e-10)
    npt.assert_allclose(last, convolved[:, -1], rtol=0, atol=1e-10)
    for last_state, state in zip(last_states, states, strict=True):
        npt.assert_allclose(last_state, state, rtol=0, atol=1e-10)


def test_in_single_precision_they_differ_by_rounding_alone() -> None:
    net = stirred()
    x = windows(net, length=512)
    with torch.no_grad():
        states = net.start(len(x))
        for t in range(x.shape[1]):
            states, quantiles = net.step(states, x[:, t])
        npt.assert_allclose(net.last(x, net.blocks())[1], quantiles, rtol=1e-4, atol=1e-4)
        npt.assert_allclose(net(x)[:, -1], quantiles, rtol=1e-4, atol=1e-4)


def test_later_sessions_change_no_earlier_quantile() -> None:
    net = stirred().double()
    x = windows(net)
    changed = x.clone()
    changed[:, 60:] += 2.0
    with torch.no_grad():
        npt.assert_allclose(net(changed)[:, :60], net(x)[:, :60], rtol=0, atol=1e-12)
        assert ((net(changed) - net(x))[:, 60:].abs().amax(dim=(2, 3)) > 1e-6).all()


def test_quantiles_never_cross_whatever_the_weights() -> None:
    net = stirred()
    with torch.no_grad():
        net.gaps.copy_(5 * torch.randn_like(net.gaps))
        net.scale.weight.copy_(100 * torch.randn_like(net.scale.weight))
        assert (net(windows(net)).diff(dim=-1) >= 0).all()


def test_the_season_of_a_step_acts_on_that_step_alone() -> None:
    net = stirred()
    x = windows(net)
    changed = x.clone()
    third = net.shape.features + 2 * net.shape.season
    changed[..., third : third + net.shape.season] += 1.0
    with torch.no_grad():
        differ = (net(changed) != net(x)).any(dim=-1).all(dim=1)  # [n, H]
    assert differ.tolist() == [[False, False, True, False, False]] * 2


def test_a_feature_far_out_counts_as_four_deviations() -> None:
    net = stirred()
    net.centre = torch.full_like(net.centre, 3.0)
    net.deviation = torch.full_like(net.deviation, 2.0)
    far = torch.full((1, 10, len(net.centre)), 1e6)
    edge = torch.full((1, 10, len(net.centre)), 3.0 + 4 * 2.0)
    with torch.no_grad():
        npt.assert_array_equal(net(far), net(edge))


# --- forecasts --------------------------------------------------------------------------------


def test_a_forecast_is_what_training_sees_at_the_end_of_the_window(
    trained: Trained, slice_of_panel: pd.DataFrame
) -> None:
    """The recurrence of a forecast and the convolution of training, on the same sessions."""
    history = (
        slice_of_panel.groupby(names.UNIQUE_ID).head(SESSIONS + HORIZON).reset_index(drop=True)
    )
    windows_of_history = of(
        pd.concat([history, slice_of_panel.assign(unique_id="later")], ignore_index=True)
    )
    batch = windows_of_history.take(np.arange(3) * (SESSIONS + HORIZON))
    with torch.no_grad():
        expected = batch.sigma[:, -1, None, None] * trained.forecaster.net(batch.x)[:, -1]
    forecast = predict(trained.forecaster, history.groupby(names.UNIQUE_ID).head(SESSIONS))
    npt.assert_allclose(forecast.quantiles, expected, rtol=1e-4, atol=1e-6)


def test_a_forecast_alone_and_anywhere_among_others_is_the_same_bits(
    slice_of_panel: pd.DataFrame,
) -> None:
    forecaster = model.S4DForecaster(
        family_settings.spec("ssm", tiny()), stirred(width=16, states=8)
    )
    jnj = slice_of_panel[slice_of_panel[names.UNIQUE_ID] == "JNJ"]
    rng = np.random.default_rng(0)
    symbols = [f"S{i:02d}" for i in range(ROWS + 8)]
    others = [jnj.assign(unique_id=name, y=rng.permutation(jnj[names.Y])) for name in symbols]
    alone = predict(forecaster, jnj).quantiles[0]
    for place in (0, 1, ROWS - 1, ROWS, ROWS + 7):
        frames = [*others[:place], jnj.assign(unique_id=symbols[place]), *others[place + 1 :]]
        together = predict(forecaster, pd.concat(frames, ignore_index=True))
        npt.assert_array_equal(together.quantiles[place], alone)


def test_series_of_other_lengths_are_forecast_as_if_alone(
    trained: Trained, slice_of_panel: pd.DataFrame
) -> None:
    rows = slice_of_panel[::-1].groupby(names.UNIQUE_ID).cumcount()[::-1]
    uneven = slice_of_panel[
        (slice_of_panel[names.UNIQUE_ID] != "JNJ") | (rows < trained.forecaster.spec.min_context)
    ]
    together = predict(trained.forecaster, uneven.reset_index(drop=True))
    for i, name in enumerate(SERIES):
        alone = uneven[uneven[names.UNIQUE_ID] == name].reset_index(drop=True)
        npt.assert_array_equal(
            predict(trained.forecaster, alone).quantiles[0], together.quantiles[i]
        )


def test_sessions_before_the_context_change_nothing_and_its_first_one_counts(
    trained: Trained, slice_of_panel: pd.DataFrame
) -> None:
    quantiles = predict(trained.forecaster, slice_of_panel).quantiles
    last = slice_of_panel.groupby(names.UNIQUE_ID).tail(SESSIONS)
    npt.assert_array_equal(predict(trained.forecaster, last).quantiles, quantiles)
    age = slice_of_panel[::-1].groupby(names.UNIQUE_ID).cumcount()[::-1]
    for first, unchanged in ((SESSIONS, True), (SESSIONS - 1, False)):
        changed = slice_of_panel.assign(y=slice_of_panel[names.Y].where(age < first, 0.3))
        assert (predict(trained.forecaster, changed).quantiles == quantiles).all() == unchanged


def test_a_history_of_less_than_the_warm_up_and_a_settled_state_is_refused(
    trained: Trained, slice_of_panel: pd.DataFrame
) -> None:
    needed = features.WARMUP - 1 + family_settings.SETTLED
    assert trained.forecaster.spec.min_context == needed
    with pytest.raises(BadHistory, match=f"needs {needed}") as caught:
        predict(trained.forecaster, slice_of_panel.groupby(names.UNIQUE_ID).tail(needed - 1))
    assert caught.value.code == "TOO_SHORT"


def test_saved_and_loaded_model_forecasts_the_same_and_draws_nothing(
    trained: Trained, slice_of_panel: pd.DataFrame, tmp_path: Path
) -> None:
    model.save(trained.forecaster, tmp_path)
    (tmp_path / "spec.json").write_text(json.dumps(trained.forecaster.spec.to_json()))
    before = torch.random.get_rng_state()
    loaded = model.load(tmp_path)
    npt.assert_array_equal(torch.random.get_rng_state(), before)
    assert loaded.spec == trained.forecaster.spec
    assert not loaded.net.training
    expected = predict(trained.forecaster, slice_of_panel).quantiles
    npt.assert_array_equal(predict(loaded, slice_of_panel).quantiles, expected)


# --- windows ----------------------------------------------------------------------------------


def of(history: pd.DataFrame, **changes: Any) -> Windows:
    return Windows.of(
        history, **{"fit_until": "2018-12-31", "sessions": SESSIONS, "horizon": HORIZON, **changes}
    )


def test_windows_to_fit_end_their_targets_by_fit_until_and_none_is_missing(
    slice_of_panel: pd.DataFrame,
) -> None:
    all_windows = of(slice_of_panel)
    last = all_windows.ds[all_windows.fit + SESSIONS + HORIZON - 1]
    fitted = slice_of_panel[names.DS] <= "2018-12-31"
    assert last.max() == slice_of_panel[names.DS][fitted].max().to_datetime64()
    per_series = slice_of_panel[fitted].groupby(names.UNIQUE_ID).size() - SESSIONS - HORIZON + 1
    assert len(all_windows.fit) == per_series.sum()


def test_every_forecast_of_the_choice_period_is_chosen_on_once(
    slice_of_panel: pd.DataFrame,
) -> None:
    """For any number of forecasts: the last ones may not fill a window."""
    place = slice_of_panel[::-1].groupby(names.UNIQUE_ID).cumcount()[::-1]
    sessions = slice_of_panel[names.DS].unique()
    for fit_until in sessions[sessions > pd.Timestamp("2018-12-31")][: SHARED + 1]:
        all_windows = of(slice_of_panel, fit_until=f"{fit_until:%Y-%m-%d}")
        last = all_windows.chosen + SESSIONS - 1
        origins = [
            np.arange(end - n + 1, end + 1)
            for end, n in zip(last, all_windows.counted, strict=True)
        ]
        expected = np.flatnonzero((slice_of_panel[names.DS] > fit_until) & (place >= HORIZON))
        npt.assert_array_equal(np.sort(np.concatenate(origins)), expected)
        assert all_windows.counted.max() == SHARED


def test_a_window_holds_what_a_forecast_reads_and_the_returns_after_each_session(
    slice_of_panel: pd.DataFrame,
) -> None:
    all_windows = of(slice_of_panel)
    batch = all_windows.take(all_windows.fit[:2])
    rows = slice_of_panel.iloc[all_windows.fit[1] :][: SESSIONS + HORIZON]
    values = rows[list(features.COLUMNS)].to_numpy()[None]
    ds = rows[names.DS].to_numpy().astype("datetime64[D]")[None]
    x, sigma = model.inputs(values[:, :SESSIONS], ds[:, :SESSIONS], HORIZON)
    npt.assert_array_equal(batch.x[1], x[0])
    npt.assert_allclose(batch.sigma[1], sigma[0], rtol=1e-6)
    y = rows[names.Y].to_numpy()
    npt.assert_allclose(batch.y[1, 0], y[features.WARMUP : features.WARMUP + HORIZON], rtol=1e-6)
    npt.assert_allclose(batch.y[1, -1], y[-HORIZON:], rtol=1e-6)


def test_features_are_standardised_by_what_is_fitted(slice_of_panel: pd.DataFrame) -> None:
    later = slice_of_panel[names.DS] > "2018-12-31"
    changed = slice_of_panel.assign(y=slice_of_panel[names.Y].where(~later, 0.3))
    for standard, of_changed in zip(
        of(slice_of_panel).standard(), of(changed).standard(), strict=True
    ):
        npt.assert_array_equal(standard, of_changed)
    flat = slice_of_panel.assign(index_return=0.0)
    assert (of(flat).standard()[1] > 0).all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"fit_until": "2017-12-31"}, "up to 2017-12-31"),
        ({"fit_until": "2019-12-26"}, "and a forecast after 2019-12-26"),
        ({"sessions": 800}, "warm-up, context and horizon of 313 [+] 487 [+] 5 sessions up to"),
    ],
    ids=["nothing to fit", "nothing to choose on", "a context longer than the history"],
)
def test_a_history_without_windows_is_refused(
    slice_of_panel: pd.DataFrame, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(BadHistory, match=words) as caught:
        of(slice_of_panel, **changes)
    assert caught.value.code == "TOO_SHORT"


# --- training ---------------------------------------------------------------------------------


def test_the_choice_loss_is_that_of_forecasts_from_every_session_of_the_choice_period(
    trained: Trained, slice_of_panel: pd.DataFrame
) -> None:
    """The slow way: one forecast per origin, each from its full context."""
    all_windows = of(slice_of_panel)
    last = all_windows.chosen + SESSIONS - 1
    origins = np.concatenate(
        [np.arange(end - n + 1, end + 1) for end, n in zip(last, all_windows.counted, strict=True)]
    )
    net, losses = trained.forecaster.net, []
    for part in np.array_split(origins, 12):
        batch = all_windows.take(part - SESSIONS + 1)
        with torch.no_grad():
            quantiles = batch.sigma[:, -1, None, None] * net(batch.x)[:, -1]
        losses.append(head.pinball(batch.y[:, -1], quantiles, names.LEVELS).item() * len(part))
    # A shared window gives its first forecasts up to 20 sessions of context less.
    npt.assert_allclose(
        train.Choice.of(all_windows).loss(net), sum(losses) / len(origins), rtol=2e-3
    )


def test_sessions_before_a_settled_state_are_no_targets(slice_of_panel: pd.DataFrame) -> None:
    all_windows = of(slice_of_panel)
    batch, net = all_windows.take(all_windows.fit[:4]), network()
    since = family_settings.SETTLED - 1
    expected = head.pinball(
        (batch.y / batch.sigma[..., None])[:, since:],
        torch.tensor(norm.ppf(names.LEVELS)).float().expand(4, CONTEXT - since, HORIZON, -1),
        names.LEVELS,
    )
    npt.assert_allclose(train.training_loss(net, batch).item(), expected.item(), rtol=1e-5)


def test_training_changes_what_the_network_says_and_reports_its_losses(
    trained: Trained, run: Run
) -> None:
    assert list(run.losses("valid_loss")) == [0, 2, 4]
    assert 1 in run.losses("train_loss")
    valid = run.losses("valid_loss")
    assert trained.params["best_step"] == min(valid, key=valid.__getitem__) > 0
    assert (
        trained.metrics["choice_loss"]
        == min(valid.values())
        < trained.metrics["choice_loss_untrained"]
    )
    assert not trained.forecaster.net.training


def test_the_same_seed_gives_the_same_weights_and_leaves_random_numbers_alone(
    trained: Trained, slice_of_panel: pd.DataFrame, tmp_path: Path
) -> None:
    before = torch.random.get_rng_state()
    again = fitted(slice_of_panel, Run(tmp_path / "again"))
    npt.assert_array_equal(torch.random.get_rng_state(), before)
    other = fitted(slice_of_panel, Run(tmp_path / "other"), seed=2)
    assert (
        weights(trained, tmp_path / "1")
        == weights(again, tmp_path / "2")
        != weights(other, tmp_path / "3")
    )


def test_a_cut_training_resumes_to_the_same_weights(
    trained: Trained, slice_of_panel: pd.DataFrame, tmp_path: Path
) -> None:
    fitted(slice_of_panel, Run(tmp_path / "cut", give_up_at=2))
    resumed = Run(tmp_path / "cut")
    assert weights(fitted(slice_of_panel, resumed), tmp_path / "1") == weights(
        trained, tmp_path / "2"
    )
    assert min(resumed.steps) > 2
    with pytest.raises(BadConfig, match="of another training"):
        fitted(slice_of_panel, Run(tmp_path / "cut"), seed=2)


def test_weights_are_not_fitted_to_the_choice_period(
    slice_of_panel: pd.DataFrame, tmp_path: Path
) -> None:
    later = slice_of_panel[names.DS] > "2018-12-31"
    changed = slice_of_panel.assign(
        y=slice_of_panel[names.Y].where(~later, 0.5 * slice_of_panel[names.Y] + 0.01)
    )
    runs = [Run(tmp_path / "1"), Run(tmp_path / "2")]
    for frame, run in zip((slice_of_panel, changed), runs, strict=True):
        fitted(frame, run, learning_rate=1e-9)
    assert runs[0].losses("train_loss") == runs[1].losses("train_loss")
    assert runs[0].losses("valid_loss") != runs[1].losses("valid_loss")


@pytest.mark.parametrize(
    "name", ["width", "states", "layers", "max_steps", "batch", "check_every", "patience"]
)
def test_a_size_of_0_is_refused(name: str) -> None:
    with pytest.raises(BadConfig, match=f"^{name} is 0, expected 1 or more$"):
        tiny(**{name: 0})


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"context": 63}, "context is 63, expected 64 or more"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1"),
        ({"start": "legs"}, "start"),
    ],
)
def test_settings_out_of_bounds_are_refused(setting: dict[str, Any], words: str) -> None:
    with pytest.raises(BadConfig, match=words):
        tiny(**setting)


# --- time scales ------------------------------------------------------------------------------


def test_half_lives_and_periods_by_hand() -> None:
    net = network(width=1, states=1, layers=1, start="real")
    s4d = net.layers[0].s4d
    with torch.no_grad():
        s4d.log_step.copy_(torch.tensor([0.1]).log())
        s4d.turn.fill_(0.5)
        s4d.c.copy_(torch.tensor([[[3.0, 0.0]]]))
    [row] = timescales.table(net).to_dict("records")
    # A = -1 + i / 2 at steps of 0.1: |A|^k = exp(-k / 10), and a turn of 0.05 a session
    npt.assert_allclose(row["half_life"], 10 * np.log(2), rtol=1e-5)
    npt.assert_allclose(row["period"], 2 * np.pi / 0.05, rtol=1e-5)
    a = -1 + 0.5j
    npt.assert_allclose(
        row["weight"], 6 * abs((np.exp(0.1 * a) - 1) / a) / (1 - np.exp(-0.1)), rtol=1e-5
    )


def test_every_mode_is_in_the_table_and_the_figure_is_drawn(trained: Trained) -> None:
    config, table = tiny(), trained.tables["time_scales"]
    assert len(table) == config.layers * config.width * config.states
    assert (table["half_life"] > 0).all()
    left, right = trained.figures["time_scales"].axes
    npt.assert_array_equal(left.lines[0].get_ydata(), np.sort(table["half_life"]))
    for line in right.lines:
        share = line.get_ydata()
        assert (np.diff(share) >= 0).all()
        npt.assert_allclose(share[-1], 1.0, rtol=1e-5)
