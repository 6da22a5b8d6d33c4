"""JSON Schemas of the replies."""

from serving.gateway import replies
from serving.gateway.openapi.forms import NUMBER, Schema, closed, nullable, ref, text

_STEPS = "^[1-9][0-9]?$"
_PERCENTS = "^p[0-9]"
_DAY = {"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"}
_WORDS = {"type": "array", "items": {"type": "string"}}
_CALIBRATION_STATE = text(
    "State of the calibration at these steps.", enum=["calibrated", "stale", "uncalibrated"]
)
_NUMBER_OF_CALIBRATION: Schema = {
    "type": ["integer", "null"],
    "description": "Its number in the ledger; null without one.",
}
_CALIBRATION: dict[str, Schema] = {
    "version": _NUMBER_OF_CALIBRATION,
    "state": _CALIBRATION_STATE,
    "learned_until": nullable(text("Last session that it was learned from.")),
    "learned_from": {
        "type": ["object", "null"],
        "additionalProperties": {"type": "integer", "minimum": 0},
        "description": "Nights that it was learned from: `live` ones, and those whose forecasts "
        "were made afterwards (`backfill`).",
    },
    "age": {
        "type": ["integer", "null"],
        "minimum": 0,
        "description": "Sessions since `learned_until`; above 5, `calibrated` becomes `stale`.",
    },
}
_UNTIL = nullable(text("Last session that training looked at; null if that is not known."))
_PRETRAINED = nullable(
    text("The same of its pretrained weights: `none` without any; null if that is not known.")
)


def _by_step(schema: Schema, description: str) -> Schema:
    return {
        "type": "object",
        "propertyNames": {"pattern": _STEPS},
        "additionalProperties": schema,
        "description": description,
    }


_OF_SYMBOL: dict[str, Schema] = {
    "forecast_id": text("Of this forecast, for questions about it.", pattern="^[0-9a-f]{32}$"),
    "sessions": _by_step(_DAY, "The session of each step."),
    "calibration": closed(_CALIBRATION),
    "cutoff": {**_DAY, "description": "Last session of the history."},
    "history": text("Where the returns come from.", enum=["sent", "ledger"]),
    "ds": text("Where the sessions come from.", enum=["sent", "ledger", "assumed"]),
    "covariates": {
        "type": "object",
        "additionalProperties": {"enum": ["sent", "ledger"]},
        "description": "Where each covariate comes from.",
    },
    "input_digest": text("SHA-256 of the rows that were looked at.", pattern="^[0-9a-f]{64}$"),
}
_OF_REPLY: dict[str, Schema] = {
    "model": text("Registered name of the version."),
    "ver": {"type": "integer", "minimum": 1, "description": "The version that answered."},
    "stage": text("Its stage when it began to serve, as Production."),
    "manifest": text("First digits of the SHA-256 of its manifest.", pattern="^[0-9a-f]{0,12}$"),
    "trained_until": _UNTIL,
    "pretrained_until": _PRETRAINED,
    "data": nullable(text("The data set of the symbols.")),
    "target": text("What the numbers are.", enum=[replies.TARGET, replies.CUMULATIVE]),
    "cumulative": {"type": "boolean"},
    "quantiles": {"type": "array", "items": NUMBER, "description": "Levels of `q`."},
    "notes": {**_WORDS, "description": "What one should know about these numbers."},
}
_SOMETIMES: dict[str, Schema] = {
    "asked": text("The model that was asked for, if another one answers for it."),
    "stale": {"const": True, "description": "The registry cannot be asked for a newer version."},
}
_NUMBERS: dict[str, Schema] = {
    "symbol": text("As in the request."),
    "yhat": _by_step(NUMBER, "Mean log return of the session, by step."),
    "q": _by_step(
        {
            "type": "object",
            "propertyNames": {"pattern": _PERCENTS},
            "additionalProperties": NUMBER,
        },
        "Quantiles by step and percent, as p05.",
    ),
}
_REFUSED: dict[str, Schema] = {
    "place": {"type": "integer", "minimum": 1, "description": "In the batch, from 1."},
    "symbol": nullable(text("Null if it cannot be repeated.")),
    "code": text("As `error_code` of a refused request."),
    "message": text("What is wrong, and what to do."),
}
_MODEL: dict[str, Schema] = {
    "model": text("As requests name it."),
    "state": text("What it does.", enum=["serving", "starting", "waiting", "failed"]),
    "name": text("Registered name of the version that answers."),
    "version": {"type": "integer", "minimum": 1},
    "stage": text("Its stage when it began to serve."),
    "manifest": text("SHA-256 of its manifest."),
    "since": text("When it was warm.", format="date-time"),
    "stale": {"type": "boolean", "description": "The registry cannot be asked for a newer one."},
    "data": text("Data set that it was trained on, or empty."),
    "calendar": text("Of its sessions."),
    "horizon": {"type": "integer", "minimum": 1, "description": "Most sessions ahead."},
    "min_context": {"type": "integer", "description": "Sessions that a series must have."},
    "max_context": {"type": "integer", "description": "Sessions that it looks at."},
    "levels": {"type": "array", "items": NUMBER, "description": "Levels at which it answers."},
    "columns": {**_WORDS, "description": "Columns that it needs."},
    "optional": {**_WORDS, "description": "Columns that it uses if they are sent."},
    "universe": {
        "type": ["array", "null"],
        "items": {"type": "string"},
        "description": "The only symbols that it knows; null: any.",
    },
    "trained_until": _UNTIL,
    "pretrained_until": _PRETRAINED,
    "calibration": closed(
        {
            "enabled": {"type": "boolean"},
            **_CALIBRATION,
        }
    ),
    "notes": {**_WORDS, "description": "Of every reply."},
    "failed": {
        **closed(
            {
                "version": {"type": ["integer", "null"]},
                "code": text("An error code."),
                "message": text("Why."),
            }
        ),
        "description": "The version that could not be served, if there is one.",
    },
}
_ERROR: dict[str, Schema] = {
    "error_code": text("Stable; programs should look at it."),
    "message": text("What is wrong, and what to do. It never repeats the data of the request."),
    "request_id": text("As in the header, for questions about it."),
}

ARROW_TABLE: Schema = {
    "type": "string",
    "format": "binary",
    "description": "An Arrow IPC stream: `unique_id`, `step`, `ds`, `mean`, `q0.05` and so on, a "
    "row for each series and step. The key `kronos` in the metadata of its schema holds the rest "
    "of the reply, with `refused`, as JSON.",
}

SCHEMAS: dict[str, Schema] = {
    "Forecast": {
        **closed({**_NUMBERS, "meta": ref("Meta")}),
        "description": "The forecast of one symbol.",
    },
    "Meta": {
        **closed({**_OF_SYMBOL, **_OF_REPLY, **_SOMETIMES}, required=[*_OF_SYMBOL, *_OF_REPLY]),
        "description": "What the forecast rests on: all keys of `ReplyMeta` and `SymbolMeta`.",
    },
    "BatchReply": {
        **closed(
            {
                "forecasts": {"type": "array", "items": ref("BatchForecast")},
                "refused": {"type": "array", "items": ref("Refused")},
                "meta": ref("ReplyMeta"),
            }
        ),
        "description": "Forecasts in the order of the request, and the items without one.",
    },
    "BatchForecast": closed({**_NUMBERS, "meta": ref("SymbolMeta")}),
    "ReplyMeta": {
        **closed({**_OF_REPLY, **_SOMETIMES}, required=[*_OF_REPLY]),
        "description": "What holds for every forecast of a reply.",
    },
    "SymbolMeta": {**closed(_OF_SYMBOL), "description": "What the forecast of a symbol rests on."},
    "Refused": {**closed(_REFUSED), "description": "An item of a batch that is not answered."},
    "Health": closed({"status": {"const": "alive"}}),
    "Ready": closed(
        {
            "ready": {"type": "boolean", "description": "A warm version of every model answers."},
            "models": {
                "type": "object",
                "additionalProperties": {"enum": ["serving", "starting", "waiting", "failed"]},
            },
        }
    ),
    "Models": closed({"models": {"type": "array", "items": ref("Model")}}),
    "Model": closed(_MODEL, required=["model", "state"]),
    "Error": {**closed(_ERROR), "description": "The one form of all errors."},
    "ScorerError": {
        "type": "object",
        "properties": {
            "error_code": text("MLflow's code."),
            "message": text("What is wrong, and what to do."),
            "code": text("Our code, if the error is ours."),
        },
        "required": ["error_code", "message"],
        "description": "An error of the scorer, in MLflow's form.",
    },
}
