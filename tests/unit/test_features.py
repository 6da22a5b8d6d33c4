"""Features of returns: against a loop over sessions, without the future, same bits in a batch."""

import datetime
import math

import numpy as np
import numpy.testing as npt
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from mlprojects.blocks import features
from mlprojects.blocks.features import NAMES, SEASON_NAMES, WARMUP

LENGTH = 420


def simulated(seed: int = 0, n: int = 3, length: int = LENGTH) -> tuple[np.ndarray, np.ndarray]:
    """values [n, T, 3] and dates of weekdays [n, T].

    Volatility moves slowly, and every 63rd session is a large one.
    """
    rng = np.random.default_rng(seed)
    index = 0.01 * np.exp(np.cumsum(0.05 * rng.normal(size=length))) * rng.standard_t(5, length)
    volatility_path = np.exp(np.cumsum(0.05 * rng.normal(size=(n, length)), axis=1))
    alone = 0.01 * volatility_path * rng.standard_t(5, (n, length))
    alone[:, 40::63] *= 5
    y = alone + rng.uniform(0.3, 1.5, size=(n, 1)) * index
    market = np.abs(y).mean(axis=0)
    days = np.arange("2015-01-01", "2022-01-01", dtype="datetime64[D]")
    days = days[np.is_busday(days)]
    columns = [y, np.broadcast_to(market, y.shape), np.broadcast_to(index, y.shape)]
    return np.stack(columns, axis=2), np.broadcast_to(days[:length], y.shape)


# --- the slow version -------------------------------------------------------------------------


def average(x: list[float], decay: float) -> list[float]:
    """s[t] = decay s[t-1] + (1 - decay) x[t], seeded with the mean of the first 60."""
    state, path = sum(x[:60]) / 60, []
    for value in x:
        state = decay * state + (1 - decay) * value
        path.append(state)
    return path


def life(x: list[float], half_life: float) -> list[float]:
    return average(x, 0.5 ** (1 / half_life))


def volatility(x: list[float]) -> list[float]:
    squares = [v * v for v in x]
    return [math.sqrt(v) for v in average(squares, 0.94)]


def standardised(x: list[float], sigma: list[float]) -> list[float]:
    return [0.0] + [min(max(x[t] / sigma[t - 1], -6), 6) for t in range(1, len(x))]


def idiosyncratic(y: list[float], index: list[float]) -> tuple[list[float], list[float]]:
    """The part of y that the slope of the session before does not explain, and the slope."""
    together = life([a * b for a, b in zip(y, index, strict=True)], 90)
    alone = life([b * b for b in index], 90)
    beta = [a / (b + 1e-10) for a, b in zip(together, alone, strict=True)]
    return [y[t] - beta[max(t - 1, 0)] * index[t] for t in range(len(y))], beta


def slow_daily(values: np.ndarray, day: datetime.date) -> dict[str, float]:
    """Features of one series [T, 3] at its last session, each from its definition."""
    y, market, index = (values[:, i].tolist() for i in range(3))
    s, m, d = (volatility(x)[-1] for x in (y, market, index))
    root = math.sqrt(math.pi / 2)
    size = {"own": [abs(v) for v in y], "index": [abs(v) for v in index]}
    daily = {}
    for hl in (1.5, 3, 6, 11, 22, 45, 90, 180):
        daily[f"own_{hl:g}"] = math.log(life(size["own"], hl)[-1] * root + 1e-5) - math.log(s)
        daily[f"market_{hl:g}"] = math.log(life(market, hl)[-1] * root + 1e-5) - math.log(m)
    for hl in (6, 22, 90):
        daily[f"own_root_{hl}"] = 0.5 * math.log(
            life([v * v for v in y], hl)[-1] + 1e-10
        ) - math.log(s)
    for hl in (1.5, 6, 22, 90):
        daily[f"index_{hl:g}"] = math.log(life(size["index"], hl)[-1] * root + 1e-5) - math.log(d)
    daily["index_to_market"] = math.log(d) - math.log(m)
    pairs = zip(volatility(y), volatility(market), strict=True)
    against = [math.log(a) - math.log(b) for a, b in pairs]
    daily["own_to_market"] = against[-1] - life(against, 180)[-1]
    z = {"own": standardised(y, volatility(y)), "index": standardised(index, volatility(index))}
    for source, values_of in z.items():
        for hl in (1.5, 5, 20, 60):
            daily[f"{source}_signed_{hl:g}"] = life(values_of, hl)[-1]
        for hl in (1.5, 5, 20):
            daily[f"{source}_loss_{hl:g}"] = life([max(-v, 0) for v in values_of], hl)[-1]
        daily[f"{source}_shock"] = values_of[-1]
        daily[f"{source}_shock_size"] = abs(values_of[-1])
    since = next((ago for ago, v in enumerate(reversed(z["own"])) if abs(v) > 3), 130)
    daily["since_shock"] = math.log(1 + min(since, 130))
    alone, beta = idiosyncratic(y, index)
    for hl in (3, 11, 45):
        daily[f"own_alone_{hl}"] = math.log(
            life([abs(v) for v in alone], hl)[-1] * root + 1e-5
        ) - math.log(s)
    for hl in (22, 90):
        cross = life([a * b for a, b in zip(y, index, strict=True)], hl)[-1]
        squares = [life([v * v for v in x], hl)[-1] for x in (y, index)]
        daily[f"correlation_{hl}"] = cross / (math.sqrt(squares[0] * squares[1]) + 1e-10)
    daily["beta"] = beta[-1]
    daily["explained"] = math.log(max(beta[-1], 0.1) * d / s)
    for hl in (60, 120):
        mean = life([abs(v) for v in z["own"]], hl)[-1]
        square = life([v * v for v in z["own"]], hl)[-1]
        losses = life([max(-v, 0) for v in z["own"]], hl)[-1]
        gains = life([max(v, 0) for v in z["own"]], hl)[-1]
        daily[f"own_evenness_{hl}"] = math.log(mean + 0.05) - 0.5 * math.log(square + 0.0025)
        daily[f"own_loss_share_{hl}"] = math.log(losses + 0.05) - math.log(gains + 0.05)
    for number, name in enumerate(("monday", "tuesday", "wednesday", "thursday")):
        daily[name] = float(day.weekday() == number)
    return daily


def slow_season(values: np.ndarray, h: int) -> list[float]:
    """Largest idiosyncratic |z| around the same session of earlier quarters, averaged over four and
    over up to twelve quarters."""
    alone, _ = idiosyncratic(values[:, 0].tolist(), values[:, 2].tolist())
    size = [abs(v) for v in standardised(alone, volatility(alone))]
    target = len(size) - 1 + h
    largest = []
    for k in range(1, 13):
        middle = target - 63 * k
        if middle - 2 >= 60:
            largest.append(max(size[middle - 2 : middle + 3]))
    return [sum(largest[:4]) / 4, sum(largest) / len(largest)]


@pytest.mark.parametrize("length", [WARMUP, LENGTH])
def test_every_feature_is_what_a_loop_over_the_sessions_finds(length: int):
    values, ds = simulated(length=length)
    fast = features.daily(values, ds, 1)[:, 0]
    for i in range(len(values)):
        slow = slow_daily(values[i], ds[i, -1].astype(datetime.date))
        assert sorted(slow) == sorted(NAMES)
        npt.assert_allclose(fast[i], [slow[name] for name in NAMES], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("length", [WARMUP, LENGTH, 1000])
def test_the_season_is_what_a_loop_over_the_quarters_finds(length: int):
    values, _ = simulated(length=length)
    fast = features.season(values, 5, 1)[:, 0]
    slow = [[slow_season(series, h) for h in range(1, 6)] for series in values]
    npt.assert_allclose(fast, slow, rtol=1e-9)
    assert fast.shape[-1] == len(SEASON_NAMES)


def test_the_season_sees_large_sessions_come_every_63():
    values, _ = simulated(length=40 + 63 * 10)  # the next session is the 63rd after a large one
    season = features.season(values, 30, 1)[:, 0, :, 1]
    assert (season[:, :3].min(axis=1) > season[:, 5:].max(axis=1)).all()


def test_one_row_is_the_last_of_many():
    values, ds = simulated()
    npt.assert_allclose(
        features.daily(values, ds, 1)[:, 0],
        features.daily(values, ds, 50)[:, -1],
        rtol=1e-9,
        atol=1e-12,
    )
    npt.assert_array_equal(
        features.season(values, 5, 1)[:, 0], features.season(values, 5, 50)[:, -1]
    )


# --- dependence of a feature ------------------------------------------------------------------


@hypothesis_settings(max_examples=10)
@given(seed=st.integers(0, 10_000), cut=st.integers(WARMUP, LENGTH - 1))
def test_later_sessions_change_no_earlier_row(seed: int, cut: int):
    values, ds = simulated(seed)
    changed = values.copy()
    changed[:, cut:] = np.random.default_rng(seed + 1).normal(size=changed[:, cut:].shape)
    before = slice(0, cut)
    npt.assert_array_equal(
        features.daily(changed, ds, LENGTH)[:, before],
        features.daily(values, ds, LENGTH)[:, before],
    )
    season = features.season(values, 60, LENGTH)[:, before]
    npt.assert_array_equal(features.season(changed, 60, LENGTH)[:, before], season)
    shorter = features.daily(values[:, :cut], ds[:, :cut], 2)[:, -1]
    npt.assert_array_equal(features.daily(values, ds, LENGTH)[:, cut - 1], shorter)


@pytest.mark.parametrize("keep", [1, 7])
def test_a_series_gets_the_same_bits_alone_and_among_others(keep: int):
    values, ds = simulated(n=70)
    daily, season = features.daily(values, ds, keep), features.season(values, 5, keep)
    for i in (0, 1, 33, 69):
        npt.assert_array_equal(features.daily(values[i : i + 1], ds[:1], keep)[0], daily[i])
        npt.assert_array_equal(features.season(values[i : i + 1], 5, keep)[0], season[i])


@pytest.mark.parametrize("factor", [0.5, 4.0])
def test_features_carry_no_unit(factor: float):
    values, ds = simulated()
    expected = features.daily(values, ds, 1)
    npt.assert_allclose(features.daily(factor * values, ds, 1), expected, rtol=0, atol=0.01)
    npt.assert_allclose(
        features.season(factor * values, 5, 1), features.season(values, 5, 1), atol=1e-4
    )


def test_still_markets_and_still_series_have_finite_features():
    values, ds = simulated()
    for column in range(3):
        still = values.copy()
        still[:, :, column] = 0
        assert np.isfinite(features.daily(still, ds, LENGTH)).all()
        assert np.isfinite(features.season(still, 5, LENGTH)).all()
