"""The compiled built-in data: values, refusals, and the files after a full disk or a kill."""

import hashlib
import json
import math
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.testing as npt
import pandas as pd
import pytest

from jobs.data import catalog, market, processed, products, validate
from jobs.data.compile import (
    _summary_of_files,
    build,
    check_sources,
    compile_builtin,
    identify,
)
from jobs.data.digest import data_digest
from jobs.data.qa import describe_source
from jobs.data.sources import builtin
from registry.compiled import CHECKSUMS, COMMAND
from registry.compiled import write as write_with_checksums
from registry.errors import BadHistory, Corrupt, NotFound
from registry.forecast import calendars, names
from registry.settings import Settings

ROOT = Path(__file__).resolve().parents[2]

# `python -m jobs compile --source builtin` remakes them; a change means other source prices.
PANEL_DIGEST = "16acbe98b66224c552b0c49bb2f6f970e04dcac6ce6d5739991092b5c3e475ab"
BARS_DIGEST = "abd9a18fe8b5ec854f682eca28b8e2c83da3ee3cb97b1fb01a2cd875a9adb92b"


@pytest.fixture(scope="module")
def prices():
    return builtin.read_all()


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    settings = Settings(var_dir=tmp_path_factory.mktemp("var"))
    compile_builtin(settings)
    return settings


@pytest.fixture(scope="module")
def summary(settings):
    return json.loads((settings.logs_dir / "qa_compile.json").read_text())


@pytest.fixture(scope="module")
def panel(settings):
    return catalog.PANEL.load(settings).history


@pytest.fixture(scope="module")
def bars(settings):
    return catalog.BARS.load(settings).history


def contents(settings: Settings) -> dict[str, bytes]:
    """Every file below var/, temporaries included."""
    paths = sorted(path for path in settings.var_dir.rglob("*") if path.is_file())
    return {str(path): path.read_bytes() for path in paths}


def row(frame: pd.DataFrame, name: str, day: str) -> pd.Series:
    rows = frame[(frame[names.UNIQUE_ID] == name) & (frame[names.DS] == day)]
    assert len(rows) == 1
    return rows.iloc[0]


# --- the panel ----------------------------------------------------------------------------------


def test_the_panel_holds_twenty_stocks_on_every_session_from_2010(panel):
    assert list(panel.columns) == [
        "unique_id",
        "ds",
        "y",
        "market_abs_return",
        "index_return",
        "sector",
        "news_count",
        "tweet_count",
    ]
    assert panel["unique_id"].unique().tolist() == sorted(builtin.SECTORS)
    sessions = calendars.sessions("XNYS", "2010-01-04", "2022-12-28")
    for _, series in panel.groupby("unique_id"):
        npt.assert_array_equal(series["ds"].to_numpy(), sessions.to_numpy())


def test_the_first_and_last_returns_are_those_of_the_quoted_prices(panel):
    # skfolio quotes AAPL at 6.397 on 2009-12-31 and 6.496 on 2010-01-04,
    # and XOM at 108.408 and 106.627 at the end.
    npt.assert_allclose(row(panel, "AAPL", "2010-01-04")["y"], math.log(6.496 / 6.397), rtol=1e-14)
    npt.assert_allclose(
        row(panel, "XOM", "2022-12-28")["y"], math.log(106.627 / 108.408), rtol=1e-14
    )


def test_the_index_return_is_the_log_return_of_the_sp500(panel):
    # 1115.10 on 2009-12-31, 1132.99 on 2010-01-04; the same for every stock of that session.
    npt.assert_allclose(
        panel.loc[panel["ds"] == "2010-01-04", "index_return"],
        np.full(20, math.log(1132.99 / 1115.10)),
    )


def test_market_abs_return_is_the_mean_over_the_twenty_stocks(panel):
    by_session: dict[pd.Timestamp, list[float]] = {}
    for ds, y in zip(panel["ds"], panel["y"], strict=True):
        by_session.setdefault(ds, []).append(abs(y))
    expected = [sum(by_session[ds]) / 20 for ds in panel["ds"]]
    npt.assert_allclose(panel["market_abs_return"], expected, rtol=1e-13)


def test_the_market_says_over_which_universe_it_was_taken(settings):
    market = pd.read_parquet(settings.processed_dir / "market_daily.parquet")
    assert market["universe"].unique().tolist() == ["sp500-20"]
    universe = catalog.PANEL.load(settings).dataset.universe
    assert universe.symbols == tuple(sorted(builtin.SECTORS))
    assert (
        universe.digest == hashlib.sha256("\n".join(sorted(builtin.SECTORS)).encode()).hexdigest()
    )


def test_a_session_without_one_of_the_stocks_has_no_market_return(prices):
    returns = products.log_returns(prices[builtin.STOCK_INDEX])
    universe = market.sp500_universe(["SP500", "MISSING"])
    with pytest.raises(
        BadHistory, match=r"8312 sessions lack a symbol of sp500-2 or the index, first 1990-01-03"
    ):
        market.market_daily(returns, returns, universe)


def test_every_stock_of_the_panel_has_one_sector(panel):
    assert (panel.groupby("unique_id")["sector"].nunique() == 1).all()
    assert panel["sector"].nunique() == 7
    assert set(panel.loc[panel["unique_id"] == "KO", "sector"]) == {"Consumer Staples"}


# --- bars ---------------------------------------------------------------------------------------


def test_y_follows_from_the_adjusted_closes(bars):
    for _, series in bars.groupby("unique_id"):
        npt.assert_array_equal(
            series["y"].iloc[1:], np.log(series["close"] / series["close"].shift()).iloc[1:]
        )


def test_a_split_moves_neither_return_nor_volume(bars):
    # AAPL, two for one on 2005-02-28. Quoted: close 88.99 then 44.86, volume 16348400 then
    # 11635900; adjusted close 5.718228 then 5.765135 (six decimals).
    before, after = row(bars, "AAPL", "2005-02-25"), row(bars, "AAPL", "2005-02-28")
    npt.assert_allclose(after["y"], math.log(5.765135 / 5.718228), atol=2e-7)
    npt.assert_allclose([before["volume"], after["volume"]], [2 * 16348400, 11635900])
    npt.assert_allclose([before["close_unadjusted"], after["close_unadjusted"]], [88.99, 44.86])


def test_prices_of_a_bar_share_one_factor_and_amount_is_mean_price_times_volume(bars):
    # AAPL on 2000-03-02: open 127, high 127.94, low 120.69, close 122, adjusted close 3.919675;
    # two splits follow.
    bar = row(bars, "AAPL", "2000-03-02")
    quoted = np.array([127.0, 127.94, 120.69, 122.0])
    npt.assert_allclose(bar[list(builtin.OHLC)].astype(float), quoted * 3.919675 / 122.0, rtol=1e-6)
    npt.assert_allclose(bar["volume"], 2779100 * 4)
    npt.assert_allclose(bar["amount"], quoted.mean() * 3.919675 / 122.0 * 2779100 * 4, rtol=1e-6)


def test_the_split_table_names_every_large_step_of_the_adjustment_and_no_other(prices):
    raw = prices[builtin.STOCK_BARS]
    factor = raw["adj_close"] / raw["close"]
    step = factor / factor.groupby(raw["unique_id"]).shift()
    # The largest dividend, MSFT's 3 dollars of 2004, is a step of 1.11.
    large = raw[step > 1.2].assign(step=step)
    splits = {}
    for name, ds, ratio in large[["unique_id", "ds", "step"]].to_numpy():
        splits[name, f"{ds:%Y-%m-%d}"] = ratio
    assert splits == pytest.approx(builtin.SPLITS, rel=1e-6)


def test_an_index_is_left_as_it_was_quoted(bars, prices):
    raw = prices[builtin.INDEX_BARS].set_index(["unique_id", "ds"])
    index = bars[bars["unique_id"].isin(["NASDAQ", "SP500"])].set_index(["unique_id", "ds"])
    columns = [*builtin.OHLC, "volume"]
    pd.testing.assert_frame_equal(index[columns], raw.loc[index.index, columns])


def test_the_market_of_the_bars_is_both_indices_and_its_return_that_of_the_sp500(bars):
    assert list(bars.columns)[-2:] == ["market_abs_return", "index_return"]
    for day in ("2000-03-02", "2012-05-21", "2018-12-31"):
        nasdaq, sp500 = row(bars, "NASDAQ", day), row(bars, "SP500", day)
        of_day = bars[bars["ds"] == day]
        npt.assert_allclose(
            of_day["market_abs_return"], (abs(nasdaq["y"]) + abs(sp500["y"])) / 2, rtol=1e-15
        )
        npt.assert_array_equal(of_day["index_return"], sp500["y"])
    assert bars.notna().all().all()


def test_a_session_that_is_no_session_of_the_indices_is_refused(bars):
    indices = bars[bars["unique_id"].isin(catalog.BARS.universe.symbols)]
    daily = market.market_daily(
        indices, indices[indices["unique_id"] == "SP500"], catalog.BARS.universe
    )
    assert market.with_market(bars[["unique_id", "ds", "y"]], daily)["index_return"].notna().all()
    with pytest.raises(BadHistory) as caught:
        market.with_market(bars[["unique_id", "ds", "y"]], daily[daily["ds"] != "2012-05-21"])
    assert caught.value.code == "BAD_SOURCE"
    assert caught.value.message == (
        "the market (us-index-2) lacks 7 sessions, first AAPL 2012-05-21; "
        "every series needs the market columns"
    )


def test_a_data_set_says_where_it_is_from_and_over_which_universe(settings, panel, bars):
    data_sets = {name: catalog.Catalog().find(name).load(settings) for name in ("panel", "bars")}
    pd.testing.assert_frame_equal(data_sets["panel"].history, panel)
    pd.testing.assert_frame_equal(data_sets["bars"].history, bars)
    assert [data.digest for data in data_sets.values()] == [PANEL_DIGEST, BARS_DIGEST]
    assert [data.dataset.universe.name for data in data_sets.values()] == ["sp500-20", "us-index-2"]
    digest = hashlib.sha256(b"NASDAQ\nSP500").hexdigest()
    assert data_sets["bars"].dataset.universe.tag == f"us-index-2@{digest[:12]}"


# --- digest and summary -------------------------------------------------------------------------


def test_digests_are_the_same_on_every_machine(prices, settings):
    assert identify(prices)["digests"] == {"panel": PANEL_DIGEST, "bars": BARS_DIGEST}
    for dataset, digest in ((catalog.PANEL, PANEL_DIGEST), (catalog.BARS, BARS_DIGEST)):
        for file in dataset.files:
            assert processed.read(settings, file)[1]["digest"] == digest


def test_a_digest_is_the_sha256_of_names_iso_days_and_little_endian_prices():
    frame = pd.DataFrame(
        {
            "unique_id": ["A", "B"],
            "ds": pd.to_datetime(["2020-01-02", "2020-01-03"]),
            "close": [1.5, -2.0],
        }
    )
    content = (
        b"unique_id 2 3\nA\nB"
        + b"ds 2 21\n2020-01-02\n2020-01-03"
        + b"close 2 16\n"
        + struct.pack("<dd", 1.5, -2.0)
    )
    assert data_digest(frame) == hashlib.sha256(content).hexdigest()
    assert data_digest(frame.astype({"close": ">f8", "ds": "datetime64[ns]"})) == data_digest(frame)


def test_one_price_in_the_last_bit_changes_the_digest(prices):
    index = prices[builtin.STOCK_INDEX]
    moved = index.copy()
    moved.loc[4321, "close"] = np.nextafter(moved.loc[4321, "close"], np.inf)
    assert data_digest(moved) != data_digest(index)


def test_the_summary_accounts_for_every_source_row(summary):
    for name, source in summary["sources"].items():
        assert source["rows_in"] == source["rows_out"] + sum(source["dropped"].values()), name
    stocks = summary["sources"][builtin.STOCKS]
    assert (stocks["rows_in"], stocks["rows_out"]) == (8313 * 20, 3270 * 20)
    assert stocks["series"]["AAPL"] == {
        "first": "2010-01-04",
        "last": "2022-12-28",
        "sessions": 3270,
    }
    assert stocks["max_abs_return"] == {"value": 0.420617, "unique_id": "AMD", "ds": "2016-04-22"}
    assert stocks["zero_return_share"] == 0.008502


def test_the_summary_reports_gaps_and_sessions_without_volume(summary, prices):
    missing = [source["missing_sessions"] for source in summary["sources"].values()]
    assert missing == [[], [], [], []]
    zero_volume = summary["sources"][builtin.INDEX_BARS]["zero_volume"]
    assert zero_volume == ["NASDAQ 2015-05-12", "NASDAQ 2018-01-09"]
    source = prices[builtin.STOCK_INDEX]
    gappy = products.log_returns(source).drop(index=[10, 11])
    missing = describe_source(source, gappy, "XNYS")["missing_sessions"]
    assert missing == ["SP500 1990-01-17", "SP500 1990-01-18"]


# --- refusals -----------------------------------------------------------------------------------


def edited(prices, source: str, rows, column: str, value) -> dict[str, pd.DataFrame]:
    frame = prices[source].copy()
    frame.loc[rows, column] = value
    return {**prices, source: frame}


def test_the_real_sources_pass(prices):
    check_sources(prices)


# Row 5 of the index closes is SP500 1990-01-09, of the index bars NASDAQ 1999-01-11.
CLOSE, BAR = builtin.STOCK_INDEX, builtin.INDEX_BARS


@pytest.mark.parametrize(
    ("source", "column", "value", "message"),
    [
        (
            CLOSE,
            "close",
            np.nan,
            r"close: found nan in 1 of 8313 rows, first SP500 1990-01-09; "
            "expected no missing value",
        ),
        (
            CLOSE,
            "close",
            np.inf,
            r"close: found inf in 1 of 8313 rows, .*; expected a finite number",
        ),
        (CLOSE, "close", 0.0, r"close: found 0.0 in 1 of 8313 rows, .*; expected a price above 0"),
        (
            CLOSE,
            "ds",
            pd.Timestamp("1990-01-07"),
            r"ds: found 1990-01-07 .*; expected a session of XNYS",
        ),
        (
            CLOSE,
            "ds",
            pd.Timestamp("1990-01-09 16:00"),
            r"ds: found .* 16:00.*; expected a session of XNYS",
        ),
        (
            CLOSE,
            "ds",
            pd.Timestamp("1990-01-08"),
            r"first SP500 1990-01-08; expected each \(unique_id, ds\) once",
        ),
        (CLOSE, "ds", pd.Timestamp("1990-01-12"), r"expected each \(unique_id, ds\) once"),
        (CLOSE, "unique_id", "", r"unique_id: found .*expected a name"),
        (
            BAR,
            "high",
            1.0,
            r"1 of 10062 rows, first NASDAQ 1999-01-11; expected low <= open, close <= high",
        ),
        (BAR, "low", 1e9, r"expected low <= open, close <= high"),
        (BAR, "volume", -1.0, r"volume: found -1.0 in 1 of 10062 rows, .*; expected at least 0"),
    ],
)
def test_a_wrong_value_in_a_source_is_refused_in_one_clear_line(
    prices, source, column, value, message
):
    with pytest.raises(BadHistory, match=message) as caught:
        check_sources(edited(prices, source, 5, column, value))
    assert caught.value.code == "BAD_SOURCE"
    assert str(caught.value).startswith(f"{source}: ")
    assert "\n" not in str(caught.value)


def test_unsorted_prices_are_refused(prices):
    backwards = prices[builtin.STOCK_INDEX].iloc[::-1].reset_index(drop=True)
    with pytest.raises(
        BadHistory, match=r"broken in 8312 of 8313 rows, .*; expected rows sorted by unique_id, ds"
    ):
        check_sources({**prices, builtin.STOCK_INDEX: backwards})


def test_a_missing_column_is_refused(prices):
    with pytest.raises(
        BadHistory,
        match=r"found columns \['unique_id', 'ds'\], expected \['unique_id', 'ds', 'close'\]",
    ):
        check_sources(
            {**prices, builtin.STOCK_INDEX: prices[builtin.STOCK_INDEX].drop(columns="close")}
        )


def test_a_return_that_is_a_split_is_refused(prices):
    rows = prices[builtin.STOCKS]["unique_id"] == "AMD"
    rows &= prices[builtin.STOCKS]["ds"] >= "2015-06-01"
    tenfold = prices[builtin.STOCKS]["close"].where(~rows, prices[builtin.STOCKS]["close"] * 10)
    with pytest.raises(
        BadHistory,
        match=r"nbeats_global_daily.parquet: y: found 2\.2.* first AMD 2015-06-01; expected -1..1",
    ):
        build({**prices, builtin.STOCKS: prices[builtin.STOCKS].assign(close=tenfold)})


def test_an_empty_product_is_refused(panel):
    with pytest.raises(BadHistory, match=r"panel: found no rows"):
        validate.check(panel[["unique_id", "ds", "y"]].iloc[:0], validate.returns("XNYS"), "panel")


# --- reading ------------------------------------------------------------------------------------


def test_reading_before_compiling_says_what_to_run(tmp_path):
    with pytest.raises(
        NotFound,
        match=r"no .*nbeats_global_daily.parquet; .*`python -m jobs compile --source builtin`",
    ):
        catalog.PANEL.load(Settings(var_dir=tmp_path))


def replace_file(settings: Settings, file: str, **changes: Any) -> None:
    """Exchange a file for one with other metadata, which has a checksum of its own."""
    frame, metadata = processed.read(settings, file)
    paths = [*settings.processed_dir.glob("*.parquet"), settings.logs_dir / processed.QA]
    contents = {path: path.read_bytes() for path in paths}
    contents[settings.processed_dir / file] = processed.encode(frame, metadata | changes)
    write_with_checksums(settings, contents)


@pytest.fixture(scope="module")
def identity(prices) -> dict[str, Any]:
    """What compiled files must stem from, or they are compiled again."""
    return identify(prices)


@pytest.fixture
def copied(settings: Settings, tmp_path: Path) -> Settings:
    """Compiled data that a test may damage."""
    shutil.copytree(settings.var_dir, tmp_path / "var")
    return Settings(var_dir=tmp_path / "var")


def test_files_of_different_compiles_are_not_read_together(copied, identity):
    replace_file(copied, processed.RETURNS, digest="0" * 64)
    message = rf"market_daily\.parquet was compiled by .*, or from .*{processed.RETURNS}; run"
    with pytest.raises(Corrupt, match=message):
        catalog.PANEL.load(copied)
    assert _summary_of_files(copied, identity) is None


def test_files_of_an_older_compile_version_are_refused_and_compiled_again(copied, identity):
    replace_file(copied, processed.AUX, compile_version=1)
    with pytest.raises(
        Corrupt, match=r"aux_features_daily.parquet has compile version 1, expected 3; run"
    ):
        catalog.PANEL.load(copied)
    assert _summary_of_files(copied, identity) is None


def test_200_flipped_bits_are_200_times_corrupt_and_never_skipped(copied, identity):
    """At random places of the files that data sets are read from, the checksums included."""
    draw = random.Random(20261126)
    datasets = {file: [dataset] for dataset in catalog.DATASETS for file in dataset.files}
    datasets[CHECKSUMS] = list(catalog.DATASETS)
    before = contents(copied)
    for _ in range(200):
        path = copied.processed_dir / draw.choice(list(datasets))
        with flipped(path, draw.randrange(8 * path.stat().st_size)):
            for dataset in datasets[path.name]:
                message = corrupt_message(copied, dataset)
                assert path.name in message
                assert COMMAND in message
            assert _summary_of_files(copied, identity) is None
    assert contents(copied) == before
    assert compile_builtin(copied)["skipped"] is True


@contextmanager
def flipped(path: Path, bit: int) -> Iterator[None]:
    """The file with one bit changed, for the time being."""
    content = path.read_bytes()
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    path.write_bytes(changed)
    yield
    path.write_bytes(content)


def corrupt_message(settings: Settings, dataset: catalog.Builtin) -> str:
    """What the refusal of a data set says; empty if it is loaded."""
    try:
        dataset.load(settings)
    except Corrupt as error:
        return error.message
    return ""


def test_the_command_that_a_refusal_names_mends_a_flipped_bit(copied, identity):
    """One bit in any of these files is found, and one command mends them all."""
    before = contents(copied)
    paths = [copied.processed_dir / processed.AUX, copied.processed_dir / CHECKSUMS]
    paths.append(copied.logs_dir / processed.QA)
    for path in paths:
        with flipped(path, 2400):
            assert _summary_of_files(copied, identity) is None
    with ExitStack() as stack:
        for path in paths:
            stack.enter_context(flipped(path, 2400))
        damaged = contents(copied)
        assert all(damaged[str(path)] != before[str(path)] for path in paths)
        assert compile_builtin(copied)["skipped"] is False
        assert contents(copied) == before
        assert compile_builtin(copied)["skipped"] is True


def test_data_without_checksums_are_refused_and_compiled_again(copied, identity):
    (copied.processed_dir / CHECKSUMS).unlink()
    with pytest.raises(Corrupt, match=r"no .*checksums.json: the files beside it"):
        catalog.BARS.load(copied)
    assert _summary_of_files(copied, identity) is None


def test_a_cut_file_is_corrupt_and_compiled_again(copied, identity):
    path = copied.processed_dir / processed.BARS
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(Corrupt, match=r"bars.parquet"):
        catalog.BARS.load(copied)
    assert _summary_of_files(copied, identity) is None


# --- writing ------------------------------------------------------------------------------------


def test_a_second_compile_skips_and_says_so(settings, summary):
    before = {path: path.stat().st_mtime_ns for path in settings.var_dir.rglob("*")}
    reports: list[tuple[str, float]] = []
    again = compile_builtin(settings, progress=lambda *step: reports.append(step))
    assert again == {**summary, "skipped": True}
    assert reports[-1] == ("nothing to do: the files stem from these prices", 1.0)
    assert {path: path.stat().st_mtime_ns for path in settings.var_dir.rglob("*")} == before


def test_a_full_disk_leaves_the_old_files_and_no_temporary(settings):
    before = contents(settings)
    script = """
import resource, sys
from pathlib import Path
from jobs.data.compile import compile_builtin
from registry.errors import KronosError
from registry.settings import Settings
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    compile_builtin(Settings(var_dir=Path(sys.argv[1])), force=True)
except KronosError as error:
    print(error.code, error.message)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, settings.var_dir],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    path = settings.processed_dir / processed.RETURNS
    message = f"no space left for {path}; every file is whole, as it was before or new"
    assert done.stdout == f"NO_SPACE {message}\n"
    assert contents(settings) == before


def test_a_compile_killed_while_it_writes_leaves_readable_files(tmp_path, panel, bars):
    settings = Settings(var_dir=tmp_path)
    script = """
import os, sys
from pathlib import Path
from jobs.data.sources import builtin
from jobs.data.compile import build, identify, summarise, write
from registry.settings import Settings
prices = builtin.read_all()
frames = build(prices)
summary = {**identify(prices), **summarise(prices, frames)}
for _ in sys.stdin:  # a line asks for a writer
    writer = os.fork()
    while not writer:
        write(Settings(var_dir=Path(sys.argv[1])), frames, summary)
        print(os.getpid(), flush=True)
    os.waitpid(writer, 0)
    print("ended", flush=True)
"""
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writers:
        assert writers.stdin is not None
        assert writers.stdout is not None
        for delay_s in (0.013, 0.029, 0.047):
            writers.stdin.write("another\n")
            writers.stdin.flush()
            writer = int(writers.stdout.readline())
            time.sleep(delay_s)
            os.kill(writer, signal.SIGKILL)
            while writers.stdout.readline() != "ended\n":
                pass
            pd.testing.assert_frame_equal(catalog.PANEL.load(settings).history, panel)
            pd.testing.assert_frame_equal(catalog.BARS.load(settings).history, bars)
            report = json.loads((settings.logs_dir / "qa_compile.json").read_text())
            assert report["compile_version"] == 3
        writers.stdin.close()
        assert writers.wait(60) == 0
    assert compile_builtin(settings)["skipped"] is True
