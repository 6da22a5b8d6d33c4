"""Logging, finding and loading versions; what happens when bytes, code or processes fail."""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy.testing as npt
import pandas as pd
import pytest

from jobs.training import families, train
from mlprojects.baselines import model as baselines
from mlprojects.baselines import settings as settings_of
from registry.errors import BadInput, Corrupt, KronosError, NotFound
from registry.forecast import names
from registry.settings import CHECKOUT, Settings
from registry.versions import tracking
from registry.versions.store import Store, example_history, pins
from registry.versions.version import Version


@pytest.fixture(scope="module")
def settings(
    compiled: Settings,
    new_registry: Callable[[Path], Settings],
    tmp_path_factory: pytest.TempPathFactory,
) -> Settings:
    """A registry of its own over the compiled data."""
    var = tmp_path_factory.mktemp("store")
    (var / "logs").symlink_to(compiled.var_dir / "logs")
    return new_registry(var)


@pytest.fixture(scope="module")
def history(panel: pd.DataFrame) -> pd.DataFrame:
    return (
        panel[panel["unique_id"].isin(["AAPL", "KO"])]
        .groupby("unique_id")
        .tail(80)[list(names.HISTORY)]
        .reset_index(drop=True)
    )


def log(settings: Settings, history: pd.DataFrame, name: str, checkout: Path = CHECKOUT) -> Version:
    """A version of EWMA, logged from the code of `checkout`."""
    spec = settings_of.spec(name, settings_of.Config(kind="ewma"))
    forecaster = baselines.Ewma(spec)
    store = Store(settings)
    with tracking.start(settings, "tests", name):
        return store.log(
            spec,
            lambda directory: baselines.save(forecaster, directory),
            requirements=baselines.REQUIREMENTS,
            example=example_history(history, spec),
            tags={"colour": "blue"},
            checkout=checkout,
        )


def test_a_version_is_found_by_its_tags_number_and_alias(
    settings: Settings, history: pd.DataFrame
) -> None:
    first, second = log(settings, history, "found"), log(settings, history, "found")
    store = Store(settings)
    store.set_alias("found", "production", first.version)
    assert (
        store.resolve("found")
        == store.resolve("models:/found@production")
        == store.version("found", 1)
    )
    assert [v.version for v in store.versions("found")] == [2, 1]
    assert store.find("found", {"colour": "blue"}) == store.version("found", second.version)
    assert store.find("found", {"colour": "red"}) is None
    assert store.find("nobody", {"colour": "blue"}) is None
    with pytest.raises(NotFound, match="has nothing in staging"):
        store.resolve("found@staging")
    with pytest.raises(NotFound, match="has no version 9"):
        store.resolve("found/9")
    with pytest.raises(BadInput, match="name"):
        store.resolve("../etc/passwd")


def test_requirements_are_the_locks_pins_and_nothing_else(
    settings: Settings, history: pd.DataFrame
) -> None:
    root = Store(settings).fetch(log(settings, history, "pinned"))
    lines = (root / "requirements.txt").read_text().split()
    locked = (CHECKOUT / "requirements.lock").read_text().split()
    assert set(lines) <= set(locked)
    assert {line.split("==")[0] for line in lines} >= {"mlflow", "numpy", "pandas", "safetensors"}
    with pytest.raises(NotFound, match="does not pin"):
        pins(["leftpad"], CHECKOUT / "requirements.lock")


def test_a_flipped_byte_is_refused_at_load_with_the_files_name(
    settings: Settings, history: pd.DataFrame
) -> None:
    store = Store(settings)
    version = log(settings, history, "flipped")
    root = store.fetch(version)
    paths = [
        p.relative_to(root)
        for p in root.rglob("*")
        if p.is_file() and p.name != "registered_model_meta"
    ]
    assert {
        Path("MLmodel"),
        Path("manifest.json"),
        Path("loader.py"),
        Path("artifacts/model/spec.json"),
    } <= set(paths)
    for name in paths:
        path = root / name
        whole = path.read_bytes()
        middle = len(whole) // 2
        path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
        with pytest.raises(Corrupt, match=name.name):
            store.load("flipped/1")
        path.write_bytes(whole)
    assert len(store.load("flipped/1").forecast(history)) == 10


def test_a_version_of_other_code_runs_in_a_process_of_its_own(
    settings: Settings, history: pd.DataFrame, tmp_path: Path
) -> None:
    """The same file name, another formula: both versions answer with their own."""
    other = tmp_path / "checkout"
    for folder in ("registry", "mlprojects"):
        shutil.copytree(CHECKOUT / folder, other / folder)
    shutil.copy(CHECKOUT / "requirements.lock", other)
    source = other / "mlprojects" / "baselines" / "model.py"
    formula = "return _every_step(sigma * ndtri(self.spec.levels), horizon)"
    assert formula in source.read_text()
    source.write_text(
        source.read_text().replace(formula, formula.replace("sigma *", "3 * sigma *"))
    )
    store = Store(settings)
    log(settings, history, "coded")
    log(settings, history, "coded", other)
    with store.load("coded/1") as ours, store.load("coded/2") as theirs:
        assert (ours.in_this_process, theirs.in_this_process) == (True, False)
        here, there = ours.forecast(history, horizon=2), theirs.forecast(history, horizon=2)
        npt.assert_allclose(there["q0.95"], 3 * here["q0.95"], rtol=1e-12)
        assert there["ds"].tolist() == here["ds"].tolist()
        assert theirs.forecast(history, output="packed")["shape"] == [2, 5, 12]


def test_a_version_survives_being_loaded_by_a_python_that_writes_bytecode(
    settings: Settings, history: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain MLflow imports the version's code from its folder, where Python then leaves __pycache__ folders."""
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    monkeypatch.delenv("PYTHONPYCACHEPREFIX", raising=False)
    store = Store(settings)
    root = store.fetch(log(settings, history, "cached"))
    load = f"import mlflow; mlflow.pyfunc.load_model({str(root)!r})"
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-P", "-c", load],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
    store.fetch(store.version("cached", 1))
    planted = root / "code" / "registry" / "__pycache__" / "errors.cpython-311.pyc"
    planted.parent.mkdir(exist_ok=True)
    planted.write_bytes(b"not bytecode that anybody compiled from errors.py")
    store.fetch(store.version("cached", 1))
    assert not planted.exists()


def test_loading_leaves_the_import_path_and_the_checkouts_modules_alone(
    settings: Settings, history: pd.DataFrame
) -> None:
    log(settings, history, "tidy")
    before = list(sys.path)
    Store(settings).load("tidy/1").forecast(history)
    assert sys.path == before
    assert Path(str(sys.modules["mlprojects.baselines.model"].__file__)).is_relative_to(CHECKOUT)


def test_everything_lies_under_var_and_no_mlruns_appears(
    settings: Settings, history: pd.DataFrame
) -> None:
    store = Store(settings)
    log(settings, history, "placed")
    places = [e.artifact_location for e in store.client.search_experiments()]
    assert len(places) >= 2
    assert all(place.startswith(settings.artifacts) for place in places)
    assert not (CHECKOUT / "mlruns").exists()


def test_same_commit_data_and_seed_give_the_same_weights_file(settings: Settings) -> None:
    store, files = Store(settings), []
    for _ in range(2):
        what = train.plan(settings, "nbeats", {"report_until": "2020-02-28"}, seed=3, tiny=True)
        root = store.fetch(train.train(settings, what, train.Reference()).version)
        files.append((root / "artifacts" / "model" / "weights.safetensors").read_bytes())
    assert files[0] == files[1]
    reused = train.train(settings, what, train.Reference(), reuse=True)
    assert reused.reused
    assert reused.version.version == 2


def _train(settings: Settings, *arguments: str) -> subprocess.Popen[str]:
    environment = {
        **tracking.process_environment(settings),
        "KRONOS_VAR_DIR": str(settings.var_dir),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "jobs", "train", *arguments],
        cwd=CHECKOUT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_training_killed_at_any_point_leaves_whole_versions_only_and_a_rerun_finishes(
    settings: Settings,
) -> None:
    store, overrides = Store(settings), {"report_until": "2020-02-28"}
    what = train.plan(settings, "naive", overrides, seed=0, tiny=False)
    production = train.train(settings, what, train.Reference()).version.version
    store.set_alias("naive", "production", production)
    for word, later_s in (("evaluating", 0.0), ("registering", 0.1), ("registering", 0.5)):
        with _train(settings, "naive", "--report_until", overrides["report_until"]) as process:
            assert process.stderr is not None
            assert any(word in line for line in process.stderr)
            time.sleep(later_s)
            process.send_signal(signal.SIGKILL)
            process.communicate()
        assert store.resolve("naive").version == production
        for version in store.versions("naive"):
            store.fetch(version)
    assert train.train(settings, what, train.Reference()).version.version > production


@pytest.mark.parametrize(
    ("model", "overrides", "code"),
    [
        ("nbeats", {"horizon": "0"}, "BAD_HORIZON"),
        ("nbeats", {"levels": "1.2"}, "BAD_LEVELS"),
        ("nbeats", {"levels": "a,b"}, "BAD_CONFIG"),
        ("nbeats", {"colour": "red"}, "UNKNOWN_PARAM"),
        ("nbeats", {"width": "wide"}, "BAD_CONFIG"),
        ("nbeats", {"width": "["}, "BAD_CONFIG"),
        ("ewma", {"fit_until": "2030-01-01"}, "BAD_CONFIG"),
        ("ewma", {"choose_until": "2029-01-01"}, "NO_ORIGINS"),
        ("nobody", {}, "NOT_FOUND"),
    ],
)
def test_bad_settings_are_refused_before_anything_starts(
    settings: Settings, model: str, overrides: dict[str, str], code: str
) -> None:
    with pytest.raises(KronosError) as caught:
        train.plan(settings, model, overrides, seed=0, tiny=False)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("har", "--horizon", "0"), "error: BAD_HORIZON: horizon is 0, expected 1..60"),
        (
            ("har", "--colour", "red"),
            "error: UNKNOWN_PARAM: har has no setting colour; it has horizon, levels",
        ),
    ],
)
def test_bad_settings_end_with_one_line_exit_code_2_and_no_run(
    settings: Settings, arguments: tuple[str, ...], message: str
) -> None:
    store = Store(settings)
    experiments = [e.experiment_id for e in store.client.search_experiments()]
    runs = len(store.client.search_runs(experiments))
    with _train(settings, *arguments) as process:
        out, err = process.communicate(timeout=120)
    assert process.returncode == 2, err
    assert out == ""
    assert len(err.strip().splitlines()) == 1
    assert err.startswith(message)
    assert len(store.client.search_runs(experiments)) == runs


def test_missing_data_file_says_which_and_what_to_do(tmp_path: Path) -> None:
    with _train(Settings(var_dir=tmp_path), "ewma") as process:
        _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert err.startswith("error: NOT_FOUND: no ")
    assert "python -m jobs compile --source builtin" in err
    assert list(tmp_path.iterdir()) == []


def test_every_config_is_an_entry_point() -> None:
    import yaml

    entry_points = yaml.safe_load((CHECKOUT / "MLproject").read_text())["entry_points"]
    assert {f"train_{model}" for model in families.all_models()} == {
        n for n in entry_points if n.startswith("train_")
    }
