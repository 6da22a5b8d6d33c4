"""Settings of the baselines, and their specs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from registry import training
from registry.forecast import names, volatility
from registry.forecast.spec import ModelSpec
from registry.training import Space

CONTEXT = 1000  # sessions; by then, an average with a half-life of 90 has forgotten its seed
SHORTEST = 500  # to estimate garch; Hwang and Valls Pereira, European Journal of Finance 12 (2006)
TARGETED = 252  # sessions that garch needs for the variance of an unknown series


@dataclass(frozen=True, kw_only=True)
class Config(training.Config):
    """`kind` is the baseline.

    warmup: first sessions of a series that har does not fit.
    """

    kind: Literal["naive", "ewma", "fhs", "har", "garch", "gjr"]
    warmup: Annotated[int, Field(ge=volatility.WARMUP)] = 252

    @property
    def fit_sessions(self) -> int:
        if self.kind == "har":
            return self.warmup + self.horizon + 1
        return SHORTEST if self.kind in ("garch", "gjr") else 1


CONFIGS: Mapping[str, type[training.Config]] = dict.fromkeys(
    ("naive", "ewma", "fhs", "har", "garch", "gjr"), Config
)
SEARCH: Mapping[str, Space] = {}


def spec(name: str, config: Config) -> ModelSpec:
    """The spec of a baseline. har and gjr need a warm-up and 500 residuals at every step."""
    every_step = volatility.WARMUP - 1 + volatility.WINDOW + config.horizon
    min_context = {
        "naive": volatility.WINDOW,
        "ewma": volatility.WARMUP,
        "fhs": volatility.WARMUP + volatility.WINDOW,
        "har": every_step,
        "garch": TARGETED,
        "gjr": every_step,
    }
    columns = (*names.HISTORY, names.MARKET_ABS_RETURN) if config.kind == "har" else names.HISTORY
    return ModelSpec(
        name=name,
        family="baselines",
        min_context=min_context[config.kind],
        max_context=CONTEXT,
        max_horizon=config.horizon,
        levels=config.levels,
        calendar=config.calendar,
        columns=columns,
    )
