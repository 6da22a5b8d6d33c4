"""Splits and dividends of own data: factors by hand, and which closes already contain them."""

from collections.abc import Iterator

import duckdb
import numpy as np
import numpy.testing as npt
import pandas as pd
import pytest
from staging import derived, simulated

from jobs.data import products
from jobs.data.sources import builtin as sources
from registry.errors import BadHistory


@pytest.fixture
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as opened:
        yield opened


def microsoft() -> pd.DataFrame:
    """Real bars of MSFT as traded around its split of 2003-02-18 and its dividend a day later."""
    bars = sources.bokeh_bars()
    bars = bars[(bars["unique_id"] == "MSFT") & bars["ds"].between("2002-06-03", "2003-06-30")]
    bars = bars.drop(columns="adj_close").assign(split=0.0, dividend=0.0)
    bars.loc[bars["ds"] == "2003-02-18", "split"] = 2.0
    bars.loc[bars["ds"] == "2003-02-19", "dividend"] = 0.08
    return bars.reset_index(drop=True)


def test_factors_are_those_of_yahoos_example(connection):
    """Yahoo help SLN28256: MSFT, 2:1 on 2003-02-18, 0.08 on 2003-02-19, close before it 24.96."""
    result, frame = derived(connection, microsoft())
    rows = frame.set_index("ds")
    dividend = 1 - 0.08 / 24.96  # 0.9968
    npt.assert_allclose(rows.loc["2003-02-14", "close"], 48.30 * 0.5 * dividend, rtol=1e-14)
    npt.assert_allclose(rows.loc["2003-02-18", "close"], 24.96 * dividend, rtol=1e-14)
    assert rows.loc["2003-02-19", "close"] == rows.loc["2003-02-19", "close_unadjusted"]
    assert rows.loc["2003-02-14", "close_unadjusted"] == 48.30
    npt.assert_allclose(rows.loc["2003-02-18", "y"], np.log(24.96 * 2 / 48.30), rtol=1e-12)
    assert result.basis == "closes as traded, adjusted for later splits and dividends"


def test_bars_agree_with_the_adjusted_closes_of_the_source(connection):
    _, frame = derived(connection, microsoft())
    source = sources.bokeh_bars()
    expected = products.adjusted_bars(source[source["unique_id"] == "MSFT"])
    expected = expected[expected["ds"].isin(frame["ds"])].reset_index(drop=True)
    npt.assert_allclose(frame["y"], expected["y"], atol=6e-4)  # adj_close has two decimals
    npt.assert_allclose(frame["volume"], expected["volume"], rtol=1e-12)
    for name in ("open", "high", "low"):
        ratio = frame[name] / frame["close"]
        npt.assert_allclose(ratio, expected[name] / expected["close"], rtol=1e-12)


def test_the_product_is_over_later_events_of_the_same_symbol(connection):
    """By hand: 10 before, a dividend of 1 (factor 0.9), a split of 3, a dividend of 0.25."""
    prices = simulated(["A", "B"])
    prices["close"] = 10.0
    prices["split"] = np.nan
    prices["dividend"] = np.nan
    prices.loc[50, "dividend"] = 1.0
    prices.loc[100, "split"] = 3.0
    prices.loc[100:219, "close"] = 10 / 3
    prices.loc[150, "dividend"] = 0.25
    _, frame = derived(connection, prices)
    ours = frame[frame["unique_id"] == "A"].reset_index(drop=True)  # starts with session 1
    last = 1 - 0.25 / (10 / 3)
    npt.assert_allclose(ours["close"][:49], 10 * 0.9 / 3 * last, rtol=1e-14)
    npt.assert_allclose(ours["close"][49:99], 10 / 3 * last, rtol=1e-14)
    npt.assert_allclose(ours["close"][99:149], 10 / 3 * last, rtol=1e-14)
    npt.assert_allclose(ours["close"][149:], 10 / 3, rtol=1e-14)
    npt.assert_allclose(ours["y"][49], -np.log(0.9), rtol=1e-12)
    other = frame[frame["unique_id"] == "B"]
    assert (other["close"] == 10).all()


def test_a_dividend_on_the_session_of_a_split_is_per_new_share(connection):
    prices = simulated(["A"]).assign(split=0.0, dividend=0.0)
    prices["close"] = np.where(prices.index < 100, 40.0, 10.0)
    prices.loc[100, ["split", "dividend"]] = [4.0, 0.5]
    _, frame = derived(connection, prices)
    npt.assert_allclose(frame["close"].iloc[0], 40 * (1 - 0.5 / 10) / 4, rtol=1e-14)


def test_closes_that_do_not_fall_at_a_split_are_refused(connection):
    prices = simulated(["A"]).assign(split=0.0)
    prices["close"] = 10.0
    prices.loc[100, "split"] = 4.0
    with pytest.raises(BadHistory) as caught:
        derived(connection, prices)
    assert caught.value.code == "PRICE_BASIS"
    assert caught.value.message == (
        "A 2019-05-28: a split of 4 is given, but close / close before is 1, expected about 0.25; "
        "closes seem to be adjusted for splits already: say --adjusted yes if they are adjusted "
        "for dividends, too, or leave out the split column"
    )
    _, frame = derived(connection, prices, adjusted=True)
    assert (frame["close"] == 10).all()


def test_dividends_alone_do_not_say_whether_closes_contain_them(connection):
    prices = simulated(["A"]).assign(dividend=0.0)
    prices.loc[100, "dividend"] = 1.0
    with pytest.raises(BadHistory) as caught:
        derived(connection, prices)
    assert caught.value.message == (
        "1 dividends or splits are given, first A 2019-05-28, and no split shows whether closes "
        "are adjusted for them; say --adjusted no if they are as traded, --adjusted yes if they "
        "are adjusted"
    )
    _, raw = derived(connection, prices, adjusted=False)
    _, frame = derived(connection, prices, adjusted=True)
    assert (raw["close"] != raw["close_unadjusted"]).sum() == 99
    assert frame["close"].tolist() == prices["close"].tolist()[1:]


def test_a_dividend_above_the_price_is_refused(connection):
    prices = simulated(["A"]).assign(dividend=0.0)
    prices["close"] = 10.0
    prices.loc[100, "dividend"] = 12.0
    with pytest.raises(BadHistory, match="the dividend is 12, not below the close before, 10; "):
        derived(connection, prices, adjusted=False)


def test_volumes_that_are_adjusted_already_stay(connection):
    """Yahoo's Close and Volume are adjusted for splits, its Adj Close for dividends, too."""
    close = simulated(["A"])["close"]
    prices = {"open": close, "high": close, "low": close, "adj_close": close * 0.9}
    bars = simulated(["A"]).assign(**prices, volume=100.0, split=0.0)
    bars.loc[100, "split"] = 4.0
    _, frame = derived(connection, bars)
    assert (frame["volume"] == 100).all()
