"""MLflow runs: start them and write to them. No other module does."""

import hashlib
import json
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.entities import LifecycleStage, Metric, ViewType
from mlflow.tracking import MlflowClient
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from registry import interrupts
from registry.errors import Conflict
from registry.masking import masked
from registry.processes import this_process
from registry.settings import CHECKOUT, Settings
from registry.versions import descriptions
from registry.versions.connection import DATABASES, connect

# With this tag the UI shows runs and metrics first, not the tools for language models.
_TRAINING = {"mlflow.experimentKind": "custom_model_development"}
ERROR_TAG = "kronos.error"
PROCESS_TAG = "kronos.process"  # of runs and logged models: the mark of the process that made them
RUNNING, FINISHED, FAILED, KILLED = "RUNNING", "FINISHED", "FAILED", "KILLED"
_ATTACHED = "MLFLOW_RUN_ID"
_RANDOM_NAME = re.compile(r"[a-z]+-[a-z]+-\d+")  # of MLflow, for a run without `--run-name`
PAGE = 1000  # results; every search of MLflow allows that many
_QUOTE = re.compile(r"['\\]")  # a backslash quotes the next character on PostgreSQL


def every(search: Callable[..., Any], *arguments: Any, **options: Any) -> Iterator[Any]:
    """The results of all pages of a search, a method of MlflowClient."""
    token = None
    while True:
        page = search(*arguments, max_results=PAGE, page_token=token, **options)
        yield from page
        token = page.token
        if not token:
            return


def clause(key: str, value: str) -> str:
    """Filter of a search: `key` is `value`. Look at the results again if it may hold a quote.

    Between quotes MLflow knows no quote, so any character passes in its place.
    """
    if "'" not in value:
        return f"{key} = '{value}'"
    pattern = _QUOTE.sub("_", value)
    return f"{key} LIKE '{pattern}'"


@dataclass(frozen=True)
class Run:
    """An open run. Every call writes immediately and whole: a signal is raised after it."""

    run_id: str
    client: MlflowClient

    @interrupts.deferred()
    def params(self, values: Mapping[str, Any]) -> None:
        """Log parameters.

        A parameter that `mlflow run` logged before cannot be changed. If the value that was used
        differs from it, it is logged as `used_<key>`.
        """
        logged = self.client.get_run(self.run_id).data.params
        for key, value in values.items():
            text = masked(str(value))
            if key not in logged:
                self.client.log_param(self.run_id, key, text)
            elif logged[key].strip("'") != text:  # MLflow quotes values for the shell
                self.client.log_param(self.run_id, f"used_{key}", text)

    @interrupts.deferred()
    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        now = int(pd.Timestamp.now("UTC").timestamp() * 1000)
        batch = [Metric(key, float(value), now, step) for key, value in values.items()]
        self.client.log_batch(self.run_id, metrics=batch)

    @interrupts.deferred()
    def series(self, key: str, values: Mapping[int, float]) -> None:
        """Log one metric over integer steps."""
        now = int(pd.Timestamp.now("UTC").timestamp() * 1000)
        batch = [Metric(key, float(value), now, step) for step, value in values.items()]
        for start in range(0, len(batch), 1000):
            self.client.log_batch(self.run_id, metrics=batch[start : start + 1000])

    @interrupts.deferred()
    def daily(self, values: Mapping[str, Mapping[date, float]], days: Sequence[date]) -> None:
        """Log metrics over days: the step is a day's place among `days`, the time its midnight.

        The same values again change nothing, so that a run that was cut can be continued.
        """
        batch = []
        for step, day in enumerate(days):
            at = int(pd.Timestamp(day, tz="UTC").timestamp() * 1000)
            for key, by_day in values.items():
                if day in by_day:
                    batch.append(Metric(key, float(by_day[day]), at, step))
        for start in range(0, len(batch), 1000):
            self.client.log_batch(self.run_id, metrics=batch[start : start + 1000])

    @interrupts.deferred()
    def tags(self, values: Mapping[str, str]) -> None:
        for key, value in values.items():
            self.client.set_tag(self.run_id, key, masked(value))

    @interrupts.deferred()
    def figure(self, figure: Any, path: str) -> None:
        self.client.log_figure(self.run_id, figure, path)

    @interrupts.deferred()
    def text(self, text: str, path: str) -> None:
        self.client.log_text(self.run_id, text, path)

    @interrupts.deferred()
    def table(self, frame: pd.DataFrame, stem: str) -> None:
        """Log a frame as CSV, which the UI can show."""
        self.client.log_text(self.run_id, frame.to_csv(index=False), f"{stem}.csv")

    @interrupts.deferred()
    def json(self, data: Any, path: str) -> None:
        text = json.dumps(data, indent=2, sort_keys=True, default=str)
        self.client.log_text(self.run_id, text, path)

    @interrupts.deferred()
    def child(self, name: str, tags: Mapping[str, str]) -> "Run":
        """A new child run, which does not become an active run. `end` closes it."""
        experiment = self.client.get_run(self.run_id).info.experiment_id
        child_tags = {MLFLOW_PARENT_RUN_ID: self.run_id, PROCESS_TAG: this_process().mark, **tags}
        created = self.client.create_run(experiment, run_name=name, tags=child_tags)
        return Run(str(created.info.run_id), self.client)

    @interrupts.deferred()
    def end(self, status: str) -> None:
        """Close a `child` with status FINISHED, KILLED or FAILED."""
        self.client.set_terminated(self.run_id, status)

    @interrupts.deferred()
    def dataset(self, frame: pd.DataFrame, name: str, digest: str, context: str) -> None:
        """Log a dataset input with our digest: MLflow's hashes only 10,000 rows and drops dates.

        Whole numbers are logged as floats, because MLflow warns that they cannot be missing.
        """
        head = frame.head(1000)
        whole = head.select_dtypes("integer").columns
        head = head.astype(dict.fromkeys(whole, "float64"))
        source = mlflow.data.from_pandas(head, name=name, digest=digest[:36])
        tags = {"kronos.data_digest": digest, "rows": str(len(frame))}
        mlflow.log_input(source, context=context, tags=tags)


@contextmanager
def start(
    settings: Settings,
    experiment: str,
    name: str,
    *,
    tags: Mapping[str, str] | None = None,
    nested: bool = False,
    again: str | None = None,
) -> Iterator[Run]:
    """A new run in `experiment`, or the run that `mlflow run` opened for this process.

    An error makes the run fail and is written in a tag; a signal or Ctrl-C makes it KILLED.
    `again` is the id of an earlier run to continue, in whatever state it ended; if that run was
    deleted, a new run is started.
    """
    run: Run | None = None
    try:
        with interrupts.deferred():  # once the run is open, `run` is set
            marks = {PROCESS_TAG: this_process().mark, **(tags or {})}
            run = _open(settings, experiment, name, nested, again, marks)
            run.tags(marks)
        yield run
    except BaseException as error:
        if run is not None:
            _end_with(run, error)
        raise
    with interrupts.deferred():
        mlflow.end_run(FINISHED)


def _open(
    settings: Settings,
    experiment: str,
    name: str,
    nested: bool,
    again: str | None,
    tags: Mapping[str, str],
) -> Run:
    """The run. A new one is made with its tags: after a kill, `latest` finds it by them."""
    client = connect(settings)
    project_run = _project_run(client)
    identity = _experiment(settings, client, experiment)
    _create_all(settings, client)
    if again is not None and _exists(client, again):
        if ERROR_TAG in client.get_run(again).data.tags:
            client.delete_tag(again, ERROR_TAG)
        active = mlflow.start_run(run_id=again)
    elif project_run is None or not _keeps_artifacts(settings, project_run, identity):
        active = mlflow.start_run(
            experiment_id=identity,
            run_name=name,
            nested=nested,
            tags={**_context(), **_masked(tags)},
        )
    else:
        active = mlflow.start_run(run_id=project_run.info.run_id)
        if _RANDOM_NAME.fullmatch(project_run.info.run_name or ""):
            client.update_run(active.info.run_id, name=name)
    if project_run is not None and project_run.info.run_id != active.info.run_id:
        client.set_tag(project_run.info.run_id, "goes_on_in", active.info.run_id)
    if project_run is not None and project_run.info.experiment_id != identity:
        print(_elsewhere(client, project_run, experiment), file=sys.stderr)
    return Run(active.info.run_id, client)


def _elsewhere(client: MlflowClient, project_run: mlflow.entities.Run, experiment: str) -> str:
    """What to do so that `mlflow run` opens its run where the program would."""
    chosen = client.get_experiment(project_run.info.experiment_id).name
    return (
        f"note: `mlflow run` opened its run in the experiment {chosen}, the others of this kind "
        f"are in {experiment}; add `--experiment-name {experiment}` or "
        f"`export MLFLOW_EXPERIMENT_NAME={experiment}`"
    )


def _context() -> dict[str, str]:
    """MLflow's own tags of a new run. The address of the git remote may hold a token."""
    return _masked(resolve_tags())


def _masked(tags: Mapping[str, str]) -> dict[str, str]:
    return {key: masked(value) for key, value in tags.items()}


@interrupts.deferred()
def _end_with(run: Run, error: BaseException) -> None:
    """End the active run as KILLED or FAILED, with the error in a tag."""
    number = interrupts.received()  # also if a library made another error of the signal
    message = interrupts.ENDING[number] if number else f"{type(error).__name__}: {error}"
    killed = number is not None or isinstance(error, KeyboardInterrupt)
    try:
        run.tags({ERROR_TAG: message[:5000]})
    finally:
        mlflow.end_run(KILLED if killed else FAILED)


@interrupts.deferred()
def record(
    settings: Settings,
    experiment: str,
    name: str,
    *,
    key: tuple[str, str],
    facts: Mapping[str, str],
    data: Any,
) -> str:
    """Id of the finished run that holds `facts` as params and `data` in record.json.

    There is one run per `key`, a tag and its value. If an earlier call was killed, at any point,
    this call finds its run by the tag and completes it. The run does not become an active run.
    """
    client = connect(settings)
    identity = _experiment(settings, client, experiment)
    tag, value = key
    runs = client.search_runs([identity], clause(f"tags.`{tag}`", value), max_results=1)
    tags = {**facts, tag: value}
    entity = runs[0] if runs else client.create_run(identity, run_name=name, tags=tags)
    run = Run(str(entity.info.run_id), client)
    run.params(facts)
    run.json(data, "record.json")
    client.set_terminated(run.run_id)
    return run.run_id


def latest(settings: Settings, experiment: str, facts: Mapping[str, str]) -> str | None:
    """Id of the newest run with these tags, in whatever state; None: there is none.

    `start` continues it. The caller knows that no other process is at work in it.
    """
    client = connect(settings)
    identity = _experiment(settings, client, experiment)
    filters = " and ".join(clause(f"tags.`{key}`", value) for key, value in facts.items())
    runs = every(client.search_runs, [identity], filters, order_by=["start_time DESC"])
    for run in runs:
        if facts.items() <= run.data.tags.items():
            return str(run.info.run_id)
    return None


@dataclass(frozen=True)
class Recorded:
    """A run of `record`, deleted in the UI or not."""

    run_id: str
    tags: Mapping[str, str]


def recorded(settings: Settings, experiment: str, facts: Mapping[str, str]) -> list[Recorded]:
    """Runs of `record` in an experiment that have these facts, oldest first."""
    client = connect(settings)
    identity = _experiment(settings, client, experiment)
    filters = " and ".join(clause(f"tags.`{key}`", value) for key, value in facts.items())
    runs = every(client.search_runs, [identity], filters, ViewType.ALL, order_by=["start_time"])
    return [
        Recorded(run.info.run_id, run.data.tags)
        for run in runs
        if facts.items() <= run.data.tags.items()
    ]


def has_run(settings: Settings, run_id: str) -> bool:
    """Whether the tracking server knows a run, deleted in the UI or not."""
    try:
        connect(settings).get_run(run_id)
    except mlflow.MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        return False
    return True


def server_id(settings: Settings, experiment: str, tag: str) -> str:
    """Lasting id of a tracking server: a tag of one of its experiments."""
    client = connect(settings)
    number = _experiment(settings, client, experiment, {tag: uuid.uuid4().hex})
    entity = client.get_experiment(number)
    if tag not in entity.tags:  # an older one; every process computes the same id for it
        facts = f"{number} {entity.creation_time} {entity.artifact_location}"
        client.set_experiment_tag(number, tag, hashlib.sha256(facts.encode()).hexdigest()[:32])
        entity = client.get_experiment(number)
    return str(entity.tags[tag])


def kill(settings: Settings, project_run: str) -> None:
    """End as KILLED the runs that an interrupted program has open.

    `project_run` is the run that `mlflow run` opened for it, if any. If `mlflow run` survives the
    signal, it calls that run FAILED afterwards: MLflow 3.17 compares a status with a number there.
    """
    while mlflow.active_run() is not None:
        mlflow.end_run(KILLED)
    if not project_run:
        return
    client = connect(settings)
    if _exists(client, project_run):
        client.set_terminated(project_run, KILLED)


def _exists(client: MlflowClient, run_id: str) -> bool:
    try:
        return bool(client.get_run(run_id).info.lifecycle_stage == LifecycleStage.ACTIVE)
    except mlflow.MlflowException:
        return False


def tag_project_run(settings: Settings, tags: Mapping[str, str]) -> None:
    """Tag the run that `mlflow run` opened for this process, if it has not become our own run."""
    client = connect(settings)
    project_run = _project_run(client)
    if project_run is not None:
        Run(project_run.info.run_id, client).tags(tags)


def _project_run(client: MlflowClient) -> mlflow.entities.Run | None:
    """The run that `mlflow run` opened for this process in our store, the first time it is asked.

    Without MLFLOW_TRACKING_URI, `mlflow run` opens a run in ./mlflow.db. That run is ignored, so
    that the results go where `make ui` and `make serve` look.
    """
    run_id = os.environ.pop(_ATTACHED, None) if mlflow.active_run() is None else None
    if run_id is None:
        return None
    try:
        return client.get_run(run_id)
    except mlflow.MlflowException:
        return None


def _keeps_artifacts(settings: Settings, run: mlflow.entities.Run, experiment: str) -> bool:
    """Whether the artifacts of a run go where those of this experiment or all others go.

    If `mlflow run` made the database, its experiment Default has them in ./mlruns.
    """
    in_database = settings.tracking.startswith(DATABASES)
    in_folder = run.info.artifact_uri.startswith(settings.artifacts)
    return not in_database or in_folder or run.info.experiment_id == experiment


def _experiment(
    settings: Settings, client: MlflowClient, name: str, tags: Mapping[str, str] | None = None
) -> str:
    """Id of an experiment, which is created with a description and these tags if it is new.

    In a database store, a new one keeps its artifacts under settings.artifacts. A tracking server
    chooses the place itself. Raises Conflict for one that was deleted, or that another program
    created with its artifacts elsewhere.
    """
    in_database = settings.tracking.startswith(DATABASES)
    experiment = client.get_experiment_by_name(name)
    if experiment is not None:
        number = str(experiment.experiment_id)
        if experiment.lifecycle_stage != LifecycleStage.ACTIVE:
            raise Conflict(
                f"the experiment {name} was deleted in MLflow; restore it: "
                f"`python -m mlflow experiments restore --experiment-id {number}`"
            )
        ours = _TRAINING.keys() <= experiment.tags.keys()
        outside = not experiment.artifact_location.startswith(settings.artifacts)
        if in_database and outside and not ours:
            raise Conflict(
                f"another program created the experiment {name}, with its artifacts in "
                f"{experiment.artifact_location}, expected under {settings.artifacts}; rename it: "
                f"`python -m mlflow experiments rename --experiment-id {number} "
                f"--new-name {name}-elsewhere`, then start this once without `mlflow run`"
            )
        if descriptions.NOTE_TAG not in experiment.tags:
            for tag, text in _note(name).items():
                client.set_experiment_tag(number, tag, text)
        return number
    location = f"{settings.artifacts}/{name}" if in_database else None
    tags = {**_TRAINING, **_note(name), **(tags or {})}
    try:
        return str(client.create_experiment(name, artifact_location=location, tags=tags))
    except mlflow.MlflowException:  # another process created it in between
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            raise
        return str(experiment.experiment_id)


def _note(name: str) -> dict[str, str]:
    """The tag with the description of a new experiment; none for those of tests."""
    if name not in descriptions.EXPERIMENTS:
        return {}
    return {descriptions.NOTE_TAG: descriptions.of_experiment(name, {})}


def _create_all(settings: Settings, client: MlflowClient) -> None:
    """Create the experiments of runs: `mlflow run` would keep their artifacts in ./mlruns."""
    for name in descriptions.OF_RUNS:
        with suppress(Conflict):  # raised when it is needed
            _experiment(settings, client, name)


def git_commit(checkout: Path = CHECKOUT) -> str:
    """Commit of the checkout, with '-dirty' if files differ from it; 'unknown' without git."""
    command = ["git", "-C", str(checkout), "describe"]
    command += ["--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()
