"""Settings of the baselines, and what they need."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from registry import training
from registry.forecast import names, volatility
from registry.forecast.spec import ModelSpec
from registry.training import Space

CONTEXT = (
    1000  # sessions looked at: an average with a half-life of 90 has forgotten its seed by then
)
TARGETED = (
    252  # sessions; the least from which garch takes the variance of a series that it does not know
)


@dataclass(frozen=True, kw_only=True)
class Config(training.Config):
    """`kind` is the baseline; `warmup` sessions at the start of every series are not fitted (har)."""

    kind: Literal["naive", "ewma", "fhs", "har", "garch", "gjr"]
    warmup: Annotated[int, Field(ge=volatility.WARMUP)] = 252


CONFIGS: Mapping[str, type[training.Config]] = dict.fromkeys(
    ("naive", "ewma", "fhs", "har", "garch", "gjr"), Config
)
SEARCH: Mapping[str, Space] = {}


def spec(name: str, config: Config) -> ModelSpec:
    """What a baseline needs: a warm-up and 500 residuals, for har and gjr of every step."""
    every_step = volatility.WARMUP - 1 + volatility.WINDOW + config.horizon
    needs = {
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
        min_context=needs[config.kind],
        max_context=CONTEXT,
        max_horizon=config.horizon,
        levels=config.levels,
        columns=columns,
    )
