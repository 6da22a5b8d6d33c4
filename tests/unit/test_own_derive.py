"""Own data: returns, prices and market columns against slow forms, whatever the order of rows."""

import math
from collections.abc import Iterator

import duckdb
import numpy as np
import numpy.testing as npt
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from staging import derived, simulated

from jobs.data import products
from jobs.data.market import MEMBERS, Universe, market_daily
from jobs.data.own.derive import Derived
from jobs.data.own.findings import DROPPED, NO_RETURN, Finding
from jobs.data.sources import builtin as sources

CLOSES = ("unique_id", "ds", "y", "close", "market_abs_return", "index_return", MEMBERS)


@pytest.fixture
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as opened:
        yield opened


@pytest.fixture(scope="module")
def bokeh() -> pd.DataFrame:
    """Real bars as traded, with their adjusted closes and splits."""
    splits = products.split_table().rename(columns={"ratio": "split"})
    return sources.bokeh_bars().merge(splits, on=["unique_id", "ds"], how="left")


def found(result: Derived, reason: str) -> Finding:
    """The finding whose reason starts so."""
    (only,) = [each for each in result.findings if each.reason.startswith(reason)]
    return only


def test_bars_beside_an_adjusted_close_are_the_built_in_ones(connection, bokeh):
    result, frame = derived(connection, bokeh)
    expected = products.adjusted_bars(sources.bokeh_bars())
    assert result.kind == "bars"
    assert result.columns == tuple(frame.columns)
    assert result.basis == "closes as traded, multiplied by adj_close / close"
    assert frame["unique_id"].tolist() == expected["unique_id"].tolist()
    assert (frame["ds"] == expected["ds"]).all()
    npt.assert_allclose(frame["y"], expected["y"], rtol=0, atol=1e-12)
    for name in ("open", "high", "low", "close", "volume", "amount", "close_unadjusted"):
        npt.assert_allclose(frame[name], expected[name], rtol=1e-12, err_msg=name)
    assert frame[MEMBERS].dtype == np.int64
    jump = found(result, "jumps")
    assert jump.examples == ("AAPL 2000-09-29 (y = -0.73)",)


def test_market_columns_are_those_of_the_panel(connection):
    prices = sources.stock_prices().query("ds >= '2020-01-02'")
    index = sources.index_prices().query("ds >= '2020-01-02'")
    universe = Universe("panel", tuple(sorted(prices["unique_id"].unique())))
    returns = products.log_returns(prices)
    expected = market_daily(returns, products.log_returns(index), universe)
    both = pd.concat([prices, index.assign(unique_id="^GSPC")])
    result, frame = derived(connection, both, adjusted=True, index="^GSPC")
    assert (result.universe.name, result.universe.symbols) == ("mine-20", universe.symbols)
    assert result.columns == CLOSES
    stocks = frame[frame["unique_id"] != "^GSPC"]
    npt.assert_allclose(stocks["y"], returns["y"], rtol=0, atol=1e-12)
    daily = frame.drop_duplicates("ds")
    for name in ("market_abs_return", "index_return"):
        npt.assert_allclose(daily[name], expected[name], rtol=1e-12, atol=1e-17)
    assert (frame[MEMBERS] == 20).all()


def test_a_symbol_of_every_day_is_its_own_market(connection):
    result, frame = derived(connection, simulated(["BTC"], "24/7"), calendar="24/7")
    assert len(frame) == 219
    assert (frame["ds"].dt.dayofweek >= 5).any()
    assert (frame["market_abs_return"] == frame["y"].abs()).all()
    assert (frame["index_return"] == frame["y"]).all()
    assert result.basis == "as given; not stated whether adjusted (--adjusted yes|no)"
    alone = found(result, "one symbol alone is its own market")
    assert (alone.rows, alone.examples) == (219, ("BTC: market_abs_return is its |y|",))


def test_members_are_those_that_trade(connection):
    prices = simulated(["BP.L", "HSBA.L", "VOD.L"], "XLON")
    late = (prices["unique_id"] == "HSBA.L") & (prices["ds"] < "2019-03-01")
    early = (prices["unique_id"] == "VOD.L") & (prices["ds"] > "2019-08-30")
    result, frame = derived(connection, prices[~late & ~early], calendar="XLON")
    assert frame.groupby("ds")[MEMBERS].first().isin([1, 2, 3]).all()
    for _, session in frame.groupby("ds"):
        assert (session[MEMBERS] == len(session)).all()
        mean = math.fsum(session["y"].abs()) / len(session)
        npt.assert_allclose(session["market_abs_return"], mean, rtol=1e-15)
        mean = math.fsum(session["y"]) / len(session)
        npt.assert_allclose(session["index_return"], mean, rtol=1e-15)
    assert found(result, "symbols that end").examples == ("VOD.L 2019-08-30",)
    assert not frame.isna().any(axis=None)


def test_sessions_of_the_index_alone_are_left_out(connection):
    prices = simulated(["A", "I"])
    prices = prices[(prices["unique_id"] == "I") | (prices["ds"] >= "2019-01-10")]
    result, frame = derived(connection, prices, index="I")
    assert frame["ds"].min() == pd.Timestamp("2019-01-11")
    assert frame["unique_id"].value_counts().to_dict() == {"A": 213, "I": 213}
    assert found(result, "a session on which only the index trades").rows == 6
    index = frame[frame["unique_id"] == "I"]
    assert (index["y"] == index["index_return"]).all()


def test_every_row_comes_back_or_is_counted(connection):
    prices = simulated()
    prices.loc[[5, 300], "close"] = np.nan
    prices = pd.concat([prices, prices.iloc[[7, 8, 8]], simulated(["ONE"], length=1)])
    gap = prices["ds"].between("2019-04-01", "2019-04-02") & (prices["unique_id"] == "C")
    prices = prices[~gap]
    result, frame = derived(connection, prices)
    actions = (DROPPED, NO_RETURN)
    dropped = {each.reason: each.rows for each in result.findings if each.action in actions}
    assert dropped == {
        "a row without close": 2,
        "the same row again": 3,
        "the first session of a symbol has no return": 3,
        "a symbol with one price only": 1,
    }
    assert len(prices) == len(frame) + sum(dropped.values())
    assert found(result, "the same row again").examples == ("A 2019-01-11", "A 2019-01-14")
    missing = found(result, "sessions that are missing")
    assert (missing.rows, missing.examples[0]) == (4, "C 2019-04-03 (2 missing before it)")
    assert [(each.unique_id, each.missing, each.dropped) for each in result.symbols] == [
        ("A", 1, 4), ("B", 1, 1), ("C", 2, 0)
    ]  # fmt: skip
    last = result.symbols[2]
    assert (last.first, last.last, last.sessions) == ("2019-01-03", "2019-11-13", 217)


def test_bars_without_a_volume_are_dropped(connection, bokeh):
    bars = bokeh[bokeh["ds"] < "2002-01-01"].copy()
    bars.loc[bars.index[[10, 11]], "volume"] = np.nan
    bars.loc[bars.index[11], "open"] = np.nan
    result, frame = derived(connection, bars)
    assert found(result, "a bar without volume").rows == 1
    assert found(result, "a bar without open").rows == 1
    assert not frame.isna().any(axis=None)


def test_what_looks_odd_is_listed_and_kept(connection):
    prices = simulated(["A", "B"], length=250)
    prices.loc[10:16, "close"] = prices.loc[10, "close"]
    prices.loc[prices.index > 400, "close"] = 200.0
    prices.loc[100:249, "close"] *= 1.3
    result, frame = derived(connection, prices)
    stale = found(result, "5 or more equal closes in a row")
    assert stale.rows == 6 + 98
    assert stale.examples[1] == "A 2019-01-17 (7 equal closes until 2019-01-25)"
    jumps = found(result, "jumps")
    size = frame.loc[frame["unique_id"] == "A", "y"].iloc[99]
    assert f"A 2019-05-28 (y = {size:.2f})" in jumps.examples
    zeros = found(result, "returns of 0 on more than 20%")
    assert (zeros.rows, zeros.examples) == (98, ("B (39 % of 249 sessions)",))


def test_given_returns_stay_as_they_are(connection):
    prices = simulated(["A", "B"])
    returns = products.log_returns(prices)
    returns.loc[3, "y"] = np.nan
    result, frame = derived(connection, returns)
    assert result.kind == "returns"
    assert frame["y"].tolist() == returns["y"].dropna().tolist()
    assert found(result, "a row without y").examples == ("A 2019-01-08",)


def test_an_adjusted_close_alone_is_the_close(connection):
    prices = simulated().rename(columns={"close": "adj_close"})
    result, frame = derived(connection, prices)
    assert (result.basis, result.columns) == ("adjusted, as given", CLOSES)
    assert frame["close"].tolist() == prices.loc[prices["ds"] > "2019-01-02", "adj_close"].tolist()


def test_sectors_may_have_gaps_within_a_symbol(connection):
    prices = simulated(["A", "B"]).assign(sector="Energy")
    prices.loc[5:50, "sector"] = None
    result, frame = derived(connection, prices)
    assert result.columns[-1] == "sector"
    assert (frame["sector"] == "Energy").all()


@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_rows_give_the_same_bits(connection, bokeh, threads):
    recent = bokeh[bokeh["ds"] >= "2011-01-03"]
    _, expected = derived(connection, recent)
    connection.execute(f"SET threads = {threads}")
    _, shuffled = derived(connection, recent.sample(frac=1, random_state=1))
    pd.testing.assert_frame_equal(shuffled, expected, check_exact=True)


SMALL = simulated()


@settings(max_examples=5)
@given(st.randoms(use_true_random=False), st.floats(0.9, 1.1))
def test_neither_order_nor_another_symbol_changes_a_return(random, factor):
    with duckdb.connect() as connection:
        result, expected = derived(connection, SMALL)
        order = random.sample(range(len(SMALL)), len(SMALL))
        again, shuffled = derived(connection, SMALL.iloc[order])
        assert again == result
        pd.testing.assert_frame_equal(shuffled, expected, check_exact=True)
        other = SMALL.copy()
        place = random.randrange(221, 439)  # of B
        other.loc[place, "close"] *= factor
        _, changed = derived(connection, other)
    for symbol in ("A", "C"):
        ours = expected["unique_id"] == symbol
        assert changed.loc[ours, "y"].tolist() == expected.loc[ours, "y"].tolist()
