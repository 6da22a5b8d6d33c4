"""Prices of a user go in, as files and tables come, and forecasts of trained versions come out.

Prices of symbols in capitals only are real; those of SIM_* are simulated.
"""

import json
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa

from jobs import __main__ as program
from jobs.data import sets
from jobs.data.catalog import Catalog
from jobs.data.sources import builtin
from jobs.training import planning, train
from jobs.training.references import References
from registry import terminal
from registry.forecast import calendars
from registry.promotion import moves
from registry.promotion.opening import open_ledger
from registry.settings import Settings
from registry.versions.store import Store

SINCE = "2010-01-01"
SIX = ("AAPL", "GOOG", "IBM", "MSFT", "NASDAQ", "SP500")


@dataclass(frozen=True)
class Case:
    """A user's data: what is written, how it is compiled, and what is known of the set."""

    arguments: Sequence[str]
    kind: str
    calendar: str
    symbols: tuple[str, ...]
    first: str  # session with a return
    models: tuple[str, ...] = ("har",)


def write_long(folder: Path) -> Case:
    """Raw bars of six series with an adjusted close, as data vendors sell them."""
    frame = pd.concat([builtin.bokeh_bars(), builtin.arch_bars()])
    frame = frame[frame["unique_id"].isin(SIX) & (frame["ds"] >= SINCE)]
    renamed = {"unique_id": "symbol", "ds": "date", "adj_close": "adjusted"}
    frame.rename(columns=renamed).to_csv(folder / "six.csv", index=False)
    arguments = ["--source", "csv", "--from", str(folder / "six.csv")]
    return Case(arguments, "bars", "XNYS", SIX, "2010-01-05", ("har", "nbeats"))


def write_single(folder: Path) -> Case:
    """One stock since 1986 in a file with capitalised names and no symbol (simulated)."""
    days = calendars.sessions("XNYS", "1986-03-13", "1993-12-31")
    close = walk(len(days), seed=1)
    bars = pd.DataFrame({"Date": days.strftime("%Y-%m-%d"), "Open": close, "High": close * 1.01})
    bars = bars.assign(Low=close * 0.99, Close=close, Volume=1_031_788_800, OpenInt=0)
    bars.to_csv(folder / "sim_one.csv", index=False)
    arguments = ["--source", "csv", "--from", str(folder / "sim_one.csv"), "--symbol", "SIM_ONE"]
    return Case([*arguments, "--adjusted", "yes"], "bars", "XNYS", ("SIM_ONE",), "1986-03-14")


def write_wide(folder: Path) -> Case:
    """Closes of London, one column a symbol, one of them listed later (simulated)."""
    days = calendars.sessions("XLON", "2018-01-01", "2021-12-31")
    names = ("SIM_AZN.L", "SIM_BP.L", "SIM_VOD.L")
    table = pd.DataFrame({"Date": days})
    for seed, name in enumerate(names):
        table[name] = walk(len(days), seed)
    table.loc[: len(days) // 3, "SIM_VOD.L"] = np.nan
    table.to_parquet(folder / "wide.parquet", index=False)
    arguments = ["--source", "parquet", "--from", str(folder / "wide.parquet")]
    arguments += ["--calendar", "XLON", "--adjusted", "yes", "--currency", "GBX"]
    return Case(arguments, "closes", "XLON", names, "2018-01-03")


def write_crypto(folder: Path) -> Case:
    """Daily bars that end at midnight UTC, every day of the week (simulated)."""
    days = pd.date_range("2019-01-01", "2021-12-31", freq="D")
    frame = pd.DataFrame({"timestamp": days.strftime("%Y-%m-%d %H:%M:%S+00:00")})
    frame = frame.assign(symbol="SIM_BTC", price=walk(len(days), seed=5, scale=0.03))
    frame.to_csv(folder / "btc.csv", index=False)
    arguments = ["--source", "csv", "--from", str(folder / "btc.csv"), "--calendar", "24/7"]
    return Case([*arguments, "--adjusted", "yes"], "closes", "24/7", ("SIM_BTC",), "2019-01-02")


def write_table(folder: Path) -> Case:
    """Adjusted closes in a table of SQLite."""
    prices = builtin.stock_prices()
    chosen = prices["unique_id"].isin(["KO", "PEP", "XOM"]) & (prices["ds"] >= SINCE)
    frame = prices[chosen].rename(columns={"unique_id": "code", "ds": "day"})
    with closing(sqlite3.connect(folder / "market.db")) as connection:
        frame.to_sql("quotes", connection, index=False)
    uri = f"sqlite:///{folder / 'market.db'}"
    arguments = ["--source", "sql", "--from", uri, "--query", "quotes"]
    arguments += ["--map", "ds=day", "--adjusted", "yes"]
    return Case(arguments, "closes", "XNYS", ("KO", "PEP", "XOM"), "2010-01-05")


CASES: dict[str, Callable[[Path], Case]] = {
    "six": write_long,
    "single": write_single,
    "wide": write_wide,
    "crypto": write_crypto,
    "table": write_table,
}


def walk(length: int, seed: int, scale: float = 0.01) -> Any:
    """A simulated price: a random walk in its logarithm, [length]."""
    return 100 * np.exp(np.cumsum(np.random.default_rng(seed).normal(0, scale, length)))


@pytest.fixture(scope="module")
def settings(new_registry: Callable[[Path], Settings], tmp_path_factory: Any) -> Settings:
    """An empty registry with a data folder of its own."""
    created = new_registry(tmp_path_factory.mktemp("own"))
    (created.var_dir / "data").unlink()
    return created


def run(arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """A verb of `python -m jobs` in this process; its exit code."""
    monkeypatch.setattr("sys.argv", ["jobs", *arguments])
    with pytest.raises(SystemExit) as ended:
        terminal.run(program.app)
    return int(ended.value.code or 0)


@pytest.mark.parametrize("name", CASES)
def test_prices_of_a_user_go_in_and_a_promoted_forecast_comes_out(
    name: str, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    case = CASES[name](tmp_path)
    monkeypatch.setenv("KRONOS_VAR_DIR", str(settings.var_dir))
    assert run(["compile", *case.arguments, "--name", name], monkeypatch) == 0
    facts = sets.read_facts(settings, name)
    assert (facts.kind, facts.calendar) == (case.kind, case.calendar)
    assert facts.universe.symbols == case.symbols
    assert facts.parts[0].first == case.first
    history = Catalog(settings).find(name).load(settings).history
    store, references = Store(settings), References()
    for model in case.models:
        plan = planning.plan(
            settings, model, {"data": name, "report_every": "60"}, seed=0, tiny=True
        )
        version = train.train(settings, plan, references).version
        known = store.facts(version)
        assert (known["data"], known["calendar"]) == (name, case.calendar)
        assert known["data_digest"] == facts.digest
        with open_ledger(store) as ledger:
            moves.promote(store, ledger, model, version.version, who="tests", why=name)
        with store.load(model) as loaded:
            forecast = loaded.forecast(history, horizon=3)
        assert sorted(set(forecast["unique_id"])) == list(case.symbols)
        for symbol, rows in forecast.groupby("unique_id"):
            cutoff = history.loc[history["unique_id"] == symbol, "ds"].max()
            expected = calendars.next_sessions(case.calendar, cutoff, 3)
            assert rows["ds"].tolist() == expected.tolist()


UNTIL = "2012-06-29"


@pytest.fixture(scope="module")
def mine(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A user's set `mine`, ewma trained on it, and `cut`, the set of the prices up to UNTIL."""
    folder = tmp_path_factory.mktemp("prices")
    case = write_long(folder)
    prices = pd.read_csv(folder / "six.csv", dtype=str)  # numbers keep their digits
    prices[prices["date"] <= UNTIL].to_csv(folder / "cut.csv", index=False)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("KRONOS_VAR_DIR", str(settings.var_dir))
        cut = ["--source", "csv", "--from", str(folder / "cut.csv"), "--name", "cut"]
        assert run(["compile", *case.arguments, "--name", "mine"], monkeypatch) == 0
        assert run(["compile", *cut], monkeypatch) == 0
        options = ["--data", "mine", "--tiny", "--report_every", "60"]
        assert run(["train", "ewma", *options], monkeypatch) == 0
    return settings


def test_a_forecast_as_of_a_day_is_that_of_a_set_compiled_up_to_it(
    mine: Settings,
    ledger_uri: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setenv("KRONOS_VAR_DIR", str(mine.var_dir))
    monkeypatch.setenv("KRONOS_LEDGER_URI", ledger_uri)
    assert run(["data", "load", "mine"], monkeypatch) == 0
    asked = ["forecast", "ewma/1", "--output", "json"]
    answers = []
    for options in (["--as-of", UNTIL], ["--data", "cut"]):
        capsys.readouterr()
        assert run([*asked, *options], monkeypatch) == 0
        answers.append(json.loads(capsys.readouterr().out))
    known, cut = answers
    assert known["rows"] == cut["rows"]
    assert {row["unique_id"] for row in known["rows"]} == {*SIX}
    assert run(["data", "unload", "mine"], monkeypatch) == 0
    removed = json.loads(capsys.readouterr().out)["rows"]
    assert (removed["symbols"], removed["prices"]) == (6, removed["daily_returns"])
    assert run([*asked, "--as-of", UNTIL], monkeypatch) == 2
    assert "the ledger has no data set 'mine'" in capsys.readouterr().err


def test_a_wrong_file_is_one_line_and_exit_2_and_a_password_is_not_shown(
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.setenv("KRONOS_VAR_DIR", str(settings.var_dir))
    uri = "postgresql://me:s3cret@127.0.0.1:1/market"
    for arguments in (
        ["--source", "csv", "--from", str(tmp_path / "none.csv")],
        ["--source", "sql", "--from", uri, "--query", "quotes"],
        ["--source", "xlsx", "--from", "prices.xlsx"],
        ["--source", "csv"],
    ):
        capsys.readouterr()
        assert run(["compile", *arguments, "--name", "wrong"], monkeypatch) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert "s3cret" not in err
        assert [line for line in err.splitlines() if line.startswith("error: ")] == (
            err.splitlines()[-1:]
        )
    assert "wrong" not in sets.names(settings)


def test_a_secret_in_the_place_of_prices_is_stored_and_printed_nowhere(
    settings: Settings,
    tmp_path: Path,
    postgres: Any,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    monkeypatch.setenv("KRONOS_VAR_DIR", str(settings.var_dir))
    days = calendars.sessions("XNYS", "2019-01-01", "2021-12-31")
    frame = pd.DataFrame({"symbol": "SIM", "ds": days, "close": walk(len(days), seed=3)})
    path = tmp_path / "prices.csv?part=2&X-Amz-Signature=s3cret"
    path.write_text(frame.to_csv(index=False).rstrip())
    uri = postgres.get_uri().replace("postgres:@", "postgres:s3cret@")
    assert "s3cret" in uri
    engine = sa.create_engine(uri.replace("postgresql://", "postgresql+psycopg2://"))
    frame.to_sql("secret_prices", engine)
    places = {
        "secret_file": ["--source", "csv", "--from", str(path)],
        "secret_table": ["--source", "sql", "--from", uri, "--query", "secret_prices"],
    }
    capfd.readouterr()
    for name, arguments in places.items():
        assert run(["compile", *arguments, "--name", name], monkeypatch) == 0
        assert run(["compile", *arguments, "--name", name, "--append"], monkeypatch) == 0
        assert run(["data", "show", name, "--json"], monkeypatch) == 0
        assert run(["compile", *arguments, "--name", name, "--map", "ds=x"], monkeypatch) == 2
        options = ["--data", name, "--tiny", "--report_every", "60"]
        assert run(["train", "naive", *options], monkeypatch) == 0
    with engine.begin() as connection:
        connection.exec_driver_sql("drop table secret_prices")
    engine.dispose()
    out, err = capfd.readouterr()
    assert "X-Amz-Signature=***" in out
    assert "s3cret" not in out + err
    files = [file for file in settings.var_dir.rglob("*") if file.is_file()]
    assert any(file.name == "qa_secret_table.json" for file in files)
    assert [file for file in files if b"s3cret" in file.read_bytes()] == []
