"""A study of a real model: its run, its continuation after a kill, workers and command line."""

import json
import multiprocessing
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy.testing as npt
import pandas as pd
import pytest
import yaml

from jobs.running import executors
from jobs.training import configs, families
from jobs.tuning import tune
from jobs.tuning.results import Result
from jobs.tuning.trial import Outcome
from registry.errors import BadInput, KronosError, NotFound
from registry.settings import CHECKOUT, Settings
from registry.versions.environments import of_programs
from registry.versions.store import Store
from registry.versions.tracking import ERROR_TAG

# A barely trained kronos: the search is over learning rate and dropout.
SMALL: dict[str, Any] = {"report_every": 40, "width": 16, "layers": 1, "batch": 8}
FIXED = [f"--{key}={value}" for key, value in SMALL.items()]


def plan(settings: Settings, seed: int = 0) -> tune.Search:
    return tune.plan(settings, "kronos", SMALL, seed=seed, tiny=True)


@pytest.fixture(scope="module")
def settings(
    new_registry: Callable[[Path], Settings], tmp_path_factory: pytest.TempPathFactory
) -> Settings:
    return new_registry(tmp_path_factory.mktemp("tuned") / "var")


@pytest.fixture(scope="module")
def study_plan(settings: Settings) -> tune.Search:
    return plan(settings)


@pytest.fixture(scope="module")
def three(settings: Settings, study_plan: tune.Search) -> Result:
    """A study of three trials."""
    return tune.tune(settings, study_plan, 3)


def children(settings: Settings, result: Result) -> list[Any]:
    """Runs of the trials, in their order."""
    client = Store(settings).client
    experiment = client.get_experiment_by_name("tuning")
    of_the_study = f"tags.`mlflow.parentRunId` = '{result.run_id}'"
    runs = client.search_runs([experiment.experiment_id], of_the_study)
    return sorted(runs, key=lambda run: int(run.data.tags["trial"]))


def table(settings: Settings, result: Result) -> pd.DataFrame:
    path = download(settings, result, "trials.csv")
    return pd.read_csv(path, index_col="trial", float_precision="round_trip")


def download(settings: Settings, result: Result, path: str) -> str:
    return str(Store(settings).client.download_artifacts(result.run_id, path))


def test_every_trial_is_a_run_below_that_of_the_study(settings: Settings, three: Result) -> None:
    runs = children(settings, three)
    assert [run.data.tags["state"] for run in runs] == ["complete"] * 3
    assert {run.info.status for run in runs} == {"FINISHED"}
    committed = {"learning_rate": "0.002", "dropout": "0.1"}
    assert runs[0].data.params == committed
    client = Store(settings).client
    losses = client.get_metric_history(runs[0].info.run_id, "valid_loss")
    assert [loss.step for loss in losses] == [6, 9, 12]  # after six steps of the tokenizer
    crps = [run.data.metrics["crps"] for run in runs]
    assert three.crps == min(crps)
    top = client.get_run(three.run_id)
    assert top.info.status == "FINISHED"
    assert top.data.tags["study"] == three.study
    assert top.data.tags["best_trial"] == str(crps.index(min(crps)))
    assert float(top.data.tags["best_dropout"]) == three.best["dropout"]
    assert top.data.params["search_dropout"] == "Range(low=0.0, high=0.3, log=False)"
    assert top.data.params["width"] == "16"
    assert top.data.metrics["crps"] == three.crps
    skill = 1 - three.crps / top.data.metrics["fhs_crps"]
    npt.assert_allclose(skill, three.skill_vs_fhs, rtol=0.01)
    [data] = top.inputs.dataset_inputs
    assert data.dataset.name == "bars"


def test_the_run_has_a_table_figures_and_the_settings_for_the_config(
    settings: Settings, three: Result
) -> None:
    trials = table(settings, three)
    assert trials.index.tolist() == [0, 1, 2]
    assert trials["crps"].min() == three.crps
    text = Path(download(settings, three, "best.yaml")).read_text()
    assert f"study {three.study}, MLflow run {three.run_id}:\n# CRPS {three.crps:.6f}" in text
    assert "7 origins 2010-01-04 to " in text
    pasted = yaml.safe_load(text)
    assert pasted == {**SMALL, **three.best}
    config = configs.load_config(families.find("kronos"), pasted, tiny=True)
    assert getattr(config, "dropout", None) == three.best["dropout"]
    folder = Path(download(settings, three, "figures"))
    figures = sorted(path.name for path in folder.iterdir())
    assert figures == ["intermediate_values.png", "optimization_history.png"]


def run_here(study_plan: tune.Search, row: Any, scratch: Path) -> Outcome:
    """The trial of a row of the table, in this process."""
    drawn = {"learning_rate": row["learning_rate"], "dropout": row["dropout"]}
    return tune.prepare(study_plan, scratch).run(drawn, lambda *_: False)


def test_two_workers_go_on_with_the_study_and_a_trial_is_the_same_there_as_here(
    settings: Settings, study_plan: tune.Search, three: Result, tmp_path: Path
) -> None:
    before = table(settings, three)
    five = tune.tune(settings, study_plan, 5, jobs=2)
    assert (five.study, five.run_id, five.trials) == (three.study, three.run_id, 5)
    after = table(settings, five)
    pd.testing.assert_frame_equal(after[:3], before)
    figures = Path(download(settings, five, "figures"))
    assert "param_importances.png" in {path.name for path in figures.iterdir()}
    crps_here = run_here(study_plan, after.loc[4], tmp_path).metrics["crps"]
    npt.assert_allclose(after.loc[4, "crps"], crps_here, rtol=1e-6)
    folder = settings.var_dir / "tuning" / five.study
    assert list(folder.iterdir()) == []  # no checkpoint is left


def test_ray_runs_the_same_trials(
    settings: Settings, study_plan: tune.Search, three: Result, tmp_path: Path
) -> None:
    trials = Store(settings).client.get_run(three.run_id).data.metrics["trials"]
    result = tune.tune(settings, study_plan, int(trials) + 1, executor="ray")
    last = table(settings, result).iloc[-1]
    assert last["state"] == "complete"
    crps_here = run_here(study_plan, last, tmp_path).metrics["crps"]
    npt.assert_allclose(last["crps"], crps_here, rtol=1e-6)


def test_a_trial_that_ends_in_an_error_fails_and_is_run_again(settings: Settings) -> None:
    study_plan = plan(settings, seed=7)

    def full(text: str, share: float) -> None:
        if text.startswith("1 of 2") and share > 0.5:
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        tune.tune(settings, study_plan, 2, progress=full)
    done = tune.tune(settings, study_plan, 2)
    runs = children(settings, done)
    assert [run.data.tags["state"] for run in runs] == ["complete", "failed", "complete"]
    assert runs[1].data.params == runs[2].data.params
    assert runs[1].info.status == "FAILED"
    assert runs[1].data.tags[ERROR_TAG] == "OSError: no space left"
    assert ERROR_TAG not in Store(settings).client.get_run(done.run_id).data.tags


def test_a_worker_that_cannot_even_begin_is_said_to_have_died(
    study_plan: tune.Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Workers import this empty package in place of ours.
    (tmp_path / "registry").mkdir()
    (tmp_path / "registry" / "__init__.py").write_text("")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    setup = tune.prepare(study_plan, tmp_path)
    refused = pytest.raises(KronosError, match="a worker process ended with exit code 1")
    with refused as caught, executors.started("local", setup, 2):
        pytest.fail("no worker could begin")
    assert caught.value.code == "WORKER"


def test_a_worker_that_dies_is_said_to_have_died(study_plan: tune.Search, tmp_path: Path) -> None:
    with executors.started("local", tune.prepare(study_plan, tmp_path), 2) as workers:
        for process in multiprocessing.active_children():
            process.kill()
        with pytest.raises(KronosError) as caught:
            workers.run(1, {"dropout": 0.1}, lambda *_: False)
    assert caught.value.code == "WORKER"
    assert "a worker process ended with exit code -9" in caught.value.message
    assert multiprocessing.active_children() == []


# --- the command line -------------------------------------------------------------------------


def program(*words: str) -> list[str]:
    return [sys.executable, "-m", "jobs", "tune", "kronos", "--tiny", *FIXED, *words]


def environment(settings: Settings) -> dict[str, str]:
    return of_programs(settings) | {"KRONOS_VAR_DIR": str(settings.var_dir)}


@contextmanager
def running(settings: Settings, runs: int) -> Iterator[subprocess.Popen[str]]:
    """A tuning in another process, in which `runs` trials have a run already."""
    with subprocess.Popen(
        program("--trials", "3"), cwd=CHECKOUT, env=environment(settings), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        deadline = time.monotonic() + 120
        count = "select count(*) from trial_user_attributes where key = 'run_id'"
        while query(settings, count) != [runs]:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield process
        process.kill()


def states(settings: Settings) -> list[str]:
    return query(settings, "select state from trials order by number")


def query(settings: Settings, sql: str) -> list[Any]:
    """A column of the database of studies; empty while the database does not exist."""
    path = settings.var_dir / "tuning" / "studies.db"
    if not path.exists():
        return []
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        try:
            return [value for (value,) in database.execute(sql)]
        except sqlite3.OperationalError:  # the tables do not exist yet
            return []


def test_a_study_that_was_killed_and_interrupted_ends_like_one_that_was_not(
    new_registry: Callable[[Path], Settings],
    tmp_path: Path,
    settings: Settings,
    three: Result,
    verb: Callable[..., Any],
) -> None:
    broken = new_registry(tmp_path / "var")
    with running(broken, runs=2) as process:
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert states(broken) == ["COMPLETE", "RUNNING"]
    with running(broken, runs=3) as process:
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out) == (130, "")
        assert "Traceback" not in err
        assert states(broken) == ["COMPLETE", "FAIL", "FAIL", "WAITING"]
    _, _, _, *words = program("--trials", "3")
    code, out, err = verb(broken, "jobs", *words)
    assert code == 0, err
    assert "trial 3: learning_rate 0." in err
    assert "3 of 3 trials, best trial" in err
    answer = json.loads(out.splitlines()[-1])
    keys = ["model", "study", "trials", "pruned", "best", "crps", "skill_vs_fhs", "run_id"]
    assert list(answer) == keys
    assert (answer["study"], answer["trials"], answer["best"]) == (three.study, 3, three.best)
    result = Result(**answer)
    run_states = [run.data.tags["state"] for run in children(broken, result)]
    assert run_states == ["complete", "failed", "failed", "complete", "complete"]
    columns = ["learning_rate", "dropout", "crps", "skill_vs_fhs"]
    complete = table(broken, result).query("state == 'complete'")[columns].reset_index(drop=True)
    expected = table(settings, three)[:3][columns].reset_index(drop=True)
    pd.testing.assert_frame_equal(complete, expected, rtol=1e-6)


def test_what_cannot_be_tuned_is_refused_before_anything_is_started(
    settings: Settings, study_plan: tune.Search
) -> None:
    with pytest.raises(NotFound, match="no model 'prophet'; mlprojects"):
        tune.plan(settings, "prophet", {}, seed=0, tiny=True)
    message = "kronos has no setting depth; it has horizon, levels"
    with pytest.raises(BadInput, match=message) as caught:
        tune.plan(settings, "kronos", {"depth": "3"}, seed=0, tiny=True)
    assert caught.value.code == "UNKNOWN_PARAM"
    for options, message in (
        ({"executor": "spark"}, "executor is 'spark', expected local or ray"),
        ({"jobs": 0}, "jobs is 0, expected 1 or more"),
        ({"trials": 0}, "trials is 0 and timeout_s 0, expected 1 or more, and 0 or more"),
        ({"timeout_s": -1.0}, "trials is 3 and timeout_s -1, expected 1 or more, and 0 or more"),
    ):
        with pytest.raises(BadInput) as caught:
            tune.tune(settings, study_plan, **{"trials": 3, **options})
        assert caught.value.message == message


def test_a_model_without_a_search_space_is_told_which_have_one(settings: Settings) -> None:
    with pytest.raises(BadInput) as caught:
        tune.plan(settings, "fhs", {}, seed=0, tiny=False)
    assert caught.value.code == "NO_SEARCH"
    message = "fhs declares nothing to search (SEARCH in mlprojects/baselines/settings.py)"
    assert message in caught.value.message
    assert "kronos" in caught.value.message.split("these do: ")[1].split(", ")


def test_a_study_without_a_complete_trial_has_no_best_one(settings: Settings) -> None:
    with pytest.raises(KronosError) as caught:
        tune.tune(settings, plan(settings, seed=9), 3, timeout_s=1e-3)
    assert caught.value.code == "NO_TRIAL"
    message = "is complete (none was started); run more trials, or allow more time"
    assert message in caught.value.message
