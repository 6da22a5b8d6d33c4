"""The baselines: against slow forms and a study's numbers, and the dependence of a forecast."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.testing as npt
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy.stats import norm
from shared import SHARED
from watched import Run

from mlprojects.baselines import model, train
from mlprojects.baselines import settings as family_settings
from registry.errors import BadConfig, BadHistory
from registry.forecast import calendars, names, volatility
from registry.forecast.answer import forecast_of
from registry.forecast.checks import check_history
from registry.forecast.forecast import Forecast
from registry.forecast.history import History
from registry.forecast.quantiles import quantile_mean
from registry.scoring.difference import against
from registry.scoring.rolling import origins_between, rolling
from registry.scoring.scores import means, scores
from registry.training import Trained

DAYS = calendars.next_sessions("XNYS", pd.Timestamp("2014-12-31"), 1200)
FIT_UNTIL, CHOOSE_UNTIL = (f"{DAYS[i]:%Y-%m-%d}" for i in (546, 699))
KINDS = ("naive", "ewma", "fhs", "har", "garch", "gjr")

# A study of the same panel in per cent (20 stocks, origins 2011-01-03..2018-12-21), so that its
# constant is 100 times ours: features own 1.5, 5, 22, 90 sessions, market 1.5, 5, 22, 90, constant;
# one row per step.
STUDY = np.array(
    [
        [0.165, -0.079, 0.381, 0.473, 0.260, 0.273, -0.188, -0.499, 0.226],
        [0.099, -0.042, 0.367, 0.512, 0.325, 0.159, -0.091, -0.581, 0.270],
        [0.090, -0.074, 0.389, 0.532, 0.185, 0.311, -0.120, -0.602, 0.311],
        [0.059, -0.059, 0.371, 0.565, 0.131, 0.375, -0.133, -0.633, 0.346],
        [0.034, -0.038, 0.364, 0.577, 0.051, 0.464, -0.167, -0.635, 0.378],
    ]
)


def simulated(seed: int = 0, n: int = 3, length: int = 700) -> pd.DataFrame:
    """History of `n` series with their market column; volatility moves slowly."""
    rng = np.random.default_rng(seed)
    sigma = 0.01 * np.exp(np.cumsum(0.05 * rng.normal(size=(n, length)), axis=1))
    return as_history(sigma * rng.standard_t(5, (n, length)).clip(-6, 6))


def as_history(y: np.ndarray) -> pd.DataFrame:
    """History of returns [n, T]."""
    n, length = y.shape
    return pd.DataFrame(
        {
            names.UNIQUE_ID: np.repeat([f"S{i}" for i in range(n)], length),
            names.DS: np.tile(DAYS[:length], n),
            names.Y: y.reshape(-1).clip(-1, 1),
            names.MARKET_ABS_RETURN: np.tile(np.abs(y).mean(axis=0), n),
        }
    )


def trained(
    kind: str, folder: Path, history: pd.DataFrame | None = None, **settings: Any
) -> Trained:
    dates = {"fit_until": FIT_UNTIL, "choose_until": CHOOSE_UNTIL}
    config = family_settings.Config(kind=kind, **SHARED | dates | settings)
    return train.train(
        simulated() if history is None else history, config, name=kind, seed=0, run=Run(folder)
    )


def predict(
    forecaster: Any, history: pd.DataFrame, horizon: int = 5, levels: Any = names.LEVELS
) -> Forecast:
    request = forecaster.spec.request({"horizon": horizon, "levels": levels})
    return forecast_of(forecaster, check_history(history, forecaster.spec), request).at(levels)


@pytest.fixture(scope="module")
def forecasters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("baselines")
    return {kind: trained(kind, folder).forecaster for kind in KINDS}


@pytest.fixture(params=KINDS)
def forecaster(request: pytest.FixtureRequest, forecasters: dict[str, Any]) -> Any:
    return forecasters[request.param]


# --- forecasts --------------------------------------------------------------------------------


def volatility_by_recursion(y: np.ndarray) -> np.ndarray:
    variance, path = float(np.mean(y[:60] ** 2)), []
    for value in y:
        variance = 0.94 * variance + 0.06 * value**2
        path.append(np.sqrt(variance))
    return np.array(path)


def by_series(
    history: pd.DataFrame, quantiles_of: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """quantiles_of(y of one series) -> [Q] of every series, the same at five steps: [N, 5, Q]."""
    rows = [quantiles_of(y.to_numpy()) for _, y in history.groupby(names.UNIQUE_ID)[names.Y]]
    return np.repeat(np.array(rows)[:, None], 5, axis=1)


def test_naive_says_the_quantiles_of_the_last_500_returns(forecasters: dict[str, Any]):
    history = simulated()
    expected = by_series(history, lambda y: np.quantile(y[-500:], names.LEVELS))
    npt.assert_allclose(predict(forecasters["naive"], history).quantiles, expected, rtol=1e-12)


def test_ewma_says_normal_quantiles_of_the_recursive_volatility(forecasters: dict[str, Any]):
    history = simulated()
    expected = by_series(history, lambda y: volatility_by_recursion(y)[-1] * norm.ppf(names.LEVELS))
    npt.assert_allclose(
        predict(forecasters["ewma"], history).quantiles, expected, rtol=1e-12, atol=1e-18
    )


def test_fhs_says_volatility_times_quantiles_of_the_last_500_one_step_residuals(
    forecasters: dict[str, Any],
):
    def quantiles_of(y: np.ndarray) -> np.ndarray:
        sigma, last = volatility_by_recursion(y), len(y) - 1
        z = [y[t + 1] / sigma[t] for t in range(last - 500, last)]
        return sigma[-1] * np.quantile(z, names.LEVELS)

    history = simulated()
    npt.assert_allclose(
        predict(forecasters["fhs"], history).quantiles, by_series(history, quantiles_of), rtol=1e-11
    )


def average_by_recursion(x: np.ndarray, half_life: float) -> np.ndarray:
    decay, state, path = 0.5 ** (1 / half_life), float(np.mean(x[:60])), []
    for value in x:
        state = decay * state + (1 - decay) * value
        path.append(state)
    return np.array(path)


def features_by_loop(y: np.ndarray, market: np.ndarray) -> np.ndarray:
    """[T, 9]: own and market averages of |y| at half-lives 1.5, 5, 22, 90, and 1."""
    half_lives = (1.5, 5, 22, 90)
    own_averages = [average_by_recursion(np.abs(y), half_life) for half_life in half_lives]
    market_averages = [average_by_recursion(market, half_life) for half_life in half_lives]
    return np.stack([*own_averages, *market_averages, np.ones(len(y))], axis=1)


def arrays(history: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """y and market_abs_return [N, T]."""
    n = history[names.UNIQUE_ID].nunique()
    return tuple(history[c].to_numpy().reshape(n, -1) for c in (names.Y, names.MARKET_ABS_RETURN))


def test_har_features_are_the_recursions():
    y, market = arrays(simulated())
    expected = [features_by_loop(*row) for row in zip(y, market, strict=True)]
    npt.assert_allclose(model.har_features(y, market), expected, rtol=1e-12)


def test_har_never_calls_a_market_dead():
    sigma = np.full((1, 2), 0.01)
    features = np.zeros((1, 2, 9))
    features[0, 1, 8] = 1.0
    coefficients = np.zeros((1, 9))
    coefficients[0, 8] = 0.5
    npt.assert_allclose(
        model.har_scale(features, sigma, coefficients), [[[0.002], [0.5]]], rtol=1e-14
    )


def test_har_says_expected_size_times_half_own_and_half_pooled_residual_quantiles(
    forecasters: dict[str, Any],
):
    history, har = simulated(), forecasters["har"]
    expected = []
    for y, market in zip(*arrays(history), strict=True):
        features, sigma = features_by_loop(y, market), volatility_by_recursion(y)
        for h in range(1, 6):
            scale = [
                max(float(f @ har.coefficients[h - 1]), 0.2 * s)
                for f, s in zip(features, sigma, strict=True)
            ]
            last = len(y) - 1
            z = [y[t + h] / scale[t] for t in range(last - h - 499, last - h + 1)]
            expected.append(scale[-1] * (np.quantile(z, names.LEVELS) + har.pool[h - 1]) / 2)
    npt.assert_allclose(predict(har, history).quantiles.reshape(-1, 11), expected, rtol=1e-10)


def test_the_mean_is_the_integral_of_the_trained_quantiles_whatever_levels_are_asked_for(
    forecaster: Any,
):
    forecast = predict(forecaster, simulated())
    median = predict(forecaster, simulated(), levels=(0.5,))
    expected = quantile_mean(forecast.quantiles, names.LEVELS)
    npt.assert_allclose(forecast.mean, expected, rtol=1e-12)
    npt.assert_array_equal(median.mean, forecast.mean)
    npt.assert_array_equal(median.quantiles[:, :, 0], forecast.quantiles[:, :, 5])


# --- dependence of a forecast -----------------------------------------------------------------


@hypothesis_settings(max_examples=15)
@given(seed=st.integers(0, 10_000), lengths=st.lists(st.integers(564, 700), min_size=2, max_size=4))
def test_a_series_is_forecast_the_same_alone_and_among_others(
    forecasters: dict[str, Any], seed: int, lengths: list[int]
):
    full = simulated(seed, n=len(lengths))
    rows = [full[full[names.UNIQUE_ID] == f"S{i}"].tail(length) for i, length in enumerate(lengths)]
    history = pd.concat(rows, ignore_index=True)
    for forecaster in forecasters.values():
        together = predict(forecaster, history)
        for i, alone in enumerate(rows):
            npt.assert_array_equal(predict(forecaster, alone).quantiles[0], together.quantiles[i])


def test_order_of_the_series_does_not_matter_nor_do_names_that_the_model_was_not_fitted_to(
    forecaster: Any,
):
    history = simulated()
    if forecaster.spec.name in ("garch", "gjr"):
        forecaster = replace(forecaster, symbols=("?",) * len(forecaster.symbols))
    renamed = history.assign(
        unique_id=history[names.UNIQUE_ID].map({"S0": "Z", "S1": "M", "S2": "A"})
    )
    renamed = renamed.sort_values([names.UNIQUE_ID, names.DS])
    forecast = predict(forecaster, renamed)
    assert forecast.unique_id == ("A", "M", "Z")
    npt.assert_array_equal(forecast.quantiles[::-1], predict(forecaster, history).quantiles)


def test_sessions_older_than_the_context_change_nothing(forecaster: Any):
    history = simulated(length=1100)
    old = history.groupby(names.UNIQUE_ID).cumcount() < 100
    changed = history.assign(y=history[names.Y].where(~old, 0.5))
    recent = history[~old]
    expected = predict(forecaster, recent).quantiles
    npt.assert_array_equal(predict(forecaster, history).quantiles, expected)
    npt.assert_array_equal(predict(forecaster, changed).quantiles, expected)


@pytest.mark.parametrize("factor", [0.25, 4.0])
@pytest.mark.parametrize("kind", ["naive", "ewma", "fhs"])
def test_twice_the_returns_twice_the_forecast(
    forecasters: dict[str, Any], kind: str, factor: float
):
    history = simulated()
    scaled = history.assign(y=factor * history[names.Y])
    expected = factor * predict(forecasters[kind], history).quantiles
    npt.assert_allclose(predict(forecasters[kind], scaled).quantiles, expected, rtol=1e-9)


def test_fewer_steps_are_the_first_of_more(forecaster: Any):
    history = simulated()
    npt.assert_array_equal(
        predict(forecaster, history, horizon=2).quantiles,
        predict(forecaster, history).quantiles[:, :2],
    )


def test_the_history_is_left_as_it_was(forecaster: Any):
    history = simulated()
    before = history.copy()
    predict(forecaster, history)
    pd.testing.assert_frame_equal(history, before)


def test_eight_threads_get_the_same_bits(forecaster: Any):
    history = simulated()
    expected = predict(forecaster, history).quantiles
    with ThreadPoolExecutor(8) as pool:
        for forecast in pool.map(lambda _: predict(forecaster, history), range(16)):
            npt.assert_array_equal(forecast.quantiles, expected)


def test_the_least_context_is_enough_and_one_session_less_is_refused(forecaster: Any):
    needed = {"naive": 500, "ewma": 60, "fhs": 560, "har": 564, "garch": 252, "gjr": 564}[
        forecaster.spec.name
    ]
    assert forecaster.spec.min_context == needed
    predict(forecaster, simulated(length=needed))
    with pytest.raises(BadHistory) as caught:
        predict(forecaster, simulated(length=needed - 1))
    assert caught.value.code == "TOO_SHORT"


def test_a_series_that_stopped_moving_is_forecast_not_to_move(forecasters: dict[str, Any]):
    y = np.zeros((1, 900))
    y[0, 0] = 0.01
    history = History.of(as_history(y))  # a request may not bring it
    for kind in ("naive", "ewma", "fhs"):
        forecaster = forecasters[kind]
        forecast = forecaster.predict(history, forecaster.spec.request())
        npt.assert_allclose(forecast.quantiles, 0.0, atol=1e-7)


# --- training ---------------------------------------------------------------------------------


def test_training_finds_the_rule_that_made_the_data():
    # |y[t + 1]| = .3 own 1.5-session average + .5 market 22-session average + .002, without noise
    rng = np.random.default_rng(3)
    market = rng.uniform(0.01, 0.02, 400)
    rows = []
    for _ in range(2):
        size, state = [0.01] * 60, 0.01
        slow = average_by_recursion(market, 22)
        decay = 0.5 ** (1 / 1.5)
        for t in range(59, 399):
            state = 0.01 if t == 59 else decay * state + (1 - decay) * size[t]
            size.append(0.3 * state + 0.5 * slow[t] + 0.002)
        rows.append(np.array(size) * rng.choice([-1, 1], 400))
    history = as_history(np.array(rows)).assign(market_abs_return=np.tile(market, 2))
    expected = np.zeros((1, 9))
    expected[0, [0, 6, 8]] = 0.3, 0.5, 0.002
    npt.assert_allclose(train.fit_har(history, 1, 60), expected, atol=1e-6)


def test_the_fit_is_the_normal_equations_over_a_plain_list_of_samples():
    history = simulated(length=400)
    rows: list[np.ndarray] = []
    targets: list[float] = []
    for y, market in zip(*arrays(history), strict=True):
        features, sigma = features_by_loop(y, market), volatility_by_recursion(y)
        for t in range(252, 400 - 2):
            rows.append(features[t] / sigma[t])
            targets.append(min(abs(y[t + 2]) / sigma[t], 8.0))
    x = np.array(rows)
    expected = np.linalg.solve(x.T @ x, x.T @ np.array(targets))
    npt.assert_allclose(train.fit_har(history, 2, 252)[1], expected, rtol=1e-6, atol=1e-9)


def test_pooled_residuals_are_the_quantiles_of_a_plain_list():
    history, coefficients = simulated(length=400), np.abs(STUDY[:2]) / [*[1] * 8, 100]
    for h in (1, 2):
        z = []
        for y, market in zip(*arrays(history), strict=True):
            features, sigma = features_by_loop(y, market), volatility_by_recursion(y)
            scale = np.maximum(features @ coefficients[h - 1], 0.2 * sigma)
            z += [y[t + h] / scale[t] for t in range(252, 400 - h)]
        pool = train.pooled_residuals(history, coefficients, names.LEVELS, 252)[h - 1]
        npt.assert_allclose(pool, np.quantile(z, names.LEVELS), rtol=1e-10)


def test_coefficients_on_the_built_in_panel_are_those_of_the_study(panel: pd.DataFrame):
    days = pd.DatetimeIndex(panel[names.DS].unique())
    # The last origin; the study used the same origins for every step.
    last = days.get_loc(pd.Timestamp("2018-12-21"))
    for h in range(1, 6):
        until_outcome = panel[panel[names.DS] <= days[last + h]]
        coefficients = train.fit_har(until_outcome, h, 252)[h - 1]
        # The study prints three digits.
        npt.assert_allclose(coefficients * [*[1] * 8, 100], STUDY[h - 1], atol=6e-4)


def test_coefficients_do_not_see_sessions_after_fit_until_nor_pool_after_choose_until(
    tmp_path: Path,
):
    history = simulated()
    until_choice = history[history[names.DS] <= CHOOSE_UNTIL]
    later = history[names.DS] > FIT_UNTIL
    changed = until_choice.assign(y=until_choice[names.Y].where(~later, 3 * until_choice[names.Y]))
    before, after = (
        trained("har", tmp_path, frame).forecaster for frame in (until_choice, changed)
    )
    npt.assert_array_equal(after.coefficients, before.coefficients)
    assert (after.pool != before.pool).any()  # the pool reaches to choose_until


def test_training_says_how_many_numbers_it_fitted_and_shows_them(tmp_path: Path):
    done = trained("har", tmp_path)
    assert done.params == {"parameters": 5 * 9 + 5 * 11}
    table = done.tables["coefficients"]
    assert list(table["step"]) == [1, 2, 3, 4, 5]
    npt.assert_array_equal(table.drop(columns="step"), done.forecaster.coefficients)
    assert list(table.columns[[1, 8, 9]]) == ["own_1.5", "market_90", "constant"]
    assert trained("fhs", tmp_path).params == {"parameters": 0}


def test_har_is_not_fitted_on_series_that_are_too_short(tmp_path: Path):
    with pytest.raises(BadHistory, match="more than 257 sessions, found none") as caught:
        trained("har", tmp_path, simulated(length=257))
    assert caught.value.code == "TOO_SHORT"


def test_a_warm_up_shorter_than_that_of_the_average_is_refused():
    with pytest.raises(BadConfig, match="warmup is 59, expected 60 or more"):
        family_settings.Config(kind="har", warmup=59, **SHARED)


def test_saved_and_loaded_model_forecasts_the_same(forecaster: Any, tmp_path: Path):
    (tmp_path / "spec.json").write_text(pd.io.json.ujson_dumps(forecaster.spec.to_json()))
    model.save(forecaster, tmp_path)
    loaded = model.load(tmp_path)
    assert loaded.spec == forecaster.spec
    assert type(loaded) is type(forecaster)
    npt.assert_array_equal(
        predict(loaded, simulated()).quantiles, predict(forecaster, simulated()).quantiles
    )


# --- real prices ------------------------------------------------------------------------------


def test_fhs_scores_on_real_prices_what_the_study_measured(
    panel: pd.DataFrame, forecasters: dict[str, Any]
):
    # The study, 749 origins 2020-01-02..2022-12-20, in per cent: pinball .5649,
    # coverage .498, .785, .890.
    origins = origins_between(panel, "2020-01-01", "2022-12-28", 5)
    origins = origins[origins <= "2022-12-20"]
    assert len(origins) == 749
    averages = means(scores(rolling(forecasters["fhs"], panel, origins, 5))).iloc[0]
    npt.assert_allclose(100 * averages["pinball"], 0.5649, atol=5e-5)
    npt.assert_allclose(
        averages[["coverage_50", "coverage_80", "coverage_90"]].astype(float),
        [0.498, 0.785, 0.890],
        atol=6e-4,
    )


def test_har_beats_fhs_on_real_prices_by_what_the_study_measured(
    panel: pd.DataFrame, forecasters: dict[str, Any], tmp_path: Path
):
    # The study, 2020: 1.81 % with a rolling pool; ours ends with 2019.
    until_choice = panel[panel[names.DS] <= "2019-12-31"]
    har = trained(
        "har", tmp_path, until_choice, fit_until="2018-12-31", choose_until="2019-12-31"
    ).forecaster
    origins = origins_between(panel, "2020-01-01", "2021-01-08", 5)
    assert (len(origins), str(origins[-1].date())) == (253, "2020-12-31")
    of_har, of_fhs = (scores(rolling(f, panel, origins, 5)) for f in (har, forecasters["fhs"]))
    npt.assert_allclose(100 * against(of_har, of_fhs).skill, 1.81, atol=0.1)
    assert (means(of_har, "unique_id")["crps"] < means(of_fhs, "unique_id")["crps"]).sum() >= 18


def test_the_volatility_floor_is_below_any_real_volatility(panel: pd.DataFrame):
    y = panel[names.Y].to_numpy().reshape(20, -1)
    assert volatility.ewma_volatility(y).min() > 1000 * volatility.FLOOR
