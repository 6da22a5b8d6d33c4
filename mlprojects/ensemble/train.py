"""Training of the ensemble: it fits the members and has no parameters of its own."""

from dataclasses import fields
from typing import Any

import pandas as pd

from mlprojects.ensemble.model import Ensemble
from mlprojects.ensemble.settings import Config, joined
from registry import training
from registry.training import Trained, TrainRun


def train(history: pd.DataFrame, config: Config, *, name: str, seed: int, run: TrainRun) -> Trained:
    """Fit every member; the names of figures and tables begin with the member's name."""
    shared = {field.name: getattr(config, field.name) for field in fields(training.Config)}
    shared_config = training.Config(**shared)
    members: dict[str, Trained] = {}
    for member in config.members:
        model = member.split("/")[1]
        members[model] = run.fit_member(
            model, history, shared_config, seed, tiny=config.tiny_members
        )
    forecasters = tuple(trained.forecaster for trained in members.values())
    specs = [forecaster.spec for forecaster in forecasters]
    parameters = sum(int(trained.params["parameters"]) for trained in members.values())
    figures: dict[str, Any] = {}
    tables: dict[str, pd.DataFrame] = {}
    left_out: dict[str, str] = {}
    for model, trained in members.items():
        figures |= {f"{model}_{stem}": figure for stem, figure in trained.figures.items()}
        left_out |= trained.left_out
        tables |= {f"{model}_{stem}": table for stem, table in trained.tables.items()}
    return Trained(
        Ensemble(joined(name, config, specs), forecasters),
        params={"parameters": parameters},
        figures=figures,
        tables=tables,
        left_out=left_out,
    )
