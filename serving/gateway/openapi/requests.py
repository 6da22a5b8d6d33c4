"""JSON Schemas of the requests, as strict as the code that reads them.

What a schema cannot say stands in its description: dates ascend, and columns have equal lengths.
"""

from collections.abc import Sequence

from registry.forecast import names
from registry.forecast.spec import MAX_HORIZON, MAX_LEVELS, MAX_SEED
from serving.gateway import bodies, items, reading
from serving.gateway.openapi.forms import NUMBER, Schema, closed, ref, text

# As pandas writes sessions, too.
_SESSION = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}([T ]00:00:00(\.0{1,9})?)?$"
# Printable, without blanks around it.
_SYMBOL = r"^[^\s\x00-\x1f\x7f-\xa0]([^\x00-\x1f\x7f-\xa0]*[^\s\x00-\x1f\x7f-\xa0])?$"
_WORD = f"^{bodies.WORD.pattern}$"
_NAME = f"^{reading.NAME.pattern}$"

_HAS_HISTORY = [{"required": ["series"]}, {"required": ["bars"]}]
_NO_FEATURES = {"properties": {"features": {"maxProperties": 0}}}
_CONDITIONS: Schema = {
    "not": {"required": ["series", "bars"]},
    "dependentSchemas": {
        "ds": {"anyOf": _HAS_HISTORY},
        "features": {"anyOf": [*_HAS_HISTORY, _NO_FEATURES]},
    },
}

ARROW_TABLE: Schema = {
    "type": "string",
    "format": "binary",
    "description": "A batch as an Arrow IPC stream, not compressed: `unique_id` (utf8, or its "
    "dictionary), `ds` (date32, timestamp or utf8; may be left out), and `y` or bars, with the "
    "rows of a symbol together. Other columns are features. `unique_id` alone asks for the "
    "ledger's histories.",
}


def schemas(models: Sequence[str]) -> dict[str, Schema]:
    """By name, for a gateway that serves these models."""
    common = _common(models)
    model = ["model"] if len(models) > 1 else []
    single = closed({**_item(), **common}, required=["symbol", *model])
    batch = closed({"forecasts": _list_of_items(), **common}, required=["forecasts", *model])
    item = closed(_item(), required=["symbol"])
    return {
        "ForecastRequest": {**single, **_CONDITIONS, "description": "One symbol."},
        "BatchRequest": {**batch, "description": "Many symbols, with parameters for all of them."},
        "Item": {
            **item,
            **_CONDITIONS,
            "description": "A symbol of a batch: `symbol`, `series`, `ds`, `bars` and `features` "
            "as in a request for one.",
        },
        "Bars": _bars(),
    }


def _list_of_items() -> Schema:
    return {
        "type": "array",
        "minItems": 1,
        "maxItems": reading.DEFAULTS.symbols,
        "items": ref("Item"),
        "description": "The symbols, each once. A bad item does not fail the batch: the reply "
        "lists it under `refused`.",
    }


def _item() -> dict[str, Schema]:
    return {
        "symbol": text(
            "Name of the series. Without `series` and `bars`, the ledger's history of this symbol "
            "is used.",
            minLength=1,
            maxLength=items.LONGEST,
            pattern=_SYMBOL,
        ),
        "series": _column(
            "Log returns of the sessions, oldest first, each between -1 and 1. A model needs at "
            "least its `min_context` (see /models), else the code is TOO_SHORT."
        ),
        "ds": {
            "type": "array",
            "minItems": 1,
            "uniqueItems": True,
            "items": {"type": "string", "pattern": _SESSION},
            "description": "Session of each value or bar, ascending, as 2022-12-28. Without it, "
            "the last value is taken for the last completed session, and `meta.ds` is `assumed`.",
        },
        "bars": {
            **ref("Bars"),
            "description": "Bars in place of `series`: n bars give n - 1 returns, as the first "
            "one is only their base.",
        },
        "features": {
            "type": "object",
            "propertyNames": {
                "pattern": _WORD,
                "not": {"enum": [*names.HISTORY]},
            },
            "additionalProperties": _column("One value for each value or bar."),
            "description": "Covariates by column, with `series` or `bars`. /models lists the "
            "columns of a model. Market covariates that are not sent come from the ledger.",
        },
    }


def _column(description: str, least: int = 1) -> Schema:
    return {"type": "array", "minItems": least, "items": NUMBER, "description": description}


def _bars() -> Schema:
    least = items.FEWEST_BARS
    columns = {name: _column("On one basis.", least) for name in names.OHLC}
    columns["close"]["items"] = {"type": "number", "exclusiveMinimum": 0}
    columns[names.VOLUME] = _column("In shares.", least)
    columns[names.AMOUNT] = _column("In currency.", least)
    return {
        **closed(columns, required=names.OHLC),
        "description": "Columns of equal length, oldest first; prices and volumes up to 1e18.",
    }


def _common(models: Sequence[str]) -> dict[str, Schema]:
    """Parameters of a request; of a batch they hold for all of its items."""
    many = "Which of this gateway's models answers."
    one = "The model; it can be left out, as this gateway has one only."
    step = {"type": "integer", "minimum": 1, "maximum": MAX_HORIZON}
    level = {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}
    return {
        "model": text(many if len(models) > 1 else one, enum=list(models)),
        "horizon": {
            "description": "Sessions ahead: 5 asks for 1 to 5, [1, 5] for these two. Without it, "
            "all that the version can.",
            "oneOf": [step, _several(step, MAX_HORIZON)],
        },
        "data": text(
            "Data set of the symbols. Without it, the one that the version was trained on.",
            pattern=_NAME,
        ),
        "freq": text("Forecasts are daily.", enum=[reading.DAILY]),
        "levels": {
            "description": "Levels of the quantiles, ascending. Without it, those of the version.",
            "oneOf": [level, _several(level, MAX_LEVELS)],
        },
        "seed": {
            "type": "integer",
            "minimum": 0,
            "maximum": MAX_SEED,
            "description": "Seed of a model that draws paths.",
        },
        "options": {
            "type": "object",
            "propertyNames": {"pattern": _WORD, "not": {"enum": sorted(reading.NO_OPTIONS)}},
            "additionalProperties": {"type": ["string", "number", "boolean"]},
            "description": "Further parameters of the model.",
        },
        "cumulative": {
            "type": "boolean",
            "default": False,
            "description": "True asks for the return from the cutoff to each step, which only "
            "models with paths have.",
        },
    }


def _several(item: Schema, most: int) -> Schema:
    return {
        "type": "array", "minItems": 1, "maxItems": most, "uniqueItems": True, "items": item,
    }  # fmt: skip
