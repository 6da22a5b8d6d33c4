"""`mlflow run` on the real MLproject, without conda."""

import subprocess
import sys
from pathlib import Path

import pytest

from registry.settings import CHECKOUT, Settings
from registry.versions import tracking
from registry.versions.store import Store


@pytest.fixture
def settings(compiled: Settings, tmp_path: Path) -> Settings:
    """A registry of its own over the compiled data."""
    (tmp_path / "data").symlink_to(compiled.var_dir / "data")
    return Settings(var_dir=tmp_path)


def mlflow_run(
    settings: Settings, cwd: Path, *arguments: str, uri: str | None
) -> subprocess.CompletedProcess[str]:
    environment = {
        **tracking.process_environment(settings),
        "KRONOS_VAR_DIR": str(settings.var_dir),
    }
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        environment.pop(name)
    if uri:
        environment["MLFLOW_TRACKING_URI"] = uri
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "run",
        str(CHECKOUT),
        "--env-manager",
        "local",
        *arguments,
    ]
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )


def test_a_project_run_is_the_run_that_trains_and_registers(
    settings: Settings, tmp_path: Path
) -> None:
    store = Store(settings)  # creates the database with its artifacts under var
    done = mlflow_run(
        settings,
        tmp_path,
        "-e",
        "train_ewma",
        "-P",
        "horizon=3",
        "-P",
        "report_until=2020-02-28",
        uri=settings.tracking,
    )
    assert done.returncode == 0, done.stderr
    version = store.versions("ewma")[0]
    run = store.client.get_run(version.run_id)
    assert run.data.tags["mlflow.project.entryPoint"] == "train_ewma"
    assert run.data.params["horizon"] == "3"
    assert run.info.status == "FINISHED"
    assert store.spec(version).max_horizon == 3
    assert {"crps", "pinball", "coverage_50", "coverage_80", "coverage_90", "winkler_90", "mae_median", "bias",
            "skill_vs_fhs", "dm_p_hln", "dm_p_bartlett"} <= set(run.data.metrics)  # fmt: skip
    assert [m.step for m in store.client.get_metric_history(version.run_id, "crps_by_step")] == [
        1,
        2,
        3,
    ]
    artifacts = {
        a.path
        for folder in ("figures", "tables", "")
        for a in store.client.list_artifacts(version.run_id, folder)
    }
    assert {
        "figures/fan_chart.png",
        "figures/reliability.png",
        "tables/scores_by_series.csv",
        "model_card.md",
    } <= artifacts
    [dataset] = run.inputs.dataset_inputs
    assert {tag.key: tag.value for tag in dataset.tags}["kronos.data_digest"] == version.tags[
        "data_digest"
    ]
    assert not (tmp_path / "mlruns").exists()


def test_without_a_tracking_uri_the_model_still_lands_where_serve_looks(settings: Settings) -> None:
    """`mlflow run .` then opens ./mlflow.db; that record stays behind, the model goes to var/."""
    strays = [CHECKOUT / "mlflow.db", CHECKOUT / "mlruns"]
    assert not [path for path in strays if path.exists()]
    try:
        done = mlflow_run(
            settings, CHECKOUT, "-e", "train_naive", "-P", "report_until=2020-02-28", uri=None
        )
        assert done.returncode == 0, done.stderr
        assert Store(settings).versions("naive")[0].version == 1
        assert not (CHECKOUT / "mlruns").exists()
    finally:
        (CHECKOUT / "mlflow.db").unlink(missing_ok=True)


def test_bad_parameters_fail_the_run_say_why_last_and_tag_it(
    settings: Settings, tmp_path: Path
) -> None:
    store = Store(settings)
    done = mlflow_run(
        settings, tmp_path, "-e", "train_ewma", "-P", "horizon=0", uri=settings.tracking
    )
    assert done.returncode == 1
    said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert said == ["error: BAD_HORIZON: horizon is 0, expected 1..60"]
    [run] = store.client.search_runs(["0"])
    assert run.info.status == "FAILED"
    assert run.data.tags[tracking.ERROR_TAG] == "BAD_HORIZON: horizon is 0, expected 1..60"
