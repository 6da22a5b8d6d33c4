"""Which of the user's columns is what: guessed from the usual names, settled by --map."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from jobs.data.sources.source import KEYS
from registry.errors import BadParameter

# Usual names in lower case, without anything but letters and digits: those of Yahoo, Stooq, Tiingo,
# Alpha Vantage, Nasdaq Data Link, Bloomberg (PX_LAST), LSEG (Price Close, TRDPRC_1) and CRSP (PRC).
USUAL = {
    "symbol": "symbol symbols ticker tickers tickersymbol stocksymbol code stockcode uniqueid "
    "secid sid sym permno ric isin figi instrument security asset tscode",
    "ds": "ds date dates datetime timestamp day time tradedate tradingdate tradingday "
    "tradingsession session sessiondate datadate pricedate",
    "open": "open openprice openingprice priceopen pxopen openprc",
    "high": "high highprice pricehigh pxhigh high1",
    "low": "low lowprice pricelow pxlow low1",
    "close": "close closeprice closingprice priceclose closelast price last lastprice pxlast "
    "settle settlementprice prc trdprc1",
    "adj_close": "adjclose adjcloseprice adjclosingprice adjustedclose adjustedcloseprice "
    "adjustedclosingprice adjustedprice adjprice adjusted closeadj closeadjusted",
    "volume": "volume vol totalvolume sharevolume pxvolume acvoluns",
    "amount": "amount turnover dollarvolume quotevolume quoteassetvolume",
    "split": "split splits stocksplit stocksplits splitratio splitfactor splitcoefficient",
    "dividend": "dividend dividends dividendamount exdividend divcash cashdividend",
    "sector": "sector gicssector industrygroup gicsindustrygroup",
    "y": "y return returns logreturn logreturns logret",
}
# Dates where there is no better column; beside one, the time or the day of the week.
_SECOND_BEST = ("time", "day", "session")
_NAME = "name"  # a symbol in long files without a better column, as in Kaggle's all_stocks_5yr
_GUESSES = {name: key for key, usual in USUAL.items() for name in usual.split()}
_ITEM = re.compile(r"""\s*(\w+)\s*=\s*(?:"([^"]*)"|'([^']*)'|([^,"']*?))\s*(?:,|$)""")


@dataclass(frozen=True)
class Mapped:
    columns: Mapping[str, str]  # key -> the user's column, in the order of KEYS
    guessed: tuple[str, ...]  # keys
    ignored: tuple[str, ...]  # columns


def parse_map(text: str) -> dict[str, str]:
    """Columns by key of a text like `symbol=ticker,adj_close="Adj Close",volume=`.

    A key without a column says that no column has this key. Raises BadParameter (BAD_MAP).
    """
    columns: dict[str, str] = {}
    position = 0
    while position < len(text):
        item = _ITEM.match(text, position)
        if item is None:
            raise _bad(
                f"cannot be read from {text[position:][:64]!r} on; "
                'write KEY=COLUMN,KEY="Other Column"'
            )
        key, double_quoted, single_quoted, bare = item.groups()
        if key in columns:
            raise _bad(f"has {key!r} twice; give each key one column")
        columns[key] = double_quoted or single_quoted or bare or ""
        position = item.end()
    _check_keys(columns)
    return columns


def settle(names: Sequence[str], given: Mapping[str, str]) -> Mapped:
    """The column of each key: as given, else guessed. `names` are all of the user's columns.

    Raises BadParameter (BAD_MAP) for a key or column that does not exist, a column with two keys
    and a key with two candidates.
    """
    _check_keys(given)
    _check_columns(names, given)
    guesses = _guess(names, given)
    columns = {key: given.get(key) or guesses.get(key, "") for key in KEYS}
    columns = {key: name for key, name in columns.items() if name}
    ignored = [name for name in names if name not in columns.values()]
    return Mapped(columns, tuple(key for key in columns if key in guesses), tuple(ignored))


def _check_keys(given: Mapping[str, str]) -> None:
    for key in given:
        if key not in KEYS:
            raise _bad(f"has the key {key[:64]!r}, expected one of {', '.join(KEYS)}")


def _check_columns(names: Sequence[str], given: Mapping[str, str]) -> None:
    key_of: dict[str, str] = {}
    for key, name in given.items():
        if not name:
            continue
        if name not in names:
            raise _bad(f"gives {key} the column {name[:64]!r}, {_nearest(name, names)}")
        if name in key_of:
            raise _bad(f"gives {key_of[name]} and {key} one column, {name!r}; a column has one key")
        key_of[name] = key


def _guess(names: Sequence[str], given: Mapping[str, str]) -> dict[str, str]:
    """Columns of keys that are not given, by their usual names."""
    candidates: dict[str, list[str]] = {}
    for name in names:
        key = _GUESSES.get(_plain(name))
        if key is not None and key not in given and name not in given.values():
            candidates.setdefault(key, []).append(name)
    return {key: _best(key, columns) for key, columns in candidates.items()}


def _best(key: str, columns: Sequence[str]) -> str:
    """The only good candidate. Raises BadParameter (BAD_MAP) for two."""
    better = [name for name in columns if _plain(name) not in _SECOND_BEST]
    first, *others = better or columns
    if others:
        raise _bad(
            f"is needed: {first!r} and {others[0]!r} could both be {key}; "
            f"say --map {key}={_quoted(first)} or --map {key}={_quoted(others[0])}"
        )
    return first


def name_column(mapped: Mapped, given: Mapping[str, str]) -> str:
    """The column `Name`, unless another is the symbol or `given` has that key; empty for none."""
    if "symbol" in mapped.columns or "symbol" in given:
        return ""
    return next((name for name in mapped.ignored if _plain(name) == _NAME), "")


def with_symbol(mapped: Mapped, name: str) -> Mapped:
    """The same with this column as the guessed symbol."""
    ignored = tuple(other for other in mapped.ignored if other != name)
    return Mapped({"symbol": name, **mapped.columns}, ("symbol", *mapped.guessed), ignored)


def _plain(name: str) -> str:
    return "".join(filter(str.isalnum, name.casefold()))


def _quoted(name: str) -> str:
    return name if re.fullmatch(r"\w+", name) else f'"{name}"'


def _nearest(name: str, names: Sequence[str]) -> str:
    """Advice for a column that does not exist."""
    by_plain = {_plain(other): other for other in names}
    nearest = get_close_matches(_plain(name), by_plain, n=1, cutoff=0.5)
    if nearest:
        return f"which does not exist; the nearest is {by_plain[nearest[0]]!r}"
    return f"which does not exist; the columns are {listed(names)}"


def listed(names: Sequence[str]) -> str:
    """Up to ten names, for a message."""
    shown = ", ".join(repr(name[:64]) for name in names[:10])
    return shown if len(names) <= 10 else f"{shown} and {len(names) - 10} more"


def _bad(reason: str) -> BadParameter:
    return BadParameter(f"--map {reason}", code="BAD_MAP")
