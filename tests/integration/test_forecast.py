"""`jobs forecast` on a user's data set: good series are answered, bad ones are listed."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import duckdb
import matplotlib.image
import numpy as np
import numpy.testing as npt
import pandas as pd
import pytest
from rich.console import Console

from jobs import __main__ as program
from jobs.data import sets
from jobs.data.dataset import Splits
from jobs.data.market import Universe
from jobs.data.sets import Facts
from jobs.forecasting import chart, passes, table
from jobs.forecasting.forecast import Result, forecast
from registry import terminal
from registry.errors import BadHistory, BadParameter, NotFound
from registry.forecast import calendars
from registry.settings import Settings
from registry.versions import requests
from registry.versions.store import Store
from registry.versions.version import Version
from serving.request import latest

COLUMNS = ("unique_id", "ds", "y", "close")
MODEL = "ewma/1"


def prices() -> pd.DataFrame:
    """Six series, of which AAA, BBB and GAP are good; GAP ends two sessions before them."""
    days = calendars.sessions("XNYS", "2016-01-04", "2022-12-28")
    rng = np.random.default_rng(0)
    parts = []
    for symbol in ("AAA", "BBB", "GAP", "HALT", "LATE", "NEW"):
        y = rng.normal(0.0, 0.01, len(days))
        if symbol == "HALT":
            y[-30:] = 0.0
        parts.append(pd.DataFrame({"unique_id": symbol, "ds": days, "y": y}))
    frame = pd.concat(parts, ignore_index=True)
    frame["close"] = 50 * np.exp(frame.groupby("unique_id")["y"].cumsum())
    ends = {"GAP": days[-3], "LATE": days[-9]}
    late = frame["ds"] > frame["unique_id"].map(ends).fillna(days[-1])
    early = (frame["unique_id"] == "NEW") & (frame["ds"] < days[-5])
    return frame[~(late | early)].reset_index(drop=True)


def write(settings: Settings, name: str, frame: pd.DataFrame, calendar: str = "XNYS") -> Facts:
    universe = Universe(name, tuple(sorted(frame["unique_id"].unique())))
    splits = Splits("2021-12-31", "2022-03-31")
    kind = "closes" if "close" in frame else "returns"
    facts = Facts(name, kind, tuple(frame.columns), calendar, universe, splits)
    with duckdb.connect() as connection:
        connection.register("frame", frame)
        connection.execute("CREATE TABLE rows AS SELECT * REPLACE (ds::DATE AS ds) FROM frame")
        return sets.write(settings, facts, connection, "rows")


@pytest.fixture(scope="module")
def settings(
    database: Path,
    log_a_version: Callable[..., Version],
    tmp_path_factory: pytest.TempPathFactory,
) -> Settings:
    """A registry with ewma/1, and the data sets `mine` and `london`."""
    folder = tmp_path_factory.mktemp("forecast")
    shutil.copy(database, folder)
    settings = Settings(var_dir=folder)
    log_a_version(settings, Store(settings), {"crps": 0.005})
    write(settings, "mine", prices())
    write(settings, "london", prices().head(1000), "XLON")
    write(settings, "returns", prices().drop(columns="close"))
    return settings


@pytest.fixture(scope="module")
def result(settings: Settings) -> Result:
    return forecast(settings, MODEL, data="mine")


@pytest.fixture
def verb(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """verb("--output", "csv") -> exit code, stdout and stderr of the command."""

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setenv("KRONOS_VAR_DIR", str(settings.var_dir))
        monkeypatch.setattr("sys.argv", ["jobs", "forecast", MODEL, "--data", "mine", *words])
        with pytest.raises(SystemExit) as ended:
            terminal.run(program.app)
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return call


def test_good_series_are_answered_and_bad_ones_listed(result):
    assert result.forecast.unique_id == ("AAA", "BBB", "GAP")
    messages = {series.unique_id: (series.code, series.message) for series in result.refused}
    assert messages["NEW"] == ("TOO_SHORT", "NEW has 5 sessions, ewma needs 10")
    assert messages["HALT"][0] == "HALTED"
    assert messages["LATE"] == (
        "STALE",
        "LATE has its last session on 2022-12-15; the last one of the data set is 2022-12-28",
    )
    assert len(messages) == 3


def test_numbers_and_dates_are_those_of_the_version(settings, result):
    history = prices()
    history = history[history["unique_id"].isin(["AAA", "BBB", "GAP"])]
    with Store(settings).load(MODEL) as version:
        expected = version.forecast(history[list(COLUMNS[:3])].reset_index(drop=True))
    npt.assert_array_equal(result.forecast.mean.reshape(-1), expected["mean"])
    npt.assert_array_equal(result.forecast.quantiles[:, :, 0].reshape(-1), expected["q0.05"])
    npt.assert_array_equal(result.sessions.reshape(-1), expected["ds"].to_numpy())


def test_only_the_files_of_recent_years_are_read(settings, tmp_path, result):
    shutil.copytree(settings.var_dir, tmp_path / "var")
    moved = Settings(
        var_dir=tmp_path / "var", tracking_uri=settings.tracking, artifacts_uri=settings.artifacts
    )
    facts = sets.read_facts(moved, "mine")
    (sets.folder(moved, "mine") / facts.parts[0].file).unlink()
    again = forecast(moved, MODEL, data="mine")
    npt.assert_array_equal(again.forecast.quantiles, result.forecast.quantiles)


def test_passes_of_few_series_change_nothing(settings, result, monkeypatch):
    monkeypatch.setattr(passes, "CHUNK", 2)
    again = forecast(settings, MODEL, data="mine")
    assert again.forecast.unique_id == result.forecast.unique_id
    npt.assert_array_equal(again.forecast.quantiles, result.forecast.quantiles)
    npt.assert_array_equal(again.cumulative, result.cumulative)


def test_csv_has_returns_and_closes_at_the_levels_asked_for(verb):
    code, out, err = verb("--output", "csv", "--levels", "0.1,0.5,0.9", "--horizon", "3")
    assert code == 0
    assert "refused: TOO_SHORT: NEW has 5 sessions" in err
    table = pd.read_csv(io.StringIO(out), parse_dates=["ds"])
    assert len(table) == 3 * 3
    assert [c for c in table if c.startswith("close")] == [
        "close", "close_q0.1", "close_q0.5", "close_q0.9",
    ]  # fmt: skip
    first = table[table["step"] == 1]
    npt.assert_allclose(first["close_q0.9"], first["close"] * np.exp(first["q0.9"]), rtol=1e-12)
    last = prices().groupby("unique_id")["close"].last()
    npt.assert_allclose(first["close"], last.loc[first["unique_id"]], rtol=1e-12)
    wider = table["cumulative_q0.9"] > table["q0.9"]
    assert (wider == (table["step"] > 1)).all()


def test_json_is_one_line_with_rows_and_refused_series(verb):
    code, out, err = verb("--output", "json", "--symbols", "AAA, LATE")
    assert (code, out.count("\n")) == (0, 1)
    assert "refused: STALE: LATE has its last session on 2022-12-15" in err
    answer = json.loads(out)
    assert (answer["series"], len(answer["rows"])) == (1, 5)
    assert [series["code"] for series in answer["refused"]] == ["STALE"]
    assert answer["rows"][0]["ds"] == "2022-12-29"
    assert "drawn paths, steps independent" in answer["cumulative"]


def test_the_table_shows_bands_in_per_cent_and_in_prices(verb, monkeypatch):
    monkeypatch.setenv("COLUMNS", "150")
    code, out, _ = verb("--symbols", "AAA")
    assert code == 0
    for text in ("AAA after 2022-12-28, close", "2022-12-29", "90% band", "steps independent"):
        assert text in out
    assert "\nchange in the session, %" in out
    assert "\nclose at each session since the cutoff  " in out


@pytest.mark.parametrize(
    ("close", "text"),
    [(47_105.2, "47,105"), (2_324.94, "2,324.9"), (93.456, "93.46"), (0.08123, "0.0812")],
)
def test_prices_have_the_decimals_that_suit_the_last_close(close, text):
    assert table._price(close, close) == text


def test_changes_are_simple_per_cent_in_table_and_chart(settings, capsys, monkeypatch):
    """Without closes they are since the cutoff; the table fits 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    bands = forecast(settings, MODEL, data="returns", symbols=["AAA"], bands=True)
    low, high = 100 * np.expm1(bands.cumulative[0, -1, [0, -1]])
    table.print_result(bands, Console(highlight=False))
    lines = capsys.readouterr().out.splitlines()
    assert "change since the cutoff, %" in [line.strip() for line in lines]
    assert f"{low:+.2f} to {high:+.2f}" in lines[-3]
    assert f"{100 * np.expm1(bands.forecast.quantiles[0, 0, 3]):+.2f}" in lines[5]
    figure = chart.fans(bands)
    assert figure.axes[0].get_ylabel() == "change since the cutoff, %"
    widest = figure.axes[0].collections[0].get_paths()[0].vertices[:, 1]
    npt.assert_allclose([widest.min(), widest.max()], [low, high], rtol=1e-12)


def test_many_symbols_are_a_line_each_and_the_rest_is_said(verb, monkeypatch):
    monkeypatch.setenv("COLUMNS", "150")
    monkeypatch.setattr("jobs.forecasting.table.DETAILED", 1)
    monkeypatch.setattr("jobs.forecasting.table.SHOWN", 2)
    _, out, err = verb()
    assert "AAA" in out
    assert "GAP" not in out
    assert "refused: STALE: 1 of mine ended before its last session, 2022-12-28: LATE\n" in err
    assert "LATE has its last session" not in err
    assert "2 of 3 series are shown; name others with --symbols" in err


def test_files_are_written_and_named(verb, settings, tmp_path):
    _, out, _ = verb("--output", "parquet", "--to", str(tmp_path / "out.parquet"))
    assert json.loads(out)["file"] == str(tmp_path / "out.parquet")
    assert len(pd.read_parquet(tmp_path / "out.parquet")) == 15
    _, out, _ = verb("--output", "png")
    picture = Path(json.loads(out)["file"])
    assert picture == settings.var_dir / "forecasts" / "ewma-1-mine.png"
    assert matplotlib.image.imread(picture).shape[2] == 4


def test_the_fan_ends_where_the_cumulative_bands_end(settings):
    bands = forecast(settings, MODEL, data="mine", symbols=["AAA"], bands=True)
    figure = chart.fans(bands)
    axis = figure.axes[0]
    widest = axis.collections[0].get_paths()[0].vertices[:, 1]
    assert bands.prices is not None
    npt.assert_allclose([widest.min(), widest.max()], bands.prices[0, -1, [0, -1]], rtol=1e-12)
    assert bands.method in figure.get_supxlabel()
    labels = [label.get_text() for label in axis.get_xticklabels()]
    assert labels == ["12-06", "12-13", "12-20", "12-28", "01-05"]
    assert axis.get_xticks().tolist() == [-15, -10, -5, 0, 5]


def test_a_chart_of_some_symbols_says_of_how_many(result, monkeypatch):
    monkeypatch.setattr(chart, "PANELS", 2)
    assert chart.fans(result).get_supxlabel().startswith("2 of 3 symbols; name others")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--symbols", "aab"], "mine has no symbol aab; did you mean AAA"),
        (["--symbols", "HALT"], "HALTED: HALT has a return of 0 throughout"),
        (
            ["--data", "london"],
            "ewma/1 forecasts sessions of XNYS, those of london are of XLON: london has dates on "
            "which XNYS was closed: 2016-01-18, 2016-02-15, 2016-07-04 and 18 more; train it on",
        ),
        (["--data", "nosuch"], "NOT_FOUND: no data set 'nosuch'; there are panel, bars, london"),
        (["--horizon", "0"], "BAD_HORIZON: horizon is 0; ewma forecasts 1.."),
        (["--symbols", "AAA,,BBB"], "--symbols is 'AAA,,BBB', expected items between commas"),
        (["--symbols", ","], "--symbols is ',', expected items between commas"),
        (["--output", "csv", "--to", "."], "--to is ., a folder"),
        (["--output", "csv", "--to", "no/x.csv"], "there is no folder no; make it first"),
        (["--output", "csv", "--to", "/proc/x.csv"], "--to is /proc/x.csv, which cannot be writ"),
        (["--output", "xml"], "output is 'xml', expected one of table, csv"),
        (["--levels", "low"], "levels are numbers like 0.05,0.5,0.95, found 'low'"),
        (["--levels", "0.001"], "was trained on 0.05..0.95"),
        (["--to", "x.txt"], "a table goes to stdout"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(verb, words, message):
    code, out, err = verb(*words)
    assert (code, out) == (2, "")
    assert message in err.splitlines()[-1]


def test_a_request_has_the_latest_sessions_of_a_symbol(settings, result):
    store = Store(settings)
    body = latest(settings, store, store.resolve(MODEL), "mine", ["BBB"])
    table, parameters = requests.from_json(json.dumps(body).encode())
    assert parameters is None
    with store.load(MODEL) as version:
        answer = version.forecast(table)
    npt.assert_array_equal(answer["q0.95"], result.forecast.quantiles[1, :, -1])


def test_a_request_that_would_be_refused_is_not_printed(settings):
    store = Store(settings)
    version = store.resolve(MODEL)
    with pytest.raises(BadHistory, match="LATE has its last session on 2022-12-15"):
        latest(settings, store, version, "mine", ["LATE"])
    with pytest.raises(BadHistory, match="needs 10"):
        latest(settings, store, version, "mine", ["NEW"])
    with pytest.raises(BadParameter, match="name a symbol of the data set"):
        latest(settings, store, version, "mine", [])
    with pytest.raises(NotFound, match=r"no data set 'panel' of yours; .* no built-in one"):
        latest(settings, store, version, "panel", ["AAPL"])
    with pytest.raises(BadHistory, match=r"of XLON: .*was closed: 2016-01-18, 2016-02-15"):
        latest(settings, store, version, "london", ["AAA"])
    with pytest.raises(NotFound, match="no data set 'yours'"):
        latest(settings, store, version, "yours", ["AAA"])
