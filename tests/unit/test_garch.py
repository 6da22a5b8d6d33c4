"""garch and gjr: against arch, slow recursions and numbers by hand; fits and their dependence."""

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.testing as npt
import pandas as pd
import pytest
from arch import arch_model
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy.stats import norm
from scipy.stats import t as student
from shared import SHARED
from watched import Run

from mlprojects.baselines import estimate, garch, model, train
from mlprojects.baselines import settings as family_settings
from registry.errors import BadHistory
from registry.forecast import calendars, names
from registry.forecast.answer import forecast_of
from registry.forecast.checks import check_history
from registry.forecast.forecast import Forecast
from registry.forecast.history import History
from registry.forecast.spec import ModelSpec
from registry.scoring.difference import against
from registry.scoring.rolling import origins_between, rolling
from registry.scoring.scores import scores
from registry.settings import CHECKOUT
from registry.training import Trained

# mu, omega, alpha, gamma, beta, nu of a lively stock, a calm one, and one without leverage
STOCKS = np.array(
    [
        [6e-4, 8e-6, 0.03, 0.12, 0.86, 5.0],
        [3e-4, 1e-6, 0.02, 0.06, 0.93, 8.0],
        [-2e-4, 5e-6, 0.10, 0.00, 0.85, 4.5],
    ]
)
DAYS = calendars.next_sessions("XNYS", pd.Timestamp("2014-12-31"), 1200)
FIT_UNTIL, CHOOSE_UNTIL = (f"{DAYS[i]:%Y-%m-%d}" for i in (999, 1096))  # 1000 sessions, then 97


def simulated(parameters: np.ndarray, length: int, seed: int = 0) -> np.ndarray:
    """Returns [n, T] drawn from GJR-GARCH processes [n, 6], by the recursion."""
    rng = np.random.default_rng(seed)
    rows = []
    for mu, omega, alpha, gamma, beta, nu in parameters:
        variance, row = 1e-4, []
        for z in rng.standard_t(nu, length) * np.sqrt((nu - 2) / nu):
            error = np.sqrt(variance) * z
            row.append(mu + error)
            variance = omega + (alpha + gamma * (error < 0)) * error**2 + beta * variance
        rows.append(row)
    return np.clip(rows, -1, 1)


def as_history(y: np.ndarray, symbols: str = "ABCDEFGH") -> pd.DataFrame:
    """History of returns [n, T] from 2015-01-02."""
    n, length = y.shape
    return pd.DataFrame(
        {
            names.UNIQUE_ID: np.repeat(list(symbols[:n]), length),
            names.DS: np.tile(DAYS[:length], n),
            names.Y: y.reshape(-1),
        }
    )


def trained(kind: str, history: pd.DataFrame, folder: Path = Path(), **settings: Any) -> Trained:
    config = family_settings.Config(
        kind=kind, **SHARED | {"fit_until": FIT_UNTIL, "choose_until": CHOOSE_UNTIL} | settings
    )
    return train.train(history, config, name=kind, seed=0, run=Run(folder))


def predict(forecaster: Any, history: pd.DataFrame, horizon: int = 5) -> Forecast:
    request = forecaster.spec.request({"horizon": horizon})
    return forecast_of(forecaster, check_history(history, forecaster.spec), request)


def with_parameters(
    kind: str, parameters: np.ndarray = STOCKS, pool: np.ndarray | None = None
) -> Any:
    """A forecaster of series A, B, ... with these parameters."""
    spec = ModelSpec(kind, "baselines", min_context=252, max_context=1000, max_horizon=5)
    pooled = garch.pool(parameters) if pool is None else pool
    return model.KINDS[kind](spec, tuple("ABCDEFGH"[: len(parameters)]), parameters, pooled)


@pytest.fixture(scope="module")
def history() -> pd.DataFrame:
    """Three series of 1100 sessions."""
    return as_history(simulated(STOCKS, 1100))


@pytest.fixture(scope="module")
def done(history: pd.DataFrame) -> dict[str, Trained]:
    return {kind: trained(kind, history) for kind in ("garch", "gjr")}


# --- the recursion ----------------------------------------------------------------------------


def variance_by_recursion(y: np.ndarray, parameters: np.ndarray) -> np.ndarray:
    """Variance [T] of the session after each, from the mean of the first 60 squared errors."""
    mu, omega, alpha, gamma, beta, _ = parameters
    variance, path = float(np.mean((y[:60] - mu) ** 2)), []
    for error in y - mu:
        variance = (
            omega + alpha * error**2 + gamma * error**2 * (1 if error < 0 else 0) + beta * variance
        )
        path.append(variance)
    return np.array(path)


def test_one_session_by_hand():
    # errors -.02 and +.01 around mu = .001; the other 58 are 0; seed = (.02^2 + .01^2) / 60
    y = np.full((1, 60), 0.001)
    y[0, :2] = -0.019, 0.011
    first = 1e-6 + (0.05 + 0.10) * 4e-4 + 0.8 * 5e-4 / 60
    second = 1e-6 + 0.05 * 1e-4 + 0.8 * first
    variance = garch.next_variance(y, np.array([[0.001, 1e-6, 0.05, 0.10, 0.8, 5.0]]))
    npt.assert_allclose(variance[0, :2], [first, second], rtol=1e-12)


def test_the_filter_is_the_recursion():
    y = simulated(STOCKS, 800)
    expected = [variance_by_recursion(*pair) for pair in zip(y, STOCKS, strict=True)]
    npt.assert_allclose(garch.next_variance(y, STOCKS), expected, rtol=1e-12)


@pytest.mark.parametrize("kind", ["garch", "gjr"])
def test_conditional_volatility_is_that_of_arch(kind: str):
    y = simulated(STOCKS, 1500)[0]
    parameters = estimate.fit(y, asymmetric=kind == "gjr").parameters
    sigma = garch.scale(y[None], parameters[None], 1)[0, :-1, 0]
    result = in_arch(y, kind).fix(in_per_cent(parameters, kind))
    sigma_of_arch = result.conditional_volatility[1:] / 100
    # arch starts from another variance, which no longer matters after 700 sessions.
    npt.assert_allclose(sigma[700:], sigma_of_arch[700:], rtol=1e-10)
    npt.assert_allclose(sigma, sigma_of_arch, rtol=0.5)


def in_arch(y: np.ndarray, kind: str) -> Any:
    """The model of arch for returns in per cent."""
    order = int(kind == "gjr")
    return arch_model(100 * y, mean="Constant", p=1, o=order, q=1, dist="t", rescale=False)


def in_per_cent(parameters: np.ndarray, kind: str) -> list[float]:
    """Parameters in the order of arch, for returns in per cent."""
    mu, omega, alpha, gamma, beta, nu = parameters
    return [100 * mu, 1e4 * omega, alpha, *([gamma] if kind == "gjr" else []), beta, nu]


def test_expected_variances_are_those_of_arch():
    y = simulated(STOCKS, 1500)
    all_sigma = garch.scale(y, STOCKS, 20)[:, -1]
    for row, parameters, sigma in zip(y, STOCKS, all_sigma, strict=True):
        result = in_arch(row, "gjr").fix(in_per_cent(parameters, "gjr"))
        variance_of_arch = result.forecast(horizon=20).variance.iloc[-1]
        npt.assert_allclose(sigma**2, variance_of_arch / 1e4, rtol=1e-10)


def test_expected_variances_are_the_averages_over_all_futures():
    """With z = +1 or -1, each with probability 1/2, there are 16 futures of four sessions, so their
    average is exact."""
    y = simulated(STOCKS, 300)
    variances = garch.scale(y, STOCKS, 5)[:, -1] ** 2
    for row, parameters, variance in zip(y, STOCKS, variances, strict=True):
        _, omega, alpha, gamma, beta, _ = parameters
        futures = []
        for signs in itertools.product([1, -1], repeat=4):
            path = [variance_by_recursion(row, parameters)[-1]]
            for z in signs:
                path.append(omega + (alpha + gamma * (z < 0)) * path[-1] * z**2 + beta * path[-1])
            futures.append(path)
        npt.assert_allclose(variance, np.mean(futures, axis=0), rtol=1e-12)


def test_expected_variance_goes_to_the_unconditional_one():
    y = simulated(STOCKS, 300)
    npt.assert_allclose(
        garch.scale(y, STOCKS, 900)[:, -1, -1], garch.unconditional_volatility(STOCKS), rtol=1e-4
    )
    # omega / (1 - alpha - gamma / 2 - beta) = 8e-6 / .05
    npt.assert_allclose(garch.unconditional_volatility(STOCKS)[0], np.sqrt(1.6e-4), rtol=1e-12)


def test_a_session_changes_no_volatility_before_it():
    y = simulated(STOCKS, 300)
    changed = y.copy()
    changed[:, 200] = 0.5
    before, after = garch.scale(y, STOCKS, 5), garch.scale(changed, STOCKS, 5)
    npt.assert_array_equal(before[:, :200], after[:, :200])
    assert (after[:, 200:250] > before[:, 200:250]).all()


# --- forecasts --------------------------------------------------------------------------------


def test_garch_says_mean_plus_volatility_times_standardised_student_quantiles():
    # Without ARCH the variance is omega. t(.95, 4 degrees of freedom) = 2.131847, its variance 2,
    # t(.5) = 0.
    flat = np.array([[0.001, 1e-4, 0.0, 0.0, 0.0, 4.0]])
    quantiles = predict(
        with_parameters("garch", flat), as_history(simulated(STOCKS[:1], 300))
    ).quantiles
    upper = 0.01 * 2.1318467863266504 / np.sqrt(2)
    npt.assert_allclose(
        quantiles[0, :, [0, 5, 10]].T, np.tile([0.001 - upper, 0.001, 0.001 + upper], (5, 1))
    )


def test_garch_scales_the_student_quantiles_with_the_expected_volatility_of_each_step():
    y = simulated(STOCKS, 300)
    quantiles = predict(with_parameters("garch"), as_history(y)).quantiles
    for row, parameters, by_step in zip(y, STOCKS, quantiles, strict=True):
        variance, nu = variance_by_recursion(row, parameters)[-1], parameters[5]
        for h in range(5):
            q = student.ppf(names.LEVELS, nu) / student.std(nu)
            expected = parameters[0] + np.sqrt(variance) * q
            npt.assert_allclose(by_step[h], expected, rtol=1e-9, atol=1e-15)
            variance = parameters[1] + garch.persistence(parameters[None])[0] * variance


def test_gjr_says_expected_volatility_times_the_last_500_residuals_of_the_same_step():
    y = simulated(STOCKS, 700)
    quantiles = predict(with_parameters("gjr"), as_history(y)).quantiles
    for row, parameters, by_step in zip(y, STOCKS, quantiles, strict=True):
        variance, last = variance_by_recursion(row, parameters), len(row) - 1
        for h in range(1, 6):
            sigma = np.sqrt(variance)
            z = [row[t + h] / sigma[t] for t in range(last - h - 499, last - h + 1)]
            expected = sigma[-1] * np.quantile(z, names.LEVELS)
            npt.assert_allclose(by_step[h - 1], expected, rtol=1e-10)
            variance = parameters[1] + garch.persistence(parameters[None])[0] * variance


def test_the_mean_of_garch_is_its_mu(history: pd.DataFrame):
    npt.assert_allclose(
        predict(with_parameters("garch"), history).mean,
        np.repeat(STOCKS[:, :1], 5, axis=1),
        rtol=1e-10,
    )


@pytest.mark.parametrize("kind", ["garch", "gjr"])
def test_a_series_that_stopped_moving_is_forecast_all_the_same(kind: str):
    y = np.zeros((2, 900))
    y[:, :3] = 0.05
    forecaster = with_parameters(kind, STOCKS[:1])  # of the two, B is unknown
    history = History.of(as_history(y))  # a request may not bring it
    quantiles = forecaster.predict(history, forecaster.spec.request()).quantiles
    if kind == "gjr":
        npt.assert_array_equal(quantiles, 0.0)  # its last 500 residuals are 0
    else:
        assert (np.diff(quantiles, axis=2) > 0).all()


# --- series without a fit ---------------------------------------------------------------------


def test_pool_by_hand():
    # persistence .95, .98, .95; unconditional variance 1.6e-4, 5e-5, 1e-4;
    # the drifts' median is the second
    expected = [3e-4 / np.sqrt(5e-5), 0.05, 0.06, 0.88, 5.0]
    npt.assert_allclose(garch.pool(STOCKS), expected, rtol=1e-12)


def test_targeted_parameters_have_the_variance_of_the_sample():
    y, pool = simulated(STOCKS, 600), garch.pool(STOCKS)
    parameters = garch.targeted(pool, y)
    npt.assert_allclose(garch.unconditional_volatility(parameters), y.std(axis=1), rtol=1e-10)
    npt.assert_allclose(parameters[:, 0], pool[0] * y.std(axis=1), rtol=1e-12)
    npt.assert_array_equal(parameters[:, 2:], np.tile(pool[1:], (3, 1)))


@pytest.mark.parametrize("kind", ["garch", "gjr"])
def test_an_unknown_series_gets_pooled_parameters_and_the_reply_says_so_without_its_name(
    kind: str, history: pd.DataFrame
):
    renamed = history.assign(unique_id=history[names.UNIQUE_ID].replace("C", "ZZZ"))
    forecast = predict(with_parameters(kind), renamed)
    assert forecast.notes == {"pooled": model.NOTE}
    assert "ZZZ" not in model.NOTE
    y = history[history[names.UNIQUE_ID] == "C"][names.Y].to_numpy()[None, -1000:]
    targeted = garch.targeted(garch.pool(STOCKS), y)
    expected = predict(with_parameters(kind, np.concatenate([STOCKS[:2], targeted])), history)
    npt.assert_array_equal(forecast.quantiles, expected.quantiles)
    assert expected.notes == {}
    assert (forecast.quantiles[2] != predict(with_parameters(kind), history).quantiles[2]).any()


@pytest.mark.parametrize("kind", ["garch", "gjr"])
def test_an_unknown_series_twice_as_large_is_forecast_twice_as_large(kind: str):
    y = simulated(STOCKS[:1], 700)
    forecaster = with_parameters(kind)
    once, twice = (predict(forecaster, as_history(factor * y, "Z")).quantiles for factor in (1, 2))
    npt.assert_allclose(twice, 2 * once, rtol=1e-12)


@hypothesis_settings(max_examples=10)
@given(seed=st.integers(0, 10_000), lengths=st.lists(st.integers(564, 620), min_size=2, max_size=5))
def test_a_series_is_forecast_the_same_alone_and_among_others(seed: int, lengths: list[int]):
    y = simulated(STOCKS[[0, 1, 2, 0, 1]], 620, seed)  # D and E are unknown
    rows = [as_history(y[i : i + 1, -n:], "ABCDE"[i]) for i, n in enumerate(lengths)]
    for kind in ("garch", "gjr"):
        together = predict(with_parameters(kind), pd.concat(rows, ignore_index=True))
        for i, alone in enumerate(rows):
            npt.assert_array_equal(
                predict(with_parameters(kind), alone).quantiles[0], together.quantiles[i]
            )


# --- the fit ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["garch", "gjr"])
def test_parameters_are_those_of_arch(kind: str, history: pd.DataFrame, done: dict[str, Trained]):
    fitted = done[kind].forecaster.fitted
    assert done[kind].forecaster.symbols == ("A", "B", "C")
    for name, parameters in zip("ABC", fitted, strict=True):
        series = history[history[names.UNIQUE_ID] == name]
        y = series[series[names.DS] <= FIT_UNTIL][names.Y].to_numpy()
        assert len(y) == 1000
        result = in_arch(y, kind).fit(disp="off")
        # Two optimisers reach the same maximum.
        estimates = in_per_cent(parameters, kind)
        npt.assert_allclose(estimates, result.params, rtol=2e-3, atol=2e-4)
        row = done[kind].tables["parameters"].set_index("unique_id").loc[name]
        likelihood = row["log_likelihood"] - 1000 * np.log(100)
        npt.assert_allclose(likelihood, result.loglikelihood, atol=1e-3)


def test_the_fit_finds_what_made_the_data():
    y = simulated(STOCKS[:1], 20_000)[0]
    fit = estimate.fit(y, asymmetric=True)
    off = np.abs(fit.parameters - STOCKS[0])
    assert (off < [2e-4, 2e-6, 0.01, 0.02, 0.02, 0.5]).all()  # about three standard errors


def test_parameters_do_not_depend_on_the_unit():
    """A bond moves a hundredth as much: in per cent its first steps would look like a maximum."""
    y = simulated(STOCKS[:1], 1500)[0]
    stock, bond = (estimate.fit(factor * y, asymmetric=True) for factor in (1.0, 0.01))
    assert bond.outcome == estimate.FITTED
    npt.assert_allclose(bond.parameters, stock.parameters * [0.01, 1e-4, 1, 1, 1, 1], rtol=1e-3)
    npt.assert_allclose(bond.log_likelihood, stock.log_likelihood + 1500 * np.log(100), atol=1e-3)


@pytest.mark.parametrize("kind", ["garch", "gjr"])
def test_sessions_after_fit_until_change_no_parameter(
    kind: str, history: pd.DataFrame, done: dict[str, Trained]
):
    later = history[names.DS] > FIT_UNTIL
    changed = history.assign(y=history[names.Y].where(~later, 0.5))
    again = trained(kind, changed).forecaster
    npt.assert_array_equal(again.fitted, done[kind].forecaster.fitted)
    npt.assert_array_equal(again.pool, done[kind].forecaster.pool)


@pytest.mark.parametrize("kind", ["garch", "gjr"])
def test_one_series_changes_no_parameter_of_another(
    kind: str, history: pd.DataFrame, done: dict[str, Trained]
):
    is_b = history[names.UNIQUE_ID] == "B"
    changed = history.assign(y=history[names.Y].where(~is_b, -3 * history[names.Y]))
    before, after = done[kind].forecaster, trained(kind, changed).forecaster
    npt.assert_array_equal(after.fitted[[0, 2]], before.fitted[[0, 2]])
    assert (after.fitted[1] != before.fitted[1]).any()
    npt.assert_array_equal(
        predict(after, history).quantiles[[0, 2]], predict(before, history).quantiles[[0, 2]]
    )
    alone = trained(kind, history[~is_b].reset_index(drop=True)).forecaster
    npt.assert_array_equal(alone.fitted, before.fitted[[0, 2]])


def pulse(seed: int) -> np.ndarray:
    """1000 sessions, every hundredth 50 % up: the optimiser has no clear maximum."""
    noise = 1e-4 * np.random.default_rng(seed).normal(size=1000)
    return np.where(np.arange(1000) % 100 == 0, 0.5, noise)


def test_nothing_is_called_fitted_that_independent_normal_returns_explain_better():
    """For such a series the last bit, and so the processor, decides if a maximum is found."""
    for seed, asymmetric in itertools.product(range(8), (False, True)):
        y = pulse(seed)
        fit = estimate.fit(y, asymmetric=asymmetric)
        assert fit.outcome in (estimate.FITTED, estimate.NO_MAXIMUM, estimate.INTEGRATED)
        assert (fit.parameters is not None) == (fit.outcome == estimate.FITTED)
        if fit.parameters is not None:
            assert fit.log_likelihood >= norm.logpdf(y, y.mean(), y.std()).sum() - 1
            assert garch.persistence(fit.parameters[None])[0] < 1


@pytest.mark.parametrize(
    ("converged", "above_independent", "beta", "outcome"),
    [
        (True, 5.0, 0.85, estimate.FITTED),
        (True, -0.9, 0.85, estimate.FITTED),  # within the slack
        (True, -1.1, 0.85, estimate.NO_MAXIMUM),
        (True, np.nan, 0.85, estimate.NO_MAXIMUM),
        (False, 5.0, 0.85, estimate.NO_MAXIMUM),
        (True, 5.0, 0.9, estimate.INTEGRATED),  # alpha + gamma / 2 + beta = 1
    ],
)
def test_a_maximum_is_judged_by_convergence_likelihood_and_persistence(
    converged: bool, above_independent: float, beta: float, outcome: str
):
    y = 0.01 * np.random.default_rng(0).normal(size=1000)
    parameters = np.array([0.0, 1e-6, 0.05, 0.1, beta, 6.0])
    likelihood = norm.logpdf(y, y.mean(), y.std()).sum() + above_independent
    fit = estimate.judged(y, parameters, likelihood, converged=converged)
    assert fit.outcome == outcome
    assert (fit.parameters is parameters) == (outcome == estimate.FITTED)


def test_independent_normal_returns_are_fitted_themselves():
    for seed in range(10):
        y = 0.01 * np.random.default_rng(seed).normal(size=1000)
        assert estimate.fit(y, asymmetric=False).outcome == estimate.FITTED


@pytest.mark.parametrize("share", [0.8, 1.0])
def test_a_series_that_hardly_ever_trades_does_not_move(share: float):
    y = simulated(STOCKS[:1], 1000)[0]
    assert estimate.fit(y, asymmetric=False).outcome == estimate.FITTED
    still = np.random.default_rng(0).random(1000) < share
    assert estimate.fit(np.where(still, 0.0, y), asymmetric=False).outcome == estimate.STILL


def awkward() -> dict[str, np.ndarray]:
    """Series without a usable maximum, by the outcome of training on every processor."""
    return {
        estimate.TOO_SHORT: simulated(STOCKS[:1], 499)[0],
        estimate.STILL: np.full(1000, 0.001),
        estimate.INTEGRATED: simulated(np.array([[0.0, 1e-6, 0.3, 0.0, 0.75, 6.0]]), 1000)[0],
    }


def test_series_that_cannot_be_fitted_are_left_to_the_pool_and_the_table_says_why(
    history: pd.DataFrame,
):
    rows = [as_history(y[None], name) for name, y in zip("DEF", awkward().values(), strict=True)]
    gjr = trained("gjr", pd.concat([history, *rows], ignore_index=True))
    table = gjr.tables["parameters"].set_index("unique_id")
    assert list(table.index) == list("ABCDEF")
    assert list(table["outcome"]) == [*[estimate.FITTED] * 3, *awkward()]
    assert table.loc[list("DEF")].drop(columns=["sessions", "outcome"]).isna().all(axis=None)
    assert gjr.forecaster.symbols == ("A", "B", "C")
    assert gjr.params == {"parameters": 18, "series_fitted": 3, "series_pooled": 3}
    npt.assert_array_equal(gjr.forecaster.pool, garch.pool(gjr.forecaster.fitted))


def test_nothing_to_fit_is_an_error_that_counts_why(tmp_path: Path):
    y = np.zeros((3, 600))
    y[2] = simulated(STOCKS[:1], 600)[0]
    frame = as_history(y).groupby(names.UNIQUE_ID).tail(600)
    frame = frame[(frame[names.UNIQUE_ID] != "C") | (frame[names.DS] > DAYS[365])]
    with pytest.raises(
        BadHistory, match=r": does not move \(2\), fewer than 500 sessions \(1\)"
    ) as caught:
        trained("garch", frame, tmp_path)
    assert caught.value.code == "NOT_FITTED"
    with pytest.raises(BadHistory, match="none of 0 series"):
        trained("garch", as_history(simulated(STOCKS, 900)), tmp_path, fit_until="2014-12-31")


def test_training_shows_what_it_fitted(history: pd.DataFrame, done: dict[str, Trained]):
    for kind, count in (("garch", 5), ("gjr", 6)):
        fitted = done[kind]
        assert fitted.params == {"parameters": 3 * count, "series_fitted": 3, "series_pooled": 0}
        table = fitted.tables["parameters"]
        npt.assert_array_equal(table[list(garch.NAMES)], fitted.forecaster.fitted)
        npt.assert_array_equal(
            table["persistence"], table["alpha"] + table["gamma"] / 2 + table["beta"]
        )
        npt.assert_allclose(
            table["volatility"] ** 2, table["omega"] / (1 - table["persistence"]), rtol=1e-12
        )
        assert list(table["sessions"]) == [1000] * 3
        assert (table["gamma"] == 0).all() == (kind == "garch")
    smooth, conditional = done["gjr"].figures["volatility"].axes[0].lines
    assert len(conditional.get_xdata()) == len(smooth.get_xdata()) == 504
    first = history[history[names.UNIQUE_ID] == "A"][names.Y].to_numpy()[:1000]
    expected = variance_by_recursion(first, done["gjr"].forecaster.fitted[0])[-504:]
    npt.assert_allclose(conditional.get_ydata(), 100 * np.sqrt(expected), rtol=1e-10)


# --- the artifact -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["garch", "gjr"])
def test_saved_and_loaded_model_has_its_symbols_and_forecasts_the_same(
    kind: str, history: pd.DataFrame, done: dict[str, Trained], tmp_path: Path
):
    forecaster = done[kind].forecaster
    (tmp_path / "spec.json").write_text(json.dumps(forecaster.spec.to_json()))
    model.save(forecaster, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == {
        "kind": kind,
        "symbols": ["A", "B", "C"],
    }
    loaded: Any = model.load(tmp_path)
    assert type(loaded) is type(forecaster)
    assert loaded.symbols == ("A", "B", "C")
    npt.assert_array_equal(
        predict(loaded, history).quantiles, predict(forecaster, history).quantiles
    )
    npt.assert_array_equal(loaded.pool, forecaster.pool)


def test_a_forecast_does_without_arch():
    code = """
import sys, mlprojects.baselines.model, mlprojects.baselines.train
print('arch' in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
    assert "arch" not in model.REQUIREMENTS


# --- real prices ------------------------------------------------------------------------------


def test_gjr_beats_fhs_on_2019_by_what_the_study_measured(panel: pd.DataFrame):
    # The study: .83 % over 247 origins of 2019, parameters fitted on 2010..2018
    until_choice = panel[panel[names.DS] <= "2019-12-31"]
    dates = {"fit_until": "2018-12-31", "choose_until": "2019-12-31"}
    origins = origins_between(until_choice, "2018-12-31", None, 5)
    assert len(origins) == 247
    fhs = model.Fhs(ModelSpec("fhs", "baselines", min_context=560, max_context=1000, max_horizon=5))
    reference = scores(rolling(fhs, until_choice, origins, 5))
    for kind, skill in (("gjr", 0.83), ("garch", 0.55)):  # garch: measured here
        fitted = trained(kind, until_choice, **dates)
        assert fitted.params["series_pooled"] == 0
        scored = scores(rolling(fitted.forecaster, until_choice, origins, 5))
        npt.assert_allclose(100 * against(scored, reference).skill, skill, atol=0.02)
