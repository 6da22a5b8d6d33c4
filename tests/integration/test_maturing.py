"""What came true of a version's forecasts, session by session, on SQLite and PostgreSQL."""

from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy.testing as npt
import pytest
from nights import FIRST, HORIZON, LEVELS, SYMBOLS, blocks, close_of, day, issue, load, returns

from registry.ledger import maturing
from registry.ledger.states import Scope
from registry.ledger.track_record import TrackRecord
from registry.settings import Settings

SCOPE = Scope(registry="r", model="har", version=1, data="mine")


@pytest.fixture
def settings(ledger_uri: str, tmp_path: Path) -> Settings:
    return Settings(var_dir=tmp_path, ledger_uri=ledger_uri)


@pytest.fixture
def record(settings: Settings) -> Iterator[TrackRecord]:
    """A ledger with returns of three symbols on the days 1 to 10, and no forecast."""
    load(settings, returns())
    with TrackRecord(settings) as record:
        yield record


def plain(record: TrackRecord, **options: Any) -> dict[tuple[date, int], maturing.LedgerMatured]:
    """All that matured, by session and step."""
    matured = {}
    for night in maturing.nights(record.engine, SCOPE, **options):
        for part in night.matured:
            matured[night.session, part.step] = part
    return matured


def test_each_session_has_the_forecasts_of_the_cutoffs_before_it(record: TrackRecord):
    given = {number: blocks(number) for number in range(1, 9)}
    for number in (5, 2, 8, 1, 3, 4, 7, 6):  # ids need not be in the order of cutoffs
        issue(record, number, given[number])
    matured = plain(record)
    expected = [
        (day(session), step)
        for session in range(2, 11)
        for step in range(1, HORIZON + 1)
        if 1 <= session - step <= 8
    ]
    assert list(matured) == expected
    for (session, step), part in matured.items():
        number = (session - FIRST).days
        assert part.cutoff == day(number - step)
        assert part.symbols == ("A", "Z", "é %")
        npt.assert_array_equal(part.y, [returns()[symbol, number] for symbol in part.symbols])
        order = [SYMBOLS.index(symbol) for symbol in part.symbols]
        npt.assert_array_equal(part.raw, given[number - step].raw[order, step - 1])
        npt.assert_array_equal(part.quantiles, part.raw[:, 1:])
        assert part.levels == LEVELS
    assert maturing.count(record.engine, SCOPE) == 3 * len(expected)


def test_a_range_of_nights_is_a_part_of_all(record: TrackRecord, monkeypatch: Any):
    for number in range(1, 9):
        issue(record, number, blocks(number))
    every = plain(record)
    monkeypatch.setattr("registry.ledger.blocks.TOGETHER", 4)
    monkeypatch.setattr("registry.ledger.first_known._TOGETHER", 4)
    part = plain(record, since=day(4), until=day(6))
    assert list(part) == [key for key in every if day(4) <= key[0] <= day(6)]
    for key, matured in part.items():
        npt.assert_array_equal(matured.y, every[key].y)
        npt.assert_array_equal(matured.raw, every[key].raw)
    until = [key for key in every if key[0] <= day(6)]
    assert maturing.count(record.engine, SCOPE, day(6)) == 3 * len(until)


def test_the_nightly_forecast_counts_before_the_backfill_and_a_served_one_never(
    record: TrackRecord,
):
    late = close_of(day(5))
    issue(record, 1, blocks(1))
    issue(record, 1, blocks(2), source="nightly", issued_at=late)
    issue(record, 1, blocks(3), source="shadow", issued_at=late)
    issue(record, 2, blocks(4), source="served", forecast_id="f", issued_at=late)
    issue(record, 3, blocks(5), version=2)
    matured = plain(record)
    assert list(matured) == [(day(2), 1), (day(3), 2), (day(4), 3)]
    npt.assert_array_equal(matured[day(2), 1].raw[0], blocks(2).raw[1, 0])
    assert maturing.count(record.engine, SCOPE) == 9


def test_nights_are_counted_by_the_forecast_that_counts(record: TrackRecord):
    late = close_of(day(5))
    for number in (1, 2, 4):
        issue(record, number, blocks(number))
    issue(record, 1, blocks(2), source="nightly", issued_at=late)
    issue(record, 3, blocks(4), source="served", forecast_id="f", issued_at=late)
    issue(record, 3, blocks(5), version=2)
    assert maturing.nights_before(record.engine, SCOPE, day(5)) == (1, 2)
    assert maturing.nights_before(record.engine, SCOPE, day(4)) == (1, 1)
    assert maturing.nights_before(record.engine, SCOPE, day(1)) == (0, 0)
    assert maturing.nights_before(record.engine, SCOPE, day(5), as_of=close_of(day(3))) == (0, 2)


def test_an_outcome_is_the_first_value_and_a_late_one_counts(
    record: TrackRecord, settings: Settings
):
    without = {key: y for key, y in returns(12).items() if key not in {("A", 3), ("Z", 11)}}
    load(settings, without | {("A", 2): 0.5})  # withdraws A's day 3
    issue(record, 1, blocks())
    issue(record, 10, blocks())
    matured = plain(record)
    assert matured[day(2), 1].y[0] == returns()["A", 2]
    assert matured[day(3), 2].y[0] == returns()["A", 3]
    assert matured[day(11), 1].symbols == ("A", "é %")
    before = maturing.count(record.engine, SCOPE)
    load(settings, without | {("Z", 11): 0.7})
    assert plain(record)[day(11), 1].y.tolist() == [returns(12)["A", 11], 0.7, 0.112]
    assert maturing.count(record.engine, SCOPE) == before + 1


def test_what_was_not_known_at_an_instant_does_not_count(record: TrackRecord):
    for number in range(1, 9):
        issue(record, number, blocks(number))
    sessions = [
        night.session for night in maturing.nights(record.engine, SCOPE, as_of=close_of(day(4)))
    ]
    assert sessions == [day(2), day(3), day(4)]
    assert maturing.count(record.engine, SCOPE, as_of=close_of(day(2))) == 3


def test_a_scope_without_forecasts_has_no_nights(record: TrackRecord):
    assert plain(record) == {}
    assert maturing.count(record.engine, SCOPE) == 0
