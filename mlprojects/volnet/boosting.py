"""Training of the trees: LightGBM, with early stopping on the choice period.

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

# Bounds of the target in volatilities: a gamma's is positive, and no session may dominate a tree.
SMALLEST, LARGEST = 0.02, 8.0


def fit_trees(
    fit: Samples, chosen: Samples, config: TreesConfig, seed: int, run: TrainRun
) -> tuple[Trees, Floats, dict[str, Any]]:
    """Gamma regression of the clipped |y| in EWMA volatilities, by gradient boosting.

    Returns the trees, each feature's share of their gain [F + G + 1], and facts to log.
    """
    data = lightgbm.Dataset(tree_rows(fit.inputs), _sizes(fit), feature_name=[*NAMES, "step"])
    choice = lightgbm.Dataset(tree_rows(chosen.inputs), _sizes(chosen), reference=data)
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
        parameters, data, config.rounds, valid_sets=[choice], valid_names=["valid"],
        callbacks=[lightgbm.early_stopping(config.patience, verbose=False), _reporting(run)],
    )  # fmt: skip
    best = booster.best_iteration
    trees = Trees(booster.model_to_string(num_iteration=best))
    gain = booster.feature_importance("gain", iteration=best)
    shares = gain / max(gain.sum(), np.finfo(np.float64).tiny)
    dump = booster.dump_model(num_iteration=best)
    leaves = sum(tree["num_leaves"] for tree in dump["tree_info"])
    return trees, shares, {"parameters": leaves, "best_step": best}


def _sizes(samples: Samples) -> Floats:
    """|y| in EWMA volatilities, clipped, [R * H]."""
    sizes = np.abs(samples.y) / samples.inputs.sigma[:, None]
    return np.clip(sizes, SMALLEST, LARGEST).reshape(-1)


def _reporting(run: TrainRun) -> Callable[[Any], None]:
    """A callback that reports the choice loss, and ends training when the run should stop."""

    def report(env: Any) -> None:  # a lightgbm.callback.CallbackEnv
        step = env.iteration + 1
        if step % loop.REPORT_EVERY == 0 or step == 1:
            results = env.evaluation_result_list
            run.report(step, valid_loss=results[0][2])
            if run.should_stop():
                raise lightgbm.callback.EarlyStopException(env.iteration, results)

    return report
