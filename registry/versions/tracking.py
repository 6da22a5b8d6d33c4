"""The one place that starts MLflow runs and writes to them."""

import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.entities import LifecycleStage, Metric
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from registry.settings import CHECKOUT, Settings

# The UI then shows runs and metrics first, and not the tools for language models.
_TRAINING = {"mlflow.experimentKind": "custom_model_development"}
ERROR_TAG = "kronos.error"
_URIS = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")
_ATTACHED = "MLFLOW_RUN_ID"
_SECRETS = (
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
)  # the second is what the Hub's library called it before
_DATABASES = ("sqlite:", "postgresql", "mysql", "mssql")


def environment(settings: Settings) -> dict[str, str]:
    """What every process of ours and every MLflow program we start runs under."""
    return {
        "MLFLOW_TRACKING_URI": settings.tracking,
        "MLFLOW_REGISTRY_URI": settings.tracking,
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        # Read by MLflow's database store (3.17): where the Default experiment of a new database lives,
        # instead of ./mlruns.
        "_MLFLOW_SERVER_ARTIFACT_ROOT": settings.artifacts,
        # Read by a version when it is loaded, here or in a process of its own; it may have come from .env.
        "KRONOS_DEVICE": settings.device,
    }


def process_environment(settings: Settings) -> dict[str, str]:
    """Environment of a program we start: our stores, the running interpreter's programs first on PATH.

    `mlflow models serve` starts `uvicorn` by name. No bytecode is written into a version's folder.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**inherited(), **environment(settings), "PATH": path, "PYTHONDONTWRITEBYTECODE": "1"}


def inherited() -> dict[str, str]:
    """Our own environment without the Hub's token, for processes that run code of registered versions."""
    return {name: value for name, value in os.environ.items() if name not in _SECRETS}


def connect(settings: Settings) -> MlflowClient:
    """Client of the configured tracking store and registry, which become this process's defaults."""
    settings.var_dir.mkdir(parents=True, exist_ok=True)
    before = {name: os.environ.get(name) for name in _URIS}
    os.environ.update(environment(settings))
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    mlflow.set_tracking_uri(settings.tracking)
    mlflow.set_registry_uri(settings.tracking)
    # MLflow keeps the URIs in its module; in the environment they would become the next Settings' default.
    for name, value in before.items():
        os.environ.pop(name)
        if value is not None:
            os.environ[name] = value
    return MlflowClient()


@dataclass(frozen=True)
class Run:
    """An open run. Everything is written at once, nothing waits for the end."""

    run_id: str
    client: MlflowClient

    def params(self, values: Mapping[str, Any]) -> None:
        """Log parameters. What `mlflow run` logged already cannot be changed: where something else was used in the end,
        `used_<key>` says what."""
        known = self.client.get_run(self.run_id).data.params
        for key, value in values.items():
            if key not in known:
                self.client.log_param(self.run_id, key, value)
            elif known[key].strip("'") != str(value):  # MLflow quotes for the shell
                self.client.log_param(self.run_id, f"used_{key}", value)

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        now = int(pd.Timestamp.now("UTC").timestamp() * 1000)
        batch = [Metric(key, float(value), now, step) for key, value in values.items()]
        self.client.log_batch(self.run_id, metrics=batch)

    def series(self, key: str, values: Mapping[int, float]) -> None:
        """One metric over integer steps, in one call."""
        now = int(pd.Timestamp.now("UTC").timestamp() * 1000)
        batch = [Metric(key, float(value), now, step) for step, value in values.items()]
        for start in range(0, len(batch), 1000):
            self.client.log_batch(self.run_id, metrics=batch[start : start + 1000])

    def tags(self, values: Mapping[str, str]) -> None:
        for key, value in values.items():
            self.client.set_tag(self.run_id, key, value)

    def figure(self, figure: Any, path: str) -> None:
        self.client.log_figure(self.run_id, figure, path)

    def text(self, text: str, path: str) -> None:
        self.client.log_text(self.run_id, text, path)

    def table(self, frame: pd.DataFrame, stem: str) -> None:
        """A frame as CSV, readable in the UI."""
        self.client.log_text(self.run_id, frame.to_csv(index=False), f"{stem}.csv")

    def json(self, data: Any, path: str) -> None:
        self.client.log_text(
            self.run_id, json.dumps(data, indent=2, sort_keys=True, default=str), path
        )

    def child(self, name: str, tags: Mapping[str, str]) -> "Run":
        """A new run below this one; `end` closes it. It is nobody's active run."""
        experiment = self.client.get_run(self.run_id).info.experiment_id
        made = self.client.create_run(
            experiment, run_name=name, tags={MLFLOW_PARENT_RUN_ID: self.run_id, **tags}
        )
        return Run(str(made.info.run_id), self.client)

    def end(self, status: str) -> None:
        """Close a `child`: FINISHED, KILLED or FAILED."""
        self.client.set_terminated(self.run_id, status)

    def dataset(self, frame: pd.DataFrame, name: str, digest: str, context: str) -> None:
        """A dataset input under our digest: MLflow's own hashes 10,000 rows and drops dates."""
        source = mlflow.data.from_pandas(frame.head(1000), name=name, digest=digest[:36])
        mlflow.log_input(
            source, context=context, tags={"kronos.data_digest": digest, "rows": str(len(frame))}
        )


@contextmanager
def start(
    settings: Settings, experiment: str, name: str, *, tags: Mapping[str, str] | None = None, nested: bool = False,
    again: str | None = None,
) -> Iterator[Run]:  # fmt: skip
    """A run in `experiment`, or the one that `mlflow run` opened for us. An error fails it and is tagged.

    `again` is the id of a run to go on with, wherever it ended; a new one takes its place when it was deleted.
    """
    client = connect(settings)
    attached = _attachable(settings, client)
    if again is not None and _exists(client, again):
        if attached is not None:
            client.set_tag(attached, "goes_on_in", again)
        if ERROR_TAG in client.get_run(again).data.tags:
            client.delete_tag(again, ERROR_TAG)
        context = mlflow.start_run(run_id=again)
    elif attached is None or nested:
        identity = _experiment(settings, client, experiment)
        context = mlflow.start_run(experiment_id=identity, run_name=name, nested=nested)
    else:
        context = mlflow.start_run(run_id=attached)
    with context as active:
        run = Run(active.info.run_id, client)
        run.tags(tags or {})
        try:
            yield run
        except BaseException as error:
            run.tags({ERROR_TAG: f"{type(error).__name__}: {error}"[:5000]})
            raise


def record(
    settings: Settings,
    experiment: str,
    name: str,
    *,
    key: tuple[str, str],
    facts: Mapping[str, str],
    data: Any,
) -> str:
    """Id of the finished run that records something once, with `data` in record.json.

    It is made with the tag `key` and found again by it, wherever it was killed before. It is nobody's active run.
    """
    client = connect(settings)
    identity = _experiment(settings, client, experiment)
    runs = client.search_runs([identity], f"tags.`{key[0]}` = '{key[1]}'", max_results=1)
    made = (
        runs[0]
        if runs
        else client.create_run(identity, run_name=name, tags={**facts, key[0]: key[1]})
    )
    run = Run(str(made.info.run_id), client)
    run.params(facts)
    run.json(data, "record.json")
    client.set_terminated(run.run_id)
    return run.run_id


def _exists(client: MlflowClient, run_id: str) -> bool:
    try:
        return bool(client.get_run(run_id).info.lifecycle_stage == LifecycleStage.ACTIVE)
    except mlflow.MlflowException:
        return False


def tag_project_run(settings: Settings, message: str) -> None:
    """Say on the run that `mlflow run` opened why nothing came of it."""
    client = connect(settings)
    run_id = _attachable(settings, client)
    if run_id is not None:
        client.set_tag(run_id, ERROR_TAG, message)


def _attachable(settings: Settings, client: MlflowClient) -> str | None:
    """The run that `mlflow run` opened for this process, if it lies in our store and keeps artifacts where we do.

    `mlflow run` without MLFLOW_TRACKING_URI opens one in ./mlflow.db with artifacts under ./mlruns: that one is
    left alone, and ours goes where `make ui` and `make serve` look.
    """
    run_id = os.environ.pop(_ATTACHED, None) if mlflow.active_run() is None else None
    if run_id is None:
        return None
    try:
        run = client.get_run(run_id)
    except mlflow.MlflowException:
        return None
    local = settings.tracking.startswith(_DATABASES)
    return run_id if not local or run.info.artifact_uri.startswith(settings.artifacts) else None


def _experiment(settings: Settings, client: MlflowClient, name: str) -> str:
    """Id of an experiment; a new one of a local store keeps its artifacts under settings.artifacts."""
    experiment = client.get_experiment_by_name(name)
    if experiment is not None:
        return str(experiment.experiment_id)
    local = settings.tracking.startswith(_DATABASES)
    location = f"{settings.artifacts}/{name}" if local else None
    try:
        return str(client.create_experiment(name, artifact_location=location, tags=_TRAINING))
    except mlflow.MlflowException:  # created by another process in between
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            raise
        return str(experiment.experiment_id)


def git_commit(checkout: Path = CHECKOUT) -> str:
    """Commit of the checkout, with '-dirty' when files differ from it; 'unknown' without git."""
    try:
        described = subprocess.run(
            ["git", "-C", str(checkout), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],
            capture_output=True, text=True, timeout=30, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return described.stdout.strip()


@contextmanager
def scratch() -> Iterator[Path]:
    """A temporary folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="kronos-") as folder:
        yield Path(folder)
