"""Scores over the nights of a range, and which nights are calibrated."""

from datetime import UTC, date, datetime, timedelta

import numpy as np
import numpy.testing as npt
import pandas as pd
import pytest

from jobs.nightly import course as courses
from jobs.nightly.course import Course, Recorder
from jobs.nightly.folding import sessions_between, without_gaps
from jobs.nightly.publishing import text_of
from jobs.nightly.ranges import Asked, Range
from registry.errors import BadParameter
from registry.ledger.maturing import LedgerMatured, LedgerNight
from registry.ledger.states import Scope, Version
from registry.scoring.learning import trail as trails
from registry.scoring.learning.nights import Matured, Night

LEVELS = (0.05, 0.5, 0.95)
FIRST = date(2020, 1, 1)
SECTORS = ("one", "two")


def day(number: int) -> date:
    return FIRST + timedelta(days=number)


def trail_of(days: int, rng: np.random.Generator) -> tuple[trails.Trail, pd.DataFrame]:
    """A trail of some days at 2 steps, and its rows: day, step, sector, and 90 % band."""
    whole, rows = trails.Trail.empty(LEVELS, 2), []
    for number in range(days):
        session = trails.session_of(np.datetime64(day(number)), LEVELS, SECTORS, 2)
        for step in (1, 2):
            count = int(rng.integers(1, 6))
            sectors = rng.integers(-1, 2, count)
            y = rng.normal(size=count)
            raw, calibrated = [np.tile([-w, 0, w], (count, 1)) for w in (1.0, 1.6)]
            trails.add(session, step, sectors, y, (raw, calibrated))
            for place in range(count):
                inside = [abs(y[place]) <= w for w in (1.0, 1.6)]
                rows.append((number, step, sectors[place], *inside))
        whole = whole.followed_by(session)
    columns = ["day", "step", "sector", "before", "after"]
    return whole, pd.DataFrame(rows, columns=columns)


def test_a_metric_of_a_night_is_the_mean_of_the_250_sessions_until_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(courses, "WINDOW", 5)
    trail, rows = trail_of(20, np.random.default_rng(0))
    metrics = Course(trail, tuple(day(n) for n in range(3, 20))).metrics()
    assert [*metrics["coverage_90_after"]] == [day(n) for n in range(3, 20)]
    for number in (3, 10, 19):
        window = rows[rows["day"].between(number - 4, number)]
        for when in ("before", "after"):
            pooled = metrics[f"coverage_90_{when}"][day(number)]
            npt.assert_allclose(pooled, window[when].mean(), rtol=1e-12)
            of_step = metrics[f"coverage_90_{when}_step_2"][day(number)]
            npt.assert_allclose(of_step, window[window["step"] == 2][when].mean(), rtol=1e-12)


def test_sectors_are_scored_over_all_sessions() -> None:
    trail, rows = trail_of(20, np.random.default_rng(1))
    table = Course(trail, (day(19),)).by_sector()
    expected = rows[rows["sector"] >= 0].groupby(["step", "sector"])[["before", "after"]].mean()
    found = table.set_index(["step", "sector"])[["coverage_90_before", "coverage_90_after"]]
    npt.assert_allclose(found.loc[(2, "two")], expected.loc[(2, 1)], rtol=1e-12)
    npt.assert_allclose(found.loc[(1, "one")], expected.loc[(1, 0)], rtol=1e-12)
    assert table["n"].sum() == (rows["sector"] >= 0).sum()


def test_reliability_and_pit_are_those_of_the_trail() -> None:
    trail, rows = trail_of(20, np.random.default_rng(2))
    course = Course(trail, (day(19),))
    before, after = course.reliability()
    assert before.shape == after.shape == (2, 3)
    below = trail.below.sum(axis=0)
    npt.assert_allclose(after[1], below[1, 1] / (rows["step"] == 2).sum())
    assert [counts.sum() for counts in course.pit()] == [len(rows)] * 2


def test_a_table_of_nights_holds_those_of_the_range_only() -> None:
    trail, rows = trail_of(6, np.random.default_rng(3))
    table = Course(trail, (day(4), day(5))).frame()
    assert table["session"].dt.date.tolist() == [day(4)] * 2 + [day(5)] * 2
    of_night = rows[(rows["day"] == 5) & (rows["step"] == 1)]
    npt.assert_allclose(table["coverage_90_before"].iloc[2], of_night["before"].mean())


def test_a_recorded_range_is_longer_than_a_memory_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = trail_of(30, np.random.default_rng(4))
    monkeypatch.setattr(trails, "SESSIONS", 7)
    short, recorder = trails.Trail.empty(LEVELS, 2), Recorder()
    matured = (Matured(1, ("A",), np.zeros(1), np.zeros((1, 3))),)
    for number in range(30):
        short = short.followed_by(_session(whole, number))
        recorder.add(short, Night(day(number), matured))
    course = recorder.course([day(n) for n in range(30)])
    assert course is not None
    npt.assert_array_equal(course.trail.covered, whole.covered)
    npt.assert_array_equal(course.trail.sector_crps, whole.sector_crps)


def _session(trail: trails.Trail, place: int) -> trails.Trail:
    return courses._copy(trail, slice(place, place + 1))


def test_curves_have_at_most_500_points_and_the_last_night() -> None:
    trail, _ = trail_of(1, np.random.default_rng(5))
    nights = tuple(day(number) for number in range(1234))
    shown = Course(trail, nights).shown()
    assert len(shown) == 412
    assert shown[-1] == nights[-1]
    assert Course(trail, nights[:500]).shown() == nights[:500]


# --- ranges -------------------------------------------------------------------------------------


def test_a_range_is_read_back_from_its_key() -> None:
    longest = Scope(registry="r" * 128, model="m" * 64, version=999_999_999, data="d" * 64)
    nights = Range(day(1), day(9), "tracking")
    key = nights.key(longest)
    assert len(key) <= 128
    assert Range.of_key(key) == nights
    other = Scope(registry="r" * 128, model="m" * 64, version=999_999_999, data="e" * 64)
    assert nights.key(other) != key


def test_dates_the_other_way_round_are_refused() -> None:
    with pytest.raises(BadParameter, match="exchange them"):
        Asked.of("2020-01-02", "2020-01-01")
    with pytest.raises(BadParameter, match="--to is 'x', expected a date"):
        Asked.of("", "x")
    assert Asked.of("2020-01-01", "2020-01-01") == Asked(FIRST, FIRST)


def matured(session: date) -> LedgerNight:
    raw = np.zeros((1, 4))
    part = LedgerMatured(1, "f", session, LEVELS, ("A",), np.zeros(1), raw, None)
    return LedgerNight(session, (part,))


def test_sessions_without_an_outcome_are_nights_too() -> None:
    friday, tuesday = date(2024, 1, 12), date(2024, 1, 16)  # the 15th was a holiday
    nights = without_gaps(
        [matured(friday), matured(date(2024, 1, 18))], "XNYS", None, date(2024, 1, 22)
    )
    shown = [(night.session.day, len(night.matured)) for night in nights]
    assert shown == [(12, 1), (16, 0), (17, 0), (18, 1), (19, 0), (22, 0)]
    begun = without_gaps([matured(tuesday)], "XNYS", date(2024, 1, 11), tuesday)
    assert [night.session.day for night in begun] == [11, 12, 16]
    assert list(without_gaps([], "XNYS", None, tuesday)) == []
    assert sessions_between("XNYS", tuesday, friday) == []


# --- in words -----------------------------------------------------------------------------------


def version(steps: int) -> Version:
    every = [str(step) for step in range(1, steps + 1)]
    evidence = {
        "verdicts": dict.fromkeys(every, "stale"),
        "steps": {step: {"reason": "the newest outcome is 9 sessions old"} for step in every},
    }
    return Version(
        number=3, method="aci", learned_until=FIRST, known_from=datetime.now(UTC), levels=LEVELS,
        evidence=evidence,
    )  # fmt: skip


def test_a_calibration_in_words_has_reasons_while_there_is_room() -> None:
    assert text_of(version(1), "panel", "59 backfilled nights") == (
        "Number 3 on `panel`, learned until 2020-01-01 by aci from 59 backfilled nights: step 1 "
        "stale (the newest outcome is 9 sessions old)."
    )
    many = text_of(version(64), "panel", "1 live night")
    assert many.endswith("step 63 stale; step 64 stale.")
    assert len(many) < 2000
