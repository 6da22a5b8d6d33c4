"""naive, ewma, fhs, har, garch and gjr: forecasters of daily returns without a network."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from safetensors.numpy import load_file, save_file
from scipy.special import ndtri

from mlprojects.baselines import garch
from registry.forecast import names, volatility
from registry.forecast.arrays import Floats
from registry.forecast.forecast import Forecast
from registry.forecast.history import History
from registry.forecast.model_folder import read_spec
from registry.forecast.spec import ModelSpec, Request

REQUIREMENTS = ("scipy", "safetensors")
HALF_LIVES = (1.5, 5.0, 22.0, 90.0)  # sessions; a day, a week, a month, a quarter and more
SCALE_FLOOR = 0.2  # of the EWMA volatility; keeps a forecast of the regression above 0
POOL_WEIGHT = 0.5
NOTE = "a series that training did not fit uses pooled parameters, scaled to its own history"


@dataclass(frozen=True)
class Baseline(ABC):
    """A baseline. Series of equal length are forecast together; subclasses give the quantiles."""

    spec: ModelSpec
    columns: ClassVar[tuple[str, ...]] = (names.Y,)

    def predict(self, history: History, request: Request) -> Forecast:
        """Forecast of every series; it draws no random number, so the seed changes nothing."""
        quantiles = np.empty((len(history.ids), request.horizon, len(self.spec.levels)))
        for series, values in history.blocks(self.spec.max_context, self.columns):
            ids = [history.ids[i] for i in series]
            quantiles[series] = self.quantiles(ids, values, request.horizon)
        return Forecast.of_quantiles(history, self.spec, quantiles, self.notes(history.ids))

    @abstractmethod
    def quantiles(self, ids: Sequence[str], values: Floats, horizon: int) -> Floats:
        """Quantiles [n, H, Q] at spec.levels of series `ids` [n].

        `values` [n, T, C] are the contexts, with columns `columns`.
        """

    def notes(self, ids: Sequence[str]) -> Mapping[str, str]:
        """Notes on a forecast of these series."""
        return {}


@dataclass(frozen=True)
class Naive(Baseline):
    """Empirical quantiles of the trailing 500 returns, the same at every step."""

    def quantiles(self, ids: Sequence[str], values: Floats, horizon: int) -> Floats:
        window = values[:, -volatility.WINDOW :, 0]
        return _every_step(volatility.empirical_quantiles(window, self.spec.levels), horizon)


@dataclass(frozen=True)
class Ewma(Baseline):
    """EWMA volatility times the normal quantile (RiskMetrics 1996), the same at every step."""

    def quantiles(self, ids: Sequence[str], values: Floats, horizon: int) -> Floats:
        sigma = volatility.ewma_volatility(values[:, :, 0])[:, -1:]
        return _every_step(sigma * ndtri(self.spec.levels), horizon)


@dataclass(frozen=True)
class Fhs(Baseline):
    """Filtered historical simulation (Hull and White, Journal of Risk 1, 1998): the model to beat.

    EWMA volatility times the quantiles of the trailing 500 standardised one-step residuals.
    """

    def quantiles(self, ids: Sequence[str], values: Floats, horizon: int) -> Floats:
        y = values[:, :, 0]
        sigma = volatility.ewma_volatility(y)
        z = volatility.residuals(y, sigma, 1)
        quantiles = sigma[:, -1:] * volatility.empirical_quantiles(z, self.spec.levels)
        return _every_step(quantiles, horizon)


@dataclass(frozen=True)
class Har(Baseline):
    """A regression of |y| times residual quantiles.

    Each step has one regression, pooled over all series. Its regressors are own and market
    volatility at four half-lives. Residual quantiles are half the series' own trailing ones and
    half pooled ones from training. The model follows Corsi, Journal of Financial Econometrics 7
    (2009), with |y| instead of realised variance.
    coefficients [H, F] on `har_features`; pool [H, Q] at spec.levels.
    """

    coefficients: Floats
    pool: Floats
    columns: ClassVar[tuple[str, ...]] = (names.Y, names.MARKET_ABS_RETURN)

    def quantiles(self, ids: Sequence[str], values: Floats, horizon: int) -> Floats:
        y, market = values[:, :, 0], values[:, :, 1]
        sigma = volatility.ewma_volatility(y)
        scale = har_scale(har_features(y, market), sigma, self.coefficients[:horizon])
        trailing = _residual_quantiles(y, scale, self.spec.levels)
        z = (1 - POOL_WEIGHT) * trailing + POOL_WEIGHT * self.pool[:horizon]
        return scale[:, -1, :, None] * z


@dataclass(frozen=True)
class Garch(Baseline):
    """GARCH(1,1) with Student-t quantiles: mu + expected volatility x standardised t.

    This textbook form is exact one session ahead. Later, the true distribution is a mixture with
    heavier tails. fitted [S, 6] are garch.NAMES of `symbols` [S]; pool [5] are garch.POOLED, for
    every other series.
    """

    symbols: tuple[str, ...]
    fitted: Floats
    pool: Floats

    def quantiles(self, ids: Sequence[str], values: Floats, horizon: int) -> Floats:
        y = values[:, :, 0]
        parameters = self.parameters(ids, y)
        sigma = garch.scale(y, parameters, horizon)[:, -1, :, None]
        student = garch.student_quantiles(self.spec.levels, parameters[:, 5])[:, None, :]
        return parameters[:, 0, None, None] + sigma * student

    def parameters(self, ids: Sequence[str], y: Floats) -> Floats:
        """Parameters [n, 6] of series with returns [n, T]: fitted, or else pooled ones.

        Pooled parameters are scaled to the variance of `y`.
        """
        fitted = dict(zip(self.symbols, self.fitted, strict=True))
        pooled = garch.targeted(self.pool, y)
        rows = [fitted.get(name, row) for name, row in zip(ids, pooled, strict=True)]
        return np.stack(rows)

    def notes(self, ids: Sequence[str]) -> Mapping[str, str]:
        return {} if set(ids) <= set(self.symbols) else {"pooled": NOTE}


@dataclass(frozen=True)
class Gjr(Garch):
    """GJR-GARCH(1,1): expected volatility at each step times trailing residual quantiles."""

    def quantiles(self, ids: Sequence[str], values: Floats, horizon: int) -> Floats:
        y = values[:, :, 0]
        scale = garch.scale(y, self.parameters(ids, y), horizon)
        return scale[:, -1, :, None] * _residual_quantiles(y, scale, self.spec.levels)


def _every_step(quantiles: Floats, horizon: int) -> Floats:
    """[n, Q] -> [n, H, Q]."""
    return np.repeat(quantiles[:, None, :], horizon, axis=1)


def _residual_quantiles(y: Floats, scale: Floats, levels: Sequence[float]) -> Floats:
    """Quantiles [n, H, Q] of the trailing residuals at each step; y [n, T], scale [n, T, H]."""
    steps = [volatility.residuals(y, scale[:, :, h], h + 1) for h in range(scale.shape[2])]
    return np.stack([volatility.empirical_quantiles(z, levels) for z in steps], axis=1)


def har_features(y: Floats, market_abs_return: Floats) -> Floats:
    """[n, T, 9]: EWMA of |y| and of the market's mean |y| at four half-lives each, then 1.

    They are known at the close.
    """
    decays = [volatility.half_life(hl) for hl in HALF_LIVES]
    size = np.abs(y)
    own_levels = [volatility.ewma(size, decay) for decay in decays]
    market_levels = [volatility.ewma(market_abs_return, decay) for decay in decays]
    return np.stack([*own_levels, *market_levels, np.ones_like(y)], axis=2)


def har_scale(features: Floats, sigma: Floats, coefficients: Floats) -> Floats:
    """Expected |y| [n, T, H] of the next H sessions, at least SCALE_FLOOR times sigma [n, T]."""
    fitted = np.einsum("ntf,hf->nth", features, coefficients)
    scale: Floats = np.maximum(fitted, SCALE_FLOOR * sigma[:, :, None])
    return scale


KINDS: dict[str, type[Baseline]] = {
    "naive": Naive,
    "ewma": Ewma,
    "fhs": Fhs,
    "har": Har,
    "garch": Garch,
    "gjr": Gjr,
}


def save(forecaster: Baseline, directory: Path) -> None:
    """Write kind and symbols (JSON) and any fitted numbers (safetensors)."""
    kind = next(name for name, cls in KINDS.items() if type(forecaster) is cls)
    config: dict[str, Any] = {"kind": kind}
    arrays: dict[str, Floats] = {}
    for field in fields(forecaster):
        value = getattr(forecaster, field.name)
        if isinstance(value, np.ndarray):
            arrays[field.name] = np.ascontiguousarray(value)
        elif field.name != "spec":
            config[field.name] = value
    (directory / "config.json").write_text(json.dumps(config) + "\n")
    if arrays:
        save_file(arrays, directory / "weights.safetensors")


def load(directory: Path) -> Baseline:
    """The forecaster that `save` wrote beside spec.json."""
    config = json.loads((directory / "config.json").read_text())
    spec = read_spec(directory)
    kind = config.pop("kind")
    weights = directory / "weights.safetensors"
    arrays = load_file(weights) if weights.exists() else {}
    tuples = {name: tuple(value) for name, value in config.items()}
    return KINDS[kind](spec, **tuples, **arrays)
