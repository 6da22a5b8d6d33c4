"""Versions outlive the code: some run here, some in a worker, and both give the same bits."""

import importlib.util
import io
import json
import marshal
import os
import shutil
import signal
import struct
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
import psutil
import pyarrow as pa
import pytest
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PyFuncModel, load_model
from typer.testing import CliRunner

from jobs.__main__ import app
from jobs.data import catalog, processed
from jobs.training import configs, evaluate, families, planning
from jobs.training.references import References, Unwatched
from mlprojects.ensemble.model import Ensemble
from registry import compiled
from registry.errors import BadHistory, BadParameter, Corrupt, KronosError, NotAvailable
from registry.forecast import names
from registry.forecast.checks import check_history
from registry.forecast.history import History
from registry.settings import CHECKOUT, Settings
from registry.training import Trained
from registry.versions import artifacts, environments, manifest, tracking, worker_program
from registry.versions.loaded import LoadedVersion
from registry.versions.store import Store, example_history
from registry.versions.version import Version
from registry.versions.worker import Worker

# One of each family.
MODELS = ("har", "ensemble", "linear", "nbeats", "tft", "graph", "ssm", "kronos")
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
def reference() -> References:
    return References()


def edited(folder: Path, *files: str) -> Path:
    """A copy of this checkout with a comment at the end of some files."""
    caches = shutil.ignore_patterns("__pycache__")
    for part in ("registry", "mlprojects"):
        shutil.copytree(CHECKOUT / part, folder / part, ignore=caches)
    shutil.copy(CHECKOUT / "requirements.lock", folder)
    for file in files:
        with (folder / file).open("a") as source:
            source.write("\n# edited\n")
    return folder


def log(settings: Settings, plan: planning.Plan, trained: Trained, checkout: Path) -> Version:
    """A version of the trained forecaster, registered from a checkout."""
    model, spec = plan.model, trained.forecaster.spec
    requirements: list[str] = []
    for family in families.families_of(spec):
        requirements += family.requirements
    tags = {
        "data": plan.data.dataset.name,
        "trained_until": plan.config.choose_until,
        "universe": plan.data.dataset.universe.tag,
    }
    with tracking.start(settings, "tests", model.name):
        return Store(settings).log(
            spec,
            partial(model.family.save, trained.forecaster),
            requirements=requirements,
            example=example_history(plan.data.history, spec),
            tags=tags,
            checkout=checkout,
        )


@pytest.mark.parametrize("model", MODELS)
def test_edits_of_training_leave_a_version_here_and_an_edit_of_its_code_sends_it_to_a_worker(
    settings: Settings, reference: References, tmp_path: Path, model: str
) -> None:
    """One version comes from a checkout with edits of train.py and of a registry file that the
    version does not run, one from a checkout with an edit of a file that it runs. Evaluated side by
    side, both have the same scores."""
    short = SHORT[configs.load_config(families.find(model), {}).data]
    plan = planning.plan(settings, model, short, seed=0, tiny=True)
    trained = families.fit(
        plan.model, plan.config, plan.data.history, seed=0, run=Unwatched(tmp_path / "run")
    )
    folder = f"mlprojects/{plan.model.family.name}"
    beyond = edited(tmp_path / "beyond", f"{folder}/train.py", "registry/promotion/moves.py")
    within = edited(tmp_path / "within", f"{folder}/model.py")
    local = log(settings, plan, trained, beyond).reference
    remote = log(settings, plan, trained, within).reference
    result = evaluate.evaluate(settings, [local, remote], short, reference)
    assert [evaluated.in_this_process for evaluated in result.versions] == [True, False]
    comparison = result.comparison
    assert comparison.metrics[local] == comparison.metrics[remote]
    forecasts_here = comparison.models[local].forecasts
    forecasts_of_worker = comparison.models[remote].forecasts
    pd.testing.assert_frame_equal(forecasts_of_worker, forecasts_here, check_exact=True)


# --- the files of a version -------------------------------------------------------------------


def test_a_version_holds_the_files_that_its_code_imports_and_no_others() -> None:
    """In a new process, the files of ours that Python imports are those that a version ships."""
    program = """
import importlib, json, sys

def project_modules():
    return [name for name in sys.modules if name.split(".")[0] in ("registry", "mlprojects")]

imported = {}
for families in sys.argv[1:]:
    for name in project_modules():
        del sys.modules[name]
    importlib.import_module("registry.versions.pyfunc")
    for family in families.split("+"):
        importlib.import_module(f"mlprojects.{family}.model")
    files = [sys.modules[name].__file__ for name in project_modules()]
    imported[families] = [file for file in files if file]
print(json.dumps(imported))
"""
    used = {}
    for model in families.all_models().values():
        spec = model.spec(configs.load_config(model, {}, tiny=True))
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


# --- a worker, and MLflow's own loading -------------------------------------------------------


@pytest.fixture(scope="module")
def ewma(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> tuple[Version, Version]:
    """The same model registered from this code and from other code."""
    plan = planning.plan(settings, "ewma", SHORT["panel"], seed=0, tiny=True)
    run = Unwatched(tmp_path_factory.mktemp("run"))
    trained = families.fit(plan.model, plan.config, plan.data.history, seed=0, run=run)
    folder = tmp_path_factory.mktemp("edited") / "checkout"
    other_code = edited(folder, "mlprojects/baselines/model.py")
    return log(settings, plan, trained, CHECKOUT), log(settings, plan, trained, other_code)


@pytest.fixture(scope="module")
def local(settings: Settings, ewma: tuple[Version, Version]) -> Iterator[LoadedVersion]:
    """The version of this code, loaded in this process."""
    with Store(settings).load(ewma[0].reference) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def remote(settings: Settings, ewma: tuple[Version, Version]) -> Iterator[LoadedVersion]:
    """The version of other code, loaded in a worker."""
    with Store(settings).load(ewma[1].reference) as loaded:
        yield loaded


@pytest.fixture
def worker(remote: LoadedVersion) -> Worker:
    assert isinstance(remote._forecaster, Worker)
    return remote._forecaster


@pytest.fixture(scope="module")
def history(panel: pd.DataFrame, settings: Settings, ewma: tuple[Version, Version]) -> History:
    frame = panel[panel[names.UNIQUE_ID].isin(["AAPL", "KO"])].groupby(names.UNIQUE_ID).tail(80)
    return check_history(frame.reset_index(drop=True), Store(settings).spec(ewma[0]))


@pytest.fixture(scope="module")
def plain(ewma: tuple[Version, Version], local: LoadedVersion) -> Iterator[PyFuncModel]:  # noqa: ARG001
    """The version of this code, as MLflow alone loads it."""
    path = list(sys.path)
    yield load_model(ewma[0].uri)
    sys.path[:] = path  # MLflow adds the version's code folder


Change = Callable[[pd.DataFrame], Any]
SAME: dict[str, Change] = {
    "as it is": lambda f: f,
    "categories": lambda f: f.assign(unique_id=f["unique_id"].astype("category")),
    "a dictionary": lambda f: f.assign(
        unique_id=f["unique_id"].astype(pd.ArrowDtype(pa.dictionary(pa.int8(), pa.string())))
    ),
    "nullable": lambda f: f.assign(
        unique_id=f["unique_id"].astype("string"), y=f["y"].astype("Float64")
    ),
    "objects": lambda f: f.astype(object),
    "date objects": lambda f: f.assign(ds=f["ds"].dt.date),
    "ISO text": lambda f: f.assign(ds=f["ds"].dt.strftime("%Y-%m-%d")),
    "another order of columns, and one more": lambda f: f[f.columns[::-1]].assign(sector="?"),
}


@pytest.mark.parametrize("change", SAME.values(), ids=SAME.keys())
def test_a_type_that_holds_the_same_values_gets_the_same_reply_in_every_process(
    local: LoadedVersion,
    remote: LoadedVersion,
    plain: PyFuncModel,
    worker: Worker,
    history: History,
    change: Change,
) -> None:
    frame, pid = change(history.frame()), worker._process.pid
    expected = local.forecast(history.frame(), horizon=2)
    pd.testing.assert_frame_equal(local.forecast(frame, horizon=2), expected)
    params = {"horizon": np.array(2)}
    pd.testing.assert_frame_equal(plain.predict(frame, params=params), expected)
    of_worker = remote.forecast(frame, horizon=np.int64(2))
    numbers = expected.drop(columns=names.NOTES)
    pd.testing.assert_frame_equal(of_worker.drop(columns=names.NOTES), numbers)
    assert worker._process.pid == pid


REFUSED: dict[str, tuple[Change, dict[str, Any], str]] = {
    "truth values": (lambda f: f.assign(y=True), {}, "NOT_A_NUMBER"),
    "numbers as text": (lambda f: f.assign(y=f["y"].astype(str)), {}, "NOT_A_NUMBER"),
    "epoch numbers": (lambda f: f.assign(ds=f["ds"].astype("int64")), {}, "BAD_TIMESTAMP"),
    "a time zone": (lambda f: f.assign(ds=f["ds"].dt.tz_localize("UTC")), {}, "BAD_TIMESTAMP"),
    "names as numbers": (lambda f: f.assign(unique_id=7), {}, "BAD_SYMBOL"),
    "no names": (lambda f: f.drop(columns="unique_id"), {}, "MISSING_COLUMN"),
    "no table": (lambda _: 7, {}, "NOT_A_TABLE"),
    "null": (lambda f: f, {"horizon": None}, "BAD_HORIZON"),
    "a fraction": (lambda f: f, {"horizon": 1.5}, "BAD_HORIZON"),
    "an array": (lambda f: f, {"horizon": np.array([2])}, "BAD_HORIZON"),
    "a large number": (lambda f: f, {"seed": 2**70}, "BAD_SEED"),
    "no levels": (lambda f: f, {"levels": [None]}, "BAD_LEVELS"),
    "ragged levels": (lambda f: f, {"levels": [0.1, [0.5]]}, "BAD_LEVELS"),
    "no output": (lambda f: f, {"output": None}, "BAD_OUTPUT"),
    "an unknown parameter": (lambda f: f, {"colour": "red"}, "UNKNOWN_PARAM"),
}


@pytest.mark.parametrize(("change", "params", "code"), REFUSED.values(), ids=REFUSED.keys())
def test_a_request_is_refused_with_the_same_code_in_every_process(
    local: LoadedVersion,
    remote: LoadedVersion,
    plain: PyFuncModel,
    worker: Worker,
    history: History,
    change: Change,
    params: dict[str, Any],
    code: str,
) -> None:
    frame, pid = change(history.frame()), worker._process.pid
    messages = set()
    for version in (local, remote):
        with pytest.raises(KronosError) as caught:
            version.forecast(frame, **params)
        assert (caught.value.code, caught.value.status) == (code, 400)
        messages.add(caught.value.message)
    with pytest.raises(MlflowException) as served:
        plain.predict(frame, params=params)
    assert served.value.json_kwargs == {"code": code}
    assert served.value.get_http_status_code() == 400
    assert code == "NOT_A_TABLE" or messages == {served.value.message}
    assert worker._process.pid == pid


def test_a_reply_names_the_version_wherever_it_runs(
    settings: Settings,
    ewma: tuple[Version, Version],
    local: LoadedVersion,
    remote: LoadedVersion,
    plain: PyFuncModel,
    history: History,
    tmp_path: Path,
) -> None:
    frame = history.frame()
    assert set(local.forecast(frame)[names.NOTES]) == {"ewma version 1"}
    assert set(remote.forecast(frame)[names.NOTES]) == {"ewma version 2"}
    assert set(plain.predict(frame)[names.NOTES]) == {"ewma version 1"}
    digest = manifest.sha256(Store(settings).fetch(ewma[1]) / manifest.MANIFEST)
    packed = remote.forecast(frame, output="packed")
    fields = {name: packed[name] for name in ("model", "version", "manifest")}
    assert fields == {"model": "ewma", "version": 2, "manifest": digest[:12]}
    # Files without the registry.
    root = tmp_path / "files"
    shutil.copytree(Store(settings).fetch(ewma[0]), root)
    (root / manifest.MLFLOWS).unlink()
    of_files = load_model(str(root)).predict(frame)
    digest = manifest.sha256(root / manifest.MANIFEST)
    assert set(of_files[names.NOTES]) == {f"ewma manifest {digest[:12]}"}


def test_a_worker_says_the_same_bits(
    local: LoadedVersion, remote: LoadedVersion, history: History
) -> None:
    assert (local.in_this_process, remote.in_this_process) == (True, False)
    assert local.spec == remote.spec
    request = local.spec.request({"horizon": 3})
    expected = local.predict(history, request)
    forecast = remote.predict(history, request)
    npt.assert_array_equal(forecast.quantiles, expected.quantiles)
    npt.assert_array_equal(forecast.mean, expected.mean)
    assert forecast.unique_id == expected.unique_id
    assert forecast.levels == expected.levels
    assert forecast.notes == expected.notes
    npt.assert_array_equal(forecast.cutoffs, expected.cutoffs)


def test_a_worker_refuses_the_same_series_and_says_the_same(
    local: LoadedVersion, remote: LoadedVersion, panel: pd.DataFrame
) -> None:
    """AAPL is halted, KO lacks a session, PG is sound."""
    frame = panel[panel[names.UNIQUE_ID].isin(["AAPL", "KO", "PG"])].groupby("unique_id").tail(80)
    frame = frame.assign(y=frame["y"].where(frame[names.UNIQUE_ID] != "AAPL", 0.0))
    frame = frame.drop(index=frame.index[100]).reset_index(drop=True)
    said = "1 sessions are missing in 1 series; 1 of 3 series were refused: series 1 HALTED"
    replies = [version.forecast(frame) for version in (remote, local)]
    for version, reply in zip((remote, local), replies, strict=True):
        assert set(reply[names.NOTES]) == {f"{said}; ewma version {version.version.version}"}
        assert reply[names.UNIQUE_ID].unique().tolist() == ["KO", "PG"]
    numbers = [reply.drop(columns=names.NOTES) for reply in replies]
    pd.testing.assert_frame_equal(*numbers, check_exact=True)
    packed = [version.forecast(frame, output="packed") for version in (remote, local)]
    for field in ("data", "refused", "notes", "unique_id"):
        assert packed[0][field] == packed[1][field]
    assert [series["code"] for series in packed[0]["refused"]] == ["HALTED"]
    checked = check_history(frame, local.spec)
    request = local.spec.request()
    assert remote.predict(checked, request).notes == local.predict(checked, request).notes


@pytest.fixture
def halted(settings: Settings, tmp_path: Path) -> Settings:
    """The same registry over other compiled data: AAPL is halted from 10 January 2020 on."""
    frames, stored = {}, {}
    for file in catalog.PANEL.files:
        frames[file], stored[file] = processed.read(settings, file)
    returns = frames[processed.RETURNS]
    late = (returns[names.UNIQUE_ID] == "AAPL") & (returns[names.DS] >= "2020-01-10")
    frames[processed.RETURNS] = returns.assign(y=returns["y"].where(~late, 0.0))
    with_halt = Settings(var_dir=tmp_path, tracking_uri=f"sqlite:///{settings.var_dir}/mlflow.db")
    contents = {}
    for file, frame in frames.items():
        contents[with_halt.processed_dir / file] = processed.encode(frame, stored[file])
    compiled.write(with_halt, contents)
    return with_halt


def test_evaluate_leaves_out_a_halted_symbol_and_says_so_wherever_a_version_runs(
    halted: Settings, ewma: tuple[Version, Version], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environments.of_mlflow(halted).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("KRONOS_VAR_DIR", str(halted.var_dir))
    names_of_both = [version.reference for version in ewma]
    command = ["evaluate", *names_of_both, "--report_until", "2020-03-31", "--report_every", "30"]
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    assert done.exit_code == 0
    result = json.loads(done.stdout.splitlines()[-1])
    assert [version["in_this_process"] for version in result["versions"]] == [True, False]
    assert result["origins"] == {"first": "2020-01-02", "last": "2020-02-14", "number": 2}
    assert result["refused"] == {"left_out": 1, "codes": {"HALTED": 1}}
    line = "left out of all: 1 pairs of series and origin (HALTED"
    assert line in done.stderr
    assert f"{line} 1); see tables/refused" in done.stdout
    of_here, of_worker = (result["compared"][name] for name in names_of_both)
    assert of_here == of_worker
    path = Store(halted).client.download_artifacts(
        result["versions"][1]["run_id"], "tables/refused.csv"
    )
    refused = pd.read_csv(path)
    assert set(refused["model"]) == {*names_of_both, "fhs", "har", "naive"}
    assert set(refused[names.UNIQUE_ID]) == {"AAPL"}


def test_an_error_keeps_class_code_and_status_out_of_a_worker(
    worker: Worker, history: History
) -> None:
    """The version refuses a request that was not checked on this side."""
    request = worker.spec.request()
    y = np.where(np.arange(160) == 5, np.nan, history.columns[names.Y])
    broken = replace(history, columns={names.Y: y})
    with pytest.raises(BadHistory, match="own check: series 1 of 2 has y that is not f") as caught:
        worker.predict(broken, request)
    assert (caught.value.code, caught.value.status) == ("NON_FINITE", 400)
    with pytest.raises(NotAvailable, match="it knows no prices") as unavailable:
        worker._ask({"params": {"output": "prices"}}, history)
    assert (unavailable.value.code, unavailable.value.status) == ("NOT_AVAILABLE", 422)
    with pytest.raises(BadParameter, match=r"horizon is 1\.5") as refused:
        worker._ask({"params": {"horizon": 1.5}}, history)
    assert (refused.value.code, refused.value.status) == ("BAD_HORIZON", 400)
    worker.predict(history, request)


NO_PANDAS = pa.UnionArray.from_sparse(pa.array([0], pa.int8()), [pa.array([1]), pa.array(["A"])])


def stream_of(column: pa.Array) -> bytes:
    """An Arrow stream with one column."""
    table = pa.table({"y": column})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    content: bytes = sink.getvalue().to_pybytes()
    return content


@pytest.mark.parametrize(
    "message",
    [
        (b"not JSON", b""),
        (b"{}", b""),
        (b'{"params": {}}', b"not Arrow"),
        (b'{"params": 7}', b"\x00" * 64),
        (b'{"params": {}}', stream_of(NO_PANDAS)),
    ],
    ids=["header", "no parameters", "body", "parameters", "a type that pandas does not have"],
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
    variables = psutil.Process(worker._process.pid).environ()
    assert "KRONOS_TRACKING_URI" in os.environ
    assert {"KRONOS_TRACKING_URI", "MLFLOW_TRACKING_URI"}.isdisjoint(variables)
    os.kill(worker._process.pid, signal.SIGKILL)
    worker._process.wait()
    npt.assert_array_equal(worker.predict(history, request).quantiles, before.quantiles)


def test_a_worker_that_dies_over_a_request_says_so_and_answers_the_next_one(
    worker: Worker, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = worker.spec.request()

    def then_killed(send: Callable[..., None], *arguments: Any) -> None:
        os.kill(worker._process.pid, signal.SIGSTOP)  # so that it cannot answer before the kill
        send(*arguments)
        os.kill(worker._process.pid, signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(worker_program, "send", partial(then_killed, worker_program.send))
        message = r"ended with exit code -9.*The next request starts it again"
        with pytest.raises(KronosError, match=message) as caught:
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


def test_bytecode_that_was_planted_in_a_version_never_runs(
    settings: Settings, ewma: tuple[Version, Version], history: History, tmp_path: Path
) -> None:
    root = Store(settings).fetch(ewma[1])
    source = root / "code" / "registry" / "errors.py"
    trace = tmp_path / "trace"
    text = f"{source.read_text()}\nopen({str(trace)!r}, 'w').close()\n"
    planted = source.parent / "__pycache__" / f"errors.{sys.implementation.cache_tag}.pyc"
    planted.parent.mkdir()
    header = struct.pack("<III", 0, int(source.stat().st_mtime), source.stat().st_size)
    bytecode = marshal.dumps(compile(text, str(source), "exec"))
    planted.write_bytes(importlib.util.MAGIC_NUMBER + header + bytecode)
    program = f"import sys; sys.path.insert(0, {str(root / 'code')!r}); import registry.errors"
    subprocess.run([sys.executable, "-P", "-c", program], cwd=tmp_path, check=True, timeout=60)
    assert trace.exists()  # a Python that reads bytecode runs it
    trace.unlink()
    with Store(settings).load(ewma[1].reference) as loaded:
        assert not loaded.in_this_process
        loaded.predict(history, loaded.spec.request({}))
    assert not trace.exists()
    assert planted.exists()
    shutil.rmtree(planted.parent)


def test_a_version_that_cannot_be_loaded_says_why(
    settings: Settings, ewma: tuple[Version, Version], tmp_path: Path
) -> None:
    store = Store(settings)
    root = tmp_path / "version"
    shutil.copytree(store.fetch(ewma[1]), root)
    (root / "artifacts" / "model" / "config.json").write_text("{}\n")
    message = r"cannot be loaded: .*config\.json differs from what was registered"
    with pytest.raises(Corrupt, match=message) as caught:
        Worker(store.spec(ewma[1]), root)
    assert (caught.value.code, caught.value.status) == ("CORRUPT", 500)


def test_an_interrupted_request_leaves_no_reply_to_the_next_one(
    worker: Worker, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C comes between a request and its reply."""
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
    of_both = worker.predict(history, request)
    of_second = worker.predict(alone, request)
    assert of_second.unique_id == history.ids[1:]
    npt.assert_array_equal(of_second.quantiles, of_both.quantiles[1:])


def test_what_a_library_prints_does_not_end_up_between_the_replies() -> None:
    """C code writes to stdout without sys.stdout."""
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
    local: LoadedVersion, remote: LoadedVersion, history: History
) -> None:
    """A LoadedVersion is a Forecaster, so an ensemble can hold registered versions."""

    def average(*members: LoadedVersion) -> Any:
        return Ensemble(members[0].spec, members).predict(history, members[0].spec.request())

    npt.assert_array_equal(average(local, remote).quantiles, average(local, local).quantiles)


def test_a_closed_worker_starts_no_other_process(remote: LoadedVersion, history: History) -> None:
    """The last test of this file: it closes the worker that the others use."""
    remote.close()
    remote.close()
    with pytest.raises(KronosError, match="was closed; load the version again") as caught:
        remote.predict(history, remote.spec.request())
    assert caught.value.code == "WORKER"
