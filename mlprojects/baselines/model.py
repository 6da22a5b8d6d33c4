"""naive, ewma, fhs, har, garch and gjr: forecasters of daily returns that need no network; and their files."""

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
SCALE_FLOOR = 0.2  # of the EWMA volatility: the regression may not call a market dead
POOL_WEIGHT = 0.5
NOTE = "pooled parameters, scaled to its own history, for each series that training did not fit"


@dataclass(frozen=True)
class Baseline(ABC):
    """What they share: series of equal length are forecast together. Each says its quantiles."""

    spec: ModelSpec
    columns: ClassVar[tuple[str, ...]] = (names.Y,)

    def predict(self, history: History, request: Request) -> Forecast:
        """Forecast of every series; nothing is drawn, so the seed changes nothing."""
        quantiles = np.empty((len(history.ids), request.horizon, len(self.spec.levels)))
        for series, values in history.blocks(self.spec.max_context, self.columns):
            ids = [history.ids[i] for i in series]
            quantiles[series] = self.quantiles(ids, values, request.horizon)
        return Forecast.of_quantiles(history, self.spec, quantiles, self.notes(history.ids))

    @abstractmethod
    def quantiles(self, ids: Sequence[str], values: Floats, horizon: int) -> Floats:
        """Quantiles [n, H, Q] at spec.levels after contexts [n, T, C] of `columns`, of `ids` [n]."""

    def notes(self, ids: Sequence[str]) -> Mapping[str, str]:
        """What there is to say about a forecast of these series."""
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
    """Filtered historical simulation: EWMA volatility times the quantiles of the trailing 500 standardised
    one-step residuals (Hull and White, Journal of Risk 1, 1998). The model to beat."""

    def quantiles(self, ids: Sequence[str], values: Floats, horizon: int) -> Floats:
        y = values[:, :, 0]
        sigma = volatility.ewma_volatility(y)
        z = volatility.residuals(y, sigma, 1)
        return _every_step(
            sigma[:, -1:] * volatility.empirical_quantiles(z, self.spec.levels), horizon
        )


@dataclass(frozen=True)
class Har(Baseline):
    """One pooled regression of |y| per step on own and market volatility at four half-lives, times residual
    quantiles: half the series' own trailing ones, half pooled ones that training froze.

    In the spirit of Corsi, Journal of Financial Econometrics 7 (2009), on |y| instead of realised variance.
    coefficients [H, F] on `har_features`; pool [H, Q] at spec.levels.
    """

    coefficients: Floats
    pool: Floats
    columns: ClassVar[tuple[str, ...]] = (names.Y, names.MARKET_ABS_RETURN)

    def quantiles(self, ids: Sequence[str], values: Floats, horizon: int) -> Floats:
        y, market = values[:, :, 0], values[:, :, 1]
        scale = har_scale(
            har_features(y, market), volatility.ewma_volatility(y), self.coefficients[:horizon]
        )
        own = _residual_quantiles(y, scale, self.spec.levels)
        return scale[:, -1, :, None] * ((1 - POOL_WEIGHT) * own + POOL_WEIGHT * self.pool[:horizon])


@dataclass(frozen=True)
class Garch(Baseline):
    """GARCH(1,1) with the quantiles of its own Student-t errors: mu + expected volatility x standardised t.

    The textbook form: exact one session ahead; further on the true distribution is a mixture with heavier tails.
    fitted [S, 6] are garch.NAMES of `symbols` [S], pool [5] garch.POOLED of every other series.
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
        """Parameters [n, 6] of series with returns [n, T]: their own, or pooled ones with the variance of `y`."""
        rows = dict(zip(self.symbols, self.fitted, strict=True))
        return np.stack(
            [
                rows.get(name, own)
                for name, own in zip(ids, garch.targeted(self.pool, y), strict=True)
            ]
        )

    def notes(self, ids: Sequence[str]) -> Mapping[str, str]:
        return {} if set(ids) <= set(self.symbols) else {"pooled": NOTE}


@dataclass(frozen=True)
class Gjr(Garch):
    """GJR-GARCH(1,1): expected volatility at each step times the series' own trailing quantiles of what is left."""

    def quantiles(self, ids: Sequence[str], values: Floats, horizon: int) -> Floats:
        y = values[:, :, 0]
        scale = garch.scale(y, self.parameters(ids, y), horizon)
        return scale[:, -1, :, None] * _residual_quantiles(y, scale, self.spec.levels)


def _every_step(quantiles: Floats, horizon: int) -> Floats:
    """[n, Q] -> [n, H, Q]."""
    return np.repeat(quantiles[:, None, :], horizon, axis=1)


def _residual_quantiles(y: Floats, scale: Floats, levels: Sequence[float]) -> Floats:
    """Quantiles [n, H, Q] of the trailing residuals of returns [n, T] at each step of scales [n, T, H]."""
    steps = [volatility.residuals(y, scale[:, :, h], h + 1) for h in range(scale.shape[2])]
    return np.stack([volatility.empirical_quantiles(z, levels) for z in steps], axis=1)


def har_features(y: Floats, market_abs_return: Floats) -> Floats:
    """[n, T, 9]: EWMA of |y| and of the market's mean |y| at four half-lives each, and 1; known at the close."""
    parts = [
        volatility.ewma(x, volatility.half_life(hl))
        for x in (np.abs(y), market_abs_return)
        for hl in HALF_LIVES
    ]
    return np.stack([*parts, np.ones_like(y)], axis=2)


def har_scale(features: Floats, sigma: Floats, coefficients: Floats) -> Floats:
    """Expected |y| [n, T, H] of the next H sessions, at least SCALE_FLOOR of the EWMA volatility [n, T]."""
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
    """Write kind and symbols (JSON) and, where something was fitted, its numbers (safetensors)."""
    config: dict[str, Any] = {
        "kind": next(name for name, cls in KINDS.items() if type(forecaster) is cls)
    }
    fitted = {f.name: getattr(forecaster, f.name) for f in fields(forecaster) if f.name != "spec"}
    arrays = {
        name: np.ascontiguousarray(value)
        for name, value in fitted.items()
        if isinstance(value, np.ndarray)
    }
    config |= {name: value for name, value in fitted.items() if name not in arrays}
    (directory / "config.json").write_text(json.dumps(config) + "\n")
    if arrays:
        save_file(arrays, directory / "weights.safetensors")


def load(directory: Path) -> Baseline:
    """The forecaster that `save` wrote beside spec.json."""
    config = json.loads((directory / "config.json").read_text())
    spec = read_spec(directory)
    kind, weights = config.pop("kind"), directory / "weights.safetensors"
    arrays = load_file(weights) if weights.exists() else {}
    return KINDS[kind](spec, **{name: tuple(value) for name, value in config.items()}, **arrays)
