"""`mlflow run` on the real MLproject, without conda."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs import __main__ as jobs
from jobs.training import train
from registry.errors import Conflict
from registry.settings import CHECKOUT, Settings
from registry.versions import environments, tracking
from registry.versions.store import Store


@pytest.fixture
def settings(new_registry: Callable[[Path], Settings], tmp_path: Path) -> Settings:
    """A registry of its own over the compiled data."""
    return new_registry(tmp_path)


def mlflow_run(
    settings: Settings, cwd: Path, *arguments: str, uri: str | None, experiment: str | None = None
) -> subprocess.CompletedProcess[str]:
    environment = {
        **environments.of_programs(settings),
        "KRONOS_VAR_DIR": str(settings.var_dir),
    }
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        environment.pop(name)
    if uri:
        environment["MLFLOW_TRACKING_URI"] = uri
    if experiment:
        environment["MLFLOW_EXPERIMENT_NAME"] = experiment
    command = [sys.executable, "-m", "mlflow", "run", str(CHECKOUT), "--env-manager", "local"]
    return subprocess.run(
        [*command, *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def experiment_id(store: Store, name: str) -> str:
    return str(store.client.get_experiment_by_name(name).experiment_id)


def project_run(store: Store, monkeypatch: pytest.MonkeyPatch, experiment: str = "0") -> str:
    """A run as `mlflow run` opens it for this process."""
    run_id = str(store.client.create_run(experiment).info.run_id)
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    return run_id


def test_a_project_run_elsewhere_holds_the_results_and_a_line_says_what_to_add(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(settings)
    run_id = project_run(store, monkeypatch)
    with tracking.start(settings, "evaluations", "har/1") as run:
        assert run.run_id == run_id
        assert store.client.get_run(run_id).info.run_name == "har/1"
    note = capsys.readouterr().err
    assert "opened its run in the experiment Default, the others of this kind are in ev" in note
    assert "`--experiment-name evaluations`" in note
    named = project_run(store, monkeypatch, experiment_id(store, "evaluations"))
    store.client.update_run(named, name="the third try")  # as `mlflow run --run-name` does
    with tracking.start(settings, "evaluations", "har/1"):
        assert store.client.get_run(named).info.run_name == "the third try"
    assert capsys.readouterr().err == ""


def test_an_experiment_that_mlflow_run_created_with_its_artifacts_elsewhere_is_refused(
    settings: Settings, tmp_path: Path
) -> None:
    store = Store(settings)
    number = store.client.create_experiment("forecasters", str(tmp_path / "mlruns"))
    with (
        pytest.raises(Conflict, match=f"mlruns, expected under .*--experiment-id {number} "),
        tracking.start(settings, "forecasters", "har"),
    ):
        pass
    assert store.client.search_runs([number]) == []


def test_compile_leaves_the_digests_of_its_data_on_the_project_run(
    compiled: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(compiled)
    run_id = project_run(store, monkeypatch)
    monkeypatch.setenv("KRONOS_VAR_DIR", str(compiled.var_dir))
    jobs.compile_data()
    tags = store.client.get_run(run_id).data.tags
    assert tags["skipped"] == "true"
    assert len(tags["data_digest.panel"]) == len(tags["data_digest.bars"]) == 64


def test_a_project_run_is_the_run_that_trains_and_registers(
    settings: Settings, tmp_path: Path
) -> None:
    """It is where `jobs train` puts its runs, with the variables that the README exports."""
    store = Store(settings)
    with tracking.start(settings, "quickstart", "before"):  # creates the experiments
        pass
    arguments = ("-e", "train_ewma", "-P", "horizon=3", "-P", "report_until=2020-02-28")
    uri, experiment = settings.tracking, train.EXPERIMENT
    readme = (CHECKOUT / "README.md").read_text()
    assert f"export MLFLOW_EXPERIMENT_NAME={experiment} " in readme
    done = mlflow_run(settings, tmp_path, *arguments, uri=uri, experiment=experiment)
    assert done.returncode == 0, done.stderr
    assert "note: " not in done.stderr
    assert store.client.search_runs(["0"]) == []
    [trained] = store.client.search_runs([experiment_id(store, experiment)])
    assert trained.info.run_id == store.versions("ewma")[0].run_id
    version = store.versions("ewma")[0]
    run = store.client.get_run(version.run_id)
    assert run.data.tags["mlflow.project.entryPoint"] == "train_ewma"
    assert run.data.params["horizon"] == "3"
    assert run.info.status == "FINISHED"
    assert store.spec(version).max_horizon == 3
    metrics = {"crps", "pinball", "coverage_50", "coverage_80", "coverage_90", "winkler_90"}
    metrics |= {"mae_median", "bias", "skill_vs_fhs", "dm_p_hln", "dm_p_bartlett"}
    assert metrics <= set(run.data.metrics)
    by_step = store.client.get_metric_history(version.run_id, "crps_by_step")
    assert [metric.step for metric in by_step] == [1, 2, 3]
    artifacts = set()
    for folder in ("figures", "tables", ""):
        artifacts |= {file.path for file in store.client.list_artifacts(version.run_id, folder)}
    figures = {"figures/fan_chart.png", "figures/reliability.png"}
    assert figures | {"tables/scores_by_series.csv", "model_card.md"} <= artifacts
    [dataset] = run.inputs.dataset_inputs
    dataset_tags = {tag.key: tag.value for tag in dataset.tags}
    assert dataset_tags["kronos.data_digest"] == store.facts(version)["data_digest"]
    assert not (tmp_path / "mlruns").exists()


def test_without_a_tracking_uri_the_model_still_lands_where_serve_looks(settings: Settings) -> None:
    """`mlflow run .` then opens ./mlflow.db and leaves a record there; the model goes to var/."""
    strays = [CHECKOUT / "mlflow.db", CHECKOUT / "mlruns"]
    assert not [path for path in strays if path.exists()]
    arguments = ("-e", "train_naive", "-P", "report_until=2020-02-28")
    try:
        done = mlflow_run(settings, CHECKOUT, *arguments, uri=None)
        assert done.returncode == 0, done.stderr
        assert Store(settings).versions("naive")[0].version == 1
        assert not (CHECKOUT / "mlruns").exists()
    finally:
        (CHECKOUT / "mlflow.db").unlink(missing_ok=True)


def test_bad_parameters_fail_the_run_say_why_last_and_tag_it(
    settings: Settings, tmp_path: Path
) -> None:
    store = Store(settings)
    arguments = ("-e", "train_ewma", "-P", "horizon=0")
    done = mlflow_run(settings, tmp_path, *arguments, uri=settings.tracking)
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert errors == ["error: BAD_HORIZON: horizon is 0, expected 1..60"]
    [run] = store.client.search_runs(["0"])
    assert run.info.status == "FAILED"
    assert run.data.tags[tracking.ERROR_TAG] == "BAD_HORIZON: horizon is 0, expected 1..60"
