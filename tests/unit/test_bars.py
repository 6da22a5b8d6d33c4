"""Daily bars: every check with a bar that breaks it, the filled values and the corrections."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.testing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import BadHistory
from registry.forecast import bars, names

Columns = dict[str, np.ndarray]
IDS = ("ALFA", "BRAVO")
BOUNDS = np.array([0, 3, 6])

# Two series of three sessions. The first y of a series is free, the others follow from the closes.
CLOSE = [100.0, 110.0, 99.0, 50.0, 50.0, 51.0]


def columns(**changes: Any) -> Columns:
    """Possible bars of both series; `changes` replace whole columns."""
    close = np.array(CLOSE)
    possible = {
        "y": np.array([0.3, np.log(1.1), np.log(0.9), -0.2, 0.0, np.log(1.02)]),
        "open": close - 1.0,
        "high": close + 2.0,
        "low": close - 3.0,
        "close": close,
        "volume": np.array([10.0, 0.0, 30.0, 40.0, 50.0, 60.0]),
        "amount": np.array([1e3, 0.0, 3e3, 2e3, 3e3, 3e3]),
    }
    return {**possible, **changes}


def with_value(column: str, row: int, value: float) -> Columns:
    possible = columns()
    changed = possible[column].copy()
    changed[row] = value
    return {**possible, column: changed}


NOT_POSITIVE = "1 rows have a price that is not positive"
OUTSIDE = "1 rows have open or close outside low..high"


def test_possible_bars_pass_with_and_without_volume_and_amount():
    bars.check(columns(), IDS, BOUNDS)
    bars.check({name: columns()[name] for name in ("y", *names.OHLC)}, IDS, BOUNDS)


def test_a_bar_whose_four_prices_are_one_is_possible():
    flat = np.array(CLOSE)
    bars.check(columns(open=flat, high=flat, low=flat), IDS, BOUNDS)


@pytest.mark.parametrize(
    ("broken", "code", "message"),
    [
        (lambda: with_value("low", 1, 0.0), "BAD_PRICE", f"{NOT_POSITIVE}, first row 1"),
        (lambda: with_value("open", 4, -1.0), "BAD_PRICE", f"{NOT_POSITIVE}, first row 4"),
        (
            lambda: columns(high=columns()["low"], low=columns()["high"]),
            "BAD_BAR",
            "6 rows have high below low, first row 0",
        ),
        (lambda: with_value("open", 2, 102.0), "BAD_BAR", f"{OUTSIDE}, first row 2"),
        (lambda: with_value("open", 3, 46.0), "BAD_BAR", f"{OUTSIDE}, first row 3"),
        (lambda: with_value("high", 1, 109.5), "BAD_BAR", f"{OUTSIDE}, first row 1"),
        (lambda: with_value("low", 5, 51.5), "BAD_BAR", f"{OUTSIDE}, first row 5"),
        (
            lambda: with_value("volume", 5, -1.0),
            "BAD_VOLUME",
            "1 rows have negative volume, first row 5",
        ),
        (
            lambda: with_value("amount", 0, -0.5),
            "BAD_VOLUME",
            "1 rows have negative amount, first row 0",
        ),
        (
            lambda: with_value("y", 2, np.log(0.9) + 2e-4),
            "PRICE_BASIS",
            "1 rows have y that is not the log return of close; put the bars on one price basis: "
            "multiply them by adj_close / close, first row 2",
        ),
    ],
    ids=[
        "a price of 0",
        "a negative price",
        "high and low exchanged",
        "open above high",
        "open below low",
        "close above high",
        "close below low",
        "negative volume",
        "negative amount",
        "y of another price basis",
    ],
)
def test_an_impossible_bar_is_refused_by_code_and_row(
    broken: Callable[[], Columns], code: str, message: str
):
    with pytest.raises(BadHistory) as caught:
        bars.check(broken(), IDS, BOUNDS)
    assert (caught.value.code, caught.value.message, caught.value.status) == (code, message, 400)


def test_a_split_that_was_not_adjusted_is_another_price_basis():
    halved = np.array([100.0, 110.0, 49.5, 50.0, 50.0, 51.0])
    split = columns(open=halved, high=halved + 1, low=halved - 1, close=halved)
    with pytest.raises(BadHistory, match="first row 2") as caught:
        bars.check(split, IDS, BOUNDS)
    assert caught.value.code == "PRICE_BASIS"


def test_y_may_differ_from_the_closes_as_rounding_makes_it_and_is_free_in_a_first_session():
    bars.check(with_value("y", 2, np.log(0.9) + 0.9e-4), IDS, BOUNDS)
    bars.check(with_value("y", 0, -0.7), IDS, BOUNDS)
    bars.check(with_value("y", 3, 0.7), IDS, BOUNDS)


def test_a_series_of_one_close_is_refused_and_said_by_its_place():
    close = np.array([100.0, 110.0, 99.0, 50.0, 50.0, 50.0])
    y = columns()["y"] * [1, 1, 1, 1, 1, 0]
    constant = columns(y=y, open=close, high=close, low=close, close=close)
    with pytest.raises(BadHistory) as caught:
        bars.check(constant, IDS, BOUNDS)
    assert caught.value.code == "CONSTANT"
    assert caught.value.message == (
        "series 2 of 2 has the same close in all 3 sessions; such a series has no scale to forecast"
    )


def test_a_series_of_one_session_is_not_called_constant():
    bars.check({name: values[:4] for name, values in columns().items()}, IDS, np.array([0, 3, 4]))


# --- filled values ------------------------------------------------------------------------------


def test_whole_bars_are_taken_as_they_are_in_the_order_of_a_bar():
    filled, notes = bars.complete(columns())
    assert notes == {}
    npt.assert_array_equal(filled, np.stack([columns()[name] for name in names.BAR], axis=1))


def test_missing_volume_is_0_and_so_is_the_amount_that_follows_from_it():
    sent = columns()
    del sent["volume"], sent["amount"]
    filled, notes = bars.complete(sent)
    assert notes == {
        "volume": "volume was missing and taken as 0",
        "amount": "amount was missing and taken as mean price x volume",
    }
    npt.assert_array_equal(filled[:, 4:], 0.0)


def test_missing_amount_is_the_mean_of_the_four_prices_times_volume():
    sent = columns()
    del sent["amount"]
    filled, notes = bars.complete(sent)
    assert notes == {"amount": "amount was missing and taken as mean price x volume"}
    # The first session: (99 + 102 + 97 + 100) / 4 x 10 = 995; the second has no volume
    npt.assert_allclose(filled[:2, 5], [995.0, 0.0], rtol=1e-15)
    npt.assert_array_equal(filled[:, 4], columns()["volume"])


def test_an_amount_that_was_sent_without_volume_is_kept():
    sent = columns()
    del sent["volume"]
    filled, notes = bars.complete(sent)
    assert notes == {"volume": "volume was missing and taken as 0"}
    npt.assert_array_equal(filled[:, 5], columns()["amount"])


# --- corrections --------------------------------------------------------------------------------

# open, high, low, close, volume, amount
POSSIBLE = [101.0, 103.0, 99.0, 102.0, 5.0, 500.0]
IMPOSSIBLE = [
    # high below open and close
    ([101.0, 100.0, 99.0, 102.0, 5.0, 500.0], [101.0, 102.0, 99.0, 102.0, 5.0, 500.0]),
    # low above both
    ([101.0, 103.0, 102.5, 102.0, 5.0, 500.0], [101.0, 103.0, 101.0, 102.0, 5.0, 500.0]),
    # high and low exchanged
    ([101.0, 99.0, 103.0, 102.0, 5.0, 500.0], [101.0, 103.0, 99.0, 102.0, 5.0, 500.0]),
    # low below the floor, 1 % of 100
    ([101.0, 103.0, -7.0, 102.0, 5.0, 500.0], [101.0, 103.0, 1.0, 102.0, 5.0, 500.0]),
    # all prices below the floor
    ([0.2, 0.4, 0.1, 0.3, 5.0, 500.0], [1.0, 1.0, 1.0, 1.0, 5.0, 500.0]),
    # negative volume and amount
    ([101.0, 103.0, 99.0, 102.0, -5.0, -0.1], [101.0, 103.0, 99.0, 102.0, 0.0, 0.0]),
]


def path(*sampled: list[float]) -> np.ndarray:
    """One series, one path [1, 1, H, 6]."""
    return np.array(sampled)[None, None]


@pytest.mark.parametrize(("sampled", "fixed"), IMPOSSIBLE)
def test_an_impossible_bar_becomes_the_possible_one_next_to_it(
    sampled: list[float], fixed: list[float]
):
    corrected, changed = bars.correct(path(POSSIBLE, sampled, POSSIBLE), np.array([100.0]))
    npt.assert_array_equal(corrected, path(POSSIBLE, fixed, POSSIBLE))
    npt.assert_allclose(changed, [1 / 3], rtol=1e-15)


def test_the_share_of_changed_bars_is_counted_over_the_paths_and_steps_of_a_series():
    broken = IMPOSSIBLE[0][0]
    paths = np.array(
        [[[POSSIBLE, POSSIBLE], [broken, broken]], [[POSSIBLE, broken], [POSSIBLE, POSSIBLE]]]
    )
    assert paths.shape == (2, 2, 2, 6)
    npt.assert_array_equal(bars.correct(paths, np.array([100.0, 100.0]))[1], [0.5, 0.25])


def test_every_series_has_a_floor_of_its_own():
    low = [1.0, 1.0, 1.0, 1.0, 0.0, 0.0]
    corrected, changed = bars.correct(np.array([[[low]], [[low]]]), np.array([50.0, 1000.0]))
    npt.assert_array_equal(corrected[:, 0, 0, :4], [[1.0] * 4, [10.0] * 4])
    npt.assert_array_equal(changed, [0.0, 1.0])


def sampled_paths(seed: int, spread: float) -> np.ndarray:
    """Bars [3, 5, 4, 6] of independent numbers, mostly impossible."""
    return np.random.default_rng(seed).normal(100.0, spread, (3, 5, 4, 6))


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 1000.0))
def test_corrected_bars_are_possible_and_correcting_them_again_changes_nothing(
    seed: int, spread: float
):
    last = np.array([100.0, 1.0, 5000.0])
    corrected, _ = bars.correct(sampled_paths(seed, spread), last)
    open_, high, low, close, volume, amount = np.moveaxis(corrected, 3, 0)
    assert (low > 0).all()
    assert (low <= np.minimum(open_, close)).all()
    assert (np.maximum(open_, close) <= high).all()
    assert (volume >= 0).all()
    assert (amount >= 0).all()
    again, changed = bars.correct(corrected, last)
    npt.assert_array_equal(again, corrected)
    npt.assert_array_equal(changed, 0.0)


@given(st.integers(0, 2**32 - 1))
def test_open_and_close_above_the_floor_are_never_moved(seed: int):
    sampled = sampled_paths(seed, 10.0)
    fixed, _ = bars.correct(sampled, np.full(3, 100.0))
    npt.assert_array_equal(fixed[..., [0, 3]], sampled[..., [0, 3]])


# --- returns of paths ---------------------------------------------------------------------------


def test_the_first_return_of_a_path_is_from_the_last_known_close():
    closes = [[[110.0, 99.0], [100.0, 200.0]], [[25.0, 50.0], [50.0, 50.0]]]  # [N, S, H]
    price_paths = np.ones((2, 2, 2, 6))
    price_paths[..., 3] = closes
    returns = bars.path_returns(price_paths, np.array([100.0, 50.0]))
    expected = [
        [[np.log(1.1), np.log(0.9)], [0.0, np.log(2.0)]],
        [[-np.log(2.0), np.log(2.0)], [0.0, 0.0]],
    ]
    npt.assert_allclose(returns, expected, rtol=1e-14, atol=1e-15)


def test_returns_of_a_path_add_up_to_its_last_close():
    price_paths = np.exp(sampled_paths(0, 1.0) - 100.0)
    last = np.array([1.0, 2.0, 3.0])
    total = bars.path_returns(price_paths, last).sum(axis=2)
    npt.assert_allclose(
        total, np.log(price_paths[:, :, -1, 3] / last[:, None]), rtol=1e-12, atol=1e-14
    )
