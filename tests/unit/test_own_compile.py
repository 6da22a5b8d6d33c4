"""A user's prices are compiled into a data set; the report says all that was found."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.testing as npt
import pandas as pd
import pytest

from jobs.data import export, overview, sets
from jobs.data.catalog import PANEL, Catalog
from jobs.data.own.compile import compile_frame, compile_own
from jobs.data.own.options import Options, yes_or_no
from jobs.data.own.report import DRY, report_path
from jobs.data.sources.source import Source
from registry.errors import BadHistory, BadParameter, Corrupt, NotFound
from registry.settings import Settings

STOCKS = ["AAPL", "KO", "XOM"]
FROM = "2021-01-01"


@pytest.fixture(scope="module")
def closes(compiled: Settings) -> pd.DataFrame:
    """Closes that have the real returns of three stocks from 2021 on, 100 at the beginning."""
    history = PANEL.load(compiled).history
    chosen = history["unique_id"].isin(STOCKS) & (history["ds"] >= FROM)
    frame = history[chosen].reset_index(drop=True)
    close = 100 * np.exp(frame.groupby("unique_id")["y"].cumsum())
    return pd.DataFrame({"Ticker": frame["unique_id"], "Date": frame["ds"], "Close": close})


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(_env_file=None, var_dir=tmp_path / "var")


def compiled_csv(
    settings: Settings, frame: pd.DataFrame, name: str = "mine", **options: Any
) -> dict[str, Any]:
    path = settings.var_dir.parent / "prices.csv"
    frame.to_csv(path, index=False)
    dry_run = options.pop("dry_run", False)
    source = Source("csv", str(path))
    return compile_own(settings, source, Options(name, adjusted=True, **options), dry_run=dry_run)


def test_a_csv_file_becomes_a_data_set_with_the_returns_of_its_closes(settings, compiled, closes):
    found = compiled_csv(settings, closes, currency="USD")
    dataset = Catalog(settings).find("mine")
    data = dataset.load(settings)
    panel = PANEL.load(compiled).history
    expected = panel[panel["unique_id"].isin(STOCKS) & (panel["ds"] > "2021-01-04")]
    npt.assert_allclose(data.history["y"], expected["y"], rtol=0, atol=1e-12)
    assert data.history["ds"].tolist() == expected["ds"].tolist()
    market = expected.groupby("ds")["y"].agg(lambda y: y.abs().mean())
    of_aapl = data.history[data.history["unique_id"] == "AAPL"]
    npt.assert_allclose(of_aapl["market_abs_return"], market, rtol=1e-12)
    assert (found["kind"], found["currency"], found["digest"]) == ("closes", "USD", data.digest)
    assert found["read"]["columns"] == {"symbol": "Ticker", "ds": "Date", "close": "Close"}
    assert found["splits"] == {
        "fit_until": dataset.splits.fit_until, "choose_until": dataset.splits.choose_until
    }  # fmt: skip


def test_the_report_is_written_as_json_and_as_a_page(settings, closes):
    frame = closes.assign(open_interest=0)
    found = compiled_csv(settings, frame)
    path = report_path(settings, "mine")
    assert json.loads(path.read_text()) == json.loads(json.dumps(found))
    assert found["page"] == str(path.with_suffix(".txt"))
    page = path.with_suffix(".txt").read_text().splitlines()
    assert page[0] == "data set mine: closes of 3 symbols, sessions of XNYS"
    assert "  ignored: open_interest" in page
    assert "  no return; the price is kept: the first session of a symbol has no return: 3" in page
    assert page[-3].split() == ["AAPL", "2021-01-05", "2022-12-28", "500", "0", "0"]


def test_the_page_says_which_cells_are_empty_and_which_file_may_be_cut(settings, closes, tmp_path):
    path = tmp_path / "prices.csv"
    text = closes.assign(Close=closes["Close"].where(closes.index != 7)).to_csv(index=False)
    path.write_text(text.rstrip("\n"))
    compile_own(settings, Source("csv", str(path)), Options("mine", adjusted=True))
    page = report_path(settings, "mine").with_suffix(".txt").read_text()
    assert "  close      from Close, guessed, 1 empty cells\n" in page
    reason = "the last line of a file has no line end: the file may be cut: 1"
    assert f"  kept, look at it: {reason}\n    {path}\n" in page
    wide = closes.pivot(index="Date", columns="Ticker", values="Close").reset_index()
    wide.loc[3, "KO"] = np.nan
    compiled_csv(settings, wide)
    page = report_path(settings, "mine").with_suffix(".txt").read_text()
    assert "  close      from the cells, 1 empty cells\n" in page


def test_the_same_prices_give_the_same_files_from_a_file_and_from_python(settings, closes):
    first = compiled_csv(settings, closes)
    facts = sets.read_facts(settings, "mine")
    shuffled = closes.sample(frac=1, random_state=1)
    again = compile_frame(shuffled, name="mine", settings=settings, adjusted=True)
    assert again["digest"] == first["digest"]
    assert sets.read_facts(settings, "mine").parts == facts.parts


def test_it_is_said_what_a_calendar_is_and_which_set_is_replaced(settings, closes):
    compiled_csv(settings, closes, calendar="NYSE")
    old = sets.read_facts(settings, "mine")
    assert old.calendar == "XNYS"
    said: list[str] = []
    source = Source("csv", str(settings.var_dir.parent / "prices.csv"))
    compile_own(settings, source, Options("mine", calendar="NYSE"), dry_run=True, say=said.append)
    stated = "prices: as given; not stated whether adjusted (--adjusted yes|no)"
    assert said[0] == "NYSE is XNYS"
    assert said[2:] == [stated]
    compile_own(settings, source, Options("mine", "closes", "24/7", adjusted=True), say=said.append)
    assert said[-1] == f"replaces mine (closes, XNYS, 1500 rows, digest {old.digest[:12]})"


def test_a_dry_run_writes_the_report_only(settings, closes):
    found = compiled_csv(settings, closes, dry_run=True)
    assert found["dry_run"]
    page = report_path(settings, "mine", DRY).with_suffix(".txt").read_text()
    assert page.startswith("dry run: nothing was written\ndata set mine: closes of 3 symbols")
    assert Catalog(settings).names == Catalog().names
    assert not report_path(settings, "mine").exists()
    written = compiled_csv(settings, closes)
    assert written["digest"] == found["digest"]


def test_an_exported_set_is_the_same_set_when_it_is_compiled(settings, closes, tmp_path):
    found = compiled_csv(settings, closes)
    path = tmp_path / "again.csv"
    assert export.export(settings, "mine", path)["rows"] == found["rows"] + 3
    again = compile_own(settings, Source("csv", str(path)), Options("again", adjusted=True))
    assert again["digest"] == found["digest"]
    parts = [sets.read_facts(settings, name).parts for name in ("again", "mine")]
    assert parts[0] == parts[1]


def test_a_compile_that_fails_keeps_the_old_set_and_its_report(settings, closes):
    found = compiled_csv(settings, closes)
    broken = closes.assign(Close=closes["Close"].where(closes.index != 7, -1.0))
    with pytest.raises(BadHistory):
        compiled_csv(settings, broken)
    assert Catalog(settings).find("mine").load(settings).digest == found["digest"]
    assert json.loads(report_path(settings, "mine").read_text())["digest"] == found["digest"]
    assert [path.name for path in settings.state_dir.iterdir()] == []


@pytest.mark.parametrize("name", ["panel", "compile", "My Stocks"])
def test_a_name_that_is_taken_or_none_is_refused_before_anything_is_read(settings, name):
    with pytest.raises(BadParameter):
        compile_own(settings, Source("csv", "nowhere.csv"), Options(name))


def test_sectors_come_from_a_second_file(settings, closes, tmp_path):
    path = tmp_path / "sectors.csv"
    path.write_text("Symbol,GICS Sector\nAAPL,IT\nKO,Staples\nXOM,Energy\nIBM,IT\n")
    compiled_csv(settings, closes, sectors=str(path))
    history = Catalog(settings).find("mine").load(settings).history
    sectors = history.groupby("unique_id")["sector"].unique().explode()
    assert sectors.to_dict() == {"AAPL": "IT", "KO": "Staples", "XOM": "Energy"}
    path.write_text("symbol,sector\nAAPL,IT\nAAPL,Energy\n")
    with pytest.raises(BadHistory, match="AAPL has two rows, expected one a symbol"):
        compiled_csv(settings, closes, sectors=str(path))
    path.write_text("symbol,branch\nAAPL,IT\n")
    with pytest.raises(BadHistory, match="expected the columns symbol and sector"):
        compiled_csv(settings, closes, sectors=str(path))
    with pytest.raises(NotFound, match="--sectors is a file"):
        compiled_csv(settings, closes, sectors="x.csv")
    with pytest.raises(BadParameter, match="is a folder; --sectors is a file"):
        compiled_csv(settings, closes, sectors=str(tmp_path))
    with pytest.raises(BadParameter, match="have a sector column; leave out --sectors"):
        compiled_csv(settings, closes.assign(sector="IT"), sectors=str(path))


def test_the_built_in_panel_written_out_and_compiled_back_has_the_same_returns(settings, compiled):
    path = settings.var_dir.parent / "panel.csv"
    facts = export.export(compiled, "panel", path)
    assert facts["columns"] == ["symbol", "date", "y", "sector"]
    compile_own(settings, Source("csv", str(path)), Options("back"))
    panel, back = (
        PANEL.load(compiled).history,
        Catalog(settings).find("back").load(settings).history,
    )
    shared = ["unique_id", "ds", "y", "sector"]
    pd.testing.assert_frame_equal(back[shared], panel[shared], check_dtype=False)
    npt.assert_allclose(back["market_abs_return"], panel["market_abs_return"], rtol=1e-12)


def test_bars_written_out_and_compiled_back_are_the_same(settings, compiled):
    path = settings.var_dir.parent / "bars.parquet"
    export.export(compiled, "bars", path, ["IBM", "MSFT"])
    compile_own(settings, Source("parquet", str(path)), Options("back", adjusted=True))
    back = Catalog(settings).find("back").load(settings).history
    bars = Catalog().find("bars").load(compiled).history
    bars = bars[bars["unique_id"].isin(["IBM", "MSFT"])]
    bars = bars[bars["ds"] > "2000-03-02"].reset_index(drop=True)  # the first has no return now
    for column in ("y", "open", "high", "low", "close", "volume", "amount"):
        npt.assert_allclose(back[column], bars[column], rtol=1e-12, atol=1e-12, err_msg=column)


def test_only_known_symbols_and_kinds_of_files_are_exported(compiled, tmp_path):
    with pytest.raises(NotFound, match=r"panel has no symbol 'APPL'; did you mean AAPL"):
        export.export(compiled, "panel", tmp_path / "a.csv", ["APPL"])
    with pytest.raises(BadParameter, match=r"ends in \.xlsx, expected \.csv or \.parquet"):
        export.export(compiled, "panel", tmp_path / "a.xlsx")
    with pytest.raises(NotFound, match="no data set 'ticks'"):
        export.export(compiled, "ticks", tmp_path / "a.csv")


def test_data_sets_are_listed_shown_and_removed(settings, closes, compiled):
    found = compiled_csv(settings, closes)
    rows = {row["data"]: row for row in overview.all_sets(settings)}
    assert list(rows) == ["panel", "bars", "mine"]
    assert rows["panel"]["state"].startswith("not compiled: `python -m jobs compile")
    assert rows["mine"]["rows"] == found["rows"]
    assert overview.all_sets(compiled)[0] == {
        "data": "panel", "kind": "built-in", "symbols": 20, "calendar": "XNYS",
        "first": "2010-01-04", "last": "2022-12-28", "rows": 65400,
        "digest": PANEL.load(compiled).digest, "state": "compiled",
    }  # fmt: skip
    shown = overview.one_set(settings, "mine")
    assert shown["symbols"] == STOCKS
    assert shown["columns"][:4] == ["unique_id", "ds", "y", "close"]
    base = sets.find(settings, "mine").facts.base.file
    path = sets.folder(settings, "mine") / base
    path.write_bytes(path.read_bytes()[:-1])
    damaged = re.compile(f"damaged: .*{base} is missing or not the file")
    assert damaged.match(overview.one_set(settings, "mine")["state"])
    with pytest.raises(Corrupt, match=base):
        sets.find(settings, "mine").load(settings)
    path.unlink()
    assert damaged.match(overview.all_sets(settings)[2]["state"])
    (sets.folder(settings, "mine") / sets.FACTS).write_text("{}")
    assert overview.all_sets(settings)[2]["state"].startswith("damaged: ")
    assert overview.remove(settings, "mine") == {"removed": "mine"}
    assert not report_path(settings, "mine").exists()
    with pytest.raises(BadParameter, match="panel is built in and cannot be removed"):
        overview.remove(settings, "panel")


def test_yes_and_no_are_the_only_answers():
    assert [yes_or_no(text, "--adjusted") for text in ("", "yes", "no")] == [None, True, False]
    with pytest.raises(BadParameter, match="--adjusted is 'maybe', expected yes or no"):
        yes_or_no("maybe", "--adjusted")
