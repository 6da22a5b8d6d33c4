"""Training of the baselines: only har has something to fit."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from mlprojects.baselines import model
from registry import contract, volatility, wire
from registry.contract import Floats, ModelSpec, Trained, TrainRun
from registry.errors import BadConfig, BadHistory

CLIP = 8.0  # volatilities; beyond this one session would decide the regression


@dataclass(frozen=True, kw_only=True)
class Config(contract.Config):
    """`kind` is the baseline; `warmup` sessions at the start of every series are not fitted (har)."""

    kind: Literal["naive", "ewma", "fhs", "har"]
    warmup: int = 252

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind not in model.KINDS:
            raise BadConfig(f"kind is {self.kind!r}, expected one of {sorted(model.KINDS)}")
        if self.warmup < volatility.WARMUP:
            raise BadConfig(f"warmup is {self.warmup}, expected {volatility.WARMUP} or more sessions")


def spec(name: str, config: Config) -> ModelSpec:
    """What the baseline needs: 500 residuals after the warm-up, and for har those of its last step."""
    needs = {
        "naive": volatility.WINDOW,
        "ewma": volatility.WARMUP,
        "fhs": volatility.WARMUP + volatility.WINDOW,
        "har": volatility.WARMUP - 1 + volatility.WINDOW + config.horizon,
    }
    columns = (*wire.HISTORY, wire.MARKET_ABS_RETURN) if config.kind == "har" else wire.HISTORY
    return ModelSpec(
        name=name,
        family="baselines",
        min_context=needs[config.kind],
        max_context=model.CONTEXT,
        max_horizon=config.horizon,
        levels=config.levels,
        columns=columns,
    )


def train(history: pd.DataFrame, config: Config, *, name: str, seed: int, run: TrainRun) -> Trained:  # noqa: ARG001
    """Fit on sessions up to config.fit_until; har's pooled residuals reach to config.choose_until."""
    what = spec(name, config)
    if config.kind != "har":
        forecaster: Any = model.KINDS[config.kind](what)
        run.report(1)
        return Trained(forecaster, params={"parameters": 0})
    fitted = history[history[wire.DS] <= pd.Timestamp(config.fit_until)]
    coefficients = fit_har(fitted, config.horizon, config.warmup)
    run.report(1)
    pool = pooled_residuals(history, coefficients, config.levels, config.warmup)
    run.report(2)
    names = [f"{who}_{hl:g}" for who in ("own", "market") for hl in model.HALF_LIVES] + ["constant"]
    table = pd.DataFrame(coefficients, columns=names).assign(step=np.arange(1, config.horizon + 1))
    return Trained(
        model.Har(what, coefficients, pool),
        params={"parameters": coefficients.size + pool.size},
        tables={"coefficients": table[["step", *names]]},
    )


def _panel(history: pd.DataFrame) -> list[tuple[Floats, Floats, Floats]]:
    """(y [n, T], features [n, T, F], sigma [n, T]) of series of equal length."""
    columns = (wire.Y, wire.MARKET_ABS_RETURN)
    found = []
    for _, values in contract.History.of(history, columns).blocks(len(history), columns):
        y, market = values[:, :, 0], values[:, :, 1]
        found.append((y, model.har_features(y, market), volatility.ewma_volatility(y)))
    return found


def fit_har(history: pd.DataFrame, horizon: int, warmup: int) -> Floats:
    """Coefficients [H, F]: least squares of |y[t+h]| / sigma[t], clipped to 0..8, on features / sigma[t]; pooled."""
    panel = [part for part in _panel(history) if part[0].shape[1] > warmup + horizon]
    if not panel:
        raise BadHistory(
            f"har is fitted on series of more than {warmup + horizon} sessions, found none", code="TOO_SHORT"
        )
    rows = []
    for h in range(1, horizon + 1):
        x = [(f / s[:, :, None])[:, warmup:-h].reshape(-1, f.shape[2]) for _, f, s in panel]
        target = [np.clip(np.abs(y[:, h:]) / s[:, :-h], 0, CLIP)[:, warmup:].reshape(-1) for y, _, s in panel]
        rows.append(np.linalg.lstsq(np.concatenate(x), np.concatenate(target), rcond=None)[0])
    return np.stack(rows)


def pooled_residuals(history: pd.DataFrame, coefficients: Floats, levels: tuple[float, ...], warmup: int) -> Floats:
    """Quantiles [H, Q] of y[t+h] / scale[t] over all series and sessions after the warm-up."""
    pool = []
    for h in range(1, len(coefficients) + 1):
        z = [
            (y[:, h:] / model.har_scale(f, s, coefficients)[:, :-h, h - 1])[:, warmup:].reshape(-1)
            for y, f, s in _panel(history)
        ]
        pool.append(volatility.empirical_quantiles(np.concatenate(z)[None], levels)[0])
    return np.stack(pool)
