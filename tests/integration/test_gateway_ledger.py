"""What the supervisor of the gateway does with the ledger, on SQLite and PostgreSQL."""

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import sqlalchemy as sa

from jobs.data.catalog import PANEL
from jobs.data.load import load as load_set
from registry.errors import NotReady
from registry.forecast import calendars, names
from registry.forecast.spec import ModelSpec
from registry.ledger import database
from registry.ledger.archive import Archive
from registry.ledger.filling import Content, Symbol
from registry.settings import Settings
from serving.messages import Found, LookUp, Lost, Refusal
from serving.supervisor import ledger as supervised
from serving.supervisor.lookups import Lookups

SYMBOLS = ("AAPL", "KO", "MSFT", "é %")
SESSIONS = 60
SPEC = ModelSpec("ewma", "baselines", min_context=10, max_context=30, max_horizon=5)
MARKET_SPEC = replace(SPEC, columns=(*names.HISTORY, *names.MARKET))
JOINT_SPEC = replace(SPEC, joint=True, universe=("AAPL", "KO", "MSFT"))
FACTS = {"data": "mine", "universe": "u@1"}


@pytest.fixture
def settings(ledger_uri: str, tmp_path: Path) -> Settings:
    return Settings(var_dir=tmp_path, ledger_uri=ledger_uri)


@pytest.fixture
def lookups(settings: Settings) -> Iterator[Lookups]:
    """Over a ledger with the data set `mine`."""
    load(settings)
    lookups = Lookups(settings)
    yield lookups
    lookups.close()


def days() -> Any:
    """The last sessions that have closed."""
    yesterday = pd.Timestamp(datetime.now(UTC).date()) - pd.Timedelta(days=2)
    return calendars.sessions("XNYS", yesterday - pd.Timedelta(days=200), yesterday)[-SESSIONS:]


def rows(symbols: Sequence[str] = SYMBOLS, seed: int = 0) -> pd.DataFrame:
    """Returns, closes and volumes of symbols."""
    rng = np.random.default_rng(seed)
    parts = []
    for symbol in sorted(symbols):
        y = rng.normal(0, 0.01, SESSIONS)
        part = pd.DataFrame({"unique_id": symbol, "ds": days(), "y": y})
        parts.append(part.assign(close=100 * np.exp(np.cumsum(y)), volume=1000.0))
    return pd.concat(parts, ignore_index=True)


def load(
    settings: Settings, frame: pd.DataFrame | None = None, data: str = "mine", **changes: Any
) -> None:
    with Archive(settings) as archive:
        archive.load(content(rows() if frame is None else frame, data, **changes))


def content(frame: pd.DataFrame, data: str = "mine", **changes: Any) -> Content:
    """A data set of these rows; market columns are the means over its symbols."""
    groups = list(frame.groupby("unique_id"))
    named = [
        Symbol(str(name), part["ds"].min().date(), part["ds"].max().date(), sector="tech")
        for name, part in groups
    ]
    market = frame.groupby("ds")["y"].mean().reset_index()
    market = market.rename(columns={"y": "index_return"})
    market["market_abs_return"] = market["index_return"].abs()
    market["market_members"] = float(len(groups))
    values = {
        "data": data,
        "digest": str(pd.util.hash_pandas_object(frame).sum()),
        "calendar": "XNYS",
        "universe": "u@1",
        "symbols": named,
        "rows": [table(part) for _, part in groups],
        "market": table(market),
    }
    return Content(**(values | changes))


def table(frame: pd.DataFrame) -> pa.Table:
    made = pa.Table.from_pandas(frame, preserve_index=False)
    place = made.column_names.index("ds")
    return made.set_column(place, "ds", made.column("ds").cast(pa.date32()))


def look_up(
    lookups: Lookups,
    *symbols: str,
    spec: ModelSpec = SPEC,
    facts: Mapping[str, str] = FACTS,
    data: str = "",
    days: Sequence[str] = (),
    columns: Sequence[str] = (),
) -> Found | Lost:
    asked = LookUp(
        id=7, model=spec.name, version=3, data=data, symbols=symbols, columns=tuple(columns),
        days=tuple(days),
    )  # fmt: skip
    return lookups.answer(asked, spec, facts)


def found(answer: Found | Lost) -> Found:
    assert isinstance(answer, Found), answer
    assert answer.id == 7
    return answer


def lost(answer: Found | Lost) -> Refusal:
    assert isinstance(answer, Lost), answer
    assert answer.id == 7
    return answer.refusal


# --- histories --------------------------------------------------------------------------------


def test_a_history_has_the_last_sessions_with_all_their_bits(lookups: Lookups):
    answer = found(look_up(lookups, "é %", "AAPL", "AAPL"))
    assert [series.symbol for series in answer.series] == ["AAPL", "é %"]
    frame = rows()
    for series in answer.series:
        expected = frame[frame["unique_id"] == series.symbol].tail(30)
        assert series.ds == expected["ds"].dt.strftime("%Y-%m-%d").tolist()
        assert list(series.columns) == ["y"]
        assert series.columns["y"] == expected["y"].tolist()
    assert answer.refused == {}
    assert answer.notes == ()


def test_declared_columns_come_along_and_optional_ones_if_the_data_set_has_them(lookups: Lookups):
    spec = replace(MARKET_SPEC, optional=("volume", "amount"))
    [series] = found(look_up(lookups, "KO", spec=spec)).series
    assert list(series.columns) == ["y", "market_abs_return", "index_return", "volume"]
    index = rows().groupby("ds")["y"].mean().tail(30)
    assert series.columns["index_return"] == index.tolist()
    assert series.columns["volume"] == [1000.0] * 30


def test_unknown_symbols_are_refused_one_by_one_with_a_proposal(lookups: Lookups):
    many = [f"Q{number}" for number in range(9)]
    answer = found(look_up(lookups, "AAPLE", "KO", *many))
    assert [series.symbol for series in answer.series] == ["KO"]
    assert set(answer.refused) == {"AAPLE", *many}
    message = "mine has no symbol AAPLE; did you mean AAPL?"
    assert answer.refused["AAPLE"] == Refusal(code="BAD_PARAMETER", message=message, status=400)
    assert answer.refused["Q8"].message == "mine has no symbol Q8"


def test_a_symbol_that_stopped_trading_is_stale(settings: Settings, lookups: Lookups):
    frame = rows()
    ended = frame[(frame["unique_id"] != "KO") | (frame["ds"] <= days()[-8])]
    load(settings, ended)
    answer = found(look_up(lookups, "KO", "AAPL"))
    assert [series.symbol for series in answer.series] == ["AAPL"]
    assert answer.refused["KO"].code == "STALE"
    assert f"KO has its last session on {days()[-8]:%Y-%m-%d}" in answer.refused["KO"].message
    long_ago = frame[(frame["unique_id"] != "KO") | (frame["ds"] <= days()[0])]
    load(settings, long_ago)
    answer = found(look_up(lookups, "KO"))
    assert answer.series == []
    assert answer.refused["KO"].code == "STALE"


def test_series_that_the_server_would_refuse_are_refused_by_name(
    settings: Settings, lookups: Lookups
):
    frame = rows()
    frame.loc[(frame["unique_id"] == "KO") & (frame["ds"] == days()[-3]), "y"] = 1.5
    load(settings, frame)
    answer = found(look_up(lookups, "KO", "MSFT"))
    assert [series.symbol for series in answer.series] == ["MSFT"]
    assert answer.refused["KO"].code == "BAD_RETURN"
    assert answer.refused["KO"].message.startswith("KO has |y| beyond 1")
    short = found(look_up(lookups, "MSFT", spec=replace(SPEC, min_context=31, max_context=31)))
    assert short.refused == {}
    long = replace(SPEC, min_context=61, max_context=90)
    assert found(look_up(lookups, "MSFT", spec=long)).refused["MSFT"].code == "TOO_SHORT"


def test_a_joint_model_gets_its_whole_universe_up_to_the_common_session(
    settings: Settings, lookups: Lookups
):
    frame = rows()
    load(settings, frame[(frame["unique_id"] != "KO") | (frame["ds"] <= days()[-3])])
    answer = found(look_up(lookups, "AAPL", "é %", spec=JOINT_SPEC))
    assert [series.symbol for series in answer.series] == ["AAPL", "KO", "MSFT"]
    assert {series.ds[-1] for series in answer.series} == {f"{days()[-3]:%Y-%m-%d}"}
    assert answer.refused["é %"].code == "UNIVERSE"
    load(settings, frame[(frame["unique_id"] != "KO") | (frame["ds"] <= days()[-9])])
    assert lost(look_up(lookups, "AAPL", spec=JOINT_SPEC)).code == "STALE"
    larger = replace(JOINT_SPEC, universe=("AAPL", "GONE", "KO"))
    assert lost(look_up(lookups, "AAPL", spec=larger)).code == "UNIVERSE"


def test_a_part_of_a_universe_is_enough_where_the_model_says_so(
    settings: Settings, lookups: Lookups
):
    spec = replace(JOINT_SPEC, subset=True, universe=("AAPL", "GONE", "KO", "MSFT"))
    frame = rows()
    load(settings, frame[(frame["unique_id"] != "KO") | (frame["ds"] <= days()[-9])])
    answer = found(look_up(lookups, "AAPL", spec=spec))
    assert [series.symbol for series in answer.series] == ["AAPL", "MSFT"]
    assert answer.notes == ("left out of the universe, because it was refused: KO",)
    assert found(look_up(lookups, "KO", spec=spec)).refused["KO"].code == "STALE"


def test_data_sets_that_do_not_suit_the_version_are_refused(settings: Settings, lookups: Lookups):
    missing = lost(look_up(lookups, "KO", data="other"))
    assert (missing.code, missing.status) == ("NOT_FOUND", 404)
    assert "`python -m jobs data load other` loads it" in missing.message
    assert lost(look_up(lookups, "KO", data="../x")).code == "NOT_FOUND"
    assert lost(look_up(lookups, "KO", facts={})).code == "BAD_PARAMETER"
    of_london = replace(SPEC, calendar="XLON")
    assert lost(look_up(lookups, "KO", spec=of_london)).code == "CALENDAR"
    bars = replace(SPEC, columns=(*names.HISTORY, "open"))
    assert lost(look_up(lookups, "KO", spec=bars)).message == "ewma/3 needs open, which mine lacks"
    counts = replace(SPEC, columns=(*names.HISTORY, "news_count"))
    kept = "ewma/3 needs news_count, which the ledger does not keep: send a series"
    assert lost(look_up(lookups, "KO", spec=counts)).message == kept
    elsewhere = {**FACTS, "universe": "other@2"}
    assert lost(look_up(lookups, "KO", spec=MARKET_SPEC, facts=elsewhere)).code == "UNIVERSE"
    assert found(look_up(lookups, "KO", facts=elsewhere)).refused == {}


def test_what_is_kept_of_a_data_set_is_that_of_its_last_load(settings: Settings, lookups: Lookups):
    assert lookups.changed() == {"mine"}
    assert lookups.changed() == set()
    assert found(look_up(lookups, "NEW")).refused["NEW"].code == "BAD_PARAMETER"
    load(settings, rows((*SYMBOLS, "NEW")))
    load(settings, data="more")
    assert lookups.changed() == {"mine", "more"}
    assert len(found(look_up(lookups, "NEW")).series) == 1
    with Archive(settings) as archive:
        archive.remove("mine")
    assert lookups.changed() == {"mine"}
    assert lost(look_up(lookups, "KO")).code == "NOT_FOUND"
    load(settings)
    assert lookups.changed() == {"mine"}
    assert found(look_up(lookups, "NEW")).series == []


def test_a_session_that_closes_later_is_found_from_then_on(settings: Settings, lookups: Lookups):
    """As a set that was loaded before the close: no load tells of it."""
    assert lookups.changed() == {"mine"}
    cutoff = days()[-1]
    later = datetime.now(UTC) + timedelta(seconds=1.0)
    with Archive(settings) as archive, database.write(archive.engine) as connection:
        for name in ("market_daily", "daily_returns"):
            observed = database.metadata.tables[name]
            last = observed.c.ds == cutoff.date()
            connection.execute(sa.update(observed).where(last).values(known_from=later))
    fresh = Lookups(settings)
    assert fresh.changed() == {"mine"}
    assert found(look_up(fresh, "KO")).series[0].ds[-1] == f"{days()[-2]:%Y-%m-%d}"
    assert fresh.changed() == set()
    time.sleep(max((later - datetime.now(UTC)).total_seconds(), 0) + 0.01)
    assert fresh.changed() == {"mine"}
    assert found(look_up(fresh, "KO")).series[0].ds[-1] == f"{days()[-1]:%Y-%m-%d}"
    fresh.close()


def test_threads_get_each_their_own_answer_while_the_set_is_loaded_again(
    settings: Settings, lookups: Lookups
):
    frames = [rows(seed=seed) for seed in range(2)]
    tails = {}
    for symbol in SYMBOLS:
        parts = [frame[frame["unique_id"] == symbol].tail(30)["y"] for frame in frames]
        tails[symbol] = [part.tolist() for part in parts]

    def ask(number: int) -> bool:
        symbol = SYMBOLS[number % 4]
        [series] = found(look_up(lookups, symbol)).series
        return series.symbol == symbol and series.columns["y"] in tails[symbol]

    with ThreadPoolExecutor(6) as pool:
        answers = pool.map(ask, range(60))
        load(settings, frames[1])
        assert all(answers)
    [series] = found(look_up(lookups, "KO")).series
    assert series.columns["y"] == tails["KO"][1]


def test_a_built_in_set_is_looked_up_as_its_file_has_it(compiled: Settings, settings: Settings):
    (settings.var_dir / "data").symlink_to(compiled.var_dir / "data")
    load_set(settings, "panel")
    lookups = Lookups(settings)
    universe = PANEL.universe.tag
    answer = found(
        look_up(lookups, "AAPL", spec=MARKET_SPEC, data="panel", facts={"universe": universe})
    )
    history = PANEL.load(compiled).history
    expected = history[history["unique_id"] == "AAPL"].tail(30)
    [series] = answer.series
    for name, values in series.columns.items():
        assert values == expected[name].tolist()
    lookups.close()


# --- covariates -------------------------------------------------------------------------------


def test_covariates_of_sessions_are_those_of_the_market(lookups: Lookups):
    asked = [f"{day:%Y-%m-%d}" for day in days()[-4:-1]]
    [series] = found(look_up(lookups, "XYZ", spec=MARKET_SPEC, days=asked)).series
    index = rows().groupby("ds")["y"].mean().iloc[-4:-1]
    assert series.symbol == "XYZ"
    assert series.ds == asked
    assert series.columns["index_return"] == index.tolist()
    assert series.columns["market_abs_return"] == index.abs().tolist()
    columns = (*names.HISTORY, "index_return")
    [series] = found(look_up(lookups, "X", spec=MARKET_SPEC, days=asked, columns=columns)).series
    assert list(series.columns) == ["index_return"]


def test_a_session_without_covariates_is_refused(lookups: Lookups):
    future = calendars.next_sessions("XNYS", days()[-1], 2)
    asked = [f"{day:%Y-%m-%d}" for day in (days()[-1], *future)]
    answer = found(look_up(lookups, "X", spec=MARKET_SPEC, days=asked))
    assert answer.series == []
    assert answer.refused["X"].code == "NO_COVARIATES"
    assert f"for {asked[1]} and 1 more: load newer data" in answer.refused["X"].message
    before = found(look_up(lookups, "X", spec=MARKET_SPEC, days=["2001-01-02"]))
    assert before.refused["X"].code == "NO_COVARIATES"
    for text, code in [
        ("2026-11-22", "NOT_A_SESSION"),
        ("1950-01-03", "OUTSIDE_CALENDAR"),
        ("soon", "BAD_TIMESTAMP"),
    ]:
        assert lost(look_up(lookups, "X", spec=MARKET_SPEC, days=[text])).code == code
    counts = replace(SPEC, columns=(*names.HISTORY, "news_count"))
    refused = lost(look_up(lookups, "X", spec=counts, days=asked))
    assert refused.code == "MISSING_COLUMN"
    assert "send them with the series" in refused.message


# --- outages ----------------------------------------------------------------------------------


def test_a_ledger_that_is_down_is_said_at_once_and_found_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    load(settings)
    attempts = []
    real = supervised.Archive

    def down(_: Settings) -> Archive:
        attempts.append(1)
        raise NotReady("no connection", code="LEDGER_UNAVAILABLE")

    monkeypatch.setattr(supervised, "Archive", down)
    lookups = Lookups(settings)
    for _ in range(5):
        assert lost(look_up(lookups, "KO")).code == "LEDGER_UNAVAILABLE"
    assert len(attempts) == 1
    monkeypatch.setattr(supervised, "Archive", real)
    monkeypatch.setattr(supervised, "RETRY_S", 0.0)
    assert len(found(look_up(lookups, "KO")).series) == 1
    lookups.close()


def test_an_error_of_ours_still_gives_an_answer(
    lookups: Lookups, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(Lookups, "_data_set", lambda *_: 1 / 0)
    assert lost(look_up(lookups, "KO")).code == "INTERNAL"
    assert "ZeroDivisionError" in caplog.text
