"""The spec of a model, and the request to a model. Standard library only."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any, Literal

from registry.errors import BadParameter, NotFound
from registry.forecast import names

OptionType = Literal["long", "double", "string", "boolean"]

MAX_LEVELS = 99
MAX_HORIZON = 60
SHOWN = 40  # characters of an unknown name
MAX_SEED = 2**63 - 1  # MLflow sends a seed as a long


@dataclass(frozen=True)
class Option:
    """A request parameter that a family adds to horizon, levels and seed."""

    name: str
    type: OptionType
    default: Any
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Request:
    """A request to a model, checked against its spec. `options` holds every option of the model."""

    horizon: int  # sessions after each series' cutoff
    levels: tuple[float, ...]
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelSpec:
    """The needs and abilities of a model. The spec is stored with the version."""

    name: str
    family: str
    min_context: int  # sessions that every series must bring
    max_context: int  # sessions that the model uses; older ones have no effect
    max_horizon: int
    levels: tuple[float, ...] = names.LEVELS  # at which the model answers
    columns: tuple[str, ...] = names.HISTORY  # required columns of a history
    optional: tuple[str, ...] = ()  # columns that are used if they are sent
    has_paths: bool = False
    has_prices: bool = False
    joint: bool = False  # True: series influence each other and share one cutoff
    universe: tuple[str, ...] | None = None  # None: any symbol
    subset: bool = False  # True: a part of the universe can be forecast alone
    uses: tuple[str, ...] = ()  # other families whose code it runs
    synthetic: tuple[str, ...] = ()  # columns that are synthetic in its training data
    calendar: str = "XNYS"
    options: tuple[Option, ...] = ()

    def request(self, parameters: Mapping[str, Any] | None = None) -> Request:
        """A request from a caller's parameters; a missing parameter takes its default.

        NumPy's scalars and arrays count as the numbers they hold. Raises BadParameter for an
        unknown parameter, for a value outside the model's abilities, and for null.
        """
        sent = {str(name): _plain(value) for name, value in (parameters or {}).items()}
        horizon, levels, seed = self.max_horizon, self.levels, 0
        if "horizon" in sent:
            horizon = _horizon(sent.pop("horizon"), self)
        if "levels" in sent:
            levels = _levels(sent.pop("levels"), self)
        if "seed" in sent:
            seed = _seed(sent.pop("seed"))
        options = {option.name: option.default for option in self.options}
        if sent:
            options |= self._checked_options(sent)
        return Request(horizon, levels, seed, options)

    def _checked_options(self, values: Mapping[str, Any]) -> dict[str, Any]:
        options = {option.name: option for option in self.options}
        unknown = sorted(set(values) - set(options))
        if unknown:
            parameters = sorted({"horizon", "levels", "seed", "output", *options})
            raise BadParameter(
                f"{self.name} has no parameter {_listed(unknown)}; it has {', '.join(parameters)}",
                code="UNKNOWN_PARAM",
            )
        return {name: check_option(options[name], value) for name, value in values.items()}

    def to_json(self) -> dict[str, Any]:
        """The spec with the number of its contract, for a version's spec.json."""
        return {"contract": names.CONTRACT, **asdict(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "ModelSpec":
        """The spec from `to_json` of this or an older contract.

        Contract 1 wrote no number. Raises NotFound (code NEWER_CONTRACT) for a newer contract.
        """
        contract = data.get("contract", 1)
        if contract > names.CONTRACT:
            raise NotFound(
                f"the version keeps contract {contract}, this code knows contracts up to "
                f"{names.CONTRACT}; update the checkout",
                code="NEWER_CONTRACT",
            )
        values = {key: _tupled(value) for key, value in data.items() if key != "contract"}
        options = []
        for option in data["options"]:
            fields = {key: _tupled(value) for key, value in option.items()}
            options.append(Option(**fields))
        return cls(**{**values, "options": tuple(options)})


# --- checks -----------------------------------------------------------------------------------


def check_levels(levels: Sequence[Any]) -> tuple[float, ...]:
    """The levels as floats. BadParameter unless they are 1..99 ascending numbers in (0, 1)."""
    if isinstance(levels, str) or not isinstance(levels, Sequence):
        raise _bad_levels(f"expected a list of them, found {shown(levels)}")
    if not 1 <= len(levels) <= MAX_LEVELS:
        raise _bad_levels(f"expected 1..{MAX_LEVELS} of them, found {len(levels)}")
    if not all(_is_number(level) for level in levels):
        raise _bad_levels("expected numbers, found something else among them")
    if not all(0 < level < 1 for level in levels):
        raise _bad_levels("every level must lie strictly between 0 and 1")
    if any(level >= next_level for level, next_level in pairwise(levels)):
        raise _bad_levels("levels must be ascending and distinct")
    return tuple(float(level) for level in levels)


def check_option(option: Option, value: Any) -> Any:
    """The value in the option's type. Raises BadParameter for a value that the option forbids."""
    if value is None:
        raise _bad_option(f"{option.name} is {shown(value)}")
    if option.choices and value not in option.choices:
        raise _bad_option(f"{option.name} must be one of {', '.join(option.choices)}")
    if option.type == "string" and not isinstance(value, str):
        raise _bad_option(f"{option.name} must be text")
    if option.type == "boolean" and not isinstance(value, bool):
        raise _bad_option(f"{option.name} must be true or false")
    if option.type in ("long", "double"):
        _check_number(option, value)
        return int(value) if option.type == "long" else float(value)
    return value


def _check_number(option: Option, value: Any) -> None:
    low = -math.inf if option.minimum is None else option.minimum
    high = math.inf if option.maximum is None else option.maximum
    kind = "a number" if option.type == "double" else "a whole number"
    if not _is_number(value):
        raise _bad_option(f"{option.name} must be {kind}, expected {low:g}..{high:g}")
    whole = option.type == "double" or _is_whole(value)
    if not (low <= value <= high and whole):
        raise _bad_option(f"{option.name} is {value}, expected {kind} in {low:g}..{high:g}")


def _horizon(horizon: Any, spec: ModelSpec) -> int:
    if not _is_whole(horizon) or not 1 <= horizon <= spec.max_horizon:
        raise BadParameter(
            f"horizon is {shown(horizon)}; {spec.name} forecasts 1..{spec.max_horizon} sessions",
            code="BAD_HORIZON",
        )
    return int(horizon)


def _levels(levels: Any, spec: ModelSpec) -> tuple[float, ...]:
    """The checked levels; a single number counts as a list.

    Levels must lie within the trained ones, unless the model has paths.
    """
    checked = check_levels([levels] if _is_number(levels) else levels)
    lowest, highest = spec.levels[0], spec.levels[-1]
    if not spec.has_paths and (checked[0] < lowest or checked[-1] > highest):
        raise BadParameter(
            f"levels reach from {checked[0]} to {checked[-1]}; "
            f"{spec.name} was trained on {lowest}..{highest}",
            code="BAD_LEVELS",
        )
    return checked


def _seed(seed: Any) -> int:
    if not _is_whole(seed) or not 0 <= seed <= MAX_SEED:
        raise BadParameter(
            f"seed is {shown(seed)}, expected a whole number of 0 or more", code="BAD_SEED"
        )
    return int(seed)


def _is_number(value: Any) -> bool:
    """Whether it is a finite number within float64. True and False are not numbers."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _is_whole(value: Any) -> bool:
    return _is_number(value) and value == int(value)


def _listed(unknown: Sequence[str]) -> str:
    """The first unknown names, cut short, so that a typing error is seen."""
    listed = ", ".join(name[:SHOWN] for name in unknown[:3])
    return listed if len(unknown) <= 3 else f"{listed} and {len(unknown) - 3} more"


def shown(value: Any) -> str:
    """A value for a message: a number, else only its type, because it is the caller's data."""
    if value is None:
        return "null (leave it out for the default)"
    return f"{value}" if _is_number(value) else type(value).__name__


def _plain(value: Any) -> Any:
    """NumPy's arrays and scalars, also those in a list, as Python's own types."""
    if isinstance(value, list | tuple):
        return [_native(element) for element in value]
    return _native(value)


def _native(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _bad_levels(why: str) -> BadParameter:
    return BadParameter(f"levels are numbers like 0.05,0.5,0.95: {why}", code="BAD_LEVELS")


def _bad_option(why: str) -> BadParameter:
    return BadParameter(why, code="BAD_OPTION")
