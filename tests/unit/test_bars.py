"""Daily bars: every check with a bar that breaks it, the filled values and the corrections."""

from typing import Any

import numpy as np
import numpy.testing as npt
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.forecast import bars, names
from registry.forecast.faults import Fault
from registry.forecast.history import History

Columns = dict[str, np.ndarray]
DAYS = np.array(["2020-01-06", "2020-01-07", "2020-01-08"], dtype="datetime64[D]")
CHECKS = (bars.prices, bars.volumes, bars.order, bars.basis)

# Two series of three sessions. The first y of a series is free, the others follow from the closes.
CLOSE = [100.01, 110.02, 99.03, 50.01, 50.01, 51.02]


def columns(**changes: Any) -> Columns:
    """Possible bars of both series; `changes` replace whole columns."""
    close = np.array(CLOSE)
    possible = {
        "y": np.array([0.3, *np.diff(np.log(CLOSE))]),
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


def history(sent: Columns) -> History:
    return History(("ALFA", "BRAVO"), np.array([0, 3, 6]), np.tile(DAYS, 2), sent)


def faults(sent: Columns) -> list[Fault]:
    """What the first check finds that finds something."""
    for check in CHECKS:
        found = [*check(history(sent))]
        if found:
            return found
    return []


NOT_POSITIVE = "has a price that is not positive in 1 of 3 sessions, first on"
OUTSIDE = "has open or close outside low..high in 1 of 3 sessions, first on"


def test_possible_bars_pass_with_and_without_volume_and_amount():
    assert faults(columns()) == []
    assert faults({name: columns()[name] for name in ("y", *names.OHLC)}) == []


def test_a_bar_whose_four_prices_are_one_is_possible():
    flat = np.array(CLOSE)
    assert faults(columns(open=flat, high=flat, low=flat)) == []


@pytest.mark.parametrize(
    ("broken", "fault"),
    [
        (with_value("low", 1, 0.0), Fault(0, "BAD_PRICE", f"{NOT_POSITIVE} 2020-01-07")),
        (with_value("open", 4, -1.0), Fault(1, "BAD_PRICE", f"{NOT_POSITIVE} 2020-01-07")),
        (with_value("open", 2, 102.0), Fault(0, "BAD_BAR", f"{OUTSIDE} 2020-01-08")),
        (with_value("open", 3, 46.0), Fault(1, "BAD_BAR", f"{OUTSIDE} 2020-01-06")),
        (with_value("high", 1, 109.5), Fault(0, "BAD_BAR", f"{OUTSIDE} 2020-01-07")),
        (with_value("low", 5, 51.5), Fault(1, "BAD_BAR", f"{OUTSIDE} 2020-01-08")),
        (
            with_value("volume", 5, -1.0),
            Fault(1, "BAD_VOLUME", "has negative volume in 1 of 3 sessions, first on 2020-01-08"),
        ),
        (
            with_value("amount", 0, -0.5),
            Fault(0, "BAD_VOLUME", "has negative amount in 1 of 3 sessions, first on 2020-01-06"),
        ),
        (
            with_value("y", 2, np.log(99.03 / 110.02) + 3e-4),
            Fault(
                0,
                "PRICE_BASIS",
                "has y that is not the log return of close in 1 of 3 sessions, first on "
                "2020-01-08; put the bars on one price basis: multiply them by adj_close / close",
            ),
        ),
    ],
    ids=[
        "a price of 0",
        "a negative price",
        "open above high",
        "open below low",
        "close above high",
        "close below low",
        "negative volume",
        "negative amount",
        "y of another price basis",
    ],
)
def test_an_impossible_bar_is_found_by_series_code_and_date(broken: Columns, fault: Fault):
    assert faults(broken) == [fault]


def test_high_and_low_exchanged_is_said_first():
    exchanged = columns(high=columns()["low"], low=columns()["high"])
    text = "has high below low in 3 of 3 sessions, first on 2020-01-06"
    assert faults(exchanged)[:2] == [Fault(0, "BAD_BAR", text), Fault(1, "BAD_BAR", text)]


def test_a_split_that_was_not_adjusted_is_another_price_basis():
    halved = np.array([100.01, 110.02, 49.51, 50.01, 50.01, 51.02])
    [fault] = faults(columns(open=halved, high=halved + 1, low=halved - 1, close=halved))
    assert (fault.series, fault.code) == (0, "PRICE_BASIS")
    assert "first on 2020-01-08" in fault.text


def test_y_may_differ_from_the_closes_as_rounding_makes_it_and_is_free_in_a_first_session():
    assert faults(with_value("y", 2, np.log(99.03 / 110.02) + 0.9e-4)) == []
    assert faults(with_value("y", 0, -0.7)) == []
    assert faults(with_value("y", 3, 0.7)) == []


# --- rounding -----------------------------------------------------------------------------------


def test_bars_without_a_rounding_error_stay_as_they_are():
    sent = columns()
    same = bars.rounded(history(sent))
    assert same.notes == {}
    for name, values in sent.items():
        assert same.columns[name] is values


@pytest.mark.parametrize("unit", [np.float64, np.float32])
def test_a_high_or_low_off_by_units_in_the_last_place_is_widened_and_said(unit: Any):
    close = np.array(CLOSE)
    high, low = close.copy(), close.copy()
    high[1] = np.nextafter(unit(110.02), unit(0))
    low[4] = np.nextafter(unit(50.01), unit(100))
    sent = columns(open=close, high=high, low=low)
    assert faults(sent) == []
    widened = bars.rounded(history(sent))
    assert widened.notes == {"widened": "high or low was widened by a rounding error in 2 bars"}
    npt.assert_array_equal(widened.columns["high"], close)
    npt.assert_array_equal(widened.columns["low"], close)
    npt.assert_array_equal(high[1] < close[1], True)  # the sender's arrays are left alone


def test_a_high_in_cents_may_lie_half_a_cent_below_a_close_of_more_digits():
    """Half a tick of the coarser price, and no more."""
    close = np.array([100.014, 110.0249, 99.031, 50.0101, 50.0123, 51.0217])
    y = np.concatenate([[0.3], np.diff(np.log(close))])
    cents = np.round(close, 2)
    sent = columns(y=y, close=close, open=cents, high=cents, low=cents - 1)
    assert faults(sent) == []
    npt.assert_array_equal(bars.rounded(history(sent)).columns["high"], np.maximum(cents, close))
    further = columns(y=y, close=close, open=cents, high=cents - 0.01, low=cents - 1)
    assert {fault.code for fault in faults(further)} == {"BAD_BAR"}


def test_a_close_of_one_tick_above_the_high_is_a_contradiction():
    cents = np.array(CLOSE)
    [fault, _] = faults(columns(high=cents - 0.01, open=cents - 0.01))
    assert fault.code == "BAD_BAR"


@pytest.mark.parametrize(
    ("prices", "tick"),
    [
        ([100.0, 7.0, 53.0], 1.0),
        ([100.25, 7.13, 53.0], 0.01),
        ([1.1234, 1.1238, 1.13], 1e-4),
        ([np.float32(100.25), np.float32(7.13), np.float32(53.01)], 0.01),
        ([0.00012345, 0.00012399, 0.0001], 1e-8),
    ],
)
def test_the_tick_of_prices_is_the_coarsest_of_which_all_are_multiples(prices: Any, tick: float):
    sent = {"close": np.array([*prices, 1.0, 2.0, 3.0], dtype=np.float64)}
    npt.assert_allclose(bars.ticks(history(sent), "close"), [tick, 1.0])


def test_prices_of_many_digits_have_no_tick_that_counts():
    sent = {"close": np.array([np.pi, np.e, np.sqrt(2), 1e5 / 3, 2e5 / 7, 1e5 / 9])}
    assert (bars.ticks(history(sent), "close") <= [1e-5, 0.1]).all()


def test_closes_in_cents_fit_returns_of_more_digits_and_it_is_said():
    exact = np.array([0.873, 0.8816, 0.8747, 0.51, 0.52, 0.5344])
    y = np.concatenate([[0.0], np.diff(np.log(exact))])
    y[3] = 0.0
    cents = np.round(exact, 2)
    assert np.abs(np.diff(np.log(cents))[:2] - y[1:3]).max() > 10 * bars.BASIS
    sent = columns(y=y, open=cents, high=cents, low=cents, close=cents)
    assert faults(sent) == []
    note = "y fits close only within the rounding of prices in 3 sessions"
    assert bars.rounded(history(sent)).notes == {"basis": note}
    # Half a cent at each of two closes of about 0.87 is 1.15 %.
    [fault] = faults({**sent, "y": y + np.array([0, 0.02, 0, 0, 0, 0])})
    assert (fault.series, fault.code) == (0, "PRICE_BASIS")


@pytest.mark.parametrize("dividends", [0, 8])
def test_dividends_that_whole_dollars_hide_one_by_one_are_seen_together(dividends: int):
    y = np.random.default_rng(3).normal(0, 0.012, 500)
    close = 25 * np.exp(np.cumsum(y) - np.sum(y) * np.arange(1, 501) / 500)
    y = np.diff(np.log(close), prepend=np.log(close[0]))
    y[np.linspace(30, 470, dividends, dtype=int)] += 0.01
    whole = np.round(close)
    frame = pd.DataFrame(dict.fromkeys(names.OHLC, whole))
    frame = frame.assign(unique_id="A", ds=pd.date_range("2020-01-01", periods=500), y=y)
    sent = History.of(frame, (names.Y, *names.OHLC))
    codes = [(fault.code, "over time" in fault.text) for fault in bars.basis(sent)]
    assert codes == ([("PRICE_BASIS", True)] if dividends else [])


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
    # The first session: (99.01 + 102.01 + 97.01 + 100.01) / 4 x 10; the second has no volume
    npt.assert_allclose(filled[:2, 5], [995.1, 0.0], rtol=1e-15)
    npt.assert_array_equal(filled[:, 4], columns()["volume"])


def test_an_amount_that_was_sent_without_volume_is_0_as_upstream_and_said():
    """KronosPredictor.predict of upstream sets both columns to 0 if there is no volume."""
    sent = columns()
    del sent["volume"]
    filled, notes = bars.complete(sent)
    assert notes == {
        "volume": "volume was missing and taken as 0",
        "amount": "amount was sent without volume, so it was taken as 0",
    }
    npt.assert_array_equal(filled[:, 4:], 0.0)


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
