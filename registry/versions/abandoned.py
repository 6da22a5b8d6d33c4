"""Runs and logged models in MLflow that killed processes of this host left open.

The tag PROCESS_TAG says which process made them. Those without it, or of other hosts, are left
alone: whether their process lives cannot be known from here.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from mlflow.entities import LoggedModelStatus
from mlflow.tracking import MlflowClient

from registry.processes import lives, marked
from registry.versions.tracking import ERROR_TAG, KILLED, PROCESS_TAG, RUNNING, every


@dataclass(frozen=True)
class Left:
    """A run or logged model whose process is gone. `close` ends it, unless that has changed."""

    name: str
    description: str
    close: Callable[[], object]


def runs(client: MlflowClient) -> Iterator[Left]:
    """Runs that are RUNNING without their process."""
    status = f"attributes.status = '{RUNNING}'"
    for run in every(client.search_runs, _experiments(client), filter_string=status):
        if _is_dead(run.data.tags):
            run_id = run.info.run_id
            yield Left(
                run.info.run_name,
                f"run {run_id} is {RUNNING}, but its process is gone",
                partial(_end_run, client, run_id),
            )


def logged_models(client: MlflowClient) -> Iterator[Left]:
    """Logged models that are PENDING without their process."""
    for model in every(client.search_logged_models, _experiments(client)):
        if model.status == LoggedModelStatus.PENDING and _is_dead(model.tags):
            model_id = model.model_id
            yield Left(
                model.name,
                f"logged model {model_id} is PENDING, but its process is gone",
                partial(client.finalize_logged_model, model_id, LoggedModelStatus.FAILED),
            )


def _end_run(client: MlflowClient, run_id: str) -> None:
    """End a run as KILLED, unless a living process continues it by now."""
    run = client.get_run(run_id)
    if run.info.status == RUNNING and _is_dead(run.data.tags):
        client.set_tag(run_id, ERROR_TAG, "its process was killed")
        client.set_terminated(run_id, KILLED)


def _is_dead(tags: Mapping[str, str]) -> bool:
    process = marked(tags.get(PROCESS_TAG, ""))
    return process is not None and lives(process) is False


def _experiments(client: MlflowClient) -> list[str]:
    return [str(experiment.experiment_id) for experiment in every(client.search_experiments)]
