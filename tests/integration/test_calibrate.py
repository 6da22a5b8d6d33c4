"""Calibrations are learned night by night and published, on SQLite and PostgreSQL."""

import contextvars
import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.testing as npt
import pyarrow as pa
import pytest
from programs import environment
from scipy.stats import norm

from jobs.nightly import calibrate as job
from jobs.nightly import calibration_record
from jobs.nightly.calibrate import Calibrated, calibrate, roll_back
from jobs.nightly.folding import without_gaps
from jobs.nightly.memory_file import NAME
from jobs.nightly.publishing import Published
from registry.errors import BadParameter, Conflict, NotFound
from registry.ledger import calibrations, job_runs, maturing
from registry.ledger.archive import Archive
from registry.ledger.filling import Content, Symbol
from registry.ledger.issue import Blocks, Issue
from registry.ledger.states import Scope
from registry.ledger.track_record import TrackRecord
from registry.promotion import doctor, moves
from registry.scoring.learning.learner import Learner
from registry.settings import Settings
from registry.versions.version import Version

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
SYMBOLS = tuple("ABCDEF")
SECTORS = {"A": "one", "B": "one", "C": "one", "D": "two", "E": "two", "F": None}
FIRST = date(2024, 1, 1)
HORIZON = 2
VOLATILITY = 0.02


def day(number: int) -> date:
    return FIRST + timedelta(days=number)


def close_of(session: date) -> datetime:
    return datetime(session.year, session.month, session.day, tzinfo=UTC) + timedelta(days=1)


@dataclass
class World:
    """A version with forecasts that are too narrow, in a ledger of its own folder."""

    settings: Settings
    version: Version
    scope: Scope
    said: list[str] = field(default_factory=list)
    width: float = 0.7  # of the forecasts, for one that is right
    returns: dict[tuple[str, int], float] = field(default_factory=dict)

    def load(
        self, days: int, factor: float = 1.0, left_out: Sequence[tuple[str, int]] = ()
    ) -> None:
        """Have returns until a day; days that are there already keep theirs."""
        rng = np.random.default_rng(5)
        noise = rng.normal(0, VOLATILITY, (len(SYMBOLS), 1000))
        for place, symbol in enumerate(SYMBOLS):
            for number in range(1, days + 1):
                if (symbol, number) not in left_out:
                    y = factor * float(noise[place, number])
                    self.returns.setdefault((symbol, number), y)
        keys = sorted(self.returns)
        ds = pa.array([day(number) for _, number in keys])
        symbols = [symbol for symbol, _ in keys]
        y = [self.returns[key] for key in keys]
        rows = pa.table({"unique_id": symbols, "ds": ds, "y": y})
        dates = pa.array(sorted({day(number) for _, number in keys}))
        market: dict[str, Any] = {"ds": dates}
        for name in ("market_abs_return", "index_return", "market_members"):
            market[name] = pa.array(np.zeros(len(dates)))
        known = [Symbol(name, FIRST, FIRST, sector=SECTORS[name]) for name in SYMBOLS]
        digest = f"{days} {factor} {len(keys)}"
        content = Content(self.scope.data, digest, "24/7", "u@1", known, [rows], pa.table(market))
        with Archive(self.settings) as archive:
            archive.load(content)

    def issue(self, first: int, last: int, width: float | None = None) -> None:
        """Issue forecasts after the days from one to another."""
        values = np.zeros((len(SYMBOLS), HORIZON, 1 + len(LEVELS)))
        values[..., 1:] = norm.ppf(LEVELS) * VOLATILITY * (width or self.width)
        given = []
        for number in range(first, last + 1):
            issued = Issue(
                **vars(self.scope),
                source="backfill",
                cutoff=day(number),
                issued_at=close_of(day(number)),
            )
            given.append((issued, Blocks(SYMBOLS, LEVELS, values)))
        with TrackRecord(self.settings) as record:
            assert record.issue_all(given) == []

    def calibrate(self, **options: Any) -> Calibrated:
        """Calibrate the version; there is one range to do, or none."""
        [done] = calibrate(
            self.settings,
            [self.version.reference],
            data=self.scope.data,
            say=self.said.append,
            **options,
        )
        return done

    def published(self) -> list[dict[str, Any]]:
        """All calibrations, with their states, in the order of their numbers."""
        with Archive(self.settings) as archive:
            numbered = []
            for version in calibrations.versions(archive.engine, self.scope):
                instant = version.known_from
                current = calibrations.current(archive.engine, self.scope, instant)
                numbered.append(vars(current or version))
        return numbered

    def current(self) -> calibrations.Calibration | None:
        with Archive(self.settings) as archive:
            return calibrations.current(archive.engine, self.scope)

    def runs(self) -> list[Any]:
        """Runs of this scope."""
        store = calibration_store(self.settings)
        experiment = store.client.get_experiment_by_name("calibrations")
        if experiment is None:
            return []
        runs = store.client.search_runs([experiment.experiment_id])
        return [run for run in runs if run.data.tags["model"] == self.scope.model]

    def learned(self, until: int, method: str = "tracking") -> list[Any]:
        """Lessons of the ledger's nights by the learner alone."""
        learner = Learner(method, LEVELS, HORIZON, {k: v for k, v in SECTORS.items() if v})
        memory, lessons = learner.start(), []
        with Archive(self.settings) as archive:
            nights = maturing.nights(archive.engine, self.scope, until=day(until))
            for night in without_gaps(nights, "24/7", None, day(until)):
                lessons.append(learner.learn(memory, night))
                memory = lessons[-1].memory
        return lessons


def calibration_store(settings: Settings) -> Any:
    from registry.versions.store import Store

    return Store(settings)


def same_states(one: Any, other: Any) -> None:
    """Two calibrations with the same states, bit for bit."""
    assert list(one["keys"]) == list(other["keys"])
    for name in ("steps", "bias", "scale", "offsets"):
        assert one[name].tobytes() == other[name].tobytes(), name
    assert one["learned_until"] == other["learned_until"]


def same_as_lesson(published: Any, lesson: Any) -> None:
    """A calibration with the states of a lesson, bit for bit (-0.0 counts as 0.0)."""
    keys, steps, bias, scale, offsets = lesson.states.flat()
    order = sorted(range(len(keys)), key=lambda place: (*keys[place], steps[place]))
    assert list(published["keys"]) == [keys[place] for place in order]
    npt.assert_array_equal(published["steps"], steps[order])
    npt.assert_array_equal(published["bias"], bias[order])
    npt.assert_array_equal(published["scale"], scale[order])
    npt.assert_array_equal(published["offsets"], offsets[order])


@pytest.fixture
def world(bench: Any, tmp_path: Path) -> World:
    """A version without forecasts, with the returns of 40 days; the cache is in an own folder."""
    version = bench.store.version(bench.model(1), 1)
    scope = Scope(registry=bench.ledger.registry, model=version.name, version=1, data=version.name)
    settings = bench.settings.model_copy(
        update={
            "var_dir": tmp_path,
            "tracking_uri": bench.settings.tracking,
            "ledger_uri": bench.settings.ledger,
            "artifacts_uri": bench.settings.artifacts,
        }
    )
    return World(settings, version, scope)


def test_a_night_publishes_what_the_learner_learned(world: World) -> None:
    world.load(20)
    world.issue(1, 20)
    done = world.calibrate()
    assert (done.since, done.until, done.nights) == (day(2), day(20), 19)
    assert done.published.numbers == [*range(1, 20)]
    published = world.published()
    lessons = world.learned(20)
    assert [one["learned_until"] for one in published] == [day(n) for n in range(2, 21)]
    for calibration, lesson in zip(published, lessons, strict=True):
        same_as_lesson(calibration, lesson)
    evidence = published[-1]["evidence"]
    assert evidence["verdicts"] == {"1": "uncalibrated", "2": "uncalibrated"}
    assert evidence["steps"]["1"]["sessions"] == 19
    assert evidence["nights"] == 19
    assert evidence["learned_from"] == {"live": 0, "backfill": 19}
    assert evidence["crps"]["after"] < evidence["crps"]["before"]
    assert world.said == []


def test_nights_one_by_one_in_one_go_and_in_a_long_range_are_the_same_bits(
    world: World, bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.load(10)
    world.issue(1, 10)
    for number in range(2, 11):
        world.calibrate(since=str(day(number)), until=str(day(number)))
    nightly = world.published()
    assert len(nightly) == 9
    (world.settings.state_dir / NAME).unlink()

    others = []
    for name in ("range", "long"):
        version = bench.store.version(bench.model(1), 1)
        scope = Scope(**{**vars(world.scope), "model": version.name})
        others.append(World(world.settings, version, scope))
        others[-1].issue(1, 10)
        if name == "long":
            monkeypatch.setattr(job, "TOGETHER", 8)
        done = others[-1].calibrate()
        assert done.nights == 9
    for one, other in zip(nightly, others[0].published(), strict=True):
        same_states(one, other)
    [last] = others[1].published()
    same_states(last, nightly[-1])
    assert last["number"] == 1


def test_a_night_that_runs_twice_leaves_one_run_and_one_calibration(world: World) -> None:
    world.load(10)
    world.issue(1, 10)
    first = world.calibrate(since=str(day(10)))
    cached = (world.settings.state_dir / NAME).read_bytes()
    again = world.calibrate(since=str(day(10)))
    assert again.note == "this range was done before"
    assert (
        world.calibrate().note
        == f"everything until {day(10)}, the last session with outcomes, is learned"
    )
    assert (world.settings.state_dir / NAME).read_bytes() == cached
    assert [run.info.run_id for run in world.runs()] == [first.run_id]
    assert len(world.published()) == 1


@pytest.mark.parametrize("place", ["log", "keep", "complete"])
def test_a_night_that_was_cut_is_continued_in_its_run(
    world: World, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.load(12)
    world.issue(1, 12)
    world.calibrate(until=str(day(11)))

    def cut(*_: Any) -> None:
        raise KeyboardInterrupt

    owners = {
        "log": (calibration_record, "log"),
        "keep": (job.Fold, "keep"),
        "complete": (job_runs.Held, "complete"),
    }
    with monkeypatch.context() as patched:
        patched.setattr(*owners[place], cut)
        with pytest.raises(KeyboardInterrupt):
            world.calibrate()
    before = world.published()
    assert before[-1]["learned_until"] == day(12)
    done = world.calibrate()
    assert (done.since, done.until, done.published.numbers) == (day(12), day(12), [11])
    runs = world.runs()
    assert len(runs) == 2
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert "kronos.error" not in runs[0].data.tags
    assert len(world.published()) == len(before) == 11
    history = calibration_store(world.settings).client.get_metric_history(
        done.run_id, "coverage_90_after"
    )
    assert len(history) == 1


def test_a_corrupt_cache_is_quarantined_and_learned_again(world: World) -> None:
    world.load(20)
    world.issue(1, 20)
    world.calibrate(until=str(day(19)))
    cache = world.settings.state_dir / NAME
    cache.write_bytes(cache.read_bytes()[:-1])
    done = world.calibrate()
    assert done.quarantined == ["calibration.corrupt-1.parquet"]
    assert "calibration.corrupt-1.parquet" in world.said[0]
    assert world.runs()[0].data.tags["cache_quarantined"] == "calibration.corrupt-1.parquet"
    same_as_lesson(world.published()[-1], world.learned(20)[-1])
    assert cache.exists()


def test_a_late_outcome_is_learned_as_if_it_had_been_there(world: World) -> None:
    world.load(19, left_out=[("B", 10)])
    world.issue(1, 20)
    world.calibrate()
    world.load(20)  # with the return of B on day 10
    done = world.calibrate()
    assert "the ledger holds" in done.learned_again
    assert (done.since, done.until) == (day(20), day(20))
    lessons = world.learned(20)
    assert sum(len(night.calibrated) for night in lessons) == 18 * 2 + 1
    same_as_lesson(world.published()[-1], lessons[-1])


def test_a_restated_outcome_changes_nothing(world: World) -> None:
    world.load(19)
    world.issue(1, 20)
    world.calibrate()
    world.load(20)
    expected = world.learned(20)[-1]
    world.returns["B", 10] = 0.5
    world.load(20, factor=1.001)
    done = world.calibrate()
    assert done.learned_again == ""
    same_as_lesson(world.published()[-1], expected)


def test_a_calibration_that_makes_crps_worse_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.load(20)
    world.issue(1, 20)
    first = world.calibrate(until=str(day(19)))
    monkeypatch.setattr(Learner, "effect", lambda *_: (1.0, 1.0101))
    done = world.calibrate()
    assert done.published.numbers == []
    [refused] = done.published.refused
    assert refused.startswith(f"{day(20)}: CRPS of the last 60 sessions would be 1.0101 with it")
    assert "is refused" in world.said[-1]
    assert "1.0 % worse" in world.runs()[0].data.tags["refused"]
    current = world.current()
    assert current is not None
    assert current.number == first.published.numbers[-1]
    assert done.summary()["refused"] == [refused]
    monkeypatch.setattr(Learner, "effect", lambda *_: (1.0, 1.0099))
    world.load(21)
    assert world.calibrate().published.numbers == [19]


def test_a_verdict_that_falls_is_said(world: World) -> None:
    world.width = 1.0
    world.load(140)
    world.issue(1, 145)
    done = world.calibrate(until=str(day(138)))
    assert done.published.verdicts == {"1": "calibrated", "2": "calibrated"}
    assert world.said == []
    for number in (141, 142):
        for symbol in SYMBOLS:
            world.returns[symbol, number] = 0.0
    world.load(142)
    for number in range(143, 175):
        for symbol in SYMBOLS:
            world.returns[symbol, number] = 0.3
    world.load(174)
    world.issue(146, 174)
    done = world.calibrate()
    assert done.published.verdicts["1"] != "calibrated"
    assert done.published.fell[0].endswith("was calibrated")
    assert "the verdict on" in world.said[0]
    assert world.runs()[0].data.tags["verdict_fell"] == "; ".join(done.published.fell)
    assert done.summary()["verdict_fell"] == done.published.fell


def test_a_version_that_is_not_forecast_any_more_becomes_stale(world: World) -> None:
    world.width = 1.0
    world.load(150)
    world.issue(1, 140)
    done = world.calibrate()
    assert done.published.verdicts == {"1": "stale", "2": "stale"}
    assert done.published.steps["1"]["newest"] == str(day(141))
    assert "9 sessions old" in done.published.steps["1"]["reason"]


def test_a_roll_back_exchanges_two_calibrations_until_the_next_night(world: World) -> None:
    world.load(12)
    world.issue(1, 13)
    with pytest.raises(Conflict, match="has no calibration before"):
        roll_back(world.settings, world.version.reference, world.scope.data)
    world.calibrate()

    def number() -> int:
        current = world.current()
        assert current is not None
        return current.number

    assert number() == 11
    assert (
        roll_back(world.settings, world.version.reference, world.scope.data)["number"]
        == number()
        == 10
    )
    assert tags_of(world)["calibration_number"] == "10"
    assert world.calibrate().note.startswith("everything until")
    assert number() == 10
    assert (
        roll_back(world.settings, world.version.reference, world.scope.data)["number"]
        == number()
        == 11
    )
    assert (
        roll_back(world.settings, world.version.reference, world.scope.data)["number"]
        == number()
        == 10
    )
    world.load(13)
    assert world.calibrate().published.numbers == [12]
    assert number() == 12
    assert (
        roll_back(world.settings, world.version.reference, world.scope.data)["number"]
        == number()
        == 10
    )


def tags_of(world: World) -> Any:
    store = calibration_store(world.settings)
    return store.version(world.scope.model, 1).tags


def test_a_version_says_its_calibration_in_description_and_tags(world: World) -> None:
    world.load(12)
    world.issue(1, 12)
    world.calibrate(until=str(day(11)))
    world.calibrate()
    store = calibration_store(world.settings)
    entity = store.client.get_model_version(world.scope.model, "1")
    assert entity.description.count("**Calibration.**") == 1
    assert (
        f"Number 11 on `{world.scope.data}`, learned until {day(12)} by tracking from 11 "
        "backfilled nights: step 1" in entity.description
    )
    assert "11 sessions have matured, 120 are needed" in entity.description
    assert tags_of(world)["calibration"] == "uncalibrated"
    assert tags_of(world)["calibration_number"] == "11"


def test_the_run_has_metrics_pictures_and_tables(world: World) -> None:
    world.load(12)
    world.issue(1, 12)
    done = world.calibrate()
    [run] = world.runs()
    assert run.info.run_name == f"{world.version.reference} {world.scope.data}"
    assert run.data.tags["job_key"].endswith(f"tracking {day(2)}..{day(12)}")
    assert run.data.tags["calibration"] == "uncalibrated"
    assert run.data.tags["learned_from"] == "11 backfilled nights"
    assert run.data.metrics["nights"] == 11
    client = calibration_store(world.settings).client
    history = client.get_metric_history(run.info.run_id, "coverage_90_before_step_1")
    assert [metric.step for metric in history] == [*range(11)]
    lessons = world.learned(12)
    trail = lessons[-1].memory.trail
    expected = trail.covered[:, 0, 0, 2].sum() / trail.n[:, 0].sum()
    assert run.data.metrics["coverage_90_before_step_1"] == pytest.approx(expected, rel=1e-12)
    assert done.metrics["coverage_90_before_step_1"] == pytest.approx(expected, rel=1e-12)
    assert run.data.metrics["coverage_90_after/one"] > 0
    listed = [
        entry.path
        for folder in ("figures", "tables")
        for entry in client.list_artifacts(run.info.run_id, folder)
    ]
    assert sorted(listed) == [
        "figures/coverage.png", "figures/pit.png", "figures/reliability.png",
        "tables/clipped.csv", "tables/nights.csv", "tables/sectors.csv",
    ]  # fmt: skip


def test_another_method_is_learned_from_the_start_and_stays(world: World) -> None:
    world.load(13)
    world.issue(1, 13)
    world.calibrate(until=str(day(12)))
    changed = world.calibrate(method="aci")
    assert (changed.method, changed.since, changed.until) == ("aci", day(13), day(13))
    same_as_lesson(world.published()[-1], world.learned(13, "aci")[-1])
    again = world.calibrate(method="ewma")
    assert (again.since, again.until) == (day(13), day(13))
    assert world.published()[-1]["method"] == "ewma"
    world.load(14)
    assert world.calibrate().method == "ewma"
    same_as_lesson(world.published()[-1], world.learned(14, "ewma")[-1])
    with pytest.raises(BadParameter, match="expected one of tracking, ewma, aci"):
        world.calibrate(method="garch")


def test_a_night_of_the_past_does_not_replace_a_newer_calibration(world: World) -> None:
    world.load(20)
    world.issue(1, 20)
    world.calibrate(since=str(day(20)))
    done = world.calibrate(since=str(day(9)), until=str(day(10)))
    assert done.published.numbers == []
    assert done.published.older == 2
    current = world.current()
    assert current is not None
    assert current.learned_until == day(20)


def test_nights_that_were_published_before_are_found_again(world: World) -> None:
    world.load(12)
    world.issue(1, 12)
    first = world.calibrate()
    again = world.calibrate(since=str(day(3)), until=str(day(8)))
    assert again.published.numbers == first.published.numbers[1:7]
    assert again.published.older == 0
    current = world.current()
    assert current is not None
    assert current.number == first.published.numbers[-1]


def test_the_doctor_has_nothing_to_say_of_a_calibrated_version(world: World, bench: Any) -> None:
    moves.promote(bench.store, bench.ledger, world.scope.model, 1, who="tests", why="to serve")
    world.load(12)
    world.issue(1, 12)
    world.calibrate()
    assert doctor.examine(bench.store, bench.ledger, world.scope.model) == []
    version = bench.store.version(world.scope.model, 1)
    assert bench.store.fetch(version).exists()  # verified against its manifest


def test_without_forecasts_or_outcomes_there_is_nothing_to_do(world: World) -> None:
    world.load(5)
    assert "the ledger has no forecast of" in world.calibrate().note
    world.issue(5, 5)
    assert world.calibrate().note == f"no forecast on {world.scope.data} has come true yet"
    assert world.runs() == []
    assert world.published() == []
    assert tags_of(world).get("calibration") is None


def test_as_of_a_day_learns_what_was_known_then(world: World) -> None:
    world.load(20)
    world.issue(1, 20)
    done = world.calibrate(as_of=str(day(15)))
    assert done.until == day(15)
    same_as_lesson(world.published()[-1], world.learned(15)[-1])


def test_a_version_that_fails_does_not_stop_the_others(world: World, bench: Any) -> None:
    world.load(5)
    world.issue(1, 5)
    others = bench.model(1)
    done = calibrate(
        world.settings,
        [f"{others}/1", world.version.reference],
        data=world.scope.data,
        say=world.said.append,
    )
    assert [one.note != "" for one in done] == [True, False]
    failed, fine = calibrate(
        world.settings, [f"{others}/1", world.version.reference], say=world.said.append
    )
    assert failed.error is not None
    assert "has forecasts of none" in failed.error.message
    assert fine.data == world.scope.data
    assert fine.note.startswith("everything until")
    with pytest.raises(NotFound):
        calibrate(world.settings, ["nobody/1"])
    [missing] = calibrate(world.settings, [world.version.reference], data="other")
    assert missing.error is not None
    assert missing.error.code == "NOT_FOUND"


def test_no_version_named_means_those_in_production(world: World, bench: Any) -> None:
    world.load(5)
    world.issue(1, 5)
    moves.promote(
        bench.store, bench.ledger, world.scope.model, 1, who="tests", why="to be calibrated"
    )
    done = calibrate(world.settings, data=world.scope.data, say=world.said.append)
    mine = [one for one in done if one.version.name == world.scope.model]
    assert [one.nights for one in mine] == [4]


# --- the verb -----------------------------------------------------------------------------------


@pytest.fixture
def calibrating(world: World, verb: Any) -> Any:
    """Run `python -m jobs calibrate WORDS...` on the world: (exit code, JSON, stderr)."""

    def run(*words: str) -> tuple[int, Any, str]:
        code, out, err = verb(world.settings, "jobs", "calibrate", *words)
        return code, json.loads(out.splitlines()[-1]) if out else None, err

    return run


def test_the_verb_says_what_was_done_as_json(world: World, calibrating: Any) -> None:
    world.load(12)
    world.issue(1, 12)
    named = (world.version.reference, "--data", world.scope.data)
    code, done, err = calibrating(*named, "--to", str(day(11)))
    assert code == 0
    [one] = done["calibrated"]
    assert (one["nights"], one["number"], one["published"]) == (10, 10, 10)
    assert one["verdicts"] == {"1": "uncalibrated", "2": "uncalibrated"}
    assert f"learned 10 nights until {day(11)} by tracking, published calibration 10" in err
    assert one["learned_from"] == "10 backfilled nights"
    code, done, err = calibrating(*named)
    assert (code, done["calibrated"][0]["number"]) == (0, 11)
    code, done, err = calibrating(*named)
    assert (code, done["calibrated"][0]["published"]) == (0, 0)
    assert "nothing to do, everything until" in err
    code, done, err = calibrating(*named, "--rollback")
    assert (code, done["number"], done["rolled_back"]) == (0, 10, True)


def test_the_verb_refuses_words_that_do_not_fit(world: World, calibrating: Any) -> None:
    named = world.version.reference
    for words, message in (
        (("--rollback",), "--rollback takes one version, found 0"),
        ((named, "--rollback", "--to", "2024-01-05"), "is for learning"),
        ((named, "--from", "2024-01-05", "--to", "2024-01-04"), "exchange them"),
        ((named, "--from", "Friday"), "expected a date like 2022-06-30"),
        ((named, "--method", "garch"), "expected one of tracking, ewma, aci"),
    ):
        code, _, err = calibrating(*words)
        assert (code, message in err) == (2, True), err


def test_a_second_start_ends_well(world: World, calibrating: Any) -> None:
    from jobs.nightly.alone import alone

    with alone(world.settings, "calibrate"):
        context = contextvars.Context()  # of another process: the lock can be entered again here
        code, done, err = context.run(calibrating, world.version.reference)
    assert (code, done) == (0, {"already_running": "calibrate"})
    assert "calibrate is running: process" in err


def test_the_error_of_a_single_version_is_that_of_the_verb(world: World, calibrating: Any) -> None:
    code, done, err = calibrating(world.version.reference, "--data", "nobody")
    assert (code, done) == (2, None)
    assert err.splitlines()[-1].startswith("error: NOT_FOUND: the ledger has no data set 'nobody'")


def test_one_of_two_versions_that_fails_makes_the_exit_code_1(
    world: World, calibrating: Any, bench: Any
) -> None:
    others = bench.model(1)
    code, done, err = calibrating(world.version.reference, f"{others}/1", "--data", "nobody")
    assert code == 1
    assert [one["error"]["code"] for one in done["calibrated"]] == ["NOT_FOUND"] * 2
    failed = f"{others}/1 on nobody: failed: NOT_FOUND: the ledger has no data set 'nobody'"
    assert failed in err


KILLED = """
import os, signal, sys
from jobs.nightly import calibration_record
from jobs.nightly.calibrate import calibrate
from registry.settings import Settings
calibration_record.log = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
calibrate(Settings(), [sys.argv[1]], data=sys.argv[2])
"""


def test_a_night_that_was_killed_leaves_one_run_and_one_calibration(world: World) -> None:
    world.load(12)
    world.issue(1, 12)
    world.calibrate(until=str(day(11)))
    command = [sys.executable, "-c", KILLED, world.version.reference, world.scope.data]
    killed = subprocess.run(
        command, env=environment(world.settings), capture_output=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert [run.info.status for run in world.runs()] == ["RUNNING", "FINISHED"]
    before = world.published()
    assert len(before) == 11
    done = world.calibrate()
    assert done.published.numbers == [11]
    runs = world.runs()
    assert [run.info.status for run in runs] == ["FINISHED", "FINISHED"]
    assert runs[0].info.run_id == done.run_id
    after = world.published()
    assert len(after) == 11
    same_states(before[-1], after[-1])
    same_as_lesson(after[-1], world.learned(12)[-1])


def test_a_summary_is_json() -> None:
    version = Version("har", 1, "None", {}, (), "", datetime.now(UTC), "")
    done = Calibrated(version, "mine", published=Published(numbers=[3], fell=["a"]))
    assert json.loads(json.dumps(done.summary())) == {
        "model": "har", "version": 1, "data": "mine", "nights": 0, "number": 3, "published": 1,
        "verdict_fell": ["a"],
    }  # fmt: skip
