"""What a study searches: the settings that a family declares in SEARCH, and how a trial's are drawn from them."""

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

TASK = {
    field.name for field in dataclasses.fields(training.Config)
}  # what is forecast when: never searched


def space(model: families.Model, config: training.Config, fixed: Collection[str]) -> Space:
    """Settings of a model to search, by name, without those in `fixed`.

    Raises BadParameter (code NO_SEARCH) when nothing is declared or left, BadConfig for a setting that cannot be.
    """
    declared = model.searched()
    if not declared:
        able = [name for name, other in families.all_models().items() if other.searched()]
        raise BadParameter(
            f"{model.name} declares nothing to search (SEARCH in mlprojects/{model.family.name}/settings.py); "
            f"these do: {', '.join(able)}",
            code="NO_SEARCH",
        )
    wrong = sorted(set(declared) & TASK | set(declared) - set(dataclasses.asdict(config)))
    if wrong:
        raise BadConfig(
            f"SEARCH of {model.name} has {', '.join(wrong)}, expected settings of the model's own Config"
        )
    left = {name: values for name, values in declared.items() if name not in fixed}
    if not left:
        raise BadParameter(
            f"all searchable settings are fixed ({', '.join(declared)}); unfix at least one",
            code="NO_SEARCH",
        )
    return left


def distributions(searched: Space) -> dict[str, BaseDistribution]:
    """What Optuna draws from."""
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
    """The settings of a trial: what was drawn, floats to three significant digits, as a config is written."""
    return {name: _written(values, drawn[name]) for name, values in searched.items()}


def _written(values: Values, drawn: Any) -> Any:
    if isinstance(values, tuple) or _whole(values):
        return drawn
    return min(max(float(f"{drawn:.3g}"), values.low), values.high)


def as_configured(searched: Space, config: training.Config) -> dict[str, Any] | None:
    """The config's own values, if the space holds them all and can write them."""
    own = {name: getattr(config, name) for name in searched}
    return own if all(_holds(values, own[name]) for name, values in searched.items()) else None


def _holds(values: Values, value: Any) -> bool:
    if isinstance(values, tuple):
        return value in values
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and values.low <= value <= values.high and _written(values, value) == value


def longest_context(model: families.Model, config: training.Config, searched: Space) -> int:
    """Sessions that a history needs for any of the trials, so that all of them are scored on the same rows.

    Each setting is tried at its ends, the others as configured.
    """
    needed: list[int] = [model.spec(config).min_context]
    for name, values in searched.items():
        for value in values if isinstance(values, tuple) else (values.low, values.high):
            with suppress(
                BadInput
            ):  # a combination that the Config refuses is a bad trial, no bad search
                tried = dataclasses.replace(config, **{name: value})
                needed.append(model.spec(tried).min_context)
    return max(needed)
