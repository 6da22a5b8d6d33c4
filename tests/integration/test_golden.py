"""Today's code reads, runs and evaluates the version of commit 9dc887b in tests/golden."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.testing as npt
import pandas as pd
import pytest
from mlflow.entities import LoggedModelOutput, LoggedModelStatus

from jobs.training import planning, train
from jobs.training.references import References
from registry.errors import BadHistory
from registry.forecast.history import History
from registry.forecast.rendering import unpacked
from registry.promotion import doctor, moves
from registry.promotion.opening import open_ledger
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
    """The version in a registry, put there as `Store.log` does, and in Production again."""
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
    source = f"models:/{model.model_id}"
    store.client.create_model_version(
        "har", source, run.run_id, tags=facts["tags"], model_id=model.model_id
    )
    store.set_alias("har", "production", 1)
    return store.version("har", 1)


def example(store: Store, version: Version) -> pd.DataFrame:
    split = store.example_request(version)["dataframe_split"]
    return pd.DataFrame(split["data"], columns=split["columns"])


def test_its_spec_is_read_by_its_contract_number(settings: Settings, version: Version) -> None:
    spec = Store(settings).spec(version)
    assert version.tags["contract"] == "1"
    assert Store(settings).facts(version) == version.tags  # it was logged without provenance.json
    assert (spec.name, spec.family) == ("har", "baselines")
    assert (spec.min_context, spec.max_horizon) == (564, 5)
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
        dated = history.assign(ds=pd.to_datetime(history["ds"]))
        missing = History.of(dated.assign(y=np.nan), loaded.spec.columns[2:])
        # The old version checks its input, too.
        with pytest.raises(BadHistory, match="not finite") as caught:
            loaded.predict(missing, loaded.spec.request())
    assert (caught.value.code, caught.value.status) == ("NON_FINITE", 400)
    golden = unpacked(facts["reply"], History.of(dated), loaded.spec.levels)
    npt.assert_allclose(frame["mean"], golden.mean[0], rtol=1e-9, atol=1e-15)
    columns = [f"q{level}" for level in golden.levels]
    npt.assert_allclose(frame[columns], golden.quantiles[0], rtol=1e-9)
    assert [day[:10] for day in frame["ds"].astype(str)] == facts["reply"]["ds"][0]
    between = (golden.quantiles[0, :2, 5] + golden.quantiles[0, :2, 6]) / 2
    npt.assert_allclose(at_other_levels["q0.55"], between, rtol=1e-9)


def test_its_ledger_says_who_promoted_it_and_lets_a_newer_version_follow(
    settings: Settings, version: Version
) -> None:
    store = Store(settings)
    plan = planning.plan(settings, "har", {**SHORT, "horizon": 3}, seed=0, tiny=True)
    newer = train.train(settings, plan, References()).version
    with open_ledger(store) as ledger:
        [record] = moves.history(ledger, "har")
        assert (record.version, record.who) == (1, "maintainer@example.org")
        assert record.why == "golden version"
        assert (record.rule, record.registry) == (1, ledger.registry)
        moves.promote(store, ledger, "har", newer.version, who="tests", why="a newer one")
        moves.rollback(store, ledger, "har", who="tests", why="the old one was better")
        assert [record.rule for record in ledger.records("har")] == [1, 2, 2]
        [finding] = doctor.examine(store, ledger, "har")  # the run stayed behind at that commit
    assert (finding.code, finding.message[:11]) == ("AUDIT_GONE", "promotion 1")
    assert store.resolve("har").version == version.version


def test_its_ledger_tells_another_registry_nothing(
    new_registry: Callable[[Path], Settings], tmp_path: Path
) -> None:
    shutil.copy(GOLDEN / "ledger.db", tmp_path / "ledger.db")
    with open_ledger(Store(new_registry(tmp_path))) as ledger:
        assert (ledger.models(), ledger.records("har")) == ([], [])
        [record] = ledger.unassigned("har")
        ledger.verify_chain("har")
    assert (record.who, record.registry) == ("maintainer@example.org", None)


def test_it_is_evaluated_beside_a_newer_version_in_one_table_by_one_command(
    settings: Settings, version: Version, facts: dict[str, Any], verb: Callable[..., Any]
) -> None:
    plan = planning.plan(settings, "har", SHORT, seed=0, tiny=True)
    newer = train.train(settings, plan, References()).version
    options = ("--report_until", SHORT["report_until"])
    code, out, err = verb(settings, "jobs", "evaluate", "har/1", newer.reference, *options)
    assert code == 0, err
    *table, last = out.splitlines()
    result = json.loads(last)
    assert [v["version"] for v in result["versions"]] == [version.version, newer.version]
    rows = result["compared"]
    assert set(rows) == {"har/1", newer.reference, "fhs", "har", "naive"}
    # The two versions may have been fitted on different processors.
    for name, value in rows["har/1"].items():
        npt.assert_allclose(rows[newer.reference][name], value, rtol=1e-6, atol=1e-9, err_msg=name)
    for name in ("crps", "coverage_50", "coverage_80", "coverage_90", "skill_vs_fhs"):
        npt.assert_allclose(rows["har/1"][name], facts["metrics"][name], rtol=1e-6, err_msg=name)
    first_words = {line.split()[0] for line in table if line.strip()}
    assert {"har/1", newer.reference} <= first_words


def test_a_damaged_byte_of_it_is_found(
    settings: Settings, version: Version, verb: Callable[..., Any]
) -> None:
    store = Store(settings)
    path = store.fetch(version) / "code" / "registry" / "contract.py"
    content = path.read_bytes()
    path.write_bytes(content.replace(b"def check_history", b"def check_histori", 1))
    code, out, _ = verb(settings, "registry", "verify", "har/1")
    path.write_bytes(content)
    assert code == 1
    assert "contract.py differs from what was registered" in " ".join(out.split())
