"""What commit 9dc887b left behind (tests/golden): today's code reads, runs and evaluates it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.testing as npt
import pandas as pd
import pytest
from mlflow.entities import LoggedModelOutput, LoggedModelStatus

from jobs.training import train
from jobs.training.report import Reference
from registry.errors import BadHistory
from registry.forecast.history import History
from registry.forecast.rendering import unpacked
from registry.ledger.promotions import Ledger
from registry.promotion import moves
from registry.settings import CHECKOUT, Settings
from registry.versions import tracking
from registry.versions.store import Store
from registry.versions.version import Version

GOLDEN = CHECKOUT / "tests" / "golden"
SHORT: dict[str, Any] = {"report_until": "2020-02-28"}


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    """Tags, metrics, parameters and the reply of the version."""
    loaded: dict[str, Any] = json.loads((GOLDEN / "har.json").read_text())
    return loaded


@pytest.fixture(scope="module")
def settings(
    new_registry: Callable[[Path], Settings], tmp_path_factory: pytest.TempPathFactory
) -> Settings:
    """A registry over the compiled data, with the ledger of that commit."""
    folder = tmp_path_factory.mktemp("golden")
    shutil.copy(GOLDEN / "ledger.db", folder / "ledger.db")
    return new_registry(folder)


@pytest.fixture(scope="module")
def version(
    settings: Settings, facts: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Version:
    """The version, put into a registry as `Store.log` would, and back into Production."""
    root = tmp_path_factory.mktemp("files") / "har"
    shutil.copytree(GOLDEN / "har", root)
    store = Store(settings)
    with tracking.start(settings, "forecasters", "har") as run:
        run.metrics(facts["metrics"])
        run.params(facts["params"])
        experiment = store.client.get_run(run.run_id).info.experiment_id
        model = store.client.create_logged_model(experiment, name="har", source_run_id=run.run_id)
        store.client.log_model_artifacts(model.model_id, str(root))
        store.client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
        store.client.log_outputs(run.run_id, [LoggedModelOutput(model.model_id, step=0)])
    store.client.create_registered_model("har")
    store.client.create_model_version(
        "har", f"models:/{model.model_id}", run.run_id, tags=facts["tags"], model_id=model.model_id
    )
    store.set_alias("har", "production", 1)
    return store.version("har", 1)


def example(store: Store, version: Version) -> pd.DataFrame:
    sent = store.example_request(version)["dataframe_split"]
    return pd.DataFrame(sent["data"], columns=sent["columns"])


def test_its_spec_is_read_by_its_contract_number(settings: Settings, version: Version) -> None:
    spec = Store(settings).spec(version)
    assert version.tags["contract"] == "1"
    assert (spec.name, spec.family, spec.min_context, spec.max_horizon) == (
        "har",
        "baselines",
        564,
        5,
    )
    assert spec.columns == ("unique_id", "ds", "y", "market_abs_return")


def test_it_runs_in_a_worker_and_says_what_it_said_then(
    settings: Settings, version: Version, facts: dict[str, Any]
) -> None:
    store = Store(settings)
    history = example(store, version)
    with store.load("har/1") as loaded:
        assert not loaded.in_this_process
        frame = loaded.forecast(history)
        at_other_levels = loaded.forecast(history, levels=[0.5, 0.55], horizon=2)
        missing = History.of(
            history.assign(y=np.nan, ds=pd.to_datetime(history["ds"])), loaded.spec.columns[2:]
        )
        with pytest.raises(BadHistory, match="not finite") as caught:  # it checks by itself, too
            loaded.predict(missing, loaded.spec.request())
    assert (caught.value.code, caught.value.status) == ("NON_FINITE", 400)
    known = History.of(history.assign(ds=pd.to_datetime(history["ds"])))
    then = unpacked(facts["reply"], known, loaded.spec.levels)
    npt.assert_allclose(frame["mean"], then.mean[0], rtol=1e-9, atol=1e-15)
    npt.assert_allclose(frame[[f"q{u}" for u in then.levels]], then.quantiles[0], rtol=1e-9)
    assert [day[:10] for day in frame["ds"].astype(str)] == facts["reply"]["ds"][0]
    between = (then.quantiles[0, :2, 5] + then.quantiles[0, :2, 6]) / 2
    npt.assert_allclose(at_other_levels["q0.55"], between, rtol=1e-9)


def test_its_ledger_says_who_promoted_it_and_lets_a_newer_version_follow(
    settings: Settings, version: Version
) -> None:
    store = Store(settings)
    what = train.plan(settings, "har", {**SHORT, "horizon": 3}, seed=0, tiny=True)
    newer = train.train(settings, what, Reference()).version
    with Ledger(settings) as ledger:
        [then] = moves.history(ledger, "har")
        assert (then.version, then.who, then.why) == (1, "maintainer@example.org", "golden version")
        moves.promote(store, ledger, "har", newer.version, who="tests", why="a newer one")
        moves.rollback(store, ledger, "har", who="tests", why="the old one was better")
    assert store.resolve("har").version == version.version


def test_it_is_evaluated_beside_a_newer_version_in_one_table_by_one_command(
    settings: Settings, version: Version, facts: dict[str, Any]
) -> None:
    what = train.plan(settings, "har", SHORT, seed=0, tiny=True)
    newer = train.train(settings, what, Reference()).version
    command = [
        sys.executable,
        "-m",
        "jobs",
        "evaluate",
        "har/1",
        newer.reference,
        "--report_until",
        "2020-02-28",
    ]
    environment = tracking.process_environment(settings) | {"KRONOS_VAR_DIR": str(settings.var_dir)}
    done = subprocess.run(
        command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    *table, last = done.stdout.splitlines()
    result = json.loads(last)
    assert [v["version"] for v in result["versions"]] == [version.version, newer.version]
    rows = result["compared"]
    assert set(rows) == {"har/1", newer.reference, "fhs", "har", "naive"}
    # Another processor may have fitted the coefficients of the newer one, and ours those of then.
    for name, value in rows["har/1"].items():
        npt.assert_allclose(rows[newer.reference][name], value, rtol=1e-6, atol=1e-9, err_msg=name)
    for name in ("crps", "coverage_50", "coverage_80", "coverage_90", "skill_vs_fhs"):
        npt.assert_allclose(rows["har/1"][name], facts["metrics"][name], rtol=1e-6, err_msg=name)
    shown = {line.split()[0] for line in table if line.strip()}
    assert {"har/1", newer.reference} <= shown


def test_a_damaged_byte_of_it_is_found(settings: Settings, version: Version) -> None:
    store = Store(settings)
    path = store.fetch(version) / "code" / "registry" / "contract.py"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"def check_history", b"def check_histori", 1))
    result = subprocess.run(
        [sys.executable, "-m", "registry", "verify", "har/1"],
        cwd=CHECKOUT,
        env=dict(os.environ) | {"KRONOS_VAR_DIR": str(settings.var_dir)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    path.write_bytes(whole)
    assert result.returncode == 1
    assert "contract.py differs from what was registered" in result.stdout
