"""What Kronos and its simulator need and answer."""

from dataclasses import replace
from typing import Any

from registry.forecast import names
from registry.forecast.spec import ModelSpec, Option

MIN_CONTEXT = 32  # bars; fewer do not give the scale of a series
SIMULATOR_CONTEXT = 120  # sessions; leaves 60 bars to draw from
MAX_HORIZON = 60
COLUMNS = (*names.HISTORY, *names.OHLC)  # of a history

OPTIONS = (
    Option("num_samples", "long", 100, 1, 1000),
    Option("temperature", "double", 1.0, 0.0, 10.0),
    Option("top_k", "long", 0, 0, 1 << 20),
    Option("top_p", "double", 1.0, 0.01, 1.0),
    Option("anchor", "boolean", False),
    Option("overflow", "string", "truncate", choices=("truncate", "exact")),
    Option("precision", "string", "fp32", choices=("fp32", "bf16")),
)


def spec(
    name: str,
    *,
    max_context: int,
    max_horizon: int,
    levels: tuple[float, ...] = names.LEVELS,
    **defaults: Any,
) -> ModelSpec:
    """What a Kronos version needs and answers.

    `max_context` is its window in bars. `defaults` replace default values of options, by name.
    """
    options = (
        replace(option, default=defaults.get(option.name, option.default)) for option in OPTIONS
    )
    return ModelSpec(
        name=name,
        family="kronos",
        min_context=MIN_CONTEXT,
        max_context=max_context,
        max_horizon=max_horizon,
        levels=levels,
        columns=COLUMNS,
        optional=(names.VOLUME, names.AMOUNT),
        has_paths=True,
        has_prices=True,
        options=tuple(options),
    )


def simulator_spec(name: str, horizon: int, levels: tuple[float, ...]) -> ModelSpec:
    """What the simulator needs and answers."""
    return ModelSpec(
        name=name,
        family="kronos",
        min_context=SIMULATOR_CONTEXT,
        max_context=1000,
        max_horizon=horizon,
        levels=levels,
        columns=COLUMNS,
        optional=(names.VOLUME, names.AMOUNT),
        has_paths=True,
        has_prices=True,
        options=(Option("num_samples", "long", 100, minimum=1, maximum=1000),),
    )
