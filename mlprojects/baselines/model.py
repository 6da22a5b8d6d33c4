"""naive, ewma, fhs and har: forecasters of daily returns that need no network."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from safetensors.numpy import load_file, save_file
from scipy.stats import norm

from registry import volatility, wire
from registry.contract import Floats, Forecast, History, ModelSpec, at_levels, quantile_mean

REQUIREMENTS = ("scipy", "safetensors")
CONTEXT = 1000  # sessions looked at: an average with a half-life of 90 has forgotten its seed by then
HALF_LIVES = (1.5, 5.0, 22.0, 90.0)  # sessions; a day, a week, a month, a quarter and more
SCALE_FLOOR = 0.2  # of the EWMA volatility: the regression may not call a market dead
POOL_WEIGHT = 0.5


@dataclass(frozen=True)
class Baseline(ABC):
    """What the four share: series of equal length together, then levels and mean. One of them says the quantiles."""

    spec: ModelSpec
    columns: ClassVar[tuple[str, ...]] = (wire.Y,)

    def predict(
        self, history: History, horizon: int, levels: Sequence[float], seed: int, options: Mapping[str, Any]
    ) -> Forecast:
        """Forecast of every series; nothing is drawn, so `seed` changes nothing."""
        quantiles = np.empty((len(history.ids), horizon, len(self.spec.levels)))
        for which, values in history.blocks(self.spec.max_context, self.columns):
            quantiles[which] = self.quantiles(values, horizon)
        return Forecast(
            unique_id=history.ids,
            cutoffs=history.cutoffs,
            levels=tuple(levels),
            quantiles=at_levels(quantiles, self.spec.levels, levels),
            mean=quantile_mean(quantiles, self.spec.levels),
        )

    @abstractmethod
    def quantiles(self, values: Floats, horizon: int) -> Floats:
        """Quantiles [n, H, Q] at spec.levels after contexts [n, T, C] of `columns`."""


@dataclass(frozen=True)
class Naive(Baseline):
    """Empirical quantiles of the trailing 500 returns, the same at every step."""

    def quantiles(self, values: Floats, horizon: int) -> Floats:
        window = values[:, -volatility.WINDOW :, 0]
        return _every_step(volatility.empirical_quantiles(window, self.spec.levels), horizon)


@dataclass(frozen=True)
class Ewma(Baseline):
    """EWMA volatility times the normal quantile (RiskMetrics 1996), the same at every step."""

    def quantiles(self, values: Floats, horizon: int) -> Floats:
        sigma = volatility.ewma_volatility(values[:, :, 0])[:, -1:]
        return _every_step(sigma * norm.ppf(self.spec.levels), horizon)


@dataclass(frozen=True)
class Fhs(Baseline):
    """Filtered historical simulation: EWMA volatility times the quantiles of the trailing 500 standardised
    one-step residuals (Hull and White, Journal of Risk 1, 1998). The model to beat."""

    def quantiles(self, values: Floats, horizon: int) -> Floats:
        y = values[:, :, 0]
        sigma = volatility.ewma_volatility(y)
        z = volatility.residuals(y, sigma, 1)
        return _every_step(sigma[:, -1:] * volatility.empirical_quantiles(z, self.spec.levels), horizon)


@dataclass(frozen=True)
class Har(Baseline):
    """One pooled regression of |y| per step on own and market volatility at four half-lives, times residual
    quantiles: half the series' own trailing ones, half pooled ones that training froze.

    In the spirit of Corsi, Journal of Financial Econometrics 7 (2009), on |y| instead of realised variance.
    coefficients [H, F] on `har_features`; pool [H, Q] at spec.levels.
    """

    coefficients: Floats
    pool: Floats
    columns: ClassVar[tuple[str, ...]] = (wire.Y, wire.MARKET_ABS_RETURN)

    def quantiles(self, values: Floats, horizon: int) -> Floats:
        y, market = values[:, :, 0], values[:, :, 1]
        scale = har_scale(har_features(y, market), volatility.ewma_volatility(y), self.coefficients[:horizon])
        steps = []
        for h in range(horizon):
            own = volatility.empirical_quantiles(volatility.residuals(y, scale[:, :, h], h + 1), self.spec.levels)
            steps.append(scale[:, -1, h, None] * ((1 - POOL_WEIGHT) * own + POOL_WEIGHT * self.pool[h]))
        return np.stack(steps, axis=1)


def _every_step(quantiles: Floats, horizon: int) -> Floats:
    """[n, Q] -> [n, H, Q]."""
    return np.repeat(quantiles[:, None, :], horizon, axis=1)


def har_features(y: Floats, market_abs_return: Floats) -> Floats:
    """[n, T, 9]: EWMA of |y| and of the market's mean |y| at four half-lives each, and 1; known at the close."""
    parts = [volatility.ewma(x, volatility.half_life(hl)) for x in (np.abs(y), market_abs_return) for hl in HALF_LIVES]
    return np.stack([*parts, np.ones_like(y)], axis=2)


def har_scale(features: Floats, sigma: Floats, coefficients: Floats) -> Floats:
    """Expected |y| [n, T, H] of the next H sessions, at least SCALE_FLOOR of the EWMA volatility [n, T]."""
    fitted = np.einsum("ntf,hf->nth", features, coefficients)
    scale: Floats = np.maximum(fitted, SCALE_FLOOR * sigma[:, :, None])
    return scale


KINDS: dict[str, type[Baseline]] = {"naive": Naive, "ewma": Ewma, "fhs": Fhs, "har": Har}


def save(forecaster: Baseline, directory: Path) -> None:
    """Write kind (JSON) and, for har, its numbers (safetensors)."""
    kind = next(name for name, cls in KINDS.items() if type(forecaster) is cls)
    (directory / "config.json").write_text(json.dumps({"kind": kind}) + "\n")
    if isinstance(forecaster, Har):
        arrays = {"coefficients": forecaster.coefficients, "pool": forecaster.pool}
        save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, directory / "weights.safetensors")


def load(directory: Path) -> Baseline:
    """The forecaster that `save` wrote beside spec.json."""
    spec = ModelSpec.from_json(json.loads((directory / "spec.json").read_text()))
    kind = json.loads((directory / "config.json").read_text())["kind"]
    arrays = load_file(directory / "weights.safetensors") if kind == "har" else {}
    return KINDS[kind](spec, **arrays)
