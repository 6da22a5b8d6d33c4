"""`forecast --issue`: what versions forecast from what the ledger knew, recorded once."""

import contextvars
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.testing as npt
import pandas as pd
import pytest
import sqlalchemy as sa
from clocks import Clock
from own_sets import simulated, write

from jobs.data import load
from jobs.data.dataset import Splits
from jobs.nightly import issue as issuing
from jobs.nightly.alone import alone
from jobs.nightly.issue import issue
from jobs.nightly.issued import Issued
from mlprojects.baselines import model as baselines
from registry.errors import BadHistory, BadParameter, NotFound
from registry.forecast import calendars, names
from registry.forecast.spec import ModelSpec
from registry.ledger import calibrations, database, faults, instants
from registry.ledger.archive import Archive
from registry.ledger.forecasts import forecast_blocks, forecasts
from registry.ledger.states import Scope, States
from registry.ledger.track_record import TrackRecord
from registry.promotion.opening import open_ledger
from registry.scoring import calibration
from registry.scoring.calibration_table import Table
from registry.settings import CHECKOUT, Settings
from registry.versions import tracking
from registry.versions.store import Store, example_history
from registry.versions.version import Version

DAYS = [day.date() for day in calendars.sessions("XNYS", "2022-01-03", "2022-03-31")]
SYMBOLS = ("AAA", "BBB", "CCC")
MODEL = "ewma/1"


def prices() -> pd.DataFrame:
    """Three series without an end, and OLD, which ends on the 30th session."""
    spans = dict.fromkeys(SYMBOLS, (str(DAYS[0]), str(DAYS[-1])))
    frame = simulated(spans | {"OLD": (str(DAYS[0]), str(DAYS[29]))})
    return frame.assign(sector=frame["unique_id"].map({"BBB": "y"}).fillna("x"))


@pytest.fixture(scope="module")
def registry(
    database: Path,
    log_a_version: Callable[..., Version],
    tmp_path_factory: pytest.TempPathFactory,
) -> Settings:
    """A registry with ewma/1, trained/1, which was trained until the 20th session, and joint/1."""
    folder = tmp_path_factory.mktemp("issue")
    shutil.copy(database, folder)
    settings = Settings(var_dir=folder)
    store = Store(settings)
    log_a_version(settings, store, {})
    log_a_version(settings, store, {}, "trained")
    store.set_tag("trained", 1, "trained_until", str(DAYS[19]))
    store.set_tag("trained", 1, "data", "mine")
    log_a_version(settings, store, {}, "mirrored")
    store.set_tag("mirrored", 1, "trained_until", "none")
    store.set_tag("mirrored", 1, "pretrained_until", "unknown")
    log(settings, store, spec_of("joint", max_horizon=2, joint=True, universe=SYMBOLS))
    return settings


def spec_of(name: str, **changes: Any) -> ModelSpec:
    return ModelSpec(name, "baselines", **({"min_context": 10, "max_context": 1000} | changes))


def log(settings: Settings, store: Store, spec: ModelSpec, checkout: Path = CHECKOUT) -> None:
    """Log an EWMA model from a checkout."""
    history = prices()[["unique_id", "ds", "y"]]
    history = history[history["unique_id"] != "OLD"].reset_index(drop=True)
    with tracking.start(settings, "train", spec.name):
        store.log(
            spec,
            lambda folder: baselines.save(baselines.Ewma(spec), folder),
            requirements=baselines.REQUIREMENTS,
            example=example_history(history, spec),
            tags={"family": "baselines"},
            checkout=checkout,
        )


@pytest.fixture
def settings(registry: Settings, ledger_uri: str) -> Settings:
    """The registry with an empty ledger."""
    return Settings(var_dir=registry.var_dir, ledger_uri=ledger_uri)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def fill(settings: Settings, until: date = DAYS[-1], frame: pd.DataFrame | None = None) -> None:
    """Compile the sessions until one, and load them into the ledger."""
    rows = prices() if frame is None else frame
    known = rows[rows["ds"] <= pd.Timestamp(until)].reset_index(drop=True)
    write(settings, "mine", known, splits=Splits("2022-01-10", "2022-01-14"))
    load.load(settings, "mine")


def issued(settings: Settings, reference: str = MODEL, **options: Any) -> Issued:
    """Issue forecasts of one version on `mine`. Raises its error."""
    [done] = issue(settings, [reference], data="mine", **options)
    if done.error is not None:
        raise done.error
    return done


def issued_range(settings: Settings, first: int, last: int, **options: Any) -> Issued:
    return issued(settings, since=str(DAYS[first]), until=str(DAYS[last]), **options)


def dump(settings: Settings) -> list[Sequence[Any]]:
    """All of the forecasts but when they were recorded."""
    with TrackRecord(settings) as record, database.read(record.engine) as connection:
        heads = [column for column in forecasts.c if column.name != "recorded_at"]
        rows = [*connection.execute(sa.select(*heads).order_by(forecasts.c.id))]
        blocks = sa.select(forecast_blocks).order_by(forecast_blocks.c.id)
        return [*rows, *[tuple(map(plain, row)) for row in connection.execute(blocks)]]


def plain(value: Any) -> Any:
    return bytes(value) if isinstance(value, memoryview) else value


def numbers(settings: Settings, **conditions: Any) -> pd.DataFrame:
    """Raw forecasts by cutoff, symbol and step."""
    with TrackRecord(settings) as record:
        frame = record.forecasts(**conditions)
    kept = ["cutoff", "unique_id", "step", "ds", "mean", *[c for c in frame if c.startswith("q0")]]
    frame["unique_id"] = frame["unique_id"].astype(str)
    return frame[kept].sort_values(kept[:3], ignore_index=True)


def test_the_last_session_is_issued_and_again_changes_nothing(settings: Settings):
    fill(settings)
    done = issued(settings)
    assert (done.cutoffs, done.series, done.horizon) == ([DAYS[-1]], 3, 5)
    assert [(one.unique_id, one.code) for one in done.refused] == [("OLD", "STALE")]
    assert dict(done.sources) == {"backfill": 1}
    before = dump(settings)
    again = issued(settings)
    assert (again.cutoffs, again.already) == ([], [DAYS[-1]])
    assert dump(settings) == before


def test_numbers_are_those_of_the_version_on_what_the_archive_knew(settings: Settings):
    fill(settings)
    issued_range(settings, 20, 40)
    frame = numbers(settings)
    assert frame["cutoff"].nunique() == 21
    with Archive(settings) as archive, Store(settings).load(MODEL) as version:
        for cutoff, part in frame.groupby("cutoff"):
            history = archive.history("mine", as_of=f"{cutoff:%Y-%m-%d}")
            last = history.groupby("unique_id")["ds"].transform("max")
            reply = version.forecast(history[last == cutoff].reset_index(drop=True), horizon=5)
            columns = [name for name in frame if name not in ("cutoff",)]
            npt.assert_array_equal(part[columns].to_numpy(), reply[columns].to_numpy())


def test_a_run_that_was_cut_goes_on_to_the_same_bytes(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    fill(settings)
    monkeypatch.setattr(issuing, "_BLOCKS", 6)

    def cut(_label: str, share: float) -> None:
        if share > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        issued_range(settings, 15, 40, progress=cut)
    part = numbers(settings)["cutoff"].nunique()
    assert 5 < part < 26
    assert len(issued_range(settings, 15, 40).cutoffs) == 26 - part
    other = Settings(var_dir=settings.var_dir, ledger_uri=f"sqlite:///{tmp_path}/other.db")
    load.load(other, "mine")
    issued_range(other, 15, 40)
    assert [tuple(row) for row in dump(other)] == [tuple(row) for row in dump(settings)]


KILLED = """
import os, signal
from jobs.nightly import issue
from registry.settings import Settings

def kill(_label, share):
    if share > 0.5:
        os.kill(os.getpid(), signal.SIGKILL)

issue._BLOCKS = 6
issue.issue(Settings(), ["ewma/1"], data="mine", since="{}", until="{}", progress=kill)
"""


def test_a_killed_process_leaves_whole_sessions_and_the_next_one_goes_on(
    settings: Settings, environment_of: Callable[[Settings], dict[str, str]]
):
    fill(settings)
    program = KILLED.format(DAYS[15], DAYS[40])
    killed = subprocess.run(
        [sys.executable, "-c", program], cwd=CHECKOUT, env=environment_of(settings), check=False
    )
    assert killed.returncode == -signal.SIGKILL
    part = numbers(settings)["cutoff"].nunique()
    assert 5 < part < 26
    done = issued_range(settings, 15, 40)
    assert (len(done.already), len(done.cutoffs)) == (part, 26 - part)
    with TrackRecord(settings) as record:
        assert faults.find(record.engine) == []
    sizes = numbers(settings).groupby("cutoff").size()
    first = 4 * 5  # OLD ends on the 30th session
    assert sizes.tolist() == [first] * 15 + [15] * 11


FULL = """
import resource, signal
from jobs.nightly import issue
from registry.settings import Settings

def fill_up(label, _share):
    if label.startswith("issuing"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, resource.RLIM_INFINITY))

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
issue._BLOCKS = 6
dates = {{"since": "{}", "until": "{}"}}
[done] = issue.issue(Settings(), ["ewma/1"], data="mine", progress=fill_up, **dates)
print(done.error.code, len(done.cutoffs))
"""


def test_a_full_disk_leaves_whole_sessions_and_the_next_run_goes_on(
    registry: Settings, tmp_path: Path, environment_of: Callable[[Settings], dict[str, str]]
):
    settings = Settings(var_dir=registry.var_dir, ledger_uri=f"sqlite:///{tmp_path}/ledger.db")
    fill(settings)
    full = subprocess.run(
        [sys.executable, "-c", FULL.format(DAYS[15], DAYS[-1])],
        cwd=CHECKOUT,
        env=environment_of(settings),
        check=False,
        capture_output=True,
        text=True,
    )
    assert full.returncode == 0, full.stderr
    code, part = full.stdout.split()
    assert (code, 0 < int(part) < 40) == ("LEDGER_UNAVAILABLE", True), part
    done = issued(settings, since=str(DAYS[15]), until=str(DAYS[-1]))
    assert (len(done.already), len(done.cutoffs)) == (int(part), len(DAYS) - 15 - int(part))
    with TrackRecord(settings) as record:
        assert faults.find(record.engine) == []


def test_three_missed_nights_are_three_nights_on_time(
    settings: Settings, clock: Clock, tmp_path: Path
):
    other = Settings(var_dir=settings.var_dir, ledger_uri=f"sqlite:///{tmp_path}/other.db")
    for each in (settings, other):
        clock.after(DAYS[39])
        fill(each, DAYS[39])
    for day in DAYS[40:43]:
        clock.after(day)
        fill(settings, day)
        assert dict(issued(settings).sources) == {"nightly": 1}
    fill(other, DAYS[42])
    late = issued_range(other, 40, 42)
    assert dict(late.sources) == {"backfill": 2, "nightly": 1}
    pd.testing.assert_frame_equal(numbers(settings), numbers(other), check_exact=True)


def test_a_revised_price_is_not_used_before_it_was_known(settings: Settings, clock: Clock):
    revised = prices()
    row = (revised["unique_id"] == "AAA") & (revised["ds"] == pd.Timestamp(DAYS[38]))
    revised.loc[row, "y"] = 0.2
    clock.after(DAYS[40])
    fill(settings, DAYS[40])
    for day in (DAYS[41], DAYS[43]):  # the first one revises, an hour after its own close
        clock.after(day)
        fill(settings, day, revised)
    issued_range(settings, 39, 43)
    frame = numbers(settings, symbols=["AAA"])
    with Store(settings).load(MODEL) as version:
        for cutoff in DAYS[39:44]:
            known = revised if cutoff > DAYS[41] else prices()
            of_symbol = (known["unique_id"] == "AAA") & (known["ds"] <= pd.Timestamp(cutoff))
            history = known.loc[of_symbol, ["unique_id", "ds", "y"]].reset_index(drop=True)
            reply = version.forecast(history, horizon=5)
            issued_numbers = frame.loc[frame["cutoff"] == pd.Timestamp(cutoff), "q0.05"]
            npt.assert_array_equal(issued_numbers.to_numpy(), reply["q0.05"].to_numpy())


def test_a_series_whose_price_was_late_is_left_out_that_night(settings: Settings, clock: Clock):
    lacking = prices()
    lacking = lacking[(lacking["unique_id"] != "BBB") | (lacking["ds"] != pd.Timestamp(DAYS[40]))]
    clock.after(DAYS[40])
    fill(settings, DAYS[40], lacking)
    clock.after(DAYS[41])
    fill(settings, DAYS[41])
    done = issued_range(settings, 40, 40)
    messages = {one.unique_id: one.message for one in done.refused}
    assert sorted(messages) == ["BBB", "OLD"]
    assert messages["BBB"] == (
        f"BBB has its last session on {DAYS[39]}; the last one of the data set is {DAYS[40]}"
    )
    assert issued_range(settings, 41, 41).series == 3
    with pytest.raises(BadHistory, match="BBB has its last session") as raised:
        issued_range(settings, 40, 40, reference="joint/1")
    assert raised.value.code == "STALE"
    both = issued_range(settings, 40, 41, reference="joint/1")
    assert (both.cutoffs, list(both.nights), both.horizon) == ([DAYS[41]], [DAYS[40]], 2)


def test_a_forecast_is_nightly_until_the_next_session_closes(settings: Settings, clock: Clock):
    clock.after(DAYS[40])
    fill(settings, DAYS[40])
    clock.at = instants.close_of("XNYS", DAYS[41]) - timedelta(seconds=1)
    assert dict(issued(settings).sources) == {"nightly": 1}
    clock.after(DAYS[41], hours=0.0)
    assert dict(issued(settings, "trained/1").sources) == {"backfill": 1}
    with TrackRecord(settings) as record:
        times = record.forecasts().groupby("source", observed=True)["issued_at"].first()
    assert times["backfill"] == instants.close_of("XNYS", DAYS[40])
    assert instants.close_of("XNYS", DAYS[40]) < times["nightly"] < clock.at


def test_cutoffs_that_a_version_was_trained_on_are_refused(settings: Settings):
    fill(settings)
    expected = f"trained/1 was trained until {DAYS[19]}, .* issue sessions after {DAYS[19]}"
    with pytest.raises(BadParameter, match=expected):
        issued(settings, "trained/1", as_of=str(DAYS[19]))
    with pytest.raises(BadParameter, match=expected):
        issued_range(settings, 19, 30, reference="trained/1")
    assert len(issued_range(settings, 20, 30, reference="trained/1").cutoffs) == 11


@pytest.mark.parametrize("form", ["%Y%m%d", "%G-W%V-%u"])
def test_a_date_of_another_form_does_not_pass_the_last_session_of_training(
    settings: Settings, form: str
):
    """As texts, 20220118 and 2022-W03-2 come after 2022-01-31."""
    fill(settings)
    since = DAYS[10].strftime(form)
    with pytest.raises(BadParameter, match=f"--from is '{since}', expected a date"):
        issued(settings, "trained/1", since=since)
    with pytest.raises(BadParameter, match=r"--to is .*, expected a date"):
        issued(settings, "trained/1", since=str(DAYS[20]), until=DAYS[21].strftime(form))


def test_a_mirrored_version_is_issued_and_says_what_its_weights_may_have_seen(settings: Settings):
    fill(settings)
    done = issued(settings, "mirrored/1")
    assert done.cutoffs == [DAYS[-1]]
    assert list(done.notes) == ["pretrained"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"as_of": "2022-03-01", "since": "2022-02-01"}, "leave one of them out"),
        ({"until": "2022-03-01"}, "--to needs --from"),
        ({"since": "May"}, "--from is 'May', expected a date"),
        ({"since": "2022-03-01", "until": "2022-02-01"}, "--to is 2022-02-01, before --from"),
        ({"horizon": 9}, "horizon"),
    ],
)
def test_wrong_options_are_refused(settings: Settings, options: dict[str, Any], words: str):
    fill(settings)
    with pytest.raises(BadParameter, match=words):
        issued(settings, **options)


def test_a_data_set_that_the_ledger_lacks_is_named_with_its_remedy(settings: Settings):
    write(settings, "mine", prices(), splits=Splits("2022-01-10", "2022-01-14"))
    with pytest.raises(NotFound, match="`python -m jobs data load mine`"):
        issued(settings)
    fill(settings)
    with pytest.raises(BadHistory, match="no session of mine from 2023-01-03 to"):
        issued(settings, since="2023-01-03")
    with pytest.raises(BadHistory, match="no session of mine was known at 2021-12-01"):
        issued(settings, as_of="2021-12-01")


def test_too_early_nights_are_listed_and_the_others_issued(settings: Settings):
    fill(settings)
    done = issued_range(settings, 5, 12)
    assert done.cutoffs == DAYS[9:13]
    assert {error.code for error in done.nights.values()} == {"TOO_SHORT"}
    summary = done.summary()
    assert (summary["issued"], summary["refused_nights"]) == (4, 4)
    assert summary["nights_refused"][0]["cutoff"] == str(DAYS[5])


def test_a_bad_version_does_not_stop_the_others(settings: Settings):
    fill(settings)
    done = issue(settings, ["nothing/1", MODEL, "ewma/9"], data="mine")
    assert [one.error and one.error.code for one in done] == ["NOT_FOUND", None, "NOT_FOUND"]
    assert done[1].cutoffs == [DAYS[-1]]
    with pytest.raises(NotFound, match="nothing is in Production"):
        issue(settings)


def edited(folder: Path) -> Path:
    """A copy of this checkout in which the code of the baselines is another one."""
    caches = shutil.ignore_patterns("__pycache__")
    for part in ("registry", "mlprojects"):
        shutil.copytree(CHECKOUT / part, folder / part, ignore=caches)
    shutil.copy(CHECKOUT / "requirements.lock", folder)
    with (folder / "mlprojects/baselines/model.py").open("a") as source:
        source.write("\n# edited\n")
    return folder


def test_a_version_of_other_code_issues_the_same_numbers(registry: Settings, tmp_path: Path):
    settings = Settings(var_dir=registry.var_dir, ledger_uri=f"sqlite:///{tmp_path}/ledger.db")
    fill(settings)
    log(settings, Store(settings), spec_of("ewma", max_horizon=5), edited(tmp_path / "edited"))
    issued_range(settings, 20, 22)
    issued_range(settings, 20, 22, reference="ewma/2")
    pd.testing.assert_frame_equal(
        numbers(settings, version=2), numbers(settings, version=1), check_exact=True
    )
    with Store(settings).load("ewma/2") as version:
        assert not version.in_this_process


def scope_of(settings: Settings) -> Scope:
    with open_ledger(Store(settings)) as ledger:
        return Scope(registry=ledger.registry, model="ewma", version=1, data="mine")


def publish(settings: Settings, learned_until: date, bias: float) -> States:
    """Publish a calibration of all series and of the sector y at all steps."""
    levels = names.LEVELS
    states = States(
        keys=[("global", "")] * 5 + [("sector", "y")] * 5,
        steps=np.tile(np.arange(1, 6), 2),
        bias=np.repeat([bias, 2 * bias], 5),
        scale=np.full(10, 1.5),
        offsets=np.zeros((10, len(levels))),
    )
    with TrackRecord(settings) as record:
        calibrations.publish(
            record.engine,
            scope_of(settings),
            method="ewma",
            learned_until=learned_until,
            levels=levels,
            states=states,
            evidence={},
        )
    return states


def test_a_calibration_that_learned_before_the_cutoff_is_applied(settings: Settings):
    fill(settings)
    publish(settings, DAYS[30], 0.1)
    states = publish(settings, DAYS[40], 0.2)
    done = issued_range(settings, 30, 42)
    assert dict(done.calibrations) == {1: 10, 2: 2}
    with TrackRecord(settings) as record:
        raw, after = record.forecasts(), record.forecasts(calibrated=True)
    applied = raw.groupby("cutoff")["calibration"].first()
    assert applied.isna().tolist() == [True] + [False] * 12
    assert applied[pd.Timestamp(DAYS[40])] == 1
    assert applied[pd.Timestamp(DAYS[41])] == 2
    last = raw["cutoff"] == pd.Timestamp(DAYS[42])
    columns = [name for name in raw if name.startswith("q0")]
    levels = tuple(float(name[1:]) for name in columns)
    table = Table(
        levels, tuple(states.keys), states.steps, states.bias, states.scale, states.offsets
    )
    for symbol, sectors in {"AAA": {"AAA": "x"}, "BBB": {"BBB": "y"}}.items():
        rows = last & (raw["unique_id"] == symbol)
        expected = calibration.calibrated(
            raw.loc[rows, columns].to_numpy()[None], levels, table.states([symbol], sectors, 5)
        )
        npt.assert_array_equal(after.loc[rows, columns].to_numpy(), expected[0])


def test_the_verb_says_what_was_issued_as_one_line(settings: Settings, verb: Any):
    fill(settings)
    code, out, err = verb(settings, "jobs", "forecast", MODEL, "--issue", "--data", "mine")
    assert code == 0, err
    assert "refused: STALE: OLD" in err
    [summary] = json.loads(out)["issued"]
    assert (summary["model"], summary["version"], summary["issued"]) == ("ewma", 1, 1)
    code, out, err = verb(settings, "jobs", "forecast", MODEL, "--issue", "--data", "mine")
    assert (code, json.loads(out)["issued"][0]["already_issued"]) == (0, 1)
    assert f"ewma/1 on mine: issued before: {DAYS[-1]}" in err
    asked = ("--from", str(DAYS[20]), "--to", str(DAYS[22]))
    code, out, _ = verb(settings, "jobs", "forecast", MODEL, "--issue", "--data", "mine", *asked)
    assert (code, json.loads(out)["issued"][0]["issued"]) == (0, 3)
    with alone(settings, "issue"):
        another = contextvars.Context()  # a job of this process may enter the lock again
        words = ("forecast", MODEL, "--issue", "--data", "mine")
        code, out, err = another.run(verb, settings, "jobs", *words)
    assert (code, json.loads(out)) == (0, {"already_running": "issue"})
    assert err.startswith("issue is running: process ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--issue", "--symbols", "AAA"), "--symbols is for a forecast that is shown"),
        (("--from", "2022-01-31"), "--from is for forecasts that are issued; add --issue"),
        ((), "no MODEL is named"),
        (("nothing/1", "--issue"), "no model 'nothing' is registered"),
    ],
)
def test_the_verb_refuses_what_does_not_fit(
    registry: Settings, verb: Any, words: tuple[str, ...], message: str
):
    code, out, err = verb(registry, "jobs", "forecast", *words)
    assert (code, out) == (2, "")
    assert message in err
