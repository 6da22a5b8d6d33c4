"""Signals to real trainings: exit code, run in MLflow, and nothing on stdout."""

import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from registry.settings import CHECKOUT, Settings
from registry.versions import tracking
from registry.versions.environments import of_programs
from registry.versions.store import Store
from registry.versions.tracking import ERROR_TAG

RUN = "select run_uuid from runs where name = ?"
LOSS = f"select 1 from metrics where run_uuid in ({RUN}) and key like '%loss'"

# A model for each kind of loop, its options, and the rows that show that it is in the loop.
TRAININGS = {
    "har": ((), RUN),
    "mlp": (("--steps", "100000", "--check_every", "1000"), LOSS),
    "nbeats": (("--max_steps", "100000", "--val_check_steps", "1000"), LOSS),
}


@pytest.fixture(scope="module")
def settings(
    new_registry: Callable[[Path], Settings], tmp_path_factory: pytest.TempPathFactory
) -> Settings:
    return new_registry(tmp_path_factory.mktemp("interrupted") / "var")


def rows(settings: Settings, sql: str, *values: str) -> list[Any]:
    database = f"file:{settings.var_dir / 'mlflow.db'}?mode=ro"
    with closing(sqlite3.connect(database, uri=True)) as connection:
        return connection.execute(sql, values).fetchall()


@contextmanager
def training(settings: Settings, model: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """`python -m jobs train` in the middle of its work."""
    options, event = TRAININGS[model]
    variables = {"KRONOS_VAR_DIR": str(settings.var_dir), **environment}
    with subprocess.Popen(
        [sys.executable, "-m", "jobs", "train", model, *options],
        cwd=CHECKOUT, env=of_programs(settings) | variables,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            deadline = time.monotonic() + 120
            while not rows(settings, event, model):
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.01)
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("model", "number", "code", "word"),
    [
        ("har", signal.SIGHUP, 129, "hung up"),
        ("mlp", signal.SIGINT, 130, "interrupted"),
        ("nbeats", signal.SIGTERM, 143, "terminated"),
    ],
)
def test_a_signal_ends_a_training_with_its_code_and_a_killed_run(
    settings: Settings, model: str, number: signal.Signals, code: int, word: str
) -> None:
    with training(settings, model) as process:
        process.send_signal(number)
        process.send_signal(number)  # as make does with what the terminal has sent already
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (code, "")
    assert err.splitlines()[-1] == word
    assert "Traceback" not in err
    store = Store(settings)
    [(run_id,)] = rows(settings, RUN, model)
    run = store.client.get_run(run_id)
    assert (run.info.status, run.data.tags[ERROR_TAG]) == ("KILLED", word)
    assert model not in store.names()
    assert rows(settings, "select 1 from runs where status = 'RUNNING'") == []
    assert list(settings.state_dir.glob("*@*")) == []


def test_the_run_of_mlflow_run_is_killed_too(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is open before the training begins; a signal before that leaves nobody else to end it."""
    client = Store(settings).client
    experiment = tracking._experiment(settings, client, "forecasters")
    opened = [client.create_run(experiment, run_name="opened").info.run_id for _ in range(2)]
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    tracking.kill(settings, opened[0])
    tracking.kill(settings, "")
    tracking.kill(settings, "a run of another store")
    statuses = [client.get_run(run_id).info.status for run_id in opened]
    assert statuses == ["KILLED", "RUNNING"]
    client.set_terminated(opened[1])
