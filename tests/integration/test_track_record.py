"""Forecasts as issued and their scores, on SQLite and PostgreSQL."""

import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import sqlalchemy as sa

from registry.errors import BadParameter, Conflict, KronosError, NotFound
from registry.forecast import names
from registry.ledger import database, faults, retention
from registry.ledger.archive import Archive
from registry.ledger.filling import Content, Symbol
from registry.ledger.forecasts import forecast_blocks, forecasts
from registry.ledger.issue import Blocks, Issue
from registry.ledger.scores import RAW, scores
from registry.ledger.track_record import TrackRecord
from registry.scoring import scores as scoring
from registry.settings import Settings

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
SYMBOLS = ("A", "B", "é %")
FIRST = date(2024, 1, 1)
HORIZON = 3
MICROSECOND = timedelta(microseconds=1)


@pytest.fixture
def record(ledger_uri: str, tmp_path: Path) -> Iterator[TrackRecord]:
    """A ledger with three symbols of a data set and no forecast."""
    settings = Settings(var_dir=tmp_path, ledger_uri=ledger_uri)
    with Archive(settings) as archive:
        archive.load(content("mine", "24/7"))
    with TrackRecord(settings) as record:
        yield record


def content(data: str, calendar: str) -> Content:
    """A data set with one session."""
    days = pa.array([FIRST + timedelta(days=1)] * len(SYMBOLS))
    rows = pa.table({"unique_id": list(SYMBOLS), "ds": days, "y": np.zeros(len(SYMBOLS))})
    market = {"ds": days[:1]}
    for name in ("market_abs_return", "index_return", "market_members"):
        market[name] = pa.array([0.0])
    known = [Symbol(name, FIRST, FIRST, sector=name.lower()) for name in SYMBOLS]
    return Content(data, "digest", calendar, "u@1", known, [rows], pa.table(market))


def day(number: int) -> date:
    return FIRST + timedelta(days=number)


def close_of(session: date) -> datetime:
    return datetime(session.year, session.month, session.day, tzinfo=UTC) + timedelta(days=1)


def issue(number: int = 1, **changes: Any) -> Issue:
    """That of a backfill of day `number`."""
    cutoff = day(number)
    values = {
        "registry": "r",
        "model": "har",
        "version": 1,
        "data": "mine",
        "source": "backfill",
        "cutoff": cutoff,
        "issued_at": close_of(cutoff),
    }
    return Issue(**(values | changes))


def blocks(seed: int = 0, symbols: tuple[str, ...] = SYMBOLS, calibrated: bool = False) -> Blocks:
    rng = np.random.default_rng(seed)
    raw = numbers(rng, len(symbols))
    return Blocks(symbols, LEVELS, raw, numbers(rng, len(symbols)) if calibrated else None)


def numbers(rng: np.random.Generator, series: int) -> Any:
    values = rng.normal(size=(series, HORIZON, 1 + len(LEVELS)))
    values[:, :, 1:].sort(axis=2)
    return values


def outcomes(given: Blocks, step: int, seed: int = 0) -> pd.DataFrame:
    """Scores of one step against simulated outcomes."""
    y = np.random.default_rng(seed).normal(size=len(given.symbols))
    columns = {"unique_id": given.symbols, "y": y}
    columns |= scoring.of_step(y, given.raw[:, step - 1, 1:], LEVELS)
    if given.calibrated is not None:
        after = scoring.of_step(y, given.calibrated[:, step - 1, 1:], LEVELS)
        columns |= {f"{name}_calibrated": values for name, values in after.items()}
    return pd.DataFrame(columns)


def test_forecasts_come_back_with_all_their_bits_and_their_outcomes(record: TrackRecord):
    given, what = blocks(calibrated=True), issue(calibration=7)
    assert record.issue(what, given)
    scored = outcomes(given, 2)
    record.score(what.id, 2, scored)
    frame = record.forecasts()
    assert frame[["unique_id", "step"]].values.tolist() == [
        [symbol, step] for symbol in SYMBOLS for step in (1, 2, 3)
    ]
    assert frame["ds"].dt.date.tolist() == [day(2), day(3), day(4)] * len(SYMBOLS)
    quantiles = [f"q{level}" for level in LEVELS]
    expected = given.raw.reshape(-1, 1 + len(LEVELS))
    np.testing.assert_array_equal(frame[["mean", *quantiles]].to_numpy(), expected)
    second = frame[frame["step"] == 2].reset_index()
    for name in ("y", *RAW):
        np.testing.assert_array_equal(second[name].to_numpy(), scored[name].to_numpy())
    assert frame.loc[frame["step"] != 2, ["y", *RAW]].isna().all(axis=None)
    calibrated = record.forecasts(calibrated=True)
    expected = given.calibrated.reshape(-1, 1 + len(LEVELS))
    np.testing.assert_array_equal(calibrated[["mean", *quantiles]].to_numpy(), expected)
    after = calibrated[calibrated["step"] == 2].reset_index()
    np.testing.assert_array_equal(after["crps"], scored["crps_calibrated"])
    head = frame[["forecast_id", "model", "version", "data", "source", "calibration"]].iloc[0]
    assert head.tolist() == [what.id, "har", 1, "mine", "backfill", 7]
    assert frame["issued_at"][0] == close_of(day(1))


def test_the_same_forecast_again_changes_nothing_and_another_one_is_refused(record: TrackRecord):
    assert record.issue(issue(), blocks())
    before = record.forecasts()
    assert not record.issue(issue(issued_at=close_of(day(5))), blocks())
    swapped = blocks()
    swapped = Blocks(SYMBOLS[::-1], LEVELS, swapped.raw[::-1])
    assert not record.issue(issue(), swapped)
    calibrated = (issue(calibration=1), blocks(calibrated=True))
    fewer, others = blocks(symbols=SYMBOLS[:2]), blocks(1)
    for what, other in ((issue(), others), (issue(), fewer), calibrated):
        with pytest.raises(Conflict, match="har/1 has issued other numbers for the cutoff 2024-01"):
            record.issue(what, other)
    served = issue(source="served", forecast_id=issue().id, model="fhs", issued_at=close_of(day(5)))
    with pytest.raises(Conflict, match="har/1 has issued other numbers"):
        record.issue(served, blocks())
    pd.testing.assert_frame_equal(record.forecasts(), before)


@pytest.mark.parametrize(
    ("what", "given", "words"),
    [
        (issue(source="live"), blocks(), "source is 'live', expected one of nightly"),
        (issue(source="served"), blocks(), "needs the forecast_id"),
        (issue(issued_at=close_of(day(1)) - MICROSECOND), blocks(), "before the cutoff 2024-01-02"),
        (issue(issued_at=datetime(2999, 1, 1, tzinfo=UTC)), blocks(), "in the future"),
        (issue(issued_at=datetime(2024, 1, 3)), blocks(), "issued_at is no time with a zone"),
        (issue(), Blocks(SYMBOLS, LEVELS, np.zeros((3, 2, 7))), r"expected \[N, H, 1 \+ Q\]"),
        (issue(), Blocks(SYMBOLS, LEVELS, np.full((3, 2, 8), np.nan)), "not finite"),
        (issue(), Blocks(SYMBOLS, LEVELS, -np.tile(np.arange(8.0), (3, 2, 1))), "cross"),
        (issue(), Blocks(("A", "A"), LEVELS, np.zeros((2, 2, 8))), "no symbol twice"),
        (issue(), Blocks((), LEVELS, np.zeros((0, 2, 8))), "at least one step"),
        (issue(), Blocks(SYMBOLS, LEVELS[::-1], np.zeros((3, 2, 8))), "levels do not ascend"),
        (issue(), Blocks(SYMBOLS, (0.5, 2.0), np.zeros((3, 2, 3))), "levels do not ascend"),
        (issue(calibration=1), blocks(), "calibrated numbers and the version"),
        (issue(), blocks(calibrated=True), "calibrated numbers and the version"),
        (issue(version=np.int64(1)), blocks(), "version is no whole number"),
        (issue(calibration=1.5), blocks(calibrated=True), "calibration is no whole number"),
    ],
)
def test_what_is_no_forecast_is_refused_and_nothing_is_written(
    record: TrackRecord, what: Issue, given: Blocks, words: str
):
    with pytest.raises(BadParameter, match=words):
        record.issue(what, given)
    assert record.forecasts().empty


def test_unknown_symbols_sets_forecasts_and_steps_are_refused(record: TrackRecord):
    record.issue(issue(), blocks())
    rows = outcomes(blocks(), 1)
    with pytest.raises(NotFound, match="mine in the ledger has no symbol X, Y"):
        record.issue(issue(2), blocks(symbols=("X", "A", "Y")))
    with pytest.raises(NotFound, match="no data set 'other'; `python -m jobs data load other`"):
        record.issue(issue(data="other"), blocks())
    with pytest.raises(NotFound, match="no forecast 'none'"):
        record.score("none", 1, rows)
    with pytest.raises(NotFound, match="no symbol X"):
        record.score(issue().id, 1, rows.replace("A", "X"))
    few = issue(2)
    record.issue(few, blocks(symbols=SYMBOLS[:2]))
    with pytest.raises(NotFound, match=f"the forecast {few.id} has no symbol é %"):
        record.score(few.id, 1, rows)
    with pytest.raises(BadParameter, match="found step 4, expected 1 to 3"):
        record.score(issue().id, 4, rows)
    yesterday = datetime.now(UTC).date() - timedelta(days=1)
    late = issue(cutoff=yesterday, issued_at=datetime.now(UTC))
    record.issue(late, blocks())
    with pytest.raises(BadParameter, match="of step 1 has not closed"):
        record.score(late.id, 1, rows)
    assert record.scores().empty
    with pytest.raises(NotFound, match="no data set in the ledger has no symbol X"):
        record.forecasts(symbols=["X"])
    with pytest.raises(BadParameter, match=r"as \['AAPL'\]"):
        record.forecasts(symbols="A")
    for odd in (np.datetime64("2024-01-02T15:00"), 19724):
        with pytest.raises(BadParameter, match="expected a text, a date, or a datetime"):
            record.forecasts(as_of=odd)
    for name, value in (("version", "1"), ("model", ["har"]), ("symbols", [None])):
        with pytest.raises(BadParameter, match=name.rstrip("s")):
            record.scores(**{name: value})
    with pytest.raises(BadParameter, match="since is 'May', expected a date"):
        record.scores(since="May")
    with pytest.raises(BadParameter, match="no group 'weather', expected some of registry, model"):
        record.scores(by=["weather"])


def test_reads_as_of_any_instant_see_what_a_plain_memory_remembers(record: TrackRecord):
    rng = np.random.default_rng(0)
    made: dict[str, tuple[Issue, Blocks]] = {}
    issued: dict[str, datetime] = {}  # from when each is known
    versions: dict[tuple[str, str, int], list[list[Any]]] = {}  # [from, until, y]
    asked = [close_of(day(number)) for number in range(8)]
    for number in range(24):
        at = datetime.now(UTC)  # before what is written now
        if number % 4 == 0:
            source = ("backfill", "nightly")[number // 4 % 2]
            when = close_of(day(number // 8 + 1)) if source == "backfill" else at
            what = issue(number // 8 + 1, source=source, issued_at=when)
            given = blocks(number)
            record.issue(what, given)
            issued[what.id] = when if source == "backfill" else datetime.now(UTC)
            made[what.id] = (what, given)
        else:
            what, given = made[rng.choice(list(made))]
            step = int(rng.integers(1, 1 + HORIZON))
            rows = outcomes(given, step, seed=int(rng.integers(2))).sample(2, random_state=number)
            record.score(what.id, step, rows)
            remember(versions, what, step, rows, datetime.now(UTC))
        asked += [at, datetime.now(UTC)]
    for instant in [*asked, *(instant - MICROSECOND for instant in asked)]:
        frame = record.forecasts(as_of=instant)
        known = {key for key, begins in issued.items() if begins <= instant}
        assert set(frame["forecast_id"]) == known
        rows = frame.loc[frame["y"].notna(), ["forecast_id", "unique_id", "step", "y"]]
        found = {tuple(row[:3]): row[3] for row in rows.itertuples(index=False)}
        assert found == remembered(versions, known, instant)


def remember(versions: Any, what: Issue, step: int, rows: pd.DataFrame, at: datetime) -> None:
    for symbol, y in zip(rows["unique_id"], rows["y"], strict=True):
        history = versions.setdefault((what.id, symbol, step), [])
        if history and history[-1][2] == y:
            continue
        begins = at
        if history:
            history[-1][1] = at
        elif what.source == "backfill":
            begins = close_of(what.cutoff + timedelta(days=step))
        history.append([begins, None, y])


def remembered(versions: Any, known: set[str], instant: datetime) -> dict[Any, float]:
    found = {}
    for key, history in versions.items():
        for begins, ends, y in history:
            if key[0] in known and begins <= instant and (ends is None or ends > instant):
                found[key] = y
    return found


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize(
    "by", [["model", "step", "month"], ["symbol"], ["sector", "cutoff"], ["data", "year"], []]
)
def test_groups_in_sql_are_those_of_the_frame(record: TrackRecord, by: list[str], calibrated: bool):
    for number in range(8):
        model = ("har", "fhs")[number % 2]
        version = 3 if number % 3 == 0 else None
        given = blocks(number, calibrated=version is not None)
        what = issue(70 - 10 * number, model=model, calibration=version)
        record.issue(what, given)
        for step in range(1, 3 + number % 2):
            record.score(what.id, step, outcomes(given, step))
    frame = record.forecasts(calibrated=calibrated).dropna(subset="y")
    frame["symbol"] = frame["unique_id"]
    frame["sector"] = frame["unique_id"].str.lower()
    frame["month"] = frame["cutoff"].dt.strftime("%Y-%m")
    frame["year"] = frame["cutoff"].dt.strftime("%Y")
    groups = [*by, "source"]
    scored = ["crps", "covered_50", "covered_80", "covered_90"]
    expected = frame.groupby(groups, observed=True)[scored].mean()
    found = record.scores(by=by)
    suffix = "_calibrated" if calibrated else ""
    columns = [name.replace("covered", "coverage") + suffix for name in scored]
    pd.testing.assert_frame_equal(
        found[groups], expected.reset_index()[groups].astype(found[groups].dtypes)
    )
    assert found["n"].dtype == found["cutoffs"].dtype == np.int64
    np.testing.assert_allclose(found[columns].to_numpy(), expected.to_numpy())
    sizes = frame.groupby(groups, observed=True)["cutoff"].agg(["size", "nunique"])
    assert found[["n", "cutoffs"]].to_numpy().tolist() == sizes.values.tolist()
    share = frame.assign(raw=frame["calibration"].isna()).groupby(groups, observed=True)["raw"]
    np.testing.assert_allclose(found["uncalibrated"], share.mean())


def test_a_backfill_is_never_in_one_group_with_a_live_forecast(record: TrackRecord):
    for source in ("backfill", "nightly"):
        what = issue(source=source, issued_at=close_of(day(3)))
        record.issue(what, blocks())
        record.score(what.id, 1, outcomes(blocks(), 1))
    assert record.scores(by=["model"])["source"].tolist() == ["backfill", "nightly"]
    assert record.scores(by=[], source="nightly")["n"].tolist() == [3]


def test_conditions_choose_forecasts(record: TrackRecord):
    for number in (1, 2, 3):
        record.issue(issue(number, version=number), blocks(number))
    assert set(record.forecasts(version=2)["cutoff"].dt.date) == {day(2)}
    frame = record.forecasts(since=str(day(2)), symbols=["B"], model="har", data="mine")
    assert frame["cutoff"].dt.date.tolist() == [day(2)] * 3 + [day(3)] * 3
    assert set(frame["unique_id"]) == {"B"}
    assert set(record.forecasts(until=str(day(2)))["version"]) == {1, 2}
    assert record.forecasts(model="fhs").empty
    assert record.forecasts(registry="other").empty
    assert len(record.forecasts(version=np.int64(2), since=day(2))) == 9
    assert set(record.forecasts(as_of=str(day(2)))["version"]) == {1, 2}
    assert set(record.forecasts(as_of=close_of(day(2)) - MICROSECOND)["version"]) == {1}


def test_a_date_is_no_instant_for_forecasts_on_several_calendars(record: TrackRecord):
    fill = content("stocks", "XNYS")
    with Archive(settings_of(record)) as archive:
        archive.load(fill)
    record.issue(issue(), blocks())
    record.issue(issue(data="stocks", issued_at=close_of(day(2))), blocks())
    with pytest.raises(BadParameter, match=r"several calendars \(24/7, XNYS\).*name a data set"):
        record.forecasts(as_of="2024-01-05")
    assert len(record.forecasts(as_of="2024-01-05", data="stocks")) == 9
    assert len(record.forecasts(as_of="2024-01-05T00:00:00+00:00")) == 18


def test_two_that_write_at_once_write_once(record: TrackRecord):
    said: list[Any] = []

    def work() -> None:
        for number in range(1, 9):
            said.append(record.issue(issue(number), blocks(number)))
            said.append(record.score(issue(number).id, 1, outcomes(blocks(number), 1)).new)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(said[::1], key=int) == sorted([*[False] * 16, *[True] * 8, *[0] * 16, *[3] * 8])
    assert record.scores(by=["cutoff"])["n"].tolist() == [3] * 8


def test_connections_that_are_lost_lose_and_double_nothing(
    record: TrackRecord, ledger_uri: str, request: pytest.FixtureRequest
):
    if ledger_uri.startswith("sqlite"):
        lose = record.engine.dispose
    else:
        server = request.getfixturevalue("postgres")
        name = record.engine.url.database
        others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{}';"

        def lose() -> None:
            server.psql(others.format(name))

    acknowledged: list[str] = []
    done = threading.Event()

    def write() -> None:
        number = 0
        while not done.is_set() or number < 20:
            what = issue(number % 90, version=1 + number // 90)
            try:
                record.issue(what, blocks(number))
                record.score(what.id, 1, outcomes(blocks(number), 1))
            except KronosError:
                continue
            acknowledged.append(what.id)
            number += 1

    writer = threading.Thread(target=write)
    writer.start()
    for _ in range(3):
        lose()
        done.wait(0.3)
    done.set()
    writer.join()
    with database.read(record.engine) as connection:
        stored = connection.scalars(sa.select(forecasts.c.forecast_id)).all()
        count = sa.select(forecast_blocks.c.forecast, sa.func.count())
        sizes = connection.execute(count.group_by(forecast_blocks.c.forecast)).all()
    assert set(acknowledged) <= set(stored)
    assert len(stored) == len(set(stored)) == len(sizes)
    assert {size for _, size in sizes} == {len(SYMBOLS)}
    assert record.scores(by=["step"])["n"].tolist() == [len(SYMBOLS) * len(acknowledged)]


def test_lost_numbers_and_double_scores_are_found(record: TrackRecord):
    for source in ("backfill", "nightly"):
        what = issue(source=source, issued_at=close_of(day(1)))
        record.issue(what, blocks())
        record.score(what.id, 1, outcomes(blocks(), 1))
    record.score(what.id, 1, outcomes(blocks(), 1, seed=1))
    assert faults.find(record.engine) == []
    with database.write(record.engine) as connection:
        connection.execute(sa.delete(forecast_blocks).where(forecast_blocks.c.symbol_id == 1))
        connection.execute(sa.update(scores).values(known_until=None))
    found = [(fault.code, fault.message) for fault in faults.find(record.engine)]
    assert [code for code, _ in found] == ["TWO_VALUES", "BLOCKS_LOST", "BLOCKS_LOST"]
    assert found[0][1] == "3 rows of scores hold beside another one"
    assert found[2][1] == f"the forecast {what.id} has 2 symbols of 3"


def test_old_forecasts_are_removed_with_all_that_belongs_to_them(record: TrackRecord):
    for number in (1, 2, 3):
        for source in ("backfill", "nightly"):
            what = issue(number, source=source, issued_at=close_of(day(5)))
            record.issue(what, blocks())
            record.score(what.id, 1, outcomes(blocks(), 1))
    before = record.forecasts(since=str(day(3)))
    assert len(retention.old(record.engine, str(day(3)))) == 4
    assert retention.prune(record.engine, str(day(3)), source="nightly") == 2
    assert record.scores(by=["source"])["n"].tolist() == [9, 3]
    assert retention.prune(record.engine, str(day(3))) == 2
    assert retention.prune(record.engine, str(day(3))) == 0
    pd.testing.assert_frame_equal(record.forecasts(), before)
    with database.read(record.engine) as connection:
        for table, number in ((scores, 6), (forecast_blocks, 6), (forecasts, 2)):
            assert connection.scalar(sa.select(sa.func.count()).select_from(table)) == number
    with pytest.raises(BadParameter, match="before is 'May', expected a date"):
        retention.prune(record.engine, "May")


def test_a_data_set_with_forecasts_is_not_removed(record: TrackRecord):
    record.issue(issue(), blocks())
    with Archive(settings_of(record)) as archive:
        with pytest.raises(Conflict, match=r"1 forecasts of mine, which need it; .*--data mine"):
            archive.remove("mine")
        assert len(archive.symbols("mine")) == len(SYMBOLS)
        retention.prune(record.engine, str(day(9)), data="mine")
        archive.remove("mine")
    with pytest.raises(NotFound, match="no data set 'mine'"):
        record.issue(issue(), blocks())


def settings_of(record: TrackRecord) -> Settings:
    return Settings(ledger_uri=record.engine.url.render_as_string(hide_password=False))


def test_every_read_of_forecasts_and_scores_is_as_of_the_instant(tmp_path: Path):
    """Statements are those that SQLite runs, whatever wrote them."""
    settings = Settings(var_dir=tmp_path)
    with Archive(settings) as archive:
        archive.load(content("mine", "24/7"))
    statements: list[str] = []
    with TrackRecord(settings) as record:
        record.issue(issue(), blocks())
        record.score(issue().id, 1, outcomes(blocks(), 1))
        record.engine.dispose()
        trace = statements.append
        sa.event.listen(
            record.engine, "connect", lambda driver, _: driver.set_trace_callback(trace)
        )
        asked = close_of(day(4))
        assert len(record.forecasts(as_of=asked, symbols=["A"], calibrated=True)) == HORIZON
        assert len(record.scores(by=["symbol", "month"], as_of=asked)) == len(SYMBOLS)
    public = {name for name in vars(TrackRecord) if not name.startswith("_")}
    assert public == {"issue", "issue_all", "score", "forecasts", "scores"}
    instant = (asked - datetime(1970, 1, 1, tzinfo=UTC)) // MICROSECOND
    conditions = {
        "forecasts": f"forecasts.known_from <= {instant}",
        "scores": f"scores.known_from <= {instant} AND NOT (scores.known_until IS NOT NULL AND "
        f"scores.known_until <= {instant})",
    }
    checked = 0
    for statement in (" ".join(text.split()) for text in statements):
        if statement.startswith("SELECT DISTINCT forecasts.calendar"):
            continue  # says what a date means, before there is an instant
        for table, condition in conditions.items():
            sources = re.findall(rf"(?:FROM|JOIN|,) {table}\b(?!\.)", statement)
            assert statement.count(condition) == len(sources), statement
            checked += len(sources)
    assert checked == 5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"crps": np.inf}, "crps holds a value that is not finite"),
        ({"crps": -1.0}, "crps holds a value below 0"),
        ({"pit": 1.5}, "pit holds a value that is not within 0 and 1"),
        ({"covered_90": 0.5}, "covered_90 holds something else than 0 and 1"),
        ({"y": "x"}, "y holds something else than numbers"),
        ({"unique_id": "A"}, "scores have a symbol twice"),
        ({"unique_id": None}, "unique_id is no text"),
        ({"profit": 1.0}, "expected covered_50, covered_80, covered_90, crps, pit, unique_id, y"),
        ({"crps_calibrated": 1.0}, "of har/1 have columns covered_50, .*, crps_calibrated, pit"),
    ],
)
def test_what_is_no_score_is_refused(record: TrackRecord, changes: dict[str, Any], words: str):
    record.issue(issue(), blocks())
    rows = outcomes(blocks(), 1)
    with pytest.raises(BadParameter, match=words):
        record.score(issue().id, 1, rows.assign(**changes))
    for name in ("y", "covered_80"):
        with pytest.raises(BadParameter, match="expected covered_50, covered_80"):
            record.score(issue().id, 1, rows.drop(columns=name))
    with pytest.raises(BadParameter, match="step is no whole number"):
        record.score(issue().id, 1.5, rows)  # type: ignore[arg-type]
    assert record.scores().empty


def test_forecasts_of_other_forms_stand_in_one_frame_in_the_order_of_cutoffs(record: TrackRecord):
    levels = (0.25, 0.5, 0.75)
    narrow = Blocks(SYMBOLS[::-1], levels, np.zeros((3, 5, 4)))
    record.issue(issue(4), blocks(4))
    record.issue(issue(3, model="narrow"), narrow)
    record.issue(issue(2), blocks(2))
    y = np.ones(3)
    scored = {"unique_id": SYMBOLS[::-1], "y": y, **scoring.of_step(y, np.zeros((3, 3)), levels)}
    record.score(issue(3, model="narrow").id, 5, pd.DataFrame(scored))
    frame = record.forecasts()
    expected = [(day(2), symbol, step) for symbol in SYMBOLS for step in (1, 2, 3)]
    expected += [(day(3), symbol, step) for symbol in SYMBOLS for step in range(1, 6)]
    expected += [(day(4), symbol, step) for symbol in SYMBOLS for step in (1, 2, 3)]
    keys = zip(frame["cutoff"].dt.date, frame["unique_id"], frame["step"], strict=True)
    assert list(keys) == expected
    assert frame["q0.95"].isna().tolist() == (frame["model"] == "narrow").tolist()
    assert frame.loc[frame["y"].notna(), "covered_50"].tolist() == [0.0] * 3
    [row] = record.scores(by=["model"]).to_dict("records")
    assert (row["coverage_50"], row["n"]) == (0.0, 3)
    assert np.isnan(row["coverage_90"])


def test_registries_and_levels_are_not_mixed_in_a_group(record: TrackRecord):
    levels = (0.25, 0.5, 0.75)
    for number, given in ((1, blocks()), (2, Blocks(SYMBOLS, levels, np.zeros((3, 3, 4))))):
        what = issue(number, version=number)
        record.issue(what, given)
        y = np.zeros(3)
        scored = scoring.of_step(y, given.raw[:, 0, 1:], given.levels)
        record.score(what.id, 1, pd.DataFrame({"unique_id": SYMBOLS, "y": y, **scored}))
    assert record.scores()["version"].tolist() == [1, 2]
    assert record.scores(by=["levels"])["n"].tolist() == [3, 3]
    with pytest.raises(BadParameter, match="mixes forecasts of different levels: add 'levels'"):
        record.scores(by=["model"])
    other = issue(registry="other")
    record.issue(other, blocks())
    record.score(other.id, 1, outcomes(blocks(), 1))
    with pytest.raises(BadParameter, match="mixes forecasts of different registry"):
        record.scores()
    assert record.scores(registry="other")["n"].tolist() == [3]


def test_a_live_forecast_is_known_from_when_it_was_recorded(record: TrackRecord):
    record.issue(issue(source="nightly"), blocks())
    assert record.forecasts(as_of=close_of(day(9))).empty
    assert len(record.forecasts()) == 9


def test_of_two_scorers_at_once_neither_undoes_what_was_known(record: TrackRecord):
    record.issue(issue(source="nightly"), blocks())

    def work(seed: int) -> None:
        for number in range(6):
            record.score(issue(source="nightly").id, 1, outcomes(blocks(), 1, seed + number))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (0, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.read(record.engine) as connection:
        rows = connection.execute(sa.select(scores).where(scores.c.symbol_id == 1)).all()
    ends = {row.known_until for row in rows}
    assert len(rows) == 12
    assert ends - {None} == {row.known_from for row in rows} - {min(r.known_from for r in rows)}
    assert faults.find(record.engine) == []


def test_many_forecasts_are_recorded_at_once_and_the_bad_ones_are_named(record: TrackRecord):
    served = [a_served(number) for number in range(1, 6)]
    unknown = (replace(served[0][0], forecast_id="x"), blocks(symbols=("X",)))
    elsewhere = (replace(served[0][0], forecast_id="y", data="other"), blocks())
    early = (replace(served[0][0], forecast_id="z", issued_at=close_of(day(0))), blocks())
    crossed = (replace(served[0][0], forecast_id="w"), replace(blocks(), raw=-blocks().raw))
    refused = record.issue_all([unknown, *served[:3], elsewhere, early, crossed, *served[3:]])
    assert {issued.id: error.code for issued, error in refused} == {
        "x": "NOT_FOUND", "y": "NOT_FOUND", "z": "BAD_PARAMETER", "w": "BAD_PARAMETER",
    }  # fmt: skip
    frame = record.forecasts(source="served")
    assert frame["forecast_id"].unique().tolist() == [f"f{number}" for number in range(1, 6)]
    for number in range(1, 6):
        one = frame[frame["forecast_id"] == f"f{number}"]
        stored = one[["mean", *quantile_columns()]].to_numpy().reshape(3, HORIZON, -1)
        assert stored.tobytes() == served[number - 1][1].raw.tobytes()


def test_forecasts_that_are_there_are_compared_and_the_others_recorded(record: TrackRecord):
    first, second, third = a_served(1), a_served(2), a_served(3)
    assert record.issue_all([first, first]) == []
    other = (first[0], a_served(4)[1])
    [(issued, error)] = record.issue_all([second, other, first, third])
    assert (issued.id, error.code) == ("f1", "FORECAST_DIFFERS")
    assert record.forecasts()["forecast_id"].unique().tolist() == ["f1", "f2", "f3"]
    assert record.issue_all([]) == []


def test_forecasts_of_a_symbol_are_only_those_that_have_it(record: TrackRecord):
    record.issue_all([a_served(1), (a_served(2)[0], blocks(symbols=("A",)))])
    assert set(record.forecasts(symbols=["A"])["forecast_id"]) == {"f1", "f2"}
    assert set(record.forecasts(symbols=["B"])["forecast_id"]) == {"f1"}
    assert record.forecasts(symbols=["A", "B"])["forecast_id"].value_counts()["f1"] == 2 * HORIZON


def a_served(number: int) -> tuple[Issue, Blocks]:
    issued = issue(number, source="served", forecast_id=f"f{number}")
    return issued, blocks(seed=number)


def quantile_columns() -> list[str]:
    return [names.quantile_column(level) for level in LEVELS]
