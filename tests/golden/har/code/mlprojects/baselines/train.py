"""Training of the baselines: har, garch and gjr have something to fit, ensemble fits its members."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from mlprojects.baselines import ensemble, garch, model
from mlprojects.baselines.ensemble import EnsembleConfig
from registry import contract, volatility, wire
from registry.contract import Floats, ModelSpec, Trained, TrainRun
from registry.errors import BadConfig, BadHistory

CLIP = 8.0  # volatilities; beyond this one session would decide the regression
TARGETED = 252  # sessions; the least from which garch takes the variance of a series that it does not know


@dataclass(frozen=True, kw_only=True)
class Config(contract.Config):
    """`kind` is the baseline; `warmup` sessions at the start of every series are not fitted (har)."""

    kind: Literal["naive", "ewma", "fhs", "har", "garch", "gjr"]
    warmup: int = 252

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warmup < volatility.WARMUP:
            raise BadConfig(f"warmup is {self.warmup}, expected {volatility.WARMUP} or more sessions")


CONFIGS: dict[str, type[contract.Config]] = {**dict.fromkeys(model.KINDS, Config), "ensemble": EnsembleConfig}


def spec(name: str, config: Config | EnsembleConfig) -> ModelSpec:
    """What the baseline needs: 500 residuals after the warm-up, and for har and gjr those of its last step. What an
    ensemble needs is known when its members are: until then, their code only."""
    if isinstance(config, EnsembleConfig):
        return ensemble.together(name, config, ())
    every_step = volatility.WARMUP - 1 + volatility.WINDOW + config.horizon
    needs = {
        "naive": volatility.WINDOW,
        "ewma": volatility.WARMUP,
        "fhs": volatility.WARMUP + volatility.WINDOW,
        "har": every_step,
        "garch": TARGETED,
        "gjr": every_step,
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


def train(history: pd.DataFrame, config: Config | EnsembleConfig, *, name: str, seed: int, run: TrainRun) -> Trained:
    """Fit on sessions up to config.fit_until; har's pooled residuals reach to config.choose_until."""
    if isinstance(config, EnsembleConfig):
        return ensemble.train(history, config, name=name, seed=seed, run=run)
    what = spec(name, config)
    if config.kind == "har":
        return _train_har(what, history, config, run)
    if config.kind in ("garch", "gjr"):
        return _train_garch(what, history, config, run)
    run.report(1)
    return Trained(model.KINDS[config.kind](what), params={"parameters": 0})


def _seen(history: pd.DataFrame, config: Config) -> pd.DataFrame:
    return history[history[wire.DS] <= pd.Timestamp(config.fit_until)]


def _train_garch(what: ModelSpec, history: pd.DataFrame, config: Config, run: TrainRun) -> Trained:
    from mlprojects.baselines import estimate  # arch takes most of a second, and the other baselines do without

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
