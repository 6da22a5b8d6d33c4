"""Training of linear, mlp and lightgbm: the scale first, then the quantiles of what it leaves over."""

import numpy as np
import pandas as pd

from mlprojects.blocks import loop
from mlprojects.volnet import importance
from mlprojects.volnet.learning import fit_networks
from mlprojects.volnet.model import Residuals, VolNet
from mlprojects.volnet.samples import Samples, split
from mlprojects.volnet.scales import Scale
from mlprojects.volnet.settings import LinearConfig, TreesConfig, spec
from registry.forecast import volatility
from registry.training import Trained, TrainRun


def train(
    history: pd.DataFrame,
    config: LinearConfig | TreesConfig,
    *,
    name: str,
    seed: int,
    run: TrainRun,
) -> Trained:
    """Fit on rows whose outcomes end by config.fit_until, stop early on those after it; residuals are of fitted rows.

    Raises BadHistory as `samples.split` does.
    """
    what = spec(name, config)
    scale: Scale
    fit, chosen = split(history, what, config.fit_until)
    if isinstance(config, TreesConfig):
        from mlprojects.volnet.boosting import fit_trees  # the networks need no LightGBM

        unit = importance.GAIN
        scale, weights, facts = fit_trees(fit, chosen, config, seed, run)
    else:
        unit = importance.SLOPE
        scale, weights, facts = fit_networks(
            fit, chosen, config, name, seed, loop.fingerprint(history, config, seed), run
        )
    table = importance.table(weights)
    return Trained(
        VolNet(what, scale, residuals(fit, scale, config.levels)),
        params=facts,
        tables={"importance": table},
        figures={"importance": importance.chart(table, name, unit)},
    )


def residuals(fit: Samples, scale: Scale, levels: tuple[float, ...]) -> Residuals:
    """Quantiles of y / (sigma scale) over all rows and steps, and over those of each series."""
    z = fit.y / (fit.inputs.sigma[:, None] * scale(fit.inputs))
    own = [
        volatility.empirical_quantiles(z[fit.series == i].reshape(1, -1), levels)[0]
        for i in range(len(fit.symbols))
    ]
    return Residuals(
        fit.symbols, np.stack(own), volatility.empirical_quantiles(z.reshape(1, -1), levels)[0]
    )
