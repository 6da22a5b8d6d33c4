"""Which column is what: guessed from usual names, settled by --map."""

import pytest

from jobs.data.sources.mapping import parse_map, settle
from jobs.data.sources.source import KEYS
from registry.errors import BadParameter


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("", {}),
        ("symbol=ticker", {"symbol": "ticker"}),
        ("symbol=ticker,ds=Date,", {"symbol": "ticker", "ds": "Date"}),
        ('adj_close="Adj Close", close = Close', {"adj_close": "Adj Close", "close": "Close"}),
        ("close='a,b=c',ds=Trade Date", {"close": "a,b=c", "ds": "Trade Date"}),
        ("low=,open=", {"low": "", "open": ""}),
    ],
)
def test_a_map_is_read(text, columns):
    assert parse_map(text) == columns


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ticker", "--map cannot be read from 'ticker' on; write KEY=COLUMN,KEY=\"Other Column\""),
        ('ds=Date,close="a', "--map cannot be read from 'close=\"a' on; "
         'write KEY=COLUMN,KEY="Other Column"'),
        ("ds=a,ds=b", "--map has 'ds' twice; give each key one column"),
        ("price=Close", f"--map has the key 'price', expected one of {', '.join(KEYS)}"),
    ],
)  # fmt: skip
def test_a_map_that_cannot_be_read_is_refused(text, message):
    with pytest.raises(BadParameter) as refused:
        parse_map(text)
    assert (refused.value.message, refused.value.code) == (message, "BAD_MAP")


@pytest.mark.parametrize(
    ("names", "columns"),
    [
        ("Date,Open,High,Low,Close,Adj Close,Volume",
         "ds,open,high,low,close,adj_close,volume"),
        ("unique_id,ds,y", "symbol,ds,y"),
        ("SECID,Trade Date,LAST,Vol,Turnover", "symbol,ds,close,volume,amount"),
        ("timestamp,ticker,price,split_factor,divCash,GICS Sector",
         "ds,symbol,close,split,dividend,sector"),
        ("Security,Dates,PX_OPEN,PX_HIGH,PX_LOW,PX_LAST,PX_VOLUME",
         "symbol,ds,open,high,low,close,volume"),
        ("Instrument,Date,Price Open,Price High,Price Low,Price Close,Volume",
         "symbol,ds,open,high,low,close,volume"),
        ("Date,Close/Last,Volume,Open,High,Low", "ds,close,volume,open,high,low"),
        ("Date,Open,High,Low,Close*,Adj Close**,Volume",
         "ds,open,high,low,close,adj_close,volume"),
        ("time,asset,Settle", "ds,symbol,close"),
        ("Datetime,code,adjusted,Stock Splits,Dividends,log_return",
         "ds,symbol,adj_close,split,dividend,y"),
    ],
)  # fmt: skip
def test_usual_names_are_guessed(names, columns):
    expected = dict(zip(columns.split(","), names.split(","), strict=True))
    mapped = settle([*names.split(","), "", "open_interest"], {})
    assert mapped.columns == expected
    assert list(mapped.columns) == [key for key in KEYS if key in expected]
    assert set(mapped.guessed) == set(expected)
    assert mapped.ignored == ("", "open_interest")


def test_a_time_or_day_beside_a_date_is_no_date():
    mapped = settle(["Day", "Date", "Time", "Close"], {})
    assert mapped.columns == {"ds": "Date", "close": "Close"}
    with pytest.raises(BadParameter, match="'Day' and 'Time' could both be ds"):
        settle(["Day", "Time", "Close"], {})


def test_a_given_column_is_no_candidate_and_an_empty_one_is_no_key():
    mapped = settle(["Date", "Close", "Price", "Low"], {"close": "Price", "low": ""})
    assert mapped.columns == {"ds": "Date", "close": "Price"}
    assert mapped.guessed == ("ds",)
    assert mapped.ignored == ("Close", "Low")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"close": "Clsoe"},
         "--map gives close the column 'Clsoe', which does not exist; the nearest is 'Close'"),
        ({"close": "zzz"}, "--map gives close the column 'zzz', which does not exist; "
         "the columns are 'Date', 'Close', 'Last'"),
        ({"close": "Last", "adj_close": "Last"},
         "--map gives close and adj_close one column, 'Last'; a column has one key"),
        ({}, "--map is needed: 'Close' and 'Last' could both be close; "
         "say --map close=Close or --map close=Last"),
        ({"Close": "Last"}, f"--map has the key 'Close', expected one of {', '.join(KEYS)}"),
    ],
)  # fmt: skip
def test_a_map_that_settles_nothing_is_refused(given, message):
    with pytest.raises(BadParameter) as refused:
        settle(["Date", "Close", "Last"], given)
    assert (refused.value.message, refused.value.code) == (message, "BAD_MAP")
