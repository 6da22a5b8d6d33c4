"""Parameters of a forecast in the query of a URL, for bodies that hold a table only."""

from typing import Any

import msgspec

from serving.gateway import http
from serving.gateway.bodies import check_keys

OPTION = "option."  # before the name of each option
_TEXTS = ("model", "data", "freq")
_VALUES = ("seed", "cumulative")
_LISTS = ("horizon", "levels")
KEYS = (*_TEXTS, *_LISTS, *_VALUES)


def parameters(query: bytes) -> dict[str, Any]:
    """The parameters as JSON would hold them. Raises BadParameter for what is not in `KEYS`.

    `horizon=5` asks for steps 1 to 5, `horizon=1,5` for these two, `horizon=5,` for step 5 alone.
    Whether a value is good is checked later, as for JSON.
    """
    sent = http.parameters(query)
    options = {name: text for name, text in sent.items() if name.startswith(OPTION)}
    rest = {name: text for name, text in sent.items() if name not in options}
    check_keys("the query", rest, (*KEYS, f"{OPTION}NAME"))
    values = {name: _read(name, text) for name, text in rest.items()}
    if options:
        values["options"] = {
            name.removeprefix(OPTION): _value(text) for name, text in options.items()
        }
    return values


def _read(name: str, text: str) -> Any:
    if name in _LISTS:
        return _list(text)
    return _value(text) if name in _VALUES else text


def _list(text: str) -> Any:
    """One value, or the list of those between commas. A comma at the end makes a list of one."""
    if "," not in text:
        return _value(text)
    return [_value(part) for part in text.removesuffix(",").split(",")]


def _value(text: str) -> Any:
    """A number, true or false; anything else stays text."""
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return text
    return value if isinstance(value, bool | int | float) else text
