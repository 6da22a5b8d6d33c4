"""Training of NeuralForecast networks."""

import pandas as pd

from mlprojects.nixtla.settings import CONFIGS, SEARCH, Training
from registry.forecast.spec import ModelSpec
from registry.training import Trained, TrainRun

__all__ = ["CONFIGS", "SEARCH", "spec", "train"]


def spec(name: str, config: Training) -> ModelSpec:
    """What the model needs. The universe of a network of all series is known when it is trained."""
    return ModelSpec(
        name=name,
        family="nixtla",
        min_context=config.context,
        max_context=config.context,
        max_horizon=config.horizon,
        levels=config.levels,
        joint=config.joint,
    )


def train(history: pd.DataFrame, config: Training, *, name: str, seed: int, run: TrainRun) -> Trained:
    """See fitting.fit."""
    from mlprojects.nixtla.fitting import fit  # the library takes seconds to import: not for a refused setting

    return fit(history, spec(name, config), config, seed, run)
