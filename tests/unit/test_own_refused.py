"""Own data that is refused: one line with the row or symbol, what was found and what to do."""

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import duckdb
import numpy as np
import pandas as pd
import pytest
from exchange_calendars import get_calendar_names
from staging import derived, simulated, stage

from jobs import __main__ as program
from jobs.data import products
from jobs.data.own import sessions
from jobs.data.own.derive import derive
from jobs.data.own.options import Options
from registry import terminal
from registry.errors import BadHistory, BadInput, BadParameter, NotFound

CLOSES = simulated()  # 220 sessions of A, B, C; rows 2..221 are A


@pytest.fixture
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as opened:
        yield opened


def bars() -> pd.DataFrame:
    close = CLOSES["close"]
    prices = {"open": close, "high": close * 1.01, "low": close * 0.99, "volume": 1000.0}
    return CLOSES.assign(**prices)


def returns() -> pd.DataFrame:
    return products.log_returns(CLOSES)


def changed(frame: pd.DataFrame, column: str, value: object, row: int = 3) -> pd.DataFrame:
    """`frame` with another value in a row of the file: row 2 is the first."""
    frame = frame.copy()
    frame.loc[row - 2, column] = value
    return frame


def split_at(row: int, ratio: float, move: float = 1.01) -> pd.DataFrame:
    """Closes of A that fall by `ratio` on a row, and move by `move` beside."""
    frame = CLOSES.copy()
    frame.loc[row - 2 :, "close"] = frame.loc[row - 3, "close"] * move / ratio
    return frame[frame["unique_id"] == "A"]


def sector(values: dict[str, str | None]) -> pd.DataFrame:
    return CLOSES.assign(sector=CLOSES["unique_id"].map(values))


def other_sector() -> pd.DataFrame:
    return changed(sector(dict.fromkeys("ABC", "Energy")), "sector", "Health", row=5)


TABLE: dict[str, tuple[Callable[[], pd.DataFrame], dict[str, object], str, str]] = {
    "negative price": (
        lambda: changed(CLOSES, "close", -3.5), {}, "BAD_SOURCE",
        "prices.csv row 3: close of A on 2019-01-03 is -3.5, expected a price above 0 and at most "
        "1e+18; correct or remove the row",
    ),
    "infinite price": (
        lambda: changed(CLOSES, "close", np.inf), {}, "BAD_SOURCE",
        "prices.csv row 3: close of A on 2019-01-03 is inf, expected a price above 0 and at most "
        "1e+18; correct or remove the row",
    ),
    "adjusted close of 0": (
        lambda: changed(CLOSES.assign(adj_close=1.0), "adj_close", 0.0), {}, "BAD_SOURCE",
        "prices.csv row 3: adj_close of A on 2019-01-03 is 0.0, expected a price above 0 and at "
        "most 1e+18; correct or remove the row",
    ),
    "negative volume": (
        lambda: changed(changed(bars(), "volume", -1.0, row=4), "volume", -2.0), {}, "BAD_SOURCE",
        "prices.csv row 3: volume of A on 2019-01-03 is -2.0, expected at least 0 and at most "
        "1e+18 (2 such rows); correct or remove the row",
    ),
    "close above high": (
        lambda: changed(bars(), "high", 50.0), {}, "BAD_SOURCE",
        "prices.csv row 3: open of A on 2019-01-03 is 99.99362556097809 with high 50.0, expected "
        "at most high; correct or remove the row",
    ),
    "negative split": (
        lambda: changed(CLOSES.assign(split=0.0), "split", -2.0), {}, "BAD_SOURCE",
        "prices.csv row 3: split of A on 2019-01-03 is -2.0, expected at least 0 and at most "
        "1e+18; correct or remove the row",
    ),
    "a dividend without a close": (
        lambda: changed(changed(CLOSES, "close", np.nan), "dividend", 0.5), {}, "BAD_SOURCE",
        "prices.csv row 3: dividend of A on 2019-01-03 is 0.5, expected close in the same row; "
        "correct or remove the row",
    ),
    "split in raw closes": (
        lambda: split_at(100, 4), {}, "PRICE_BASIS",
        "A 2019-05-23: close / close before is 0.253, which looks like a split of 4 for 1; give "
        "an adjusted close (adj_close), or columns split and dividend; if the closes are adjusted "
        "and the move is genuine, say --adjusted yes",
    ),
    "split on a day of a larger move": (
        lambda: split_at(100, 2, move=1.08), {}, "PRICE_BASIS",
        "A 2019-05-23: close / close before is 0.54, which looks like a split of 2 for 1; give "
        "an adjusted close (adj_close), or columns split and dividend; if the closes are adjusted "
        "and the move is genuine, say --adjusted yes",
    ),
    "reverse split in raw closes": (
        lambda: split_at(100, 0.1), {"adjusted": False}, "PRICE_BASIS",
        "A 2019-05-23: close / close before is 10.1, which looks like a split of 1 for 10; give "
        "an adjusted close (adj_close), or columns split and dividend; if the closes are adjusted "
        "and the move is genuine, say --adjusted yes",
    ),
    "typing error in adjusted closes": (
        lambda: split_at(100, 4), {"adjusted": True}, "BAD_RETURN",
        "A 2019-05-23: the return is -1.38 at an adjusted close of 28.1445, expected a log return "
        "of -1..1; it is a split or a typing error: correct the prices, or start the symbol on "
        "this session",
    ),
    "returns in per cent": (
        lambda: returns().assign(y=returns()["y"] * 100), {}, "BAD_RETURN",
        "the median |y| is 0.656: these look like returns in per cent; divide them by 100 and "
        "give log returns",
    ),
    "a return of 3": (
        lambda: changed(returns(), "y", 3.0), {}, "BAD_RETURN",
        "prices.csv row 3: y of A on 2019-01-04 is 3.0, expected a log return of -1..1; are these "
        "per cent or simple returns? Give log returns, or prices",
    ),
    "not a number": (
        lambda: changed(returns(), "y", -np.inf), {}, "BAD_SOURCE",
        "prices.csv row 3: y of A on 2019-01-04 is -inf, expected a finite number; correct or "
        "remove the row",
    ),
    "a holiday": (
        lambda: changed(CLOSES, "ds", pd.Timestamp("2019-01-01")), {}, "NOT_A_SESSION",
        "1 of 660 rows are on days without a session of XNYS, first A 2019-01-01; choose another "
        "--calendar, or remove these rows",
    ),
    "another exchange": (
        lambda: simulated(["VOD", "BP"], "XLON"), {}, "NOT_A_SESSION",
        "8 of 440 rows are on days without a session of XNYS, first BP *, BP *, BP *; better with "
        "--calendar: XLON (100.0% of the rows)",
    ),
    "weekends": (
        lambda: simulated(["BTC"], "24/7"), {}, "NOT_A_SESSION",
        "68 of 220 rows (31%) are on days without a session of XNYS, first 2019-01-01, "
        "2019-01-05, 2019-01-06; better with --calendar: 24/7 (100.0% of the rows)",
    ),
    "different values of one session": (
        lambda: pd.concat([CLOSES, changed(CLOSES, "close", 77.0).iloc[[1]]]), {},
        "DUPLICATE_SESSION",
        "A 2019-01-03 is given with different values: prices.csv row 3 and prices.csv row 662 "
        "(1 such sessions); keep one of the rows",
    ),
    "before the calendar": (
        lambda: changed(CLOSES, "ds", pd.Timestamp("1962-01-02")), {}, "OUTSIDE_CALENDAR",
        "prices.csv row 3: A 1962-01-02 is outside the calendar XNYS, known from 1980-01-02 to "
        "*; 1 such rows; correct or remove them",
    ),
    "the future": (
        lambda: changed(CLOSES, "ds", pd.Timestamp(datetime.now(UTC).date() + timedelta(9))), {},
        "OUTSIDE_CALENDAR",
        "prices.csv row 3: A * is in the future, today is *; 1 such rows; correct or remove them",
    ),
    "no such calendar": (
        lambda: CLOSES, {"calendar": "NYSE2"}, "UNKNOWN_CALENDAR",
        "no calendar 'NYSE2'; names are those of exchange_calendars, as in XNYS or 24/7",
    ),
    "two sectors": (
        other_sector, {}, "BAD_SECTOR",
        "the sector of A is 'Energy' on 2019-01-02 and 'Health' on 2019-01-07, expected one; give "
        "the same in all rows, or leave out the column sector",
    ),
    "a symbol without a sector": (
        lambda: sector({"A": "Energy"}), {}, "BAD_SECTOR",
        "2 symbols have no sector: B, C; give them one, or leave out the column sector",
    ),
    "no such index": (
        lambda: CLOSES, {"index": "^GSPC"}, "BAD_PARAMETER",
        "--index '^GSPC' is none of the 3 symbols: A, B, C",
    ),
    "an index alone": (
        lambda: simulated(["A"]), {"index": "A"}, "BAD_PARAMETER",
        "A is the only symbol; leave out --index",
    ),
    "an index that lacks a session": (
        lambda: CLOSES.drop(index=3), {"index": "A"}, "BAD_SOURCE",
        "the index A has no return on 2019-01-07, on which 2 members trade (1 such sessions); add "
        "its prices, remove the sessions, or leave out --index",
    ),
    "too few sessions": (
        lambda: simulated(length=191), {}, "TOO_SHORT",
        "there are 190 sessions with returns, 191 are needed to fit, choose and report; add 1 "
        "sessions, or give --fit_until and --choose_until",
    ),
    "too few to choose on": (
        lambda: CLOSES, {"fit_until": "2019-06-28", "choose_until": "2019-07-05"}, "TOO_SHORT",
        "fit_until 2019-06-28 and choose_until 2019-07-05 leave 4 sessions to choose on, at least "
        "20 are needed; choose other dates",
    ),
    "too few to fit": (
        lambda: CLOSES, {"fit_until": "2019-02-28"}, "TOO_SHORT",
        "fit_until 2019-02-28 and choose_until 2019-08-27 leave 39 sessions to fit, at least 60 "
        "are needed; choose other dates",
    ),
    "too few to report": (
        lambda: CLOSES, {"choose_until": "2019-11-04"}, "TOO_SHORT",
        "fit_until 2019-10-03 and choose_until 2019-11-04 leave 7 sessions to report, at least 20 "
        "are needed; choose other dates",
    ),
    "a date beyond the data": (
        lambda: CLOSES, {"fit_until": "2025-01-01"}, "BAD_TIME",
        "fit_until is 2025-01-01, expected a date from 2019-01-03 to before 2019-11-13, the "
        "sessions of the data",
    ),
    "dates in the wrong order": (
        lambda: CLOSES, {"fit_until": "2019-08-01", "choose_until": "2019-07-01"}, "BAD_TIME",
        "fit_until is 2019-08-01, expected a date before choose_until, 2019-07-01",
    ),
    "no date": (
        lambda: CLOSES, {"fit_until": "01.08.2019"}, "BAD_TIME",
        "fit_until is '01.08.2019', expected a date like 2018-12-31",
    ),
    "closes asked to be bars": (
        lambda: CLOSES, {"kind": "bars"}, "MISSING_COLUMN",
        "a data set of bars needs open, high, low, close, volume; missing or empty: open, high, "
        "low, volume; the columns are close; name them with --map, or choose another --kind",
    ),
    "no such kind": (
        lambda: CLOSES, {"kind": "ticks"}, "BAD_PARAMETER",
        "--kind is 'ticks', expected one of returns, closes, bars",
    ),
    "an adjusted close said to be raw": (
        lambda: CLOSES.rename(columns={"close": "adj_close"}), {"adjusted": False},
        "BAD_PARAMETER",
        "--adjusted no, but the only close is an adjusted one, adj_close",
    ),
    "two adjusted closes": (
        lambda: CLOSES.assign(adj_close=CLOSES["close"]), {"adjusted": True}, "BAD_PARAMETER",
        "--adjusted yes says that close is adjusted, but there is adj_close, too; leave out the "
        "option, or map adj_close to close",
    ),
    "one price a symbol": (
        lambda: simulated(length=1), {}, "EMPTY",
        "no symbol has complete prices on two sessions, so there is no return",
    ),
    "no rows": (lambda: CLOSES.iloc[:0], {}, "EMPTY", "there are no rows"),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_is_refused_in_one_line(connection, name, monkeypatch):
    monkeypatch.setattr(sessions, "EXCHANGES", ("XTKS", "XLON"))  # few, to save time
    frame, options, code, message = TABLE[name]
    with pytest.raises((BadInput, NotFound)) as caught:
        derived(connection, frame(), **options)
    assert caught.value.code == code
    pattern = re.escape(message).replace(r"\*", r"[0-9-]+")
    assert re.fullmatch(pattern, caught.value.message), caught.value.message


def test_a_bar_off_by_rounding_is_taken(connection):
    frame = bars()
    frame["high"] = frame["close"] * (1 - 4e-7)
    _, rows = derived(connection, frame)
    assert len(rows) == 657


def test_better_exchanges_are_calendars(monkeypatch, connection):
    assert set(sessions.EXCHANGES) <= set(get_calendar_names(include_aliases=False))
    monkeypatch.setattr(sessions, "EXCHANGES", ("XNYS", "XLON"))  # each takes 0.4 s to build
    prices = simulated(["BP.L"], "XLON", length=20)  # with a session on Martin Luther King's day
    with pytest.raises(BadHistory, match=r"7%.* with --calendar: XLON \(100.0% of the rows\)$"):
        derived(connection, prices.iloc[5:])


def test_a_refused_set_can_be_derived_again(connection):
    columns = stage(connection, CLOSES)
    with pytest.raises(BadParameter):
        derive(connection, columns, Options("mine", index="^GSPC"))
    assert derive(connection, columns, Options("mine")).universe.name == "mine-3"


def test_options_of_own_prices_are_not_ignored_without_a_source(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    for words, expected in (
        (
            ["--from", "prices.csv", "--name", "mine"],
            "--from is for prices of your own; add --source",
        ),
        (["--source", "csv", "--force"], "--force is for --source builtin; leave it out"),
    ):
        monkeypatch.setattr("sys.argv", ["jobs", "compile", *words])
        with pytest.raises(SystemExit) as ended:
            terminal.run(program.app)
        assert ended.value.code == 2
        assert expected in capsys.readouterr().err
