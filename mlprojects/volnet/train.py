"""Training of linear, mlp and lightgbm: first the scale, then the quantiles of its residuals."""

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
    """Fit on rows whose outcomes end by config.fit_until; stop early on rows after it.

    The residuals are those of the fitted rows. Raises BadHistory as `samples.split` does.
    """
    model_spec = spec(name, config)
    fit, chosen = split(history, model_spec, config.fit_until)
    scale: Scale
    if isinstance(config, TreesConfig):
        from mlprojects.volnet.boosting import fit_trees  # the networks need no LightGBM

        unit = importance.GAIN
        scale, weights, facts = fit_trees(fit, chosen, config, seed, run)
    else:
        unit = importance.SLOPE
        fingerprint = loop.fingerprint(history, config, seed)
        scale, weights, facts = fit_networks(fit, chosen, config, name, seed, fingerprint, run)
    table = importance.table(weights)
    return Trained(
        VolNet(model_spec, scale, residuals(fit, scale, config.levels)),
        params=facts,
        tables={"importance": table},
        figures={"importance": importance.chart(table, name, unit)},
    )


def residuals(fit: Samples, scale: Scale, levels: tuple[float, ...]) -> Residuals:
    """Quantiles of y / (sigma scale), over all rows and steps of each series and of all series."""
    z = fit.y / (fit.inputs.sigma[:, None] * scale(fit.inputs))
    by_series = []
    for i in range(len(fit.symbols)):
        z_of_series = z[fit.series == i].reshape(1, -1)
        by_series.append(volatility.empirical_quantiles(z_of_series, levels)[0])
    pool = volatility.empirical_quantiles(z.reshape(1, -1), levels)[0]
    return Residuals(fit.symbols, np.stack(by_series), pool)
