"""What a forecast is, its quantiles at other levels, its checks, and what makes one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Protocol

import numpy as np

from registry.errors import BadForecast, BadParameter
from registry.forecast import bars, names
from registry.forecast.arrays import Dates, Floats
from registry.forecast.history import History
from registry.forecast.spec import ModelSpec, Request


@dataclass(frozen=True)
class Forecast:
    """Single-session log returns at cutoff+1 .. cutoff+H of N series.

    Quantiles never cross. A model that samples has `paths`; one that knows prices has
    `price_paths` as well (open high low close volume amount). `notes` are told to the caller
    ("simulated", "history truncated"). `measured` are numbers about this forecast that an
    evaluation averages, as `bars_corrected`: share of sampled bars that were impossible.
    """

    unique_id: tuple[str, ...]  # [N]
    cutoffs: Dates  # [N] last session of each history, datetime64[D]
    levels: tuple[float, ...]  # [Q]
    quantiles: Floats  # [N, H, Q]
    mean: Floats  # [N, H]
    paths: Floats | None = None  # [N, S, H]
    price_paths: Floats | None = None  # [N, S, H, 6]
    notes: Mapping[str, str] = field(default_factory=dict)
    measured: Mapping[str, Floats] = field(default_factory=dict)  # each [N]

    @classmethod
    def of_quantiles(
        cls,
        history: History,
        spec: ModelSpec,
        quantiles: Floats,
        notes: Mapping[str, str] | None = None,
    ) -> "Forecast":
        """A model's quantiles [N, H, Q] at spec.levels; their integral is the mean."""
        mean = quantile_mean(quantiles, spec.levels)
        return cls(history.ids, history.cutoffs, spec.levels, quantiles, mean, notes=notes or {})

    @classmethod
    def of_price_paths(
        cls,
        history: History,
        spec: ModelSpec,
        price_paths: Floats,
        *,
        notes: Mapping[str, str],
        measured: Mapping[str, Floats],
    ) -> "Forecast":
        """Empirical quantiles and mean of sampled bars [N, S, H, 6]."""
        paths = bars.path_returns(price_paths, history.last(names.OHLC[3]))
        return cls(
            unique_id=history.ids,
            cutoffs=history.cutoffs,
            levels=spec.levels,
            quantiles=path_quantiles(paths, spec.levels),
            mean=paths.mean(axis=1),
            paths=paths,
            price_paths=price_paths,
            notes=notes,
            measured=measured,
        )

    @property
    def horizon(self) -> int:
        return int(self.mean.shape[1])

    def at(self, levels: Sequence[float]) -> "Forecast":
        """The forecast at other levels: those of its paths, else linear between its own.

        Raises BadParameter (code BAD_LEVELS) outside its own levels where there are no paths.
        """
        wanted = tuple(levels)
        if wanted == self.levels:
            return self
        if self.paths is not None:
            quantiles = path_quantiles(self.paths, wanted)
        else:
            quantiles = interpolated(self.quantiles, self.levels, wanted)
        return replace(self, levels=wanted, quantiles=quantiles)


class Forecaster(Protocol):
    """A trained model. `predict` is a pure function and safe to call from several threads."""

    @property
    def spec(self) -> ModelSpec: ...

    def predict(self, history: History, request: Request) -> Forecast:
        """Forecast of every series at spec.levels; history and request are already checked."""
        ...


# --- quantiles --------------------------------------------------------------------------------


def path_quantiles(paths: Floats, levels: Sequence[float]) -> Floats:
    """Empirical quantiles [N, H, Q] of paths [N, S, H], linear between order statistics."""
    quantiles: Floats = np.moveaxis(np.quantile(paths, np.asarray(levels), axis=1), 0, 2)
    return quantiles


def interpolated(quantiles: Floats, own: Sequence[float], levels: Sequence[float]) -> Floats:
    """Quantiles [..., Q] at other levels, linear in the level.

    Raises BadParameter (code BAD_LEVELS) for a level outside `own`.
    """
    if tuple(levels) == tuple(own):
        return quantiles
    grid, wanted = np.asarray(own), np.asarray(levels, dtype=np.float64)
    if wanted[0] < grid[0] or wanted[-1] > grid[-1]:
        raise BadParameter(
            f"levels {wanted[0]:g}..{wanted[-1]:g} reach outside the trained {grid[0]:g}..{grid[-1]:g}",
            code="BAD_LEVELS",
        )
    if len(grid) == 1:
        return quantiles
    right = np.clip(np.searchsorted(grid, wanted), 1, len(grid) - 1)
    left = right - 1
    weight = (wanted - grid[left]) / (grid[right] - grid[left])
    low, high = quantiles[..., left], quantiles[..., right]
    # Rounding must not lift a quantile above the next trained one: that would be a crossing.
    between = np.minimum(low + weight * (high - low), high)
    return np.where(weight == 1.0, high, between)


def quantile_mean(quantiles: Floats, levels: Sequence[float]) -> Floats:
    """Integral [...] of the quantile function [..., Q]: trapezes, constant beyond the outer levels.

    A level weighs as much as its cell is wide: from halfway to the level before to halfway to the
    level after.
    """
    mean: Floats = (quantiles * _cells(tuple(levels))).sum(axis=-1)
    return mean


@lru_cache(maxsize=64)
def _cells(levels: tuple[float, ...]) -> Floats:
    """Widths [Q] of the levels' cells; they add up to 1."""
    u = np.asarray(levels, dtype=np.float64)
    return np.diff(np.concatenate([[0.0], (u[1:] + u[:-1]) / 2, [1.0]]))


# --- checks -----------------------------------------------------------------------------------


def check_forecast(forecast: Forecast, spec: ModelSpec, request: Request) -> None:
    """Raise BadForecast unless levels, shapes, finiteness and order of the quantiles hold."""
    if forecast.levels != spec.levels:
        raise BadForecast(f"{spec.name} answered at other levels than those of its spec")
    series, horizon = len(forecast.unique_id), request.horizon
    shapes = {
        "quantiles": (forecast.quantiles.shape, (series, horizon, len(spec.levels))),
        "mean": (forecast.mean.shape, (series, horizon)),
    }
    for name, (shape, expected) in shapes.items():
        if shape != expected:
            raise BadForecast(f"{spec.name}: {name} have shape {shape}, expected {expected}")
    if not (np.isfinite(forecast.quantiles).all() and np.isfinite(forecast.mean).all()):
        raise BadForecast(f"{spec.name}: the forecast holds a value that is not finite")
    if (forecast.quantiles[:, :, 1:] < forecast.quantiles[:, :, :-1]).any():
        raise BadForecast(f"{spec.name}: quantiles cross")
    if spec.has_paths:
        _check_paths(spec, "paths", forecast.paths, (series, horizon))
    if spec.has_prices:
        _check_paths(spec, "price_paths", forecast.price_paths, (series, horizon, len(names.BAR)))
    for name, values in forecast.measured.items():
        if values.shape != (series,) or not np.isfinite(values).all():
            raise BadForecast(
                f"{spec.name}: {name} must be {series} finite numbers, found shape {values.shape}"
            )


def _check_paths(
    spec: ModelSpec, name: str, paths: Floats | None, expected: tuple[int, ...]
) -> None:
    """`expected` is the shape without its second axis, which counts paths."""
    shape = None if paths is None else paths.shape
    if paths is None or paths.shape[:1] + paths.shape[2:] != expected:
        wanted = (expected[0], "S", *expected[1:])
        raise BadForecast(f"{spec.name}: {name} have shape {shape}, expected {wanted}")
    if not np.isfinite(paths).all():
        raise BadForecast(f"{spec.name}: {name} hold a value that is not finite")
