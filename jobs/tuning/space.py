"""The search space of a study: settings that a family declares in SEARCH, and draws from them."""

import dataclasses
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from jobs.training import families
from registry import training
from registry.errors import BadConfig, BadInput, BadParameter
from registry.training import Range, Space

Values = Range | tuple[Any, ...]

# Settings that every family shares; they define the task and are never searched.
TASK = {field.name for field in dataclasses.fields(training.Config)}


def space(model: families.Model, config: training.Config, fixed: Collection[str]) -> Space:
    """Settings of a model to search, by name, without those in `fixed`.

    Raises BadParameter (code NO_SEARCH) when nothing is declared or all of it is fixed, BadConfig
    when SEARCH has something else than the family's own settings.
    """
    declared = model.searched(dataclasses.asdict(config))
    if not declared:
        searchable = [name for name, other in families.all_models().items() if other.searched()]
        raise BadParameter(
            f"{model.name} declares nothing to search "
            f"(SEARCH in mlprojects/{model.family.name}/settings.py); "
            f"these do: {', '.join(searchable)}",
            code="NO_SEARCH",
        )
    not_searchable = set(declared) & TASK | set(declared) - set(dataclasses.asdict(config))
    if not_searchable:
        raise BadConfig(
            f"SEARCH of {model.name} has {', '.join(sorted(not_searchable))}, "
            "expected settings of the model's own Config"
        )
    searched = {name: values for name, values in declared.items() if name not in fixed}
    if not searched:
        raise BadParameter(
            f"all searchable settings are fixed ({', '.join(declared)}); unfix at least one",
            code="NO_SEARCH",
        )
    return searched


def distributions(searched: Space) -> dict[str, BaseDistribution]:
    """Optuna's distribution of each setting."""
    return {name: _distribution(values) for name, values in searched.items()}


def _distribution(values: Values) -> BaseDistribution:
    if isinstance(values, tuple):
        return CategoricalDistribution(values)
    if _whole(values):
        return IntDistribution(int(values.low), int(values.high), log=values.log)
    return FloatDistribution(values.low, values.high, log=values.log)


def _whole(values: Range) -> bool:
    return isinstance(values.low, int) and isinstance(values.high, int)


def settings(searched: Space, drawn: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a trial: the drawn values, floats rounded to three significant digits."""
    return {name: _rounded(values, drawn[name]) for name, values in searched.items()}


def _rounded(values: Values, value: Any) -> Any:
    if isinstance(values, tuple) or _whole(values):
        return value
    return min(max(float(f"{value:.3g}"), values.low), values.high)


def as_configured(searched: Space, config: training.Config) -> dict[str, Any] | None:
    """The config's values of the searched settings; None unless a trial could have all of them."""
    configured = {name: getattr(config, name) for name in searched}
    if all(_holds(values, configured[name]) for name, values in searched.items()):
        return configured
    return None


def _holds(values: Values, value: Any) -> bool:
    if isinstance(values, tuple):
        return value in values
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return values.low <= value <= values.high and bool(_rounded(values, value) == value)


def longest_context(model: families.Model, config: training.Config, searched: Space) -> int:
    """Sessions that the most demanding trial needs, so that all are scored on the same rows.

    Each setting is tried at its ends, the others as configured.
    """
    contexts: list[int] = [model.spec(config).min_context]
    for name, values in searched.items():
        candidates = values if isinstance(values, tuple) else (values.low, values.high)
        for value in candidates:
            # Settings that the Config refuses make a bad trial, not a bad search.
            with suppress(BadInput):
                trial_config = dataclasses.replace(config, **{name: value})
                contexts.append(model.spec(trial_config).min_context)
    return max(contexts)
