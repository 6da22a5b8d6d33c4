"""Evaluating registered versions beside fhs, har and naive, on real bars."""

import io
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy.testing as npt
import pandas as pd
import pytest
from shared import SHARED

from jobs.training import evaluate, planning, train
from jobs.training.leakage import leakage
from jobs.training.references import References
from registry.errors import BadInput, BadParameter
from registry.forecast.spec import ModelSpec
from registry.settings import CHECKOUT, Settings
from registry.training import Config
from registry.versions import environments
from registry.versions.store import Store
from registry.versions.version import Version

DATES = {"fit_until": "2009-12-31", "choose_until": "2010-12-31"}
BARS: dict[str, Any] = {"data": "bars", "report_every": 100, **DATES}
COLUMNS = [
    "model", "crps", "coverage_50", "coverage_80", "coverage_90", "direction", "rank_ic",
    "skill_vs_fhs", "skill_vs_naive", "dm_p_hln", "dm_p_bartlett",
]  # fmt: skip


@pytest.fixture(scope="module")
def settings(
    new_registry: Callable[[Path], Settings], tmp_path_factory: pytest.TempPathFactory
) -> Settings:
    """A registry of its own over the compiled data."""
    return new_registry(tmp_path_factory.mktemp("evaluated"))


@pytest.fixture(scope="module")
def reference() -> References:
    return References()


@pytest.fixture(scope="module")
def versions(settings: Settings, reference: References) -> dict[str, Version]:
    """har, ewma and a barely trained nbeats, trained on the bars."""
    versions = {}
    for name in ("har", "nbeats", "ewma"):
        plan = planning.plan(settings, name, BARS, seed=0, tiny=True)
        versions[name] = train.train(settings, plan, reference).version
    return versions


def compared(settings: Settings, run_id: str) -> pd.DataFrame:
    """The logged table of a run, by model."""
    path = Store(settings).client.download_artifacts(run_id, "tables/compared.csv")
    return pd.read_csv(io.StringIO(Path(path).read_text())).set_index("model")


def test_a_training_logs_a_row_for_the_model_and_one_for_each_reference(
    settings: Settings, versions: Mapping[str, Version]
) -> None:
    table = compared(settings, versions["nbeats"].run_id)
    assert set(table.index) == {"nbeats", "fhs", "har", "naive"}
    assert ["model", *table.columns] == COLUMNS
    assert table["crps"].is_monotonic_increasing
    assert table.loc["fhs", "skill_vs_fhs"] == table.loc["naive", "skill_vs_naive"] == 0
    npt.assert_allclose(table.loc["fhs", "dm_p_hln"], 1)
    run = Store(settings).client.get_run(versions["nbeats"].run_id)
    for name in table.columns:
        npt.assert_allclose(run.data.metrics[name], table.loc["nbeats", name], rtol=1e-12)


def test_the_references_are_what_training_them_gives(
    settings: Settings, versions: Mapping[str, Version]
) -> None:
    table = compared(settings, versions["har"].run_id)
    assert set(table.index) == {"har", "har (reference)", "fhs", "naive"}
    reference = table.loc["har (reference)"]
    pd.testing.assert_series_equal(table.loc["har"], reference, check_names=False)


def test_every_model_is_compared_on_the_same_rows(
    settings: Settings, versions: Mapping[str, Version]
) -> None:
    """nbeats needs less history than the others, but is scored on the rows of all."""
    of_nbeats = compared(settings, versions["nbeats"].run_id)
    of_har = compared(settings, versions["har"].run_id)
    models = ["fhs", "naive", "har"]
    pd.testing.assert_frame_equal(of_nbeats.loc[models], of_har.loc[models])


def test_a_registered_version_scores_what_it_scored_when_it_was_trained(
    settings: Settings, versions: Mapping[str, Version], reference: References
) -> None:
    evaluation = evaluate.evaluate(settings, ["nbeats/1"], {"report_every": 100}, reference)
    client = Store(settings).client
    measured = client.get_run(versions["nbeats"].run_id).data.metrics
    for name, value in evaluation.comparison.metrics["nbeats/1"].items():
        npt.assert_allclose(value, measured[name], rtol=1e-12)
    run_id = evaluation.versions[0].run_id
    run = client.get_run(run_id)
    assert client.get_experiment(run.info.experiment_id).name == "evaluations"
    assert run.data.metrics["crps"] == measured["crps"]
    expected = {"model": "nbeats", "version": "1", "source_run": versions["nbeats"].run_id}
    assert expected.items() <= run.data.tags.items()
    assert "leakage" not in run.data.tags
    params = {"data": "bars", "report_every": "100", "choose_until": "2010-12-31"}
    assert params.items() <= run.data.params.items()
    assert {"nbeats/1", "fhs", "har", "naive"} == set(compared(settings, run_id).index)
    figures = {file.path for file in client.list_artifacts(run_id, "figures")}
    assert figures == {"figures/fan_chart.png", "figures/reliability.png"}
    summary = evaluation.summary()
    assert json.loads(json.dumps(summary)) == summary
    assert summary["origins"] == {"first": "2011-01-03", "last": "2018-12-13", "number": 21}


def test_a_shorter_horizon_is_the_beginning_of_the_report(
    settings: Settings, versions: Mapping[str, Version], reference: References
) -> None:
    one_step = {"report_every": 100, "horizon": 1}
    evaluation = evaluate.evaluate(settings, ["har/1"], one_step, reference)
    first, *_ = Store(settings).client.get_metric_history(versions["har"].run_id, "crps_by_step")
    assert first.step == 1
    npt.assert_allclose(evaluation.comparison.metrics["har/1"]["crps"], first.value, rtol=1e-12)
    message = r"horizon is 6; har forecasts 1\.\.5 sessions"
    with pytest.raises(BadParameter, match=message) as caught:
        evaluate.evaluate(settings, ["har/1"], {"horizon": 6}, reference)
    assert caught.value.code == "BAD_HORIZON"


def test_levels_are_those_that_every_version_can_answer_in_any_order() -> None:
    wide = ModelSpec("wide", "family", 1, 1, 1, (0.05, 0.5, 0.95))
    narrow = ModelSpec("narrow", "family", 1, 1, 1, (0.1, 0.5, 0.9))
    paths = ModelSpec("paths", "family", 1, 1, 1, (0.01, 0.5, 0.99), has_paths=True)
    assert evaluate._levels([wide, narrow]) == (0.5,)
    assert evaluate._levels([narrow, wide]) == (0.1, 0.5, 0.9)
    assert evaluate._levels([narrow, paths, wide]) == (0.1, 0.5, 0.9)
    assert evaluate._levels([paths]) == paths.levels
    low = ModelSpec("low", "family", 1, 1, 1, (0.1,))
    high = ModelSpec("high", "family", 1, 1, 1, (0.9,))
    with pytest.raises(BadParameter, match="low, high have no levels in common"):
        evaluate._levels([low, high])


def test_sessions_that_a_version_was_trained_on_are_not_reported_unless_it_is_said(
    settings: Settings, versions: Mapping[str, Version], reference: References
) -> None:
    earlier = {"report_every": 100, "choose_until": "2010-06-30"}
    with pytest.raises(BadInput) as caught:
        evaluate.evaluate(settings, ["nbeats/1"], earlier, reference)
    assert caught.value.code == "LEAKAGE"
    assert (
        "nbeats/1 was trained until 2010-12-31, the report starts after 2010-06-30"
        in caught.value.message
    )
    evaluation = evaluate.evaluate(settings, ["nbeats/1"], earlier, reference, allow_leakage=True)
    text = "trained until 2010-12-31; reported are sessions after 2010-06-30"
    [version] = evaluation.summary()["versions"]
    assert version["leakage"] == text
    assert Store(settings).client.get_run(version["run_id"]).data.tags["leakage"] == text
    assert versions["nbeats"].tags["trained_until"] == "2010-12-31"


@pytest.mark.parametrize(
    ("tags", "text"),
    [
        ({}, ""),
        ({"trained_until": "none", "pretrained_until": "none"}, ""),
        ({"trained_until": "2010-12-31", "pretrained_until": "2010-12-31"}, ""),
        (
            {"pretrained_until": "2024-06-30"},
            "pretrained until 2024-06-30; reported are sessions after 2010-12-31",
        ),
        (
            {"pretrained_until": "unknown"},
            "pretrained until unknown; reported are sessions after 2010-12-31",
        ),
    ],
)
def test_pretraining_is_said_and_not_refused(tags: dict[str, str], text: str) -> None:
    config = Config(**SHARED | DATES)
    assert leakage("kronos/1", tags, config) == text


def test_market_columns_of_another_universe_are_refused(
    settings: Settings, versions: Mapping[str, Version], reference: References
) -> None:
    message = r"har/1 was trained on market columns over us-index-2@"
    with pytest.raises(BadInput, match=message) as caught:
        evaluate.evaluate(settings, ["har/1"], {"data": "panel"}, reference)
    assert caught.value.code == "UNIVERSE"
    panel = {"data": "panel", "report_every": 200}
    evaluation = evaluate.evaluate(settings, ["nbeats/1"], panel, reference)
    assert evaluation.comparison.task.data.dataset.name == "panel"
    assert Store(settings).facts(versions["har"])["universe"].startswith("us-index-2@")


def test_mlflow_run_evaluates_and_its_last_line_is_json(
    settings: Settings, versions: Mapping[str, Version], tmp_path: Path
) -> None:
    environment = {
        **environments.of_programs(settings),
        "KRONOS_VAR_DIR": str(settings.var_dir),
    }
    command = [sys.executable, "-m", "mlflow", "run", str(CHECKOUT), "--env-manager", "local"]
    command += ["-e", "evaluate", "-P", "reference=har/1,ewma/1", "-P", "report_every=200"]
    command += ["-P", "report_until=2014-12-31"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    *table, last = done.stdout.splitlines()
    result = json.loads(last)
    har, ewma = result["versions"]
    assert (har["model"], har["version"], result["origins"]["number"]) == ("har", 1, 6)
    assert (ewma["model"], ewma["version"]) == ("ewma", 1)
    first_words = [line.split()[0] for line in table if line.strip()]
    assert [word for word in first_words if word in result["compared"]] == [*result["compared"]]
    run = Store(settings).client.get_run(har["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.params["data"] == "''"  # MLflow logged it before our code ran
    used = {key: run.data.params[f"used_{key}"] for key in ("data", *DATES, "horizon")}
    assert used == {"data": "bars", **DATES, "horizon": "5"}
    assert "used_report_every" not in run.data.params
    # The run that MLflow started belongs to the first version; the second has its own.
    second_run = Store(settings).client.get_run(ewma["run_id"])
    assert (second_run.info.status, second_run.data.tags["model"]) == ("FINISHED", "ewma")
    assert versions["har"].version == 1
