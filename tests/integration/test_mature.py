"""`jobs mature`: what came true of issued forecasts is scored, on SQLite and PostgreSQL."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import sqlalchemy as sa
from nights import LEVELS, SYMBOLS, blocks, close_of, day, issue, load, returns

from jobs.nightly import mature as maturing
from jobs.nightly.calibrate import calibrate
from jobs.nightly.mature import mature
from jobs.nightly.standings import standings
from registry.errors import BadParameter, NotFound, NotReady
from registry.ledger import bulk, database, faults, retention
from registry.ledger.issue import Blocks
from registry.ledger.scores import CALIBRATED, RAW, VALUES, scores
from registry.ledger.scores_together import score_all
from registry.ledger.track_record import TrackRecord
from registry.scoring.scores import of_step
from registry.settings import Settings


@pytest.fixture
def settings(ledger_uri: str, tmp_path: Path) -> Settings:
    return Settings(var_dir=tmp_path, ledger_uri=ledger_uri)


@pytest.fixture
def record(settings: Settings) -> Iterator[TrackRecord]:
    """A ledger with returns of three symbols on the days 1 to 10, and no forecast."""
    load(settings, returns())
    with TrackRecord(settings) as record:
        yield record


def dump(record: TrackRecord) -> list[tuple[Any, ...]]:
    """All scores of all times."""
    with database.read(record.engine) as connection:
        query = sa.select(scores).order_by(*scores.primary_key)
        return [tuple(row) for row in connection.execute(query)]


def plain(record: TrackRecord, forecast_id: str, given: Blocks, number: int, until: int) -> None:
    """Score a forecast of day `number` step by step, as of day `until`."""
    for step in range(1, min(3, until - number) + 1):
        outcomes = [returns()[symbol, number + step] for symbol in given.symbols]
        y = np.array(outcomes)
        columns = {"unique_id": given.symbols, "y": y}
        columns |= of_step(y, given.raw[:, step - 1, 1:], LEVELS)
        if given.calibrated is not None:
            after = of_step(y, given.calibrated[:, step - 1, 1:], LEVELS)
            columns |= {f"{name}_calibrated": values for name, values in after.items()}
        record.score(forecast_id, step, pd.DataFrame(columns))


def test_all_sources_are_scored_as_one_step_after_the_other(
    record: TrackRecord, settings: Settings, tmp_path: Path
):
    other = Settings(var_dir=tmp_path, ledger_uri=f"sqlite:///{tmp_path}/other.db")
    load(other, returns())
    with TrackRecord(other) as expected:
        for number in range(1, 10):
            given = blocks(number, calibrated=number > 5)
            options = {"calibration": 1 if number > 5 else None}
            for ledger in (record, expected):
                issued = issue(ledger, number, given, **options)
            plain(expected, issued.id, given, number, 10)
        for source in ("served", "shadow"):
            given = blocks(50, symbols=("A",))
            options = {"source": source, "issued_at": close_of(day(8)), "forecast_id": source}
            for ledger in (record, expected):
                issue(ledger, 8, given, **options)
            plain(expected, source, given, 8, 10)
        done = mature(settings)
        expected_scores = dump(expected)
    assert done.scored == {"mine": len(expected_scores)}
    assert (done.rescored, done.restated) == ({"mine": 0}, [])
    columns = [column.name for column in scores.c]
    places = [columns.index(name) for name in (*VALUES, "known_until")]
    stored = dump(record)
    for row, of_plain in zip(stored, expected_scores, strict=True):
        assert [row[place] for place in places] == [of_plain[place] for place in places]
    assert mature(settings).scored == {"mine": 0}
    assert dump(record) == stored
    assert faults.find(record.engine) == []


def test_each_night_adds_its_own_steps(record: TrackRecord, settings: Settings):
    for number in range(1, 8):
        issue(record, number, blocks(number))
    for number, count in ((2, 1), (3, 2), (4, 3), (5, 3)):
        assert mature(settings, as_of=str(day(number))).scored == {"mine": 3 * count}
    frame = record.scores(by=["cutoff"])
    assert frame["n"].tolist() == [9, 9, 6, 3]
    nightly = dump(record)
    assert mature(settings).scored == {"mine": 3 * (21 - 9)}
    assert set(nightly) <= set(dump(record))


def test_a_backfill_is_scored_at_its_close_and_a_live_one_now(
    record: TrackRecord, settings: Settings
):
    issue(record, 1, blocks())
    issue(record, 1, blocks(), source="nightly", issued_at=close_of(day(9)))
    mature(settings)
    assert len(record.forecasts(as_of=str(day(3))).dropna(subset="y")) == 6
    live = record.forecasts(source="nightly")
    assert live["y"].notna().all()


def test_a_restated_return_is_scored_anew_and_the_first_score_stays(
    record: TrackRecord, settings: Settings
):
    given = {number: blocks(number) for number in range(1, 10)}
    for number in given:
        issue(record, number, given[number])
    mature(settings)
    before = dump(record)
    load(settings, returns() | {("A", 5): 0.5, ("Z", 7): -0.5})
    done = mature(settings)
    assert done.rescored == {"mine": 6}
    listed = [(one.symbol, one.session, one.before, one.after) for one in done.restated]
    assert listed == [
        ("A", day(5), returns()["A", 5], 0.5),
        ("Z", day(7), returns()["Z", 7], -0.5),
    ]
    now = record.forecasts(symbols=["A"])
    restated = now[now["ds"] == pd.Timestamp(day(5))]
    assert restated["y"].tolist() == [0.5] * 3
    place = SYMBOLS.index("A")
    for row in restated.itertuples():
        quantiles = given[(row.cutoff.date() - day(0)).days].raw[place, row.step - 1, 1:]
        expected = of_step(np.array([0.5]), quantiles[None], LEVELS)
        assert row.crps == expected["crps"][0]
    then = record.forecasts(symbols=["A"], as_of=str(day(10)))
    first = then.loc[then["ds"] == pd.Timestamp(day(5)), "y"]
    assert first.tolist() == [returns()["A", 5]] * 3
    after = dump(record)
    assert len(after) == len(before) + 6
    again = mature(settings)
    assert (again.scored, again.rescored, again.restated) == ({"mine": 0}, {"mine": 0}, [])
    mature(settings, as_of=str(day(10)))  # what was known later is not undone
    assert dump(record) == after


def test_a_return_that_was_restated_before_it_was_scored_has_both_scores(
    record: TrackRecord, settings: Settings
):
    issue(record, 1, blocks())
    load(settings, returns() | {("A", 2): 0.5})
    done = mature(settings)
    assert (done.scored, done.rescored) == ({"mine": 9}, {"mine": 1})
    assert record.forecasts(symbols=["A"])["y"][0] == 0.5
    then = record.forecasts(symbols=["A"], as_of=str(day(4)))
    assert then["y"][0] == returns()["A", 2]


def test_a_late_return_is_scored_when_it_comes(record: TrackRecord, settings: Settings):
    late = {("A", 11), ("Z", 11), ("Z", 12)}
    lacking = {key: y for key, y in returns(13).items() if key not in late}
    load(settings, lacking)
    for number in (9, 10, 11):
        issue(record, number, blocks(number))
    assert mature(settings).scored == {"mine": 24 - 4 - 3}
    load(settings, lacking | {("A", 11): 0.3})
    assert mature(settings).scored == {"mine": 2}
    assert mature(settings).scored == {"mine": 0}
    load(settings, lacking | {("A", 11): 0.4, ("Z", 11): 0.1, ("Z", 12): 0.2})
    done = mature(settings)
    assert (done.scored, done.rescored) == ({"mine": 5}, {"mine": 2})
    assert [(one.symbol, one.before, one.after) for one in done.restated] == [("A", 0.3, 0.4)]


def test_a_run_that_was_cut_goes_on(
    record: TrackRecord, settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    for number in range(1, 10):
        issue(record, number, blocks(number))
    monkeypatch.setattr(maturing, "_ROWS", 10)
    calls: list[int] = []

    def cut(engine: sa.Engine, rows: pa.Table) -> Any:
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(rows.num_rows)
        return score_all(engine, rows)

    monkeypatch.setattr(maturing, "score_all", cut)
    with pytest.raises(KeyboardInterrupt):
        mature(settings)
    monkeypatch.undo()
    assert len(dump(record)) == sum(calls)
    assert mature(settings).scored == {"mine": 72 - sum(calls)}
    assert faults.find(record.engine) == []
    with database.read(record.engine) as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(scores)) == 72


def test_a_database_that_restarts_amid_a_write_loses_and_doubles_nothing(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    server = request.getfixturevalue("postgres")
    server.psql("CREATE DATABASE restarted;")
    uri = server.get_uri("restarted", driver="psycopg2")
    settings = Settings(var_dir=tmp_path, ledger_uri=uri)
    load(settings, returns())
    with TrackRecord(settings) as record:
        for number in range(1, 10):
            issue(record, number, blocks(number))
        insert = bulk.insert

        def restart(connection: sa.Connection, table: sa.Table, rows: pa.Table) -> None:
            insert(connection, table, rows)
            lost = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{}';"
            server.psql(lost.format("restarted"))

        monkeypatch.setattr(bulk, "insert", restart)
        with pytest.raises(NotReady, match=r"the ledger at .* cannot be used"):
            mature(settings)
        monkeypatch.undo()
        assert dump(record) == []
        assert mature(settings).scored == {"mine": 72}
        assert faults.find(record.engine) == []


def test_more_than_twenty_restated_returns_are_counted(
    record: TrackRecord, settings: Settings, verb: Any
):
    for number in range(1, 10):
        issue(record, number, blocks(number))
    code, out, err = verb(settings, "jobs", "mature")
    assert (code, json.loads(out)["scored"], err) == (
        0,
        {"mine": 72},
        "scoring forecasts on mine\n",
    )
    load(settings, {key: y + 0.1 for key, y in returns().items()})
    code, out, err = verb(settings, "jobs", "mature", "--data", "mine")
    answer = json.loads(out)
    assert (len(answer["restated"]), answer["restated_returns"]) == (20, 27)
    assert answer["restated"][0] == {
        "data": "mine", "unique_id": "A", "session": str(day(2)), "from": 0.021, "to": 0.021 + 0.1,
    }  # fmt: skip
    assert f"restated: A of mine on {day(2)}: from +0.021000 to +0.121000\n" in err
    assert "restated: 7 more returns\n" in err


@pytest.mark.parametrize("job", [mature, calibrate, standings])
def test_a_text_that_is_no_time_is_refused_where_there_is_nothing_to_do_too(
    tmp_path: Path, job: Callable[..., Any]
) -> None:
    with pytest.raises(BadParameter, match="found 'soon', expected a date"):
        job(Settings(var_dir=tmp_path), as_of="soon")


def test_nothing_to_score_is_no_error_and_an_unknown_set_is_one(settings: Settings):
    load(settings, returns())
    assert mature(settings).scored == {}
    assert mature(settings, data="mine").scored == {"mine": 0}
    with pytest.raises(NotFound, match="no data set 'other'"):
        mature(settings, data="other")
    with pytest.raises(BadParameter, match="expected a date"):
        mature(settings, data="mine", as_of="May")


# --- score_all --------------------------------------------------------------------------------


def rows_of(record: TrackRecord, **changes: Any) -> pa.Table:
    """Scores of step 1 of the only forecast, with other columns."""
    with database.read(record.engine) as connection:
        query = sa.select(scores).where(scores.c.step == 1).order_by(*scores.primary_key)
        table = bulk.select(connection, query).select(VALUES)
    for name, values in changes.items():
        column = pa.array(values, table.schema.field(name).type)
        table = table.set_column(table.column_names.index(name), name, column)
    return table


def test_scores_that_are_recorded_together_are_checked(record: TrackRecord, settings: Settings):
    issue(record, 1, blocks())
    mature(settings)
    before = dump(record)
    assert score_all(record.engine, rows_of(record)).new == 0
    for changes, words in (
        ({"step": [4] * 3}, "beyond the horizon"),
        ({"step": [2] * 3}, "another session than its step"),
        ({"y": [0.0, np.nan, 0.0]}, "y holds a value that is not finite"),
        ({"pit": [0.0, 2.0, 0.0]}, "pit holds a value that is not within 0 and 1"),
        ({"covered_50": [0, 2, 0]}, "covered_50 holds something else than 0 and 1"),
    ):
        with pytest.raises(BadParameter, match=words):
            score_all(record.engine, rows_of(record, **changes))
    with pytest.raises(BadParameter, match="expected forecast, step"):
        score_all(record.engine, rows_of(record).drop(["crps"]))
    assert dump(record) == before
    assert len(RAW) == len(CALIBRATED)
    rows = rows_of(record)
    retention.prune(record.engine, str(day(9)))
    assert score_all(record.engine, rows).new == 0
    assert dump(record) == []
