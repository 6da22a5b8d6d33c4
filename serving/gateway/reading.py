"""A request for forecasts: what /forecast takes, and for which symbols and parameters."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from registry.errors import BadHistory, BadParameter, KronosError, NotAvailable, TooLarge
from registry.forecast.names import percent_key
from registry.forecast.spec import MAX_HORIZON, MAX_SEED, check_levels
from serving.gateway import items
from serving.gateway.bodies import check_keys, document, is_word, kind_of
from serving.gateway.items import Item

COMMON = ("model", "horizon", "data", "freq", "levels", "seed", "options", "cumulative")
SINGLE = (*items.KEYS, *COMMON)
BATCH = ("forecasts", *COMMON)
DAILY = "1d"

NAME = re.compile(r"[a-z0-9_]{1,64}")  # of a model or a data set
# Parameters of a version that are keys of the request, or chosen by the gateway.
NO_OPTIONS = frozenset({"horizon", "levels", "seed", "output"})


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Size of one request."""

    rows: int = 5_000_000  # sessions of all its series
    symbols: int = 10_000
    depth: int = 32  # of lists and objects in each other


class Refused(msgspec.Struct, frozen=True):
    """An item of a batch that is not answered, and why."""

    place: int  # in the batch, from 1
    symbol: str | None  # None: it has none that can be repeated
    code: str
    message: str


class ForecastRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request that was read. Whether the version can answer it is checked later, by its spec."""

    items: list[Item]
    refused: list[Refused] = []  # only of a batch; if it holds all items, `items` is empty
    batch: bool = False
    model: str | None = None  # None: the gateway's only one
    steps: tuple[int, ...] | None = None  # ascending; None: all of the version
    data: str | None = None  # None: the data set of the version
    levels: tuple[float, ...] | None = None
    seed: int | None = None
    options: dict[str, Any] = {}  # text, numbers, true and false
    cumulative: bool = False


DEFAULTS = Limits()


def forecast_request(body: bytes, limits: Limits = DEFAULTS) -> ForecastRequest:
    """The request in the JSON body of /forecast.

    A bad item of a batch is refused alone. Everything else that is wrong is raised: BadInput,
    TooLarge, NotAvailable. No message repeats a value of the body.
    """
    value = document(body, limits.depth)
    batch = "forecasts" in value
    check_keys("a batch" if batch else "a request", value, BATCH if batch else SINGLE)
    if batch:
        return batch_request(value["forecasts"], value, limits)
    parameters = _parameters(value)
    item = items.item(value)
    _check_rows(item.rows, limits)
    return ForecastRequest(items=[item], **parameters)


def batch_request(values: Any, sent: Mapping[str, Any], limits: Limits) -> ForecastRequest:
    """The request for many symbols, of their items and the parameters for all of them."""
    parameters = _parameters(sent)
    good, refused = _batch(values, limits)
    return ForecastRequest(items=good, refused=refused, batch=True, **parameters)


# --- items ------------------------------------------------------------------------------------


def _batch(values: Any, limits: Limits) -> tuple[list[Item], list[Refused]]:
    """The good items of a batch, and the refused ones."""
    _check_batch(values, limits)
    good: list[Item] = []
    refused: list[Refused] = []
    places: dict[str, int] = {}  # of symbols
    rows = 0
    dates = None
    for place, value in enumerate(values, 1):
        try:
            item = _of_batch(value, place, places, dates)
        except KronosError as error:
            refused.append(_refused(value, place, error))
            continue
        good.append(item)
        dates = item.ds or dates
        rows += item.rows
        _check_rows(rows, limits)
    return good, refused


def _check_batch(values: Any, limits: Limits) -> None:
    if not isinstance(values, list):
        raise BadHistory(
            f"forecasts is {kind_of(values)}, expected a list of objects", code="NOT_A_TABLE"
        )
    if not values:
        raise BadHistory("forecasts is empty", code="EMPTY")
    if len(values) > limits.symbols:
        raise TooLarge(
            f"forecasts has {len(values)} items; a request may have {limits.symbols}",
            code="TOO_MANY_ROWS",
        )


def _of_batch(value: Any, place: int, places: dict[str, int], dates: list[str] | None) -> Item:
    """One item of a batch. Its symbol is added to `places`, also if the item is bad elsewhere."""
    if not isinstance(value, dict):
        raise BadHistory(f"it is {kind_of(value)}, expected an object", code="NOT_A_TABLE")
    check_keys("an item of a batch", value, items.KEYS)
    symbol = value.get("symbol")
    if items.is_symbol(symbol) and places.setdefault(symbol, place) != place:
        raise BadHistory(
            f"symbol: it is that of item {places[symbol]}, too", code="DUPLICATE_SYMBOL"
        )
    return items.item(value, dates)


def _refused(value: Any, place: int, error: KronosError) -> Refused:
    symbol = value.get("symbol") if isinstance(value, dict) else None
    name = symbol if items.is_symbol(symbol) else None
    return Refused(place, name, error.code, f"item {place}: {error.message}")


def _check_rows(rows: int, limits: Limits) -> None:
    if rows > limits.rows:
        raise TooLarge(
            f"the request has more than {limits.rows} sessions in all; send fewer, or several "
            "requests",
            code="TOO_MANY_ROWS",
        )


# --- parameters -------------------------------------------------------------------------------


def _parameters(sent: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of a request, by their names in ForecastRequest."""
    parameters = {key: _PARAMETERS[key](sent[key]) for key in COMMON if key in sent}
    if "horizon" in parameters:
        parameters["steps"] = parameters.pop("horizon")
    parameters.pop("freq", None)
    return parameters


def _model(value: Any) -> str:
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise BadParameter(
            "model: a model's name is 1..64 of a-z, 0-9 and _", code="BAD_MODEL_NAME"
        )
    return value


def _data(value: Any) -> str:
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise BadParameter("data: the name of a data set is 1..64 of a-z, 0-9 and _")
    return value


def _freq(value: Any) -> str:
    if not isinstance(value, str):
        raise BadParameter(f"freq is {kind_of(value)}, expected {DAILY!r}")
    if value != DAILY:
        raise NotAvailable(f"freq: forecasts are daily; send {DAILY!r} or leave it out")
    return value


def _steps(value: Any) -> tuple[int, ...]:
    """Steps of a horizon, ascending: 5 asks for 1 to 5, a list for its own steps in any order."""
    steps = value if isinstance(value, list) else [value]
    if not steps or not all(_is_whole(step, 1, MAX_HORIZON) for step in steps):
        raise BadParameter(
            f"horizon: expected a whole number in 1..{MAX_HORIZON}, or a list of such numbers",
            code="BAD_HORIZON",
        )
    if len(set(steps)) < len(steps):
        raise BadParameter("horizon: the list has a step twice", code="BAD_HORIZON")
    if not isinstance(value, list):
        return tuple(range(1, int(value) + 1))
    return tuple(int(step) for step in sorted(steps))


def _levels(value: Any) -> tuple[float, ...]:
    """The levels; a single number counts as a list, as for a version."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    levels = check_levels([value] if is_number else value)
    if len({percent_key(level) for level in levels}) < len(levels):
        raise BadParameter(
            "levels: two of them have the same name in a reply, as p05", code="BAD_LEVELS"
        )
    return levels


def _seed(value: Any) -> int:
    if not _is_whole(value, 0, MAX_SEED):
        raise BadParameter(f"seed: expected a whole number in 0..{MAX_SEED}", code="BAD_SEED")
    return int(value)


def _options(value: Any) -> dict[str, Any]:
    """Options by name. The version's spec checks which there are, and their ranges."""
    if not isinstance(value, dict):
        raise BadParameter(f"options is {kind_of(value)}, expected an object", code="BAD_OPTION")
    twice = sorted(NO_OPTIONS & value.keys())
    if twice:
        raise BadParameter(
            f"options: {', '.join(twice)} cannot be one of them", code="UNKNOWN_PARAM"
        )
    for place, (name, option) in enumerate(value.items(), 1):
        if not is_word(name):
            raise BadParameter(f"options: name {place} is no option's", code="UNKNOWN_PARAM")
        if not _is_option(option):
            raise BadParameter(
                f"options: value {place} is {kind_of(option)}, expected printable text, "
                "a finite number, true or false",
                code="BAD_OPTION",
            )
    return value


def _is_option(value: Any) -> bool:
    if isinstance(value, str):
        return value.isprintable()
    return isinstance(value, bool) or items.is_finite(value)


def _cumulative(value: Any) -> bool:
    if not isinstance(value, bool):
        raise BadParameter(f"cumulative is {kind_of(value)}, expected true or false")
    return value


def _is_whole(value: Any, least: int, most: int) -> bool:
    """Whether it is a whole number in this range; 5.0 is one, true is none."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and least <= value <= most and value == int(value)


_PARAMETERS: dict[str, Callable[[Any], Any]] = {
    "model": _model,
    "horizon": _steps,
    "data": _data,
    "freq": _freq,
    "levels": _levels,
    "seed": _seed,
    "options": _options,
    "cumulative": _cumulative,
}
