"""Forecasts, the protocol of forecasters, checks of a forecast."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from registry.errors import BadForecast
from registry.forecast import bars, names
from registry.forecast.arrays import Dates, Floats
from registry.forecast.history import History
from registry.forecast.quantiles import interpolated, path_quantiles, quantile_mean
from registry.forecast.spec import ModelSpec, Request


@dataclass(frozen=True)
class Forecast:
    """Single-session log returns at cutoff+1 .. cutoff+H of N series.

    Quantiles never cross. A model that samples has `paths`. A model of prices also has
    `price_paths` (open high low close volume amount). The reply repeats `notes` to the caller
    ("simulated", "history truncated"). An evaluation averages the numbers in `measured`, such as
    `bars_corrected`, the share of sampled bars that were impossible.
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
        """Forecast of quantiles [N, H, Q] at spec.levels; the mean is their integral."""
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
        """Forecast of sampled bars [N, S, H, 6]: their empirical quantiles and mean."""
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
        """The forecast at other levels: from its paths if it has them, else interpolated linearly.

        Raises BadParameter (code BAD_LEVELS) for levels outside its own if it has no paths.
        """
        new_levels = tuple(levels)
        if new_levels == self.levels:
            return self
        if self.paths is not None:
            quantiles = path_quantiles(self.paths, new_levels)
        else:
            quantiles = interpolated(self.quantiles, self.levels, new_levels)
        return replace(self, levels=new_levels, quantiles=quantiles)


class Forecaster(Protocol):
    """A trained model. `predict` is a pure function and safe to call from several threads."""

    @property
    def spec(self) -> ModelSpec: ...

    def predict(self, history: History, request: Request) -> Forecast:
        """Forecast of every series at spec.levels; history and request are already checked."""
        ...


# --- checks -----------------------------------------------------------------------------------


def check_forecast(forecast: Forecast, spec: ModelSpec, request: Request) -> None:
    """Raise BadForecast for wrong levels or shapes, values that are not finite, or a crossing."""
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
    """Raise BadForecast unless the paths fit `expected`, their shape without the second axis, S."""
    shape = None if paths is None else paths.shape
    if paths is None or paths.shape[:1] + paths.shape[2:] != expected:
        full_shape = (expected[0], "S", *expected[1:])
        raise BadForecast(f"{spec.name}: {name} have shape {shape}, expected {full_shape}")
    if not np.isfinite(paths).all():
        raise BadForecast(f"{spec.name}: {name} hold a value that is not finite")
