"""What came of a study: its best trial, the table of all, figures and best.yaml, on the study's run."""

import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import matplotlib.pyplot as plt
import optuna
import pandas as pd
import yaml
from optuna.trial import FrozenTrial, TrialState

from jobs.training.references import FHS
from jobs.tuning.study import GIVEN_UP, METRICS, RUN, Study
from jobs.tuning.trial import Setup
from registry.errors import KronosError
from registry.scoring.scores import means
from registry.versions import tracking

COMPLETE, PRUNED, FAILED = "complete", "pruned", "failed"  # what became of a trial
STATES = {TrialState.COMPLETE: COMPLETE, TrialState.PRUNED: PRUNED, TrialState.FAIL: FAILED}
COLUMNS = ("crps", "skill_vs_fhs", "coverage_90", "fit_seconds")
ENOUGH = 4  # complete trials, below which nothing can be said of the importance of a setting


@dataclass(frozen=True)
class Result:
    """A study and its best trial."""

    model: str
    study: str
    trials: int
    pruned: int
    best: Mapping[str, Any]
    crps: float
    skill_vs_fhs: float
    run_id: str

    def summary(self) -> dict[str, Any]:
        return asdict(self)


def best(study: Study) -> FrozenTrial | None:
    """The complete trial of the lowest CRPS, the earliest of equals."""
    complete = [t for t in study.trials() if t.state == TrialState.COMPLETE]
    return min(complete, key=lambda t: (t.value, t.number), default=None)


def score_text(metrics: Mapping[str, float]) -> str:
    """The scores of a trial in words."""
    return f"CRPS {metrics['crps']:.6f}, {metrics['skill_vs_fhs']:+.2%} vs {FHS}"


def record(study: Study, run: tracking.Run, setup: Setup, fixed: Collection[str]) -> Result:
    """Log everything to the study's run. Raises KronosError, code NO_TRIAL, when no trial is complete."""
    run.table(table(study), "trials")
    states = [t.state for t in study.trials()]
    pruned, complete = states.count(TrialState.PRUNED), states.count(TrialState.COMPLETE)
    run.metrics(
        {"trials": complete + pruned, "pruned": pruned, "failed": states.count(TrialState.FAIL)}
    )
    found = best(study)
    if found is None:
        why = next(
            (t.user_attrs[GIVEN_UP] for t in study.trials() if t.user_attrs.get(GIVEN_UP)),
            "none was begun",
        )
        raise KronosError(
            f"no trial of {study.name} is complete ({why}); ask for more, or for more time",
            code="NO_TRIAL",
        )
    settings, metrics = study.settings(found), found.user_attrs[METRICS]
    run.metrics({**metrics, "fhs_crps": float(means(setup.reference)["crps"].iloc[0])})
    # A parameter of a run never changes, and more trials may find a better one: so these are tags.
    run.tags(
        {f"best_{name}": str(value) for name, value in settings.items()}
        | {"best_trial": str(found.number)}
    )
    counts = {"trials": complete + pruned, "pruned": pruned}
    scores = {"crps": metrics["crps"], "skill_vs_fhs": metrics["skill_vs_fhs"]}
    result = Result(
        setup.model.name, study.name, **counts, best=settings, **scores, run_id=run.run_id
    )
    run.text(_yaml(result, setup, fixed), "best.yaml")
    _figures(study.optuna, run)
    return result


def table(study: Study) -> pd.DataFrame:
    """One row for each trial: number, state, scores, settings, run, why it was given up."""
    rows = []
    for trial in study.trials():
        metrics = trial.user_attrs.get(METRICS, {})
        rows.append(
            {"trial": trial.number, "state": STATES.get(trial.state, "running")}
            | {name: metrics.get(name) for name in COLUMNS}
            | (study.settings(trial) if trial.params else {})
            | {RUN: trial.user_attrs.get(RUN), GIVEN_UP: trial.user_attrs.get(GIVEN_UP)}
        )
    return pd.DataFrame(rows)


def _yaml(result: Result, setup: Setup, fixed: Collection[str]) -> str:
    """Settings to paste into the model's config: those that were fixed, then the best trial's."""
    first, last = (f"{setup.origins[i]:%Y-%m-%d}" for i in (0, -1))
    head = (
        f"# Best of {result.trials} trials of study {result.study}, MLflow run {result.run_id}:\n"
        f"# {score_text(asdict(result))}, {len(setup.origins)} origins {first} to {last}.\n"
    )
    told = {name: value for name, value in asdict(setup.config).items() if name in fixed}
    plain = {
        name: list(value) if isinstance(value, tuple) else value for name, value in told.items()
    }
    return head + yaml.safe_dump({**plain, **result.best}, sort_keys=False)


def _figures(study: optuna.Study, run: tracking.Run) -> None:
    """Optuna's pictures: the best so far, the choice losses, and which setting mattered."""
    plots = optuna.visualization.matplotlib
    drawn: dict[str, Callable[[optuna.Study], Any]] = {
        "optimization_history": plots.plot_optimization_history
    }
    if any(t.intermediate_values for t in study.trials):
        drawn["intermediate_values"] = plots.plot_intermediate_values
    if len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))) >= ENOUGH:
        drawn["param_importances"] = plots.plot_param_importances
    with plt.rc_context(), warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", optuna.exceptions.ExperimentalWarning
        )  # all of these plots, for years
        for stem, plot in drawn.items():
            figure = plot(study).figure
            run.figure(figure, f"figures/{stem}.png")
            plt.close(figure)
