"""Training of the ensemble: its members are fitted, nothing beyond them."""

from dataclasses import fields
from typing import Any

import pandas as pd

from mlprojects.ensemble.model import Ensemble
from mlprojects.ensemble.settings import Config, joined
from registry import training
from registry.training import Trained, TrainRun


def train(history: pd.DataFrame, config: Config, *, name: str, seed: int, run: TrainRun) -> Trained:
    """Fit every member; figures and tables carry the member's name."""
    shared = {field.name: getattr(config, field.name) for field in fields(training.Config)}
    own = training.Config(**shared)
    members: dict[str, Trained] = {}
    for member in config.members:
        model = member.split("/")[1]
        members[model] = run.fit_member(model, history, own, seed, tiny=config.tiny_members)
    forecasters = tuple(trained.forecaster for trained in members.values())
    figures: dict[str, Any] = {}
    tables: dict[str, pd.DataFrame] = {}
    for model, trained in members.items():
        figures |= {f"{model}_{stem}": figure for stem, figure in trained.figures.items()}
        tables |= {f"{model}_{stem}": table for stem, table in trained.tables.items()}
    return Trained(
        Ensemble(joined(name, config, [one.spec for one in forecasters]), forecasters),
        params={"parameters": sum(int(one.params["parameters"]) for one in members.values())},
        figures=figures,
        tables=tables,
    )
