"""Logging, finding and loading versions; what happens when bytes, code or processes fail."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy.testing as npt
import pandas as pd
import pytest
from shared import SHARED

from jobs.training import families, planning, train
from jobs.training.references import References
from mlprojects.baselines import model as baselines
from mlprojects.baselines import settings as settings_of
from registry.errors import BadInput, Corrupt, KronosError, NotFound
from registry.forecast import names
from registry.settings import CHECKOUT, Settings
from registry.versions import environments, registration, tracking
from registry.versions.manifest import MANIFEST_TAG
from registry.versions.provenance import PROVENANCE
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
    two_series = panel[panel["unique_id"].isin(["AAPL", "KO"])]
    last = two_series.groupby("unique_id").tail(80)
    return last[list(names.HISTORY)].reset_index(drop=True)


def log(
    settings: Settings,
    history: pd.DataFrame,
    name: str,
    checkout: Path = CHECKOUT,
    requirements: Sequence[str] = baselines.REQUIREMENTS,
) -> Version:
    """A version of EWMA, logged from the code of `checkout`."""
    spec = settings_of.spec(name, settings_of.Config(kind="ewma", **SHARED))
    forecaster = baselines.Ewma(spec)
    store = Store(settings)
    with tracking.start(settings, "tests", name):
        return store.log(
            spec,
            lambda directory: baselines.save(forecaster, directory),
            requirements=requirements,
            example=example_history(history, spec),
            tags={"recipe": "blue", "colour": "green"},
            checkout=checkout,
        )


def test_a_version_is_found_by_its_tags_number_and_alias(
    settings: Settings, history: pd.DataFrame
) -> None:
    first, second = log(settings, history, "found"), log(settings, history, "found")
    store = Store(settings)
    store.set_alias("found", "production", first.version)
    assert store.resolve("found") == store.version("found", 1)
    assert store.resolve("models:/found@production") == store.version("found", 1)
    assert [v.version for v in store.versions("found")] == [2, 1]
    assert store.find("found", {"recipe": "blue"}) == store.version("found", second.version)
    assert store.find("found", {"recipe": "red"}) is None
    assert store.find("nobody", {"recipe": "blue"}) is None
    with pytest.raises(NotFound, match="has nothing in staging"):
        store.resolve("found@staging")
    with pytest.raises(NotFound, match="has no version 9"):
        store.resolve("found/9")
    with pytest.raises(BadInput, match="name"):
        store.resolve("../etc/passwd")


def test_provenance_holds_the_facts_that_are_no_tags_and_its_bytes_are_checked(
    settings: Settings, history: pd.DataFrame
) -> None:
    store = Store(settings)
    version = log(settings, history, "provenance")
    manifest_sha256 = version.tags[MANIFEST_TAG]
    assert version.tags == {"recipe": "blue", MANIFEST_TAG: manifest_sha256}
    facts = {"recipe": "blue", "colour": "green", MANIFEST_TAG: manifest_sha256}
    assert store.facts(version) == facts
    root = store.fetch(version)
    content = (root / PROVENANCE).read_text()
    assert json.loads(content) == {"recipe": "blue", "colour": "green"}
    store.set_tag("provenance", 1, "colour", "red")  # what a person wrote counts
    assert store.facts(store.version("provenance", 1))["colour"] == "red"
    (root / PROVENANCE).write_text(content.replace("green", "white"))
    with pytest.raises(Corrupt, match=r"provenance/1/provenance\.json differs"):
        store.facts(version)
    (root / PROVENANCE).unlink()
    with pytest.raises(Corrupt, match="missing from the artifact store"):
        store.facts(version)


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


def test_a_version_whose_package_is_not_installed_is_refused_with_its_name(
    settings: Settings, history: pd.DataFrame, tmp_path: Path
) -> None:
    checkout = tmp_path / "checkout"
    for folder in ("registry", "mlprojects"):
        shutil.copytree(CHECKOUT / folder, checkout / folder)
    lock = (CHECKOUT / "requirements.lock").read_text()
    (checkout / "requirements.lock").write_text(f"{lock}left.pad==1.0\n")
    version = log(settings, history, "lacking", checkout, ("scipy", "left-pad"))
    store = Store(settings)
    message = r"lacking/1 needs packages that are not installed here: left\.pad==1\.0; install"
    with pytest.raises(KronosError, match=message) as loaded:
        store.load("lacking/1")
    with pytest.raises(KronosError, match=message), store.private_copy(version):
        pass
    assert loaded.value.code == "PACKAGE_MISSING"


def test_a_flipped_byte_is_refused_at_load_with_the_files_name(
    settings: Settings, history: pd.DataFrame
) -> None:
    store = Store(settings)
    version = log(settings, history, "flipped")
    root = store.fetch(version)
    files = [path for path in root.rglob("*") if path.is_file()]
    files = [path for path in files if path.name != "registered_model_meta"]
    expected = ("MLmodel", "manifest.json", "loader.py", "artifacts/model/spec.json")
    assert {root / name for name in expected} <= set(files)
    for path in files:
        content = path.read_bytes()
        middle = len(content) // 2
        flipped = bytes([content[middle] ^ 1])
        path.write_bytes(content[:middle] + flipped + content[middle + 1 :])
        with pytest.raises(Corrupt, match=path.name):
            store.load("flipped/1")
        path.write_bytes(content)
    assert len(store.load("flipped/1").forecast(history)) == 10


def test_a_version_of_other_code_runs_in_a_process_of_its_own(
    settings: Settings, history: pd.DataFrame, tmp_path: Path
) -> None:
    """The same file name with another formula: each version uses its own code."""
    checkout = tmp_path / "checkout"
    for folder in ("registry", "mlprojects"):
        shutil.copytree(CHECKOUT / folder, checkout / folder)
    shutil.copy(CHECKOUT / "requirements.lock", checkout)
    source = checkout / "mlprojects" / "baselines" / "model.py"
    formula = "return _every_step(sigma * ndtri(self.spec.levels), horizon)"
    assert formula in source.read_text()
    tripled = formula.replace("sigma *", "3 * sigma *")
    source.write_text(source.read_text().replace(formula, tripled))
    store = Store(settings)
    log(settings, history, "coded")
    log(settings, history, "coded", checkout)
    with store.load("coded/1") as same_code, store.load("coded/2") as other_code:
        assert (same_code.in_this_process, other_code.in_this_process) == (True, False)
        frame = same_code.forecast(history, horizon=2)
        tripled_frame = other_code.forecast(history, horizon=2)
        npt.assert_allclose(tripled_frame["q0.95"], 3 * frame["q0.95"], rtol=1e-12)
        assert tripled_frame["ds"].tolist() == frame["ds"].tolist()
        assert other_code.forecast(history, output="packed")["shape"] == [2, 5, 12]


def test_a_version_survives_being_loaded_by_a_python_that_writes_bytecode(
    settings: Settings, history: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain MLflow imports the code of a version from its folder, and Python adds __pycache__."""
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
    assert store.fetch(store.version("cached", 1)) == root
    assert planted.exists()  # left alone, and never read
    with store.private_copy(store.version("cached", 1)) as folder:
        assert not list(folder.rglob("__pycache__"))
        assert (folder / "code" / "registry" / "errors.py").is_file()
        assert registration.identity(folder, "").note == "cached version 1"
    assert not folder.exists()


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
    locations = [e.artifact_location for e in store.client.search_experiments()]
    assert len(locations) >= 2
    assert all(location.startswith(settings.artifacts) for location in locations)
    assert not (CHECKOUT / "mlruns").exists()


def test_same_commit_data_and_seed_give_the_same_weights_file(settings: Settings) -> None:
    store = Store(settings)
    files = []
    for _ in range(2):
        plan = planning.plan(settings, "nbeats", {"report_until": "2020-02-28"}, seed=3, tiny=True)
        root = store.fetch(train.train(settings, plan, References()).version)
        files.append((root / "artifacts" / "model" / "weights.safetensors").read_bytes())
    assert files[0] == files[1]
    reused = train.train(settings, plan, References(), reuse=True)
    assert reused.reused
    assert reused.version.version == 2


def _train(settings: Settings, *arguments: str) -> subprocess.Popen[str]:
    environment = {
        **environments.of_programs(settings),
        "KRONOS_VAR_DIR": str(settings.var_dir),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "jobs", "train", *arguments],
        cwd=CHECKOUT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_training_killed_at_any_point_leaves_whole_versions_only_and_a_rerun_finishes(
    settings: Settings,
) -> None:
    store = Store(settings)
    overrides = {"report_until": "2020-02-28"}
    plan = planning.plan(settings, "naive", overrides, seed=0, tiny=False)
    production = train.train(settings, plan, References()).version.version
    store.set_alias("naive", "production", production)
    for word, delay_s in (("evaluating", 0.0), ("registering", 0.1), ("registering", 0.5)):
        with _train(settings, "naive", "--report_until", overrides["report_until"]) as process:
            assert process.stderr is not None
            assert any(word in line for line in process.stderr)
            time.sleep(delay_s)
            process.send_signal(signal.SIGKILL)
            process.communicate()
        assert store.resolve("naive").version == production
        for version in store.versions("naive"):
            store.fetch(version)
    assert train.train(settings, plan, References()).version.version > production


@pytest.mark.parametrize(
    ("model", "overrides", "code"),
    [
        ("nbeats", {"horizon": "0"}, "BAD_HORIZON"),
        ("nbeats", {"levels": "1.2"}, "BAD_LEVELS"),
        ("nbeats", {"levels": "a,b"}, "BAD_CONFIG"),
        ("nbeats", {"recipe": "red"}, "UNKNOWN_PARAM"),
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
        planning.plan(settings, model, overrides, seed=0, tiny=False)
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
    settings: Settings, verb: Callable[..., Any], arguments: tuple[str, ...], message: str
) -> None:
    store = Store(settings)
    experiments = [e.experiment_id for e in store.client.search_experiments()]
    runs = len(store.client.search_runs(experiments))
    code, out, err = verb(settings, "jobs", "train", *arguments)
    assert (code, out) == (2, ""), err
    assert len(err.strip().splitlines()) == 1
    assert err.startswith(message)
    assert len(store.client.search_runs(experiments)) == runs


def test_missing_data_file_says_which_and_what_to_do(
    tmp_path: Path, verb: Callable[..., Any]
) -> None:
    code, _, err = verb(Settings(var_dir=tmp_path), "jobs", "train", "ewma")
    assert code == 2
    assert err.startswith("error: NOT_FOUND: no ")
    assert "python -m jobs compile --source builtin" in err
    assert list(tmp_path.iterdir()) == []


def test_every_config_is_an_entry_point() -> None:
    import yaml

    entry_points = yaml.safe_load((CHECKOUT / "MLproject").read_text())["entry_points"]
    trainings = {name for name in entry_points if name.startswith("train_")}
    assert trainings == {f"train_{model}" for model in families.all_models()}
