"""Training of the baselines: har, garch and gjr have something to fit."""

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

CLIP = 8.0  # volatilities; beyond this one session would decide the regression


def train(history: pd.DataFrame, config: Config, *, name: str, seed: int, run: TrainRun) -> Trained:  # noqa: ARG001
    """Fit on sessions up to config.fit_until; har's pooled residuals reach to config.choose_until."""
    what = spec(name, config)
    if config.kind == "har":
        return _train_har(what, history, config, run)
    if config.kind in ("garch", "gjr"):
        return _train_garch(what, history, config, run)
    run.report(1)
    return Trained(model.KINDS[config.kind](what), params={"parameters": 0})


def _seen(history: pd.DataFrame, config: Config) -> pd.DataFrame:
    return history[history[names.DS] <= pd.Timestamp(config.fit_until)]


def _train_garch(what: ModelSpec, history: pd.DataFrame, config: Config, run: TrainRun) -> Trained:
    from mlprojects.baselines import (
        estimate,
    )  # arch takes most of a second, and the other baselines do without

    seen = _seen(history, config)
    found = estimate.estimate(seen, asymmetric=config.kind == "gjr")
    run.report(1)
    kind = model.Gjr if config.kind == "gjr" else model.Garch
    of_each = len(garch.NAMES) if config.kind == "gjr" else len(garch.NAMES) - 1
    return Trained(
        kind(what, found.symbols, found.parameters, garch.pool(found.parameters)),
        params={
            "parameters": of_each * len(found.symbols),
            "series_fitted": len(found.symbols),
            "series_pooled": len(found.table) - len(found.symbols),
        },
        tables={"parameters": found.table},
        figures={"volatility": estimate.volatility_chart(seen, found)},
    )


def _train_har(what: ModelSpec, history: pd.DataFrame, config: Config, run: TrainRun) -> Trained:
    coefficients = fit_har(_seen(history, config), config.horizon, config.warmup)
    run.report(1)
    pool = pooled_residuals(history, coefficients, config.levels, config.warmup)
    run.report(2)
    features = [f"{who}_{hl:g}" for who in ("own", "market") for hl in model.HALF_LIVES]
    columns = [*features, "constant"]
    table = pd.DataFrame(coefficients, columns=columns).assign(
        step=np.arange(1, config.horizon + 1)
    )
    return Trained(
        model.Har(what, coefficients, pool),
        params={"parameters": coefficients.size + pool.size},
        tables={"coefficients": table[["step", *columns]]},
    )


def _panel(history: pd.DataFrame) -> list[tuple[Floats, Floats, Floats]]:
    """(y [n, T], features [n, T, F], sigma [n, T]) of series of equal length."""
    columns = (names.Y, names.MARKET_ABS_RETURN)
    found = []
    for _, values in History.of(history, columns).blocks(len(history), columns):
        y, market = values[:, :, 0], values[:, :, 1]
        found.append((y, model.har_features(y, market), volatility.ewma_volatility(y)))
    return found


def fit_har(history: pd.DataFrame, horizon: int, warmup: int) -> Floats:
    """Coefficients [H, F]: least squares of |y[t+h]| / sigma[t], clipped to 0..8, on features / sigma[t]; pooled."""
    panel = [part for part in _panel(history) if part[0].shape[1] > warmup + horizon]
    if not panel:
        raise BadHistory(
            f"har is fitted on series of more than {warmup + horizon} sessions, found none",
            code="TOO_SHORT",
        )
    rows = []
    for h in range(1, horizon + 1):
        x = [(f / s[:, :, None])[:, warmup:-h].reshape(-1, f.shape[2]) for _, f, s in panel]
        target = [
            np.clip(np.abs(y[:, h:]) / s[:, :-h], 0, CLIP)[:, warmup:].reshape(-1)
            for y, _, s in panel
        ]
        rows.append(np.linalg.lstsq(np.concatenate(x), np.concatenate(target), rcond=None)[0])
    return np.stack(rows)


def pooled_residuals(
    history: pd.DataFrame, coefficients: Floats, levels: tuple[float, ...], warmup: int
) -> Floats:
    """Quantiles [H, Q] of y[t+h] / scale[t] over all series and sessions after the warm-up."""
    pool = []
    for h in range(1, len(coefficients) + 1):
        z = [
            (y[:, h:] / model.har_scale(f, s, coefficients)[:, :-h, h - 1])[:, warmup:].reshape(-1)
            for y, f, s in _panel(history)
        ]
        pool.append(volatility.empirical_quantiles(np.concatenate(z)[None], levels)[0])
    return np.stack(pool)
