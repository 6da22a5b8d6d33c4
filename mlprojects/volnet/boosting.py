"""Training of the trees: LightGBM, stopped on the choice period.

Ke, Meng, Finley, Wang, Chen, Ma, Ye and Liu, LightGBM, NeurIPS 2017.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from mlprojects.blocks import loop
from mlprojects.volnet.inputs import NAMES
from mlprojects.volnet.samples import Samples
from mlprojects.volnet.scales import Trees, library, tree_rows
from mlprojects.volnet.settings import TreesConfig
from registry.forecast.arrays import Floats
from registry.training import TrainRun

lightgbm = library()

SMALLEST, LARGEST = (
    0.02,
    8.0,
)  # volatilities; a gamma's target is positive, and one session shall not decide a tree


def fit_trees(
    fit: Samples, chosen: Samples, config: TreesConfig, seed: int, run: TrainRun
) -> tuple[Trees, Floats, dict[str, Any]]:
    """A gamma regression of the size of a return in EWMA volatilities (clipped), by gradient boosting."""
    data = lightgbm.Dataset(tree_rows(fit.inputs), _sizes(fit), feature_name=[*NAMES, "step"])
    later = lightgbm.Dataset(tree_rows(chosen.inputs), _sizes(chosen), reference=data)
    parameters = {
        "objective": "gamma",
        "num_leaves": config.leaves,
        "learning_rate": config.learning_rate,
        "feature_fraction": config.share,
        "bagging_fraction": config.share,
        "bagging_freq": 1,
        "min_data_in_leaf": config.least_rows,
        "lambda_l2": config.penalty,
        "seed": seed % 2**31,  # LightGBM's is a 32-bit int
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": 1,  # the same trees on every machine
        "verbose": -1,
    }
    booster = lightgbm.train(
        parameters, data, config.rounds, valid_sets=[later], valid_names=["valid"],
        callbacks=[lightgbm.early_stopping(config.patience, verbose=False), _reporting(run)],
    )  # fmt: skip
    best = booster.best_iteration
    trees = Trees(booster.model_to_string(num_iteration=best))
    gain = booster.feature_importance("gain", iteration=best)
    leaves = sum(tree["num_leaves"] for tree in booster.dump_model(num_iteration=best)["tree_info"])
    return (
        trees,
        gain / max(gain.sum(), np.finfo(np.float64).tiny),
        {"parameters": leaves, "best_step": best},
    )


def _sizes(samples: Samples) -> Floats:
    """|y| in EWMA volatilities, clipped [R * H]."""
    return np.clip(np.abs(samples.y) / samples.inputs.sigma[:, None], SMALLEST, LARGEST).reshape(-1)


def _reporting(run: TrainRun) -> Callable[[Any], None]:
    """A callback that reports the choice loss, and ends training when the run is to be given up."""

    def report(env: Any) -> None:  # a lightgbm.callback.CallbackEnv
        step = env.iteration + 1
        if step % loop.REPORT_EVERY == 0 or step == 1:
            run.report(step, valid_loss=env.evaluation_result_list[0][2])
            if run.should_stop():
                raise lightgbm.callback.EarlyStopException(
                    env.iteration, env.evaluation_result_list
                )

    return report
