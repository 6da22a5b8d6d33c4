"""Versions outlive the code: what runs here, what runs in a worker, and that both say the same bits."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.testing as npt
import pandas as pd
import pytest

from jobs.training import evaluate, families, train
from jobs.training.report import Reference, Unwatched
from mlprojects.ensemble.model import Ensemble
from registry.errors import BadHistory, Corrupt, KronosError, NotAvailable
from registry.forecast import names
from registry.forecast.history import History, check_history
from registry.settings import CHECKOUT, Settings
from registry.training import Trained
from registry.versions import artifacts, tracking, worker_program
from registry.versions.loaded import LoadedVersion
from registry.versions.store import Store, example_history
from registry.versions.version import Version
from registry.versions.worker import Worker

MODELS = (
    "har",
    "ensemble",
    "linear",
    "nbeats",
    "tft",
    "graph",
    "ssm",
    "kronos",
)  # of each family one
SHORT = {
    "panel": {"report_until": "2020-03-31", "report_every": 30},
    "bars": {"report_until": "2011-03-31", "report_every": 30},
}


@pytest.fixture(scope="module")
def settings(
    new_registry: Callable[[Path], Settings], tmp_path_factory: pytest.TempPathFactory
) -> Settings:
    """A registry of its own over the compiled data."""
    return new_registry(tmp_path_factory.mktemp("coded"))


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference()


def edited(folder: Path, *files: str) -> Path:
    """A checkout that differs from this one by a comment at the end of some files."""
    for part in ("registry", "mlprojects"):
        shutil.copytree(
            CHECKOUT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copy(CHECKOUT / "requirements.lock", folder)
    for file in files:
        with (folder / file).open("a") as source:
            source.write("\n# edited\n")
    return folder


def log(settings: Settings, what: train.Plan, trained: Trained, checkout: Path) -> Version:
    """A version of what was trained, registered from a checkout."""
    model, spec = what.model, trained.forecaster.spec
    with tracking.start(settings, "tests", model.name):
        return Store(settings).log(
            spec,
            partial(model.family.save, trained.forecaster),
            requirements=[
                name for family in families.families_of(spec) for name in family.requirements
            ],
            example=example_history(what.data.history, spec),
            tags={
                "data": what.data.name,
                "trained_until": what.config.choose_until,
                "universe": what.data.universe.tag,
            },
            checkout=checkout,
        )


@pytest.mark.parametrize("model", MODELS)
def test_edits_of_training_leave_a_version_here_and_an_edit_of_its_code_sends_it_to_a_worker(
    settings: Settings, reference: Reference, tmp_path: Path, model: str
) -> None:
    """Registered before an edit of train.py and of a registry file that it does not run, and before one of a file that
    it does. Evaluated side by side, both have the same scores."""
    short = SHORT[families.load_config(families.find(model), {}).data]
    what = train.plan(settings, model, short, seed=0, tiny=True)
    trained = families.fit(
        what.model, what.config, what.data.history, seed=0, run=Unwatched(tmp_path / "run")
    )
    folder = f"mlprojects/{what.model.family.name}"
    beyond = edited(tmp_path / "beyond", f"{folder}/train.py", "registry/promotion/moves.py")
    within = edited(tmp_path / "within", f"{folder}/model.py")
    versions = [log(settings, what, trained, checkout) for checkout in (beyond, within)]
    result = evaluate.evaluate(settings, [v.reference for v in versions], short, reference)
    assert [evaluated.in_this_process for evaluated in result.versions] == [True, False]
    rows = [result.report.metrics[version.reference] for version in versions]
    assert rows[0] == rows[1]
    here, there = (result.report.models[version.reference].forecasts for version in versions)
    pd.testing.assert_frame_equal(there, here, check_exact=True)


# --- what a version holds ---------------------------------------------------------------------


def test_a_version_holds_the_files_that_its_code_imports_and_no_others() -> None:
    """Family by family in a fresh process: what Python imports of ours is what a version ships."""
    program = """
import importlib, json, sys

def ours():
    return [name for name in sys.modules if name.split(".")[0] in ("registry", "mlprojects")]

imported = {}
for family in sys.argv[1:]:
    for name in ours():
        del sys.modules[name]
    for part in ("registry.versions.pyfunc", *(f"mlprojects.{name}.model" for name in family.split("+"))):
        importlib.import_module(part)
    imported[family] = [sys.modules[name].__file__ for name in ours() if sys.modules[name].__file__]
print(json.dumps(imported))
"""
    used = {}
    for model in families.all_models().values():
        spec = model.spec(families.load_config(model, {}, tiny=True))
        used["+".join((spec.family, *spec.uses))] = (spec.family, *spec.uses)
    done = subprocess.run(
        [sys.executable, "-c", program, *used],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert len(used) == 8
    for name, files in json.loads(done.stdout).items():
        imported = {Path(file).resolve().relative_to(CHECKOUT) for file in files}
        assert imported == set(artifacts.code_files(CHECKOUT, *used[name])), name


# --- a worker ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ewma(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> tuple[Version, Version]:
    """The same model registered from this code and from other code."""
    what = train.plan(settings, "ewma", SHORT["panel"], seed=0, tiny=True)
    run = Unwatched(tmp_path_factory.mktemp("run"))
    trained = families.fit(what.model, what.config, what.data.history, seed=0, run=run)
    other = edited(tmp_path_factory.mktemp("edited") / "checkout", "mlprojects/baselines/model.py")
    return log(settings, what, trained, CHECKOUT), log(settings, what, trained, other)


@pytest.fixture(scope="module")
def here(settings: Settings, ewma: tuple[Version, Version]) -> Iterator[LoadedVersion]:
    with Store(settings).load(ewma[0].reference) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def there(settings: Settings, ewma: tuple[Version, Version]) -> Iterator[LoadedVersion]:
    """The one of other code."""
    with Store(settings).load(ewma[1].reference) as loaded:
        yield loaded


@pytest.fixture
def worker(there: LoadedVersion) -> Worker:
    assert isinstance(there._forecaster, Worker)
    return there._forecaster


@pytest.fixture(scope="module")
def history(panel: pd.DataFrame, settings: Settings, ewma: tuple[Version, Version]) -> History:
    frame = panel[panel[names.UNIQUE_ID].isin(["AAPL", "KO"])].groupby(names.UNIQUE_ID).tail(80)
    return check_history(frame.reset_index(drop=True), Store(settings).spec(ewma[0]))


def test_a_worker_says_the_same_bits(
    here: LoadedVersion, there: LoadedVersion, history: History
) -> None:
    assert (here.in_this_process, there.in_this_process) == (True, False)
    assert here.spec == there.spec
    request = here.spec.request({"horizon": 3})
    ours, theirs = here.predict(history, request), there.predict(history, request)
    npt.assert_array_equal(theirs.quantiles, ours.quantiles)
    npt.assert_array_equal(theirs.mean, ours.mean)
    assert (theirs.unique_id, theirs.levels, theirs.notes) == (
        ours.unique_id,
        ours.levels,
        ours.notes,
    )
    npt.assert_array_equal(theirs.cutoffs, ours.cutoffs)


def test_an_error_keeps_class_code_and_status_out_of_a_worker(
    worker: Worker, history: History
) -> None:
    """What the version itself refuses, unchecked on this side."""
    request = worker.spec.request()
    broken = replace(
        history, columns={names.Y: np.where(np.arange(160) == 5, np.nan, history.columns[names.Y])}
    )
    with pytest.raises(BadHistory, match="y is not finite in 1 rows") as caught:
        worker.predict(broken, request)
    assert (caught.value.code, caught.value.status) == ("NON_FINITE", 400)
    with pytest.raises(NotAvailable, match="it knows no prices") as unavailable:
        worker._ask({"params": {"output": "prices"}}, history)
    assert (unavailable.value.code, unavailable.value.status) == ("NOT_AVAILABLE", 422)
    with pytest.raises(
        KronosError
    ) as refused:  # MLflow's own refusal, which nothing on this side foresaw
        worker._ask({"params": {"horizon": 1.5}}, history)
    assert (refused.value.code, refused.value.status) == ("MLFLOW", 500)
    worker.predict(history, request)


@pytest.mark.parametrize(
    "message",
    [
        (b"not JSON", b""),
        (b"{}", b""),
        (b'{"params": {}}', b"not Arrow"),
        (b'{"params": 7}', b"\x00" * 64),
    ],
    ids=["header", "no parameters", "body", "parameters"],
)
def test_a_worker_that_hears_nonsense_answers_with_an_error_and_lives(
    worker: Worker, history: History, message: tuple[bytes, bytes]
) -> None:
    head, body = message
    stream = worker._requests
    stream.write(worker_program.SIZES.pack(len(head), len(body)) + head + body)
    stream.flush()
    reply = worker._hear()
    assert (reply["code"], reply["status"]) == ("WORKER", 500)
    assert "not a request" in reply["message"]
    pid = worker._process.pid
    assert worker.predict(history, worker.spec.request()).horizon == 5
    assert worker._process.pid == pid


def test_a_worker_that_died_is_started_again_by_the_next_request(
    worker: Worker, history: History
) -> None:
    request = worker.spec.request()
    before = worker.predict(history, request)
    os.kill(worker._process.pid, signal.SIGKILL)
    worker._process.wait()
    npt.assert_array_equal(worker.predict(history, request).quantiles, before.quantiles)


def test_a_worker_that_dies_over_a_request_says_so_and_answers_the_next_one(
    worker: Worker, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = worker.spec.request()

    def then_killed(send: Callable[..., None], *arguments: Any) -> None:
        os.kill(worker._process.pid, signal.SIGSTOP)  # it cannot answer before it is gone
        send(*arguments)
        os.kill(worker._process.pid, signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(worker_program, "send", partial(then_killed, worker_program.send))
        with pytest.raises(
            KronosError, match=r"ended with exit code -9.*The next request starts it again"
        ) as caught:
            worker.predict(history, request)
    assert caught.value.code == "WORKER"
    assert worker.predict(history, request).horizon == 5


def test_a_size_that_no_message_has_ends_the_worker(worker: Worker, history: History) -> None:
    worker._requests.write(worker_program.SIZES.pack(1 << 60, 0))
    worker._requests.flush()
    deadline = time.monotonic() + 30
    while worker._process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert worker._process.poll() == 0
    assert worker.predict(history, worker.spec.request()).horizon == 5


def test_a_version_that_cannot_be_loaded_says_why(
    settings: Settings, ewma: tuple[Version, Version], tmp_path: Path
) -> None:
    store = Store(settings)
    root = tmp_path / "version"
    shutil.copytree(store.fetch(ewma[1]), root)
    (root / "artifacts" / "model" / "config.json").write_text("{}\n")
    with pytest.raises(
        Corrupt, match=r"cannot be loaded: .*config\.json differs from what was registered"
    ) as caught:
        Worker(store.spec(ewma[1]), root)
    assert (caught.value.code, caught.value.status) == ("CORRUPT", 500)


def test_an_interrupted_request_leaves_no_reply_to_the_next_one(
    worker: Worker, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C between a request and its reply."""
    request = worker.spec.request()

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(worker_program, "receive", interrupted)
        with pytest.raises(KeyboardInterrupt):
            worker.predict(history, request)
    second = slice(history.bounds[1], history.bounds[2])
    alone = History(
        history.ids[1:],
        history.bounds[1:] - history.bounds[1],
        history.ds[second],
        {"y": history.columns["y"][second]},
    )
    both, one = worker.predict(history, request), worker.predict(alone, request)
    assert one.unique_id == history.ids[1:]
    npt.assert_array_equal(one.quantiles, both.quantiles[1:])


def test_what_a_library_prints_does_not_end_up_between_the_replies() -> None:
    """Written by C code, past sys.stdout."""
    program = """
import os, sys
from registry.versions import worker_program

replies = worker_program._replies()
os.write(1, b"printed by C\\n")
print("printed by Python")
worker_program.send(replies, {"value": "ready"})
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, timeout=60
    )
    assert worker_program.receive(io.BytesIO(done.stdout)) == (b'{"value": "ready"}', b"")
    assert done.stderr.splitlines() == [b"printed by C", b"printed by Python"]


def test_a_message_that_ends_too_early_is_no_message() -> None:
    stream = io.BytesIO()
    worker_program.send(stream, {"value": "ready"})
    for size in range(len(stream.getvalue())):
        with pytest.raises(EOFError):
            worker_program.receive(io.BytesIO(stream.getvalue()[:size]))


def test_versions_of_any_code_can_be_averaged(
    here: LoadedVersion, there: LoadedVersion, history: History
) -> None:
    """A LoadedVersion is a Forecaster: whatever takes one takes a registered version."""

    def average(*members: LoadedVersion) -> Any:
        return Ensemble(members[0].spec, members).predict(history, members[0].spec.request())

    npt.assert_array_equal(average(here, there).quantiles, average(here, here).quantiles)


def test_a_closed_worker_starts_no_other_process(there: LoadedVersion, history: History) -> None:
    """The last test here: it closes what the others use."""
    there.close()
    there.close()
    with pytest.raises(KronosError, match="was closed; load the version again") as caught:
        there.predict(history, there.spec.request())
    assert caught.value.code == "WORKER"
