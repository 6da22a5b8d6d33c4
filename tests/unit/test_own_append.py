"""Sessions are added to a data set, which is then what one compile of everything gives."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from staging import simulated

from jobs.data import sets
from jobs.data.catalog import PANEL, Catalog
from jobs.data.own.append import append_own
from jobs.data.own.compile import compile_frame
from jobs.data.own.options import Options
from jobs.data.own.report import APPEND, report_path
from jobs.data.sources.source import FRAME, Source
from registry.errors import BadHistory, BadParameter, Conflict, NotFound
from registry.sets import sealed
from registry.settings import Settings

DATES = {"fit_until": "2021-09-30", "choose_until": "2021-12-31"}


@pytest.fixture(scope="module")
def prices(compiled: Settings) -> pd.DataFrame:
    """Real returns of three stocks from 2021 on, and closes that have them."""
    history = PANEL.load(compiled).history
    chosen = history["unique_id"].isin(["AAPL", "KO", "XOM"]) & (history["ds"] >= "2021-01-01")
    frame = history.loc[chosen, ["unique_id", "ds", "y", "sector"]].reset_index(drop=True)
    frame["close"] = 100 * np.exp(frame.groupby("unique_id")["y"].cumsum())
    return frame


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(_env_file=None, var_dir=tmp_path)


def compile_set(settings: Settings, frame: pd.DataFrame, name: str = "mine") -> dict[str, Any]:
    adjusted = True if "close" in frame.columns else None
    return compile_frame(frame, name=name, settings=settings, adjusted=adjusted, **DATES)


def append(settings: Settings, frame: pd.DataFrame, **options: Any) -> dict[str, Any]:
    dry_run = options.pop("dry_run", False)
    values: dict[str, Any] = {"adjusted": True if "close" in frame.columns else None, **options}
    source = Source(FRAME, frame=frame)
    return append_own(settings, source, Options("mine", **values), dry_run=dry_run)


@pytest.mark.parametrize("kind", ["returns", "closes", "with sectors"])
@pytest.mark.parametrize("start", ["2022-06-01", "2022-01-03", "2021-03-01"])
def test_a_set_appended_to_is_the_set_compiled_at_once(settings, prices, kind, start):
    columns = {"returns": ["y"], "closes": ["close"], "with sectors": ["close", "sector"]}
    frame = prices[["unique_id", "ds", *columns[kind]]]
    whole = compile_set(settings, frame, "whole")
    compile_set(settings, frame[frame["ds"] < "2022-06-02"])
    found = append(settings, frame[frame["ds"] >= start])
    parts = sets.read_facts(settings, "mine").parts
    assert parts == sets.read_facts(settings, "whole").parts
    assert (found["digest"], found["rows"]) == (whole["digest"], whole["rows"])
    assert found["restated"] == 0


def test_nothing_changes_where_nothing_is_new(settings, prices):
    frame = prices[["unique_id", "ds", "close"]]
    compile_set(settings, frame)
    before = sets.read_facts(settings, "mine")
    append(settings, frame[frame["ds"] >= "2022-11-01"])
    assert sets.read_facts(settings, "mine") == before


def test_restated_values_count_and_are_listed(settings, prices):
    """The return after a corrected close changes, too, although its own close does not.

    A cell that is empty beside it keeps a price that may be of another basis.
    """
    frame = prices[["unique_id", "ds", "close"]]
    corrected = frame.copy()
    row = frame.index[(frame["unique_id"] == "KO") & (frame["ds"] == "2022-11-15")][0]
    corrected.loc[row, "close"] *= 1.01
    whole = compile_set(settings, corrected, "whole")
    compile_set(settings, frame[frame["ds"] < "2022-12-01"])
    end = corrected[corrected["ds"] >= "2022-11-14"]
    for kept in (end.drop(row + 1), end.assign(close=end["close"].drop(row - 1))):
        with pytest.raises(BadHistory, match=r"KO 2022-11-15: .* beside it is not given again"):
            append(settings, kept)
    found = append(settings, end)
    assert found["digest"] == whole["digest"]
    assert sets.read_facts(settings, "mine").parts == sets.read_facts(settings, "whole").parts
    [restated] = [each for each in found["findings"] if each["reason"].startswith("restated")]
    assert restated["rows"] == found["restated"] == 1
    assert restated["examples"][0].startswith("KO 2022-11-15 (close ")


def test_a_dry_run_changes_nothing_and_tells_the_digest(settings, prices):
    frame = prices[["unique_id", "ds", "close"]]
    whole = compile_set(settings, frame, "whole")
    compile_set(settings, frame[frame["ds"] < "2022-06-01"])
    before = sets.read_facts(settings, "mine")
    assert (
        append(settings, frame[frame["ds"] >= "2022-05-31"], dry_run=True)["digest"]
        == (whole["digest"])
    )
    assert sets.read_facts(settings, "mine") == before


def test_a_dividend_since_is_seen_where_a_session_is_given_again(settings, prices):
    """An adjusted close of before the dividend and one of after it make no return."""
    frame = prices[["unique_id", "ds", "close"]]
    compile_set(settings, frame[frame["ds"] < "2022-06-01"])
    later = frame[frame["ds"] >= "2022-05-31"].assign(close=lambda rows: rows["close"] * 0.995)
    with pytest.raises(BadHistory, match=r"AAPL 2022-05-31: the close is .*probably a dividend or"):
        append(settings, later)
    found = append(settings, frame[frame["ds"] >= "2022-06-01"])
    reasons = [each["reason"] for each in found["findings"]]
    assert any(reason.startswith("no session of the set is given again") for reason in reasons)


def test_what_does_not_fit_the_set_is_refused(settings, prices):
    frame = prices[["unique_id", "ds", "close"]]
    later = frame[frame["ds"] >= "2022-06-01"]
    with pytest.raises(NotFound, match="no data set 'mine'"):
        append(settings, later)
    compile_set(settings, frame[frame["ds"] < "2022-06-01"])
    with pytest.raises(BadHistory, match="mine has no NEW"):
        append(settings, later.replace({"unique_id": {"KO": "NEW"}}))
    with pytest.raises(BadHistory, match="give the same columns as when it was compiled"):
        append(settings, later.assign(adj_close=later["close"]), adjusted=None)
    halved = later["close"].where(later["ds"] < "2022-07-01", later["close"] / 2)
    split = np.where(later["ds"] == "2022-07-01", 2.0, 0.0)
    event = r"split or dividend \(AAPL 2022-07-01; 3 in all\).*compile mine anew with all"
    with pytest.raises(BadHistory, match=event):
        append(settings, later.assign(close=halved, split=split), adjusted=None)
    with pytest.raises(BadParameter, match="--calendar is 'XLON', that of mine is 'XNYS'"):
        append(settings, later, calendar="XLON")
    with pytest.raises(BadParameter, match="leave out --sectors"):
        append(settings, later, sectors="sectors.csv")
    assert Catalog(settings).find("mine").load(settings).history["ds"].max() < pd.Timestamp(
        "2022-06-01"
    )


def stored(settings: Settings, name: str = "mine") -> tuple[Any, ...]:
    """The files of a set."""
    facts = sets.read_facts(settings, name)
    return facts.parts, facts.base


def ragged(prices: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Closes of three symbols with gaps, KO from a later session, and XOM alone on two days."""
    rng = np.random.default_rng(seed)
    traded = prices[["unique_id", "ds", "close"]][rng.random(len(prices)) > 0.03]
    traded = traded[(traded["unique_id"] != "KO") | (traded["ds"] >= "2021-03-15")]
    sessions = set(traded.loc[traded["unique_id"] == "XOM", "ds"])
    alone = set(rng.choice(sorted(sessions), 2, replace=False))
    kept = traded["ds"].isin(sessions - alone) | (traded["unique_id"] == "XOM")
    return traded[kept & (traded["ds"] >= "2021-01-20")].reset_index(drop=True)


@pytest.mark.parametrize("seed", [0, 1])
def test_slices_in_any_order_make_the_set_compiled_at_once(settings, prices, seed):
    """Spans before, between and after the set's sessions, and sessions drawn at random."""
    frame = ragged(prices, seed)
    rng = np.random.default_rng(seed)
    compile_frame(frame, name="whole", settings=settings, adjusted=True, index="XOM", **DATES)
    middle = frame[frame["ds"].between("2021-04-15", "2022-04-15")]
    compile_frame(middle, name="mine", settings=settings, adjusted=True, index="XOM", **DATES)
    edges = pd.to_datetime(["2021-02-26", "2021-10-04", "2022-03-01"])
    spans = np.searchsorted(edges, frame["ds"])
    drawn = rng.integers(0, 4, frame["ds"].nunique())[
        frame["ds"].rank(method="dense").astype(int) - 1
    ]
    slices = (spans, drawn)[seed]
    for number in rng.permutation(4):
        append(settings, frame[slices == number])
    assert stored(settings) == stored(settings, "whole")


def test_a_symbol_that_comes_back_after_years_is_continued(settings):
    frame = simulated(["A", "B"], length=700)
    away = (frame["unique_id"] == "B") & frame["ds"].between("2019-07-01", "2021-08-31")
    frame = frame[~away]
    dates = {"fit_until": "2020-06-30", "choose_until": "2020-12-31"}
    compile_frame(frame, name="whole", settings=settings, adjusted=True, **dates)
    old = frame[frame["ds"] < "2021-09-01"]
    compile_frame(old, name="mine", settings=settings, adjusted=True, **dates)
    found = append(settings, frame[frame["ds"] >= "2021-09-01"])
    assert stored(settings) == stored(settings, "whole")
    assert found["symbols"]["B"]["missing"] == 548


def test_new_rows_are_judged_beside_the_old_ones(settings, prices):
    frame = prices[["unique_id", "ds", "close"]]
    compile_set(settings, frame[frame["ds"] >= "2021-02-01"])
    before = stored(settings)
    older = frame[frame["ds"] < "2021-02-01"].assign(close=lambda rows: rows["close"] * 10)
    with pytest.raises(BadHistory, match="AAPL 2021-02-01: the return is -2"):
        append(settings, older)
    with pytest.raises(BadHistory, match=r"AAPL 2021-02-01: .* looks like a split of 10 for 1"):
        append(settings, older, adjusted=None)
    assert stored(settings) == before


def test_gaps_and_equal_closes_across_the_border_are_found(settings, prices):
    frame = prices[["unique_id", "ds", "close"]].copy()
    same = frame["ds"].between("2022-06-01", "2022-06-08") & (frame["unique_id"] == "KO")
    frame.loc[same, "close"] = 50.0
    aapl = frame["ds"].between("2022-06-06", "2022-06-07") & (frame["unique_id"] == "AAPL")
    frame = frame[~aapl]
    compile_set(settings, frame[frame["ds"] < "2022-06-06"])
    report = report_path(settings, "mine").read_text()
    found = append(settings, frame[frame["ds"].between("2022-06-06", "2022-06-08")])
    findings = {each["reason"]: each["examples"] for each in found["findings"]}
    equal = ("KO 2022-06-02 (6 equal closes until 2022-06-08)",)
    assert findings["5 or more equal closes in a row"] == equal
    missing = ("AAPL 2022-06-08 (2 missing before it)",)
    assert findings["sessions that are missing within a symbol"] == missing
    assert list(found["symbols"]) == ["AAPL", "KO", "XOM"]
    assert found["symbols"]["KO"]["sessions"] == 3
    page = report_path(settings, "mine", APPEND).with_suffix(".txt").read_text().splitlines()
    assert page[0].startswith(
        "append to mine: 7 rows of 3 symbols, sessions 2022-06-06 to 2022-06-08;"
    )
    assert page[1] == "data set mine: closes of 3 symbols, sessions of XNYS"
    assert report_path(settings, "mine").read_text() == report


def test_the_first_session_is_no_exception(settings, prices):
    """It has no return, but its price is kept and compared."""
    frame = prices[["unique_id", "ds", "close"]]
    compile_set(settings, frame)
    first = frame[frame["ds"] == "2021-01-04"]
    before = stored(settings)
    append(settings, first)
    assert stored(settings) == before
    with pytest.raises(BadHistory, match=r"AAPL 2021-01-04: the close is .* of the set is"):
        append(settings, first.assign(close=first["close"] * 1.01))
    whole = frame.copy()
    whole.loc[first.index[1:2], "close"] *= 1.01
    again = append(settings, whole[whole["ds"] < "2021-01-08"])
    compile_set(settings, whole, "whole")
    assert (again["restated"], stored(settings)) == (1, stored(settings, "whole"))


def test_an_empty_column_of_dividends_says_that_there_were_none(settings, prices):
    frame = prices[["unique_id", "ds", "close"]].assign(dividend=0.0)
    frame.loc[100, "dividend"] = 0.5
    compile_frame(frame[frame["ds"] < "2022-06-01"], name="mine", settings=settings,
                  adjusted=False, **DATES)  # fmt: skip
    later = frame[frame["ds"] >= "2022-06-01"]
    append(settings, later.assign(dividend=np.nan), adjusted=False)
    compile_frame(frame, name="whole", settings=settings, adjusted=False, **DATES)
    assert stored(settings) == stored(settings, "whole")


def test_an_amount_is_given_in_all_rows_or_in_none(settings, prices):
    """Else an estimate takes the place of what the user gave."""
    frame = prices[["unique_id", "ds", "close"]].assign(volume=9.0)
    frame = frame.assign(open=frame["close"], high=frame["close"], low=frame["close"])
    given = frame.assign(amount=900.0)
    later = frame["ds"] >= "2022-12-27"
    compile_set(settings, given)
    with pytest.raises(BadHistory, match="without values of amount, mine was compiled with them"):
        append(settings, frame[later])
    [restated] = append(settings, given[later].assign(amount=901.0))["findings"]
    assert restated["examples"][0] == "AAPL 2022-12-27 (amount 900.0 -> 901.0)"
    compile_set(settings, frame)
    with pytest.raises(BadHistory, match="with values of amount, mine was compiled without them"):
        append(settings, given[later])


def test_what_an_append_lacks_is_said(settings, prices):
    frame = prices[["unique_id", "ds", "close"]].assign(adj_close=prices["close"])
    compile_frame(frame, name="mine", settings=settings, **DATES)
    later = frame[frame["ds"] >= "2022-12-27"]
    empty = later.assign(close=np.nan, adj_close=np.nan)
    with pytest.raises(BadHistory, match="needs close; missing or empty: close;"):
        append(settings, empty, adjusted=None)
    halves = later["ds"] > "2022-12-27"
    lacking = later.assign(
        close=later["close"].where(halves), adj_close=later["close"].mask(halves)
    )
    with pytest.raises(BadHistory, match="no new row is complete, with close, adj_close"):
        append(settings, lacking, adjusted=None)
    path = sets.folder(settings, "mine") / sets.FACTS
    facts = sets.read_facts(settings, "mine").to_json()
    path.write_bytes(sealed({**facts, "base": None}))
    with pytest.raises(BadParameter, match="mine was compiled by an older version; compile it"):
        append(settings, later, adjusted=None)


def test_another_sector_is_refused(settings, prices):
    frame = prices[["unique_id", "ds", "close", "sector"]]
    compile_set(settings, frame)
    other = frame[frame["ds"] > "2022-12-01"].assign(sector="Games")
    with pytest.raises(BadHistory, match=r"the sector of .* on 2021-01-05 and 'Games' on 2022-12"):
        append(settings, other)


def test_no_rows_of_two_appends_at_once_are_lost(settings, prices):
    """The set is held from before it is read."""
    frame = prices[["unique_id", "ds", "close"]]
    compile_set(settings, frame[frame["ds"] < "2022-06-01"])
    later = frame[frame["ds"] >= "2022-06-01"]

    def other(_: str) -> None:
        with pytest.raises(Conflict, match="mine is being written by another process"):
            append(settings, later)
        with pytest.raises(Conflict, match="mine is being written by another process"):
            compile_set(settings, frame)

    append_own(settings, Source(FRAME, frame=later), Options("mine", adjusted=True), say=other)
    compile_set(settings, frame, "whole")
    assert stored(settings) == stored(settings, "whole")
