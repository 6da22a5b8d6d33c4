"""Training of the baselines; only har, garch and gjr have parameters to fit."""

import numpy as np
import pandas as pd

from mlprojects.baselines import garch, model
from mlprojects.baselines.settings import Config, spec
from registry.errors import BadHistory
from registry.forecast import names, volatility
from registry.forecast.arrays import Floats
from registry.forecast.history import History
from registry.forecast.spec import ModelSpec
from registry.training import Trained, TrainRun

CLIP = 8.0  # volatilities; without it, a single session could dominate the regression


def train(history: pd.DataFrame, config: Config, *, name: str, seed: int, run: TrainRun) -> Trained:  # noqa: ARG001
    """Fit on sessions up to config.fit_until; har pools residuals up to config.choose_until."""
    model_spec = spec(name, config)
    if config.kind == "har":
        return _train_har(model_spec, history, config, run)
    if config.kind in ("garch", "gjr"):
        return _train_garch(model_spec, history, config, run)
    run.report(1)
    return Trained(model.KINDS[config.kind](model_spec), params={"parameters": 0})


def _to_fit(history: pd.DataFrame, config: Config) -> pd.DataFrame:
    return history[history[names.DS] <= pd.Timestamp(config.fit_until)]


def _train_garch(spec: ModelSpec, history: pd.DataFrame, config: Config, run: TrainRun) -> Trained:
    # arch takes most of a second to import, and the other baselines do not need it.
    from mlprojects.baselines import estimate

    to_fit = _to_fit(history, config)
    asymmetric = config.kind == "gjr"
    estimates = estimate.estimate(to_fit, asymmetric=asymmetric)
    run.report(1)
    symbols, parameters = estimates.symbols, estimates.parameters
    kind = model.Gjr if asymmetric else model.Garch
    per_series = len(garch.NAMES) if asymmetric else len(garch.NAMES) - 1
    return Trained(
        kind(spec, symbols, parameters, garch.pool(parameters)),
        params={
            "parameters": per_series * len(symbols),
            "series_fitted": len(symbols),
            "series_pooled": len(estimates.table) - len(symbols),
        },
        tables={"parameters": estimates.table},
        figures={"volatility": estimate.volatility_chart(to_fit, estimates)},
    )


def _train_har(spec: ModelSpec, history: pd.DataFrame, config: Config, run: TrainRun) -> Trained:
    coefficients = fit_har(_to_fit(history, config), config.horizon, config.warmup)
    run.report(1)
    pool = pooled_residuals(history, coefficients, config.levels, config.warmup)
    run.report(2)
    features = [f"{source}_{hl:g}" for source in ("own", "market") for hl in model.HALF_LIVES]
    columns = [*features, "constant"]
    table = pd.DataFrame(coefficients, columns=columns)
    table["step"] = np.arange(1, config.horizon + 1)
    return Trained(
        model.Har(spec, coefficients, pool),
        params={"parameters": coefficients.size + pool.size},
        tables={"coefficients": table[["step", *columns]]},
    )


def _panel(history: pd.DataFrame) -> list[tuple[Floats, Floats, Floats]]:
    """(y [n, T], features [n, T, F], sigma [n, T]) for each block of series of equal length."""
    columns = (names.Y, names.MARKET_ABS_RETURN)
    blocks = []
    for _, values in History.of(history, columns).blocks(len(history), columns):
        y, market = values[:, :, 0], values[:, :, 1]
        blocks.append((y, model.har_features(y, market), volatility.ewma_volatility(y)))
    return blocks


def fit_har(history: pd.DataFrame, horizon: int, warmup: int) -> Floats:
    """Coefficients [H, F] by least squares, pooled over all series.

    The target is |y[t+h]| / sigma[t], clipped to 0..8; the regressors are features / sigma[t].
    """
    panel = [block for block in _panel(history) if block[0].shape[1] > warmup + horizon]
    if not panel:
        raise BadHistory(
            f"har is fitted on series of more than {warmup + horizon} sessions, found none",
            code="TOO_SHORT",
        )
    rows = []
    for h in range(1, horizon + 1):
        x, target = [], []
        for y, features, sigma in panel:
            scaled = (features / sigma[:, :, None])[:, warmup:-h]
            x.append(scaled.reshape(-1, features.shape[2]))
            sizes = np.clip(np.abs(y[:, h:]) / sigma[:, :-h], 0, CLIP)
            target.append(sizes[:, warmup:].reshape(-1))
        rows.append(np.linalg.lstsq(np.concatenate(x), np.concatenate(target), rcond=None)[0])
    return np.stack(rows)


def pooled_residuals(
    history: pd.DataFrame, coefficients: Floats, levels: tuple[float, ...], warmup: int
) -> Floats:
    """Quantiles [H, Q] of y[t+h] / scale[t] over all series and sessions after the warm-up."""
    pool = []
    for h in range(1, len(coefficients) + 1):
        residuals = []
        for y, features, sigma in _panel(history):
            scale = model.har_scale(features, sigma, coefficients)[:, :-h, h - 1]
            residuals.append((y[:, h:] / scale)[:, warmup:].reshape(-1))
        z = np.concatenate(residuals)
        pool.append(volatility.empirical_quantiles(z[None], levels)[0])
    return np.stack(pool)
