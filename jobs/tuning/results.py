"""Results of a study, logged to its run: the best trial, a table of all, figures, best.yaml."""

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

COMPLETE, PRUNED, FAILED = "complete", "pruned", "failed"  # states of a trial
STATES = {TrialState.COMPLETE: COMPLETE, TrialState.PRUNED: PRUNED, TrialState.FAIL: FAILED}
COLUMNS = ("crps", "skill_vs_fhs", "coverage_90", "fit_seconds")
ENOUGH = 4  # complete trials; with fewer, the importance of settings is not estimated


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
    """The complete trial with the lowest CRPS; the earliest of equals."""
    complete = [trial for trial in study.trials() if trial.state == TrialState.COMPLETE]
    return min(complete, key=lambda trial: (trial.value, trial.number), default=None)


def score_text(metrics: Mapping[str, float]) -> str:
    """The scores of a trial as text."""
    return f"CRPS {metrics['crps']:.6f}, {metrics['skill_vs_fhs']:+.2%} vs {FHS}"


def record(study: Study, run: tracking.Run, setup: Setup, fixed: Collection[str]) -> Result:
    """Log everything to the study's run.

    Raises KronosError, code NO_TRIAL, when no trial is complete.
    """
    run.table(table(study), "trials")
    states = [trial.state for trial in study.trials()]
    pruned = states.count(TrialState.PRUNED)
    finished = states.count(TrialState.COMPLETE) + pruned
    failed = states.count(TrialState.FAIL)
    run.metrics({"trials": finished, "pruned": pruned, "failed": failed})
    best_trial = best(study)
    if best_trial is None:
        raise KronosError(
            f"no trial of {study.name} is complete ({_first_reason(study)}); "
            "run more trials, or allow more time",
            code="NO_TRIAL",
        )
    settings, metrics = study.settings(best_trial), best_trial.user_attrs[METRICS]
    fhs_crps = float(means(setup.reference)["crps"].iloc[0])
    run.metrics({**metrics, "fhs_crps": fhs_crps})
    # Tags, because a run's parameters never change and later trials may be better.
    tags = {f"best_{name}": str(value) for name, value in settings.items()}
    run.tags({**tags, "best_trial": str(best_trial.number)})
    result = Result(
        model=setup.model.name,
        study=study.name,
        trials=finished,
        pruned=pruned,
        best=settings,
        crps=metrics["crps"],
        skill_vs_fhs=metrics["skill_vs_fhs"],
        run_id=run.run_id,
    )
    run.text(_yaml(result, setup, fixed), "best.yaml")
    _figures(study.optuna, run)
    return result


def _first_reason(study: Study) -> str:
    """Why the first trial without a score has none."""
    for trial in study.trials():
        reason: str = trial.user_attrs.get(GIVEN_UP, "")
        if reason:
            return reason
    return "none was started"


def table(study: Study) -> pd.DataFrame:
    """One row for each trial: number, state, scores, settings, run, why it was given up."""
    rows = []
    for trial in study.trials():
        attributes = trial.user_attrs
        row = {"trial": trial.number, "state": STATES.get(trial.state, "running")}
        row |= {name: attributes.get(METRICS, {}).get(name) for name in COLUMNS}
        if trial.params:
            row |= study.settings(trial)
        row |= {RUN: attributes.get(RUN), GIVEN_UP: attributes.get(GIVEN_UP)}
        rows.append(row)
    return pd.DataFrame(rows)


def _yaml(result: Result, setup: Setup, fixed: Collection[str]) -> str:
    """Settings to paste into the model's config: the fixed ones, then the best trial's."""
    first, last = f"{setup.origins[0]:%Y-%m-%d}", f"{setup.origins[-1]:%Y-%m-%d}"
    head = (
        f"# Best of {result.trials} trials of study {result.study}, MLflow run {result.run_id}:\n"
        f"# {score_text(asdict(result))}, {len(setup.origins)} origins {first} to {last}.\n"
    )
    settings = {}
    for name, value in asdict(setup.config).items():
        if name in fixed:
            settings[name] = list(value) if isinstance(value, tuple) else value
    return head + yaml.safe_dump({**settings, **result.best}, sort_keys=False)


def _figures(study: optuna.Study, run: tracking.Run) -> None:
    """Optuna's pictures: the best so far, the choice losses, the importance of settings."""
    plots: dict[str, Callable[[optuna.Study], Any]] = {
        "optimization_history": optuna.visualization.matplotlib.plot_optimization_history
    }
    if any(trial.intermediate_values for trial in study.trials):
        plots["intermediate_values"] = optuna.visualization.matplotlib.plot_intermediate_values
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(complete) >= ENOUGH:
        plots["param_importances"] = optuna.visualization.matplotlib.plot_param_importances
    with plt.rc_context(), warnings.catch_warnings():
        # Optuna has marked all of these plots as experimental for years.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        for stem, plot in plots.items():
            figure = plot(study).figure
            run.figure(figure, f"figures/{stem}.png")
            plt.close(figure)
