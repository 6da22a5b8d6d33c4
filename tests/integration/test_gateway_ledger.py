"""What the supervisor of the gateway does with the ledger, on SQLite and PostgreSQL."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import sqlalchemy as sa

from jobs.data.catalog import PANEL
from jobs.data.load import load as load_set
from registry.errors import KronosError, NotReady
from registry.forecast import calendars, names
from registry.forecast.spec import ModelSpec
from registry.ledger import calibrations, database, instants, requests
from registry.ledger.archive import Archive
from registry.ledger.calibrations import calibration_states
from registry.ledger.filling import Content, Symbol
from registry.ledger.states import Scope, States
from registry.ledger.track_record import TrackRecord
from registry.settings import Settings
from serving.messages import Calibrate, Damaged, Found, Issued, LookUp, Lost, Refusal, Served
from serving.supervisor import ledger as supervised
from serving.supervisor import lookups as lookups_module
from serving.supervisor.ledger import SharedLedger
from serving.supervisor.lookups import Lookups
from serving.supervisor.recording import Counts, Recorder
from serving.supervisor.tables import Calibrations

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


def test_data_sets_that_do_not_suit_the_version_are_refused(lookups: Lookups):
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


def test_a_session_that_closes_later_is_found_from_then_on(
    settings: Settings, lookups: Lookups, monkeypatch: pytest.MonkeyPatch
):
    """It was loaded before its close, and no load tells of it."""
    coming = calendars.next_sessions("XNYS", pd.Timestamp(datetime.now(UTC).date()), 2)[1]
    new = pd.DataFrame({"unique_id": SYMBOLS, "ds": coming, "y": 0.01, "close": 1.0, "volume": 1.0})
    load(settings, pd.concat([rows(), new]).sort_values(["unique_id", "ds"]))
    assert lookups.changed() == {"mine"}
    spec = replace(SPEC, max_context=1, min_context=1)
    before, after = f"{days()[-1]:%Y-%m-%d}", f"{coming:%Y-%m-%d}"
    assert found(look_up(lookups, "KO", spec=spec)).series[0].ds == [before]
    assert lookups.changed() == set()
    close = instants.close_of("XNYS", coming.date())
    monkeypatch.setattr(lookups_module, "now", lambda: close)
    monkeypatch.setattr(instants, "now", lambda: close)
    assert lookups.changed() == {"mine"}
    assert found(look_up(lookups, "KO", spec=spec)).series[0].ds == [after]
    assert lookups.changed() == set()


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


# --- calibrations -----------------------------------------------------------------------------

SCOPE = Scope(registry="r", model="ewma", version=3, data="mine")
SERVED = [("ewma", 3, "mine"), ("other", 1, "mine"), ("example", 1, "")]


@pytest.fixture
def shared(settings: Settings) -> Iterator[SharedLedger]:
    load(settings)
    ledger = SharedLedger(settings)
    yield ledger
    ledger.close()


def publish(ledger: SharedLedger, bias: float, kind: str = "global", evidence: Any = None) -> int:
    states = States(
        keys=[(kind, "" if kind == "global" else "tech")],
        steps=np.array([1]),
        bias=np.array([bias]),
        scale=np.array([1.1]),
        offsets=np.array([[0.1, 0.2]]),
    )
    with ledger.opened() as archive:
        return calibrations.publish(
            archive.engine,
            SCOPE,
            method="ewma",
            learned_until=days()[-3].date(),
            levels=[0.05, 0.95],
            states=states,
            evidence={} if evidence is None else evidence,
        )


def test_calibrations_are_told_once_and_again_when_another_is_current(shared: SharedLedger):
    told = Calibrations(shared, "r")
    identity = Calibrate(model="ewma", version=3)
    assert told.changes(SERVED) == [identity, Calibrate(model="other", version=1)]
    assert told.changes(SERVED) == []
    verdicts = {"1": "calibrated", "2": "stale", "3": "nonsense"}
    evidence = {"verdicts": verdicts, "learned_from": {"live": 3, "backfill": 60}}
    number = publish(shared, 0.5, "sector", evidence)
    [current] = told.changes(SERVED)
    assert current == Calibrate(
        model="ewma",
        version=3,
        number=number,
        method="ewma",
        learned_until=f"{days()[-3]:%Y-%m-%d}",
        levels=[0.05, 0.95],
        keys=[("sector", "tech")],
        steps=[1],
        bias=[0.5],
        scale=[1.1],
        offsets=[[0.1, 0.2]],
        sectors=dict.fromkeys(SYMBOLS, "tech"),
        verdicts={"1": "calibrated", "2": "stale"},
        learned_from={"live": 3, "backfill": 60},
        age=2,
    )
    publish(shared, 0.6, evidence={"verdicts": ["1"], "learned_from": 63})
    [newer] = told.changes(SERVED)
    assert (newer.bias, newer.sectors) == ([0.6], {})
    assert (newer.verdicts, newer.learned_from) == ({}, {})
    with shared.opened() as archive:
        calibrations.roll_back(archive.engine, SCOPE)
    assert told.changes(SERVED) == [current]
    told.forget("other")
    assert told.changes(SERVED) == []
    told.forget("mine")
    assert len(told.changes(SERVED)) == 2


@pytest.mark.parametrize(
    ("table", "values"),
    [(calibration_states, {"bias": 9.0}), (calibrations.calibrations, {"evidence": "{"})],
)
def test_a_damaged_calibration_is_reported_and_the_one_before_stays(
    shared: SharedLedger, table: sa.Table, values: dict[str, Any], caplog: pytest.LogCaptureFixture
):
    told = Calibrations(shared, "r")
    publish(shared, 0.5)
    assert len(told.changes(SERVED)) == 2
    number = publish(shared, 0.6)
    with shared.opened() as archive, database.write(archive.engine) as connection:
        connection.execute(sa.update(table).values(**values))
    assert told.changes(SERVED) == [Damaged(model="ewma", version=3)]
    assert told.faults["ewma", 3].code == "CORRUPT"
    assert told.changes(SERVED) == []
    assert caplog.text.count("the calibration of ewma/3 is not used") == 1
    newest = publish(shared, 0.7)
    assert newest == number + 1
    assert [one.number for one in told.changes(SERVED)] == [newest]
    assert told.faults == {}


# --- what was served --------------------------------------------------------------------------

LEVELS = [0.05, 0.5, 0.95]


def served(number: int, **changes: Any) -> Served:
    """The answer to request `number`."""
    mean = number / 1000
    raw = [[mean, mean - 0.1, mean, mean + 0.1], [mean, mean - 0.2, mean, mean + 0.2]]
    issued = Issued(
        data="mine",
        symbol=SYMBOLS[number % 4],
        cutoff=f"{days()[-1]:%Y-%m-%d}",
        levels=LEVELS,
        raw=raw,
    )
    values = {
        "request_id": f"q{number}",
        "forecast_id": f"f{number}",
        "model": "ewma",
        "version": 3,
        "received_at": datetime.now(UTC).isoformat(),
        "status": 200,
        "body": b'{"symbol": "KO"}',
        "issue": issued,
    }
    return Served(**(values | changes))


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_answers_are_recorded_with_their_requests_and_numbers(settings: Settings):
    load(settings)
    recorder = Recorder(settings, "r")
    answers = [served(number) for number in range(20)]
    calibrated = msgspec.structs.replace(
        answers[0].issue, calibrated=answers[1].issue.raw, calibration=4
    )
    answers[0] = msgspec.structs.replace(answers[0], issue=calibrated)
    no_forecast = served(98, forecast_id="", issue=None, status=422, body=b"x" * (1 << 20))
    too_long = served(99, body=b"x" * ((1 << 20) + 1))
    recorder.put(answers[:7])
    recorder.put([*answers[7:], no_forecast, too_long])
    recorder.close(20)
    assert recorder.counts == Counts(recorded=22)
    with TrackRecord(settings) as record:
        frame = record.forecasts(source="served", registry="r")
        assert len(frame) == 21 * 2
        first = frame[frame["forecast_id"] == "f0"]
        assert first["mean"].tolist() == [0.0, 0.0]
        assert first["q0.95"].tolist() == [0.1, 0.2]
        assert first["calibration"].tolist() == [4.0, 4.0]
        assert first["unique_id"].tolist() == ["AAPL"] * 2
        after = record.forecasts(source="served", calibrated=True)
        assert after[after["forecast_id"] == "f0"]["mean"].tolist() == [0.001, 0.001]
        received = datetime.fromisoformat(answers[0].received_at)
        assert first["issued_at"].iloc[0] == pd.Timestamp(received)
        request = requests.find(record.engine, "q0")
        assert (request.payload, request.forecast_id) == (answers[0].body, "f0")
        assert requests.find(record.engine, "q98").forecast_id is None
        assert requests.find(record.engine, "q99").payload == b""


def test_answers_that_the_ledger_refuses_are_counted_and_the_others_recorded(
    settings: Settings, caplog: pytest.LogCaptureFixture
):
    load(settings)
    recorder = Recorder(settings, "r")
    elsewhere = msgspec.structs.replace(served(1).issue, data="other")
    closed = msgspec.structs.replace(served(2).issue, cutoff="2026-11-22")
    wrong = [
        served(1, issue=elsewhere),
        served(2, issue=closed),
        served(3, received_at="soon"),
        served(4, status=42),
        served(5, issue=msgspec.structs.replace(served(5).issue, cutoff="")),
    ]
    recorder.put([*wrong, served(6)])
    recorder.put(
        [msgspec.structs.replace(served(7), request_id="q6")]
    )  # another forecast of the request
    wait_until(lambda: recorder.counts.waiting == 0 and recorder.counts.recorded == 2)
    recorder.close(20)
    assert recorder.counts == Counts(recorded=2, refused=5)
    assert "the forecast f1 is not recorded: NOT_FOUND" in caplog.text
    with TrackRecord(settings) as record:
        assert set(record.forecasts()["forecast_id"]) == {"f6", "f7"}


def test_while_the_ledger_is_down_answers_wait_and_the_oldest_are_dropped(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    load(settings)
    real = supervised.Archive
    up = threading.Event()

    def opened(of_settings: Settings) -> Archive:
        if not up.is_set():
            raise KronosError("no connection", code="LEDGER_UNAVAILABLE")
        return real(of_settings)

    monkeypatch.setattr(supervised, "Archive", opened)
    monkeypatch.setattr(supervised, "RETRY_S", 0.0)
    recorder = Recorder(settings, "r", kept=10)
    begun = time.perf_counter()
    for number in range(30):
        recorder.put([served(number)])
    assert time.perf_counter() - begun < 2.0
    wait_until(lambda: recorder.counts == Counts(dropped=20, waiting=10))
    up.set()
    wait_until(lambda: recorder.counts == Counts(recorded=10, dropped=20))
    recorder.close(20)
    with TrackRecord(settings) as record:
        ids = set(record.forecasts()["forecast_id"])
    assert ids == {f"f{number}" for number in range(20, 30)}


def test_closing_over_a_dead_ledger_ends_in_time_and_counts_what_is_lost(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    def down(_: Settings) -> Archive:
        raise KronosError("no connection", code="LEDGER_UNAVAILABLE")

    monkeypatch.setattr(supervised, "Archive", down)
    recorder = Recorder(settings, "r", kept_bytes=50)
    recorder.put([served(number, body=b"x" * 20) for number in range(3)])
    assert recorder.counts.dropped == 1
    begun = time.monotonic()
    recorder.close(0.5)
    assert time.monotonic() - begun < 3.0
    assert recorder.counts == Counts(dropped=3)


def test_an_answer_that_nobody_expected_ends_no_thread(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    load(settings)
    recorder = Recorder(settings, "r")
    with monkeypatch.context() as broken:
        broken.setattr(requests, "record", lambda *_: 1 / 0)
        recorder.put([served(1)])
        wait_until(lambda: recorder.counts.refused == 1)
    assert "ZeroDivisionError" in caplog.text
    recorder.put([served(2)])
    recorder.close(20)
    assert recorder.counts == Counts(recorded=1, refused=1)
