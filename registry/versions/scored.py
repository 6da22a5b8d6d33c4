"""How well a version did, and on which rows: in the run of its training or of an evaluation."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mlflow.entities import Run, RunStatus

from registry.versions.store import Store
from registry.versions.tracking import clause
from registry.versions.version import Version

EVALUATIONS = "evaluations"  # experiment of the runs of `jobs evaluate`
ROWS_TAG = "scored_rows"  # of a run: number and hash of its pairs of series and origin
# What defines the scored rows, in words: settings of the run, and tags of run and version.
FACTS = {
    "data": "the data set {}",
    "choose_until": "sessions after {}",
    "report_until": "up to {}",
    "report_every": "origins {} session(s) apart",
    "horizon": "{} session(s) ahead",
    "levels": "at the levels {}",
}
_OF_TAGS = ("data", "data_digest", ROWS_TAG)
_LATEST = 50  # evaluations of a version that are looked at


@dataclass(frozen=True)
class Scores:
    """Metrics of a run, and the known facts of the rows that they were measured on."""

    metrics: Mapping[str, float]
    rows: Mapping[str, str]


def of_training(store: Store, version: Version) -> Scores | None:
    """Scores in the version's own run; None without a CRPS."""
    metrics = store.metrics(version)
    if "crps" not in metrics:
        return None
    return Scores(metrics, rows_of(store.client.get_run(version.run_id), version))


def latest(store: Store, version: Version) -> list[Scores]:
    """All scores of a version: of its evaluations, newest first, then of its training."""
    scores = []
    experiment = store.client.get_experiment_by_name(EVALUATIONS)
    if experiment is not None:
        of_version = f"{clause('tags.model', version.name)} and tags.version = '{version.version}'"
        runs = store.client.search_runs(
            [experiment.experiment_id],
            f"{of_version} and tags.source_run = '{version.run_id}'",
            order_by=["start_time DESC"],
            max_results=_LATEST,
        )
        for run in runs:
            is_finished = run.info.status == RunStatus.to_string(RunStatus.FINISHED)
            if is_finished and "crps" in run.data.metrics:
                scores.append(Scores(run.data.metrics, rows_of(run, version)))
    trained = of_training(store, version)
    return [*scores, trained] if trained else scores


def rows_of(run: Run, version: Version) -> dict[str, str]:
    """The facts that define a run's scored rows; unknown ones are left out."""
    params = run.data.params
    facts = {}
    for key in FACTS:
        facts[key] = params.get(f"used_{key}", params.get(key))  # see tracking.Run.params
    for key in _OF_TAGS:
        facts[key] = run.data.tags.get(key, version.tags.get(key, facts.get(key)))
    return {key: value.strip("'") for key, value in facts.items() if value}


def same(first: Scores, second: Scores) -> bool:
    """Whether two scores are of the same rows. Unknown rows are not."""
    return bool(first.rows) and first.rows == second.rows


def differing(rows: Iterable[Mapping[str, str]]) -> list[str]:
    """The facts in which scored rows differ."""
    every = list(rows)
    keys = dict.fromkeys(key for facts in every for key in facts)
    return [key for key in keys if len({facts.get(key) for facts in every}) > 1]


def described(rows: Mapping[str, str]) -> str:
    """The scored rows in words; empty if nothing is known of them."""
    phrases = []
    for key, phrase in FACTS.items():
        if key in rows:
            value = "the end of the data" if rows[key] == "None" else rows[key]
            phrases.append(phrase.format(value))
    return ", ".join(phrases)
