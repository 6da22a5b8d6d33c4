"""Real prices in installed wheels: stocks and index of skfolio, bars of bokeh_sampledata and arch.

They are read at run time; this repository stores no price. Every source is a long frame sorted by
(unique_id, ds). Close sources have the column `close`, bar sources
`open high low close volume adj_close`; all are float64, in USD or index points. Nothing is repaired
here. The heavy packages are imported when a source is read.
"""

from importlib.metadata import version

import pandas as pd

from registry.forecast import names

OHLC = ("open", "high", "low", "close")
INDEX = "SP500"

# Names of the sources in messages and the QA summary.
STOCKS = "skfolio/sp500_dataset"
STOCK_INDEX = "skfolio/sp500_index"
STOCK_BARS = "bokeh_sampledata/stocks"
INDEX_BARS = "arch/sp500+nasdaq"
BOKEH_STOCKS = ("AAPL", "FB", "GOOG", "IBM", "MSFT")
PACKAGES = ("arch", "bokeh_sampledata", "exchange_calendars", "skfolio")

# GICS sectors of skfolio's 20 stocks, entered by hand: no wheel has them.
SECTORS = {
    "AAPL": "Information Technology",
    "AMD": "Information Technology",
    "BAC": "Financials",
    "BBY": "Consumer Discretionary",
    "CVX": "Energy",
    "GE": "Industrials",
    "HD": "Consumer Discretionary",
    "JNJ": "Health Care",
    "JPM": "Financials",
    "KO": "Consumer Staples",
    "LLY": "Health Care",
    "MRK": "Health Care",
    "MSFT": "Information Technology",
    "PEP": "Consumer Staples",
    "PFE": "Health Care",
    "PG": "Consumer Staples",
    "RRC": "Energy",
    "UNH": "Health Care",
    "WMT": "Consumer Staples",
    "XOM": "Energy",
}

# Splits within the bars' spans: new shares for one old share, by first session at the new price.
SPLITS = {
    ("AAPL", "2000-06-21"): 2.0,
    ("AAPL", "2005-02-28"): 2.0,
    ("MSFT", "2003-02-18"): 2.0,
}


def stock_prices() -> pd.DataFrame:
    """Adjusted closes of 20 S&P 500 stocks, 1990-01-02..2022-12-28: unique_id, ds, close."""
    from skfolio.datasets import load_sp500_dataset

    return _long(load_sp500_dataset())


def index_prices() -> pd.DataFrame:
    """The S&P 500 (a price index, without dividends) on the same dates: unique_id, ds, close."""
    from skfolio.datasets import load_sp500_index

    return _long(load_sp500_index())


def bokeh_bars() -> pd.DataFrame:
    """Unadjusted bars and adjusted closes of five stocks, 2000-03-01..2013-03-01."""
    from bokeh_sampledata import stocks

    return _bars({name: pd.DataFrame(getattr(stocks, name)) for name in BOKEH_STOCKS})


def arch_bars() -> pd.DataFrame:
    """Bars of the NASDAQ Composite and the S&P 500, 1999-01-04..2018-12-31.

    An index needs no adjustment.
    """
    from arch.data import nasdaq, sp500

    return _bars({"NASDAQ": nasdaq.load().reset_index(), INDEX: sp500.load().reset_index()})


def read_all() -> dict[str, pd.DataFrame]:
    """Every source by name."""
    return {
        STOCKS: stock_prices(),
        STOCK_INDEX: index_prices(),
        STOCK_BARS: bokeh_bars(),
        INDEX_BARS: arch_bars(),
    }


def package_versions() -> dict[str, str]:
    return {name: version(name) for name in PACKAGES}


def _long(prices: pd.DataFrame) -> pd.DataFrame:
    """Wide closes (one column a symbol) as a long frame."""
    wide = prices[sorted(prices.columns)].rename_axis(index=names.DS)
    long = wide.melt(var_name=names.UNIQUE_ID, value_name="close", ignore_index=False).reset_index()
    return _typed(long[[names.UNIQUE_ID, names.DS, "close"]])


def _bars(frames: dict[str, pd.DataFrame]) -> pd.DataFrame:
    columns = [names.UNIQUE_ID, names.DS, *OHLC, "volume", "adj_close"]
    bars = []
    for symbol, frame in sorted(frames.items()):
        renamed = frame.rename(columns=lambda name: str(name).lower().replace(" ", "_"))
        renamed = renamed.rename(columns={"date": names.DS})
        bars.append(renamed.assign(**{names.UNIQUE_ID: symbol}))
    return _typed(pd.concat(bars, ignore_index=True)[columns])


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    """`frame` with one dtype a column; those after unique_id and ds are float64."""
    dtypes = {names.UNIQUE_ID: "str", names.DS: "datetime64[ns]"}
    dtypes |= dict.fromkeys(frame.columns[2:], "float64")
    return frame.astype(dtypes)
