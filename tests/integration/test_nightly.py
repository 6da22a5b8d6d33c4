"""The job of the whole night: catching up, on time, again, killed, with faults and wrong clocks."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import sqlalchemy as sa
from clocks import Clock
from own_sets import simulated, write

from jobs.data.dataset import Splits
from jobs.data.load import load
from jobs.nightly.nightly import nightly
from mlprojects.baselines import model as baselines
from registry.errors import BadParameter, NotFound
from registry.forecast import calendars
from registry.forecast.spec import ModelSpec
from registry.ledger import calibrations, database, forecasts, scores
from registry.ledger.archive import Archive
from registry.settings import CHECKOUT, Settings, sqlite_uri
from registry.versions import tracking
from registry.versions.store import Store, example_history
from registry.versions.version import Version

DAYS = [day.date() for day in calendars.sessions("XNYS", "2022-01-03", "2022-04-29")]
SYMBOLS = ("AAA", "BBB", "CCC")
ROOT = Path(__file__).parents[2]
NIGHTS = 5


@pytest.fixture(scope="module")
def registry(
    database: Path,
    log_a_version: Callable[..., Version],
    promote_a_version: Callable[[Store, str, int], None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Settings:
    """ewma/1 in Production and fhs/1 not, both of the data set `mine`."""
    folder = tmp_path_factory.mktemp("nightly")
    shutil.copy(database, folder)
    settings = Settings(var_dir=folder)
    store = Store(settings)
    for model in ("ewma", "fhs"):
        log_a_version(settings, store, {}, model)
        store.set_tag(model, 1, "data", "mine")
    promote_a_version(store, "ewma", 1)
    return settings


@pytest.fixture
def settings(registry: Settings, ledger_uri: str, tmp_path: Path) -> Settings:
    """The registry with an empty ledger and the data set until the last day."""
    return emptied(registry, tmp_path, ledger_uri)


@pytest.fixture
def on_sqlite(registry: Settings, tmp_path: Path) -> Settings:
    """The same on SQLite alone, for what does not depend on the database."""
    return emptied(registry, tmp_path, sqlite_uri(tmp_path / "ledger.db"))


def emptied(registry: Settings, folder: Path, ledger_uri: str) -> Settings:
    made = Settings(var_dir=folder / "var", tracking_uri=registry.tracking, ledger_uri=ledger_uri)
    made.var_dir.mkdir()
    fill(made)
    return made


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def fill(settings: Settings, until: date = DAYS[-1], lacking: date | None = None) -> None:
    """Compile the sessions until one; AAA may lack one."""
    frame = simulated(dict.fromkeys(SYMBOLS, (str(DAYS[0]), str(DAYS[-1]))))
    known = frame[frame["ds"] <= pd.Timestamp(until)].reset_index(drop=True)
    if lacking is not None:
        lost = (known["unique_id"] == "AAA") & (known["ds"] == pd.Timestamp(lacking))
        known = known[~lost].reset_index(drop=True)
    write(settings, "mine", known, splits=Splits("2022-01-10", "2022-01-14"))


def rows_of(settings: Settings, table: sa.Table, *columns: str) -> list[tuple[Any, ...]]:
    with Archive(settings) as archive, database.read(archive.engine) as connection:
        query = sa.select(*[table.c[name] for name in columns]).order_by(*columns)
        return [tuple(row) for row in connection.execute(query)]


def numbers_of(settings: Settings) -> dict[str, list[tuple[Any, ...]]]:
    """All that nights write, but for sources, instants and keys."""
    with Archive(settings) as archive, database.read(archive.engine) as connection:
        f, b = forecasts.forecasts.c, forecasts.forecast_blocks.c
        joined = sa.select(f.model, f.cutoff, f.calibration, b.symbol_id, b.raw, b.calibrated)
        issued = connection.execute(
            joined.where(b.forecast == f.id).order_by(f.model, f.cutoff, b.symbol_id)
        ).all()
        s = scores.scores.c
        values = (f.model, f.cutoff, s.step, s.symbol_id, s.y, s.crps, s.crps_calibrated)
        scored = connection.execute(
            sa.select(*values).where(s.forecast == f.id).order_by(*values[:4])
        ).all()
        c = calibrations.calibrations.c
        columns = (c.model, c.number, c.learned_until, c.digest)
        learned = connection.execute(sa.select(*columns).order_by(*columns[:2])).all()
    return {
        "issued": [tuple(row) for row in issued],
        "scored": [tuple(row) for row in scored],
        "learned": [tuple(row) for row in learned],
    }


def runs_of(settings: Settings, experiment: str) -> list[Any]:
    client = Store(settings).client
    entity = client.get_experiment_by_name(experiment)
    return list(client.search_runs([entity.experiment_id])) if entity else []


def test_nights_caught_up_give_the_same_as_nights_on_time(
    settings: Settings, clock: Clock, tmp_path: Path
) -> None:
    for day in DAYS[-NIGHTS:]:
        fill(settings, day)
        clock.after(day)
        done = nightly(settings, sessions=1)
        assert done.failed == []
        assert done.forecasts == {"nightly": 2}
    on_time = numbers_of(settings)

    late = Settings(
        var_dir=tmp_path / "late",
        tracking_uri=settings.tracking,
        ledger_uri=f"sqlite:///{tmp_path / 'late.db'}",
    )
    late.var_dir.mkdir()
    for sessions in (1, 2, NIGHTS - 3, NIGHTS):
        day = DAYS[-NIGHTS + sessions - 1]
        fill(late, day)
        clock.after(day)
        done = nightly(late, sessions=sessions)
        assert done.failed == []
    assert done.forecasts == {"nightly": 2, "backfill": 4}
    assert done.nights == {"mine": 3}
    caught_up = numbers_of(late)
    for name, rows in on_time.items():
        assert caught_up[name] == rows, name
    assert {row[2] for row in on_time["issued"]} == {None, *range(1, NIGHTS - 1)}
    live = done.standings[0].tables[0]
    assert live.nights == 4 - (NIGHTS == 5)  # those on time
    assert done.standings[0].tables[1].nights == NIGHTS - live.nights


@pytest.mark.parametrize("came", [3, NIGHTS - 1])
def test_a_late_price_is_learned_by_no_forecast_that_is_older(
    on_sqlite: Settings, clock: Clock, tmp_path: Path, came: int
) -> None:
    """Prices were loaded on time; in one of two ledgers, the nights were not."""
    late = Settings(
        var_dir=tmp_path / "late",
        tracking_uri=on_sqlite.tracking,
        ledger_uri=f"sqlite:///{tmp_path / 'late.db'}",
    )
    late.var_dir.mkdir()
    for made in (on_sqlite, late):
        for place, day in enumerate(DAYS[-NIGHTS:]):
            fill(made, day, lacking=DAYS[1 - NIGHTS] if place < came else None)
            clock.after(day)
            load(made, "mine")
            if made is on_sqlite or place in (0, NIGHTS - 1):
                assert nightly(made, sessions=place + 1).failed == []
    on_time, caught_up = numbers_of(on_sqlite), numbers_of(late)
    assert on_time["issued"] == caught_up["issued"]
    assert on_time["learned"] == caught_up["learned"]


def test_a_replay_is_a_backfill_calibrated_night_by_night_and_a_second_start_does_nothing(
    settings: Settings,
) -> None:
    done = nightly(settings, sessions=NIGHTS)
    assert done.failed == []
    assert done.loaded == ["mine"]
    assert done.nights == {"mine": NIGHTS}
    assert done.forecasts == {"backfill": 2 * NIGHTS}
    assert done.published == 2 * (NIGHTS - 1)
    assert done.without == {"mine": ["naive"]}
    [of_set] = done.standings
    assert (of_set.live_nights, of_set.tables[1].nights) == (0, NIGHTS)
    assert {row.model for row in of_set.tables[1].rows} == {"ewma", "fhs"}
    [ewma] = [row for row in of_set.tables[1].rows if (row.model, row.step) == ("ewma", 1)]
    assert set(ewma.raw.against) == {"fhs"}
    issued = rows_of(settings, forecasts.forecasts, "model", "cutoff", "source", "calibration")
    of_ewma = [row for row in issued if row[0] == "ewma"]
    # The first two cutoffs had no outcome to learn from.
    assert [row[3] for row in of_ewma] == [None, None, *range(1, NIGHTS - 1)]
    before, runs = numbers_of(settings), len(runs_of(settings, "calibrations"))

    again = nightly(settings, sessions=NIGHTS)
    assert (again.loaded, again.forecasts, again.scores, again.published) == ([], {}, 0, 0)
    assert numbers_of(settings) == before
    assert len(runs_of(settings, "calibrations")) == runs
    lines = (settings.logs_dir / "nightly.jsonl").read_text().splitlines()
    events = [json.loads(line)["event"] for line in lines]
    assert events[:3] == ["load", "read", "issue"]
    assert events[-2:] == ["standings", "nightly"]
    assert {json.loads(line)["level"] for line in lines} == {"info"}


KILLED = """
import sys
from pathlib import Path
from jobs.nightly.nightly import nightly
from registry.settings import Settings
nightly(Settings(), sessions=int(sys.argv[1]))
"""


def test_killed_after_it_issued_and_started_again_it_ends_as_if_it_ran_once(
    settings: Settings, tmp_path: Path, environment_of: Any
) -> None:
    check_killed_after("issue", settings, tmp_path, environment_of)


def test_killed_after_it_calibrated_and_started_again_it_ends_as_if_it_ran_once(
    on_sqlite: Settings, tmp_path: Path, environment_of: Any
) -> None:
    check_killed_after("calibrate", on_sqlite, tmp_path, environment_of)


def check_killed_after(event: str, settings: Settings, tmp_path: Path, environment_of: Any) -> None:
    log = settings.logs_dir / "nightly.jsonl"
    program = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(NIGHTS)],
        env=environment_of(settings), cwd=ROOT, stderr=subprocess.PIPE,
    )  # fmt: skip
    for _ in range(2400):
        done = log.read_text() if log.exists() else ""
        if f'"event": "{event}"' in done or program.poll() is not None:
            break
        time.sleep(0.025)
    with suppress(ProcessLookupError):
        os.kill(program.pid, signal.SIGKILL)
    program.communicate()
    assert f'"event": "{event}"' in log.read_text()
    done = nightly(settings, sessions=NIGHTS)
    assert done.failed == []

    once = Settings(
        var_dir=tmp_path / "once",
        tracking_uri=settings.tracking,
        ledger_uri=f"sqlite:///{tmp_path / 'once.db'}",
    )
    once.var_dir.mkdir()
    fill(once)
    nightly(once, sessions=NIGHTS)
    assert numbers_of(settings) == numbers_of(once)


def test_a_version_that_fails_is_listed_and_the_others_go_on(
    settings: Settings, verb: Any, log_a_version: Any, promote_a_version: Any
) -> None:
    store = Store(settings)
    name = f"broken_{settings.ledger.partition(':')[0].partition('+')[0]}"
    log_a_version(settings, store, {}, name)
    store.set_tag(name, 1, "data", "mine")
    promote_a_version(store, name, 1)
    version = store.version(name, 1)
    folder = Path(store.fetch(version))
    for path in folder.rglob("*.json"):
        if path.name not in ("manifest.json",):
            path.write_text(path.read_text() + " ")
    try:
        code, out, err = verb(settings, "jobs", "nightly", "--sessions", 3)
        last = json.loads(out.splitlines()[-1])
        assert code == 1, err
        failures = {(failure["job"], failure["of"], failure["code"]) for failure in last["failed"]}
        assert failures == {("issue", f"{name}/1", "CORRUPT")}
        assert f"failed: issue of {name}/1: CORRUPT" in err
        assert "note: no naive was trained on mine, so nothing is compared with it" in err
        assert last["forecasts"] == {"backfill": 6}
        assert "3 nights" in out
        lines = (settings.logs_dir / "nightly.jsonl").read_text().splitlines()
        errors = [line for line in map(json.loads, lines) if line["level"] == "error"]
        assert [line["error_code"] for line in errors] == ["CORRUPT"]
    finally:
        store.delete_alias(name, "production")


def test_a_version_whose_levels_no_calibration_fits_is_issued_raw_every_night(
    settings: Settings,
) -> None:
    store = Store(settings)
    name = "narrow"
    if name not in {model.name for model in store.models()}:
        spec = ModelSpec(
            name, "baselines", min_context=10, max_context=99, max_horizon=2, levels=(0.1, 0.5, 0.9)
        )
        frame = simulated(dict.fromkeys(SYMBOLS, (str(DAYS[0]), str(DAYS[-1]))))
        history = frame[["unique_id", "ds", "y"]]
        with tracking.start(settings, "train", name):
            store.log(
                spec,
                lambda folder: baselines.save(baselines.Ewma(spec), folder),
                requirements=baselines.REQUIREMENTS,
                example=example_history(history, spec),
                tags={"family": "baselines", "data": "mine"},
                checkout=CHECKOUT,
            )
    store.set_alias(name, "production", 1)
    try:
        done = nightly(settings, sessions=4)
    finally:
        store.delete_alias(name, "production")
    assert done.failed == []
    rows = rows_of(settings, forecasts.forecasts, "model", "cutoff", "calibration")
    of_narrow = [row for row in rows if row[0] == name]
    assert of_narrow == [(name, day, None) for day in DAYS[-4:]]


def test_a_version_that_names_no_data_set_is_said_and_issued_on_a_named_one(
    settings: Settings, verb: Any
) -> None:
    store = Store(settings)
    store.set_tag("ewma", 1, "data", "")
    try:
        with pytest.raises(NotFound, match=r"ewma/1 in Production names no data set.*--data"):
            nightly(settings, sessions=2)
        store.set_alias("fhs", "production", 1)
        code, out, err = verb(settings, "jobs", "nightly", "--sessions", 2)
        assert code == 0
        assert "left out: ewma/1 names no data set" in err
        assert json.loads(out.splitlines()[-1])["left_out"] == ["ewma/1"]
        done = nightly(settings, data="mine", sessions=2)
        assert (done.failed, done.left_out) == ([], [])
        assert done.forecasts == {"backfill": 2}
    finally:
        store.set_tag("ewma", 1, "data", "mine")
        store.delete_alias("fhs", "production")


CUT = """
import os, signal
import mlflow
from registry.settings import Settings
from registry.versions import tracking
start = mlflow.start_run
def and_die(**options):
    start(**options)
    os.kill(os.getpid(), signal.SIGKILL)
mlflow.start_run = and_die
with tracking.start(Settings(), "calibrations", "cut", tags={"job_key": "a night"}):
    pass
"""


def test_a_run_whose_process_was_killed_as_soon_as_it_was_there_is_found_by_its_tags(
    on_sqlite: Settings, environment_of: Any
) -> None:
    cut = subprocess.run([sys.executable, "-c", CUT], env=environment_of(on_sqlite), cwd=ROOT)
    assert cut.returncode == -signal.SIGKILL
    left = tracking.latest(on_sqlite, "calibrations", {"job_key": "a night"})
    assert left is not None
    with tracking.start(on_sqlite, "calibrations", "cut", again=left) as run:
        assert run.run_id == left


@pytest.mark.parametrize("job", ["nightly", "standings"])
def test_a_second_start_says_who_is_at_work_and_ends_well(
    settings: Settings, verb: Any, job: str
) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(settings.var_dir)], stdout=subprocess.PIPE, cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True,
    )  # fmt: skip
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        code, out, err = verb(settings, "jobs", job)
        assert code == 0
        assert f"mature is running: process {holder.pid}" in err
        assert "already_running" in json.loads(out.splitlines()[-1])
        assert not (settings.logs_dir / "nightly.jsonl").exists()
    finally:
        holder.kill()
        holder.communicate()


HOLDER = """
import sys, time
from pathlib import Path
from jobs.nightly.alone import alone
from registry.settings import Settings
with alone(Settings(var_dir=Path(sys.argv[1])), "mature"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_clock_two_days_behind_knows_no_session_that_has_not_closed_by_it(
    settings: Settings, clock: Clock
) -> None:
    clock.after(DAYS[-3])  # the data end two sessions later
    done = nightly(settings, sessions=2)
    assert done.failed == []
    cutoffs = rows_of(settings, forecasts.forecasts, "cutoff")
    assert {row[0] for row in cutoffs} == {DAYS[-4], DAYS[-3]}
    sessions = rows_of(settings, scores.scores, "ds")
    assert {row[0] for row in sessions} == {DAYS[-3]}


def test_a_clock_two_days_ahead_makes_backfills_and_never_a_live_night(
    settings: Settings, clock: Clock
) -> None:
    clock.after(DAYS[-1], hours=48 + 24 * 3)
    done = nightly(settings, sessions=2)
    assert done.failed == []
    assert done.forecasts == {"backfill": 4}
    assert done.standings[0].live_nights == 0
    clock.after(DAYS[-1])  # set right: what is known from the future is refused, not overwritten
    behind = nightly(settings, sessions=2)
    assert behind.forecasts == {}
    assert numbers_of(settings)["issued"]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"as_of": str(date.today() + timedelta(days=30))}, BadParameter, "in the future"),
        ({"as_of": "2999-01-01"}, BadParameter, "in the future"),
        ({"as_of": "1979-12-31"}, BadParameter, "is known from"),
        ({"as_of": "soon"}, BadParameter, "expected a date"),
        ({"sessions": 0}, BadParameter, "expected at least 1"),
        ({"data": "other"}, NotFound, "no data set 'other'"),
        ({"data": "panel"}, NotFound, "nothing that was trained on panel is in Production"),
    ],
)
def test_wrong_options_are_refused(
    settings: Settings, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        nightly(settings, **options)


def test_as_of_a_day_uses_nothing_that_came_later(settings: Settings) -> None:
    nightly(settings, sessions=4, as_of=str(DAYS[-5]))
    cutoffs = rows_of(settings, forecasts.forecasts, "cutoff")
    assert {row[0] for row in cutoffs} == set(DAYS[-8:-4])
    sessions = rows_of(settings, scores.scores, "ds")
    assert max(row[0] for row in sessions) == DAYS[-5]
    learned = rows_of(settings, calibrations.calibrations, "learned_until")
    assert max(row[0] for row in learned) == DAYS[-5]
