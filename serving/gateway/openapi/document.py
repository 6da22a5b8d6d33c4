"""The OpenAPI document: every path, what it takes, and each status with its codes.

`examples.json` holds requests and the replies of nbeats version 2 on the built-in prices.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import msgspec

from serving.gateway import bodies, http, metrics, webhooks
from serving.gateway.link import HEADER
from serving.gateway.openapi import replies, requests
from serving.gateway.openapi.forms import Schema, ref
from serving.gateway.openapi.responses import (
    ANY,
    BODY,
    JSON,
    KEY,
    RAW,
    forecast_codes,
    good,
    refusals,
)

VERSION = "1"  # of the interface; raise it when clients must change
HTML = "text/html; charset=utf-8"
EXAMPLES = Path(__file__).with_name("examples.json")

_NAME = "bearer"  # of the security scheme

# --- the document -------------------------------------------------------------------------------


def document(models: Sequence[str], keys: bool) -> dict[str, Any]:
    """Of a gateway that serves these models; with `keys`, it asks for one."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Kronos Registry gateway",
            "version": VERSION,
            "description": "Calibrated forecasts of promoted model versions. Every reply has the "
            "header `kronos-request-id`, and every error has the same form.",
        },
        "servers": [{"url": "/", "description": "This gateway."}],
        "security": [{_NAME: []}] if keys else [],
        "paths": _paths(models),
        "components": {
            "schemas": {**requests.schemas(models), **replies.SCHEMAS},
            "securitySchemes": {
                _NAME: {
                    "type": "http",
                    "scheme": _NAME,
                    "description": "An API key, as `python -m serving key NAME` makes it. "
                    "A gateway without keys on loopback asks for none.",
                }
            },
        },
    }


def _paths(models: Sequence[str]) -> dict[str, Any]:
    examples = msgspec.json.decode(EXAMPLES.read_bytes())
    name = models[0] if len(models) > 1 else None
    return {
        "/forecast": {"post": _forecast(examples, name)},
        "/invocations": {"post": _invocations(examples, models)},
        "/health": {
            "get": _get("Whether the gateway is alive", "health", "Health", {"status": "alive"})
        },
        "/ready": {"get": _ready(examples)},
        "/models": {"get": _models(examples)},
        "/metrics": {"get": _metrics()},
        "/webhooks/mlflow": {"post": _webhook()},
        "/docs": {"get": _page("This document as a page", "docs", HTML, {"type": "string"})},
        "/openapi.json": {"get": _page("This document", "openapi", JSON, {"type": "object"})},
    }


def _forecast(examples: dict[str, Any], model: str | None) -> dict[str, Any]:
    sent = {name: _request_of(examples[name], model) for name in ("symbol", "series", "batch")}
    answered = {name: {"value": examples[name]["reply"]} for name in sent}
    return {
        "operationId": "forecast",
        "summary": "Forecast one symbol or many",
        "description": "Means and calibrated quantiles of the next sessions' log returns. A "
        "history comes with the request, or from the ledger by symbol. `series` must have as many "
        "values as the model needs: the example has 60, which is enough for nbeats. A batch "
        "may also be an Arrow stream. Its parameters stand in the query: "
        "`?model=har&horizon=1,5&levels=0.05,0.5,0.95`, and options as `option.NAME=value`.",
        "parameters": [_REQUEST_ID],
        "requestBody": {
            "required": True,
            "content": {
                JSON: {"schema": _either("ForecastRequest", "BatchRequest"), "examples": sent},
                bodies.ARROW: {"schema": requests.ARROW_TABLE},
            },
        },
        "responses": {
            "200": _answered(answered),
            **refusals(forecast_codes() | KEY | BODY, examples["refusal"]["reply"]),
        },
    }


def _answered(examples: dict[str, Any]) -> dict[str, Any]:
    """The good response of /forecast, in JSON and Arrow."""
    response = good(
        "The forecast, or those of a batch. With `Accept: application/vnd.apache.arrow.stream` "
        "a table in place of JSON.",
        JSON,
        _either("Forecast", "BatchReply"),
        examples=examples,
    )
    response["content"][bodies.ARROW] = {"schema": replies.ARROW_TABLE}
    return response


def _request_of(example: dict[str, Any], model: str | None) -> dict[str, Any]:
    """The request of an example; it names a model if the gateway has several."""
    named = {"model": model} if model else {}
    return {"value": {**example["request"], **named}}


def _invocations(examples: dict[str, Any], models: Sequence[str]) -> dict[str, Any]:
    parameter = {
        "name": "model",
        "in": "query",
        "required": len(models) > 1,
        "schema": {"type": "string", "enum": list(models)},
        "description": "The model; needed if the gateway has several.",
    }
    errors = refusals(ANY | KEY | BODY | RAW)
    for status, refusal in errors.items():
        if status in ("400", "500"):
            refusal["content"][JSON]["schema"] = {
                "anyOf": [refusal["content"][JSON]["schema"], ref("ScorerError")]
            }
    errors["415"]["content"]["text/plain"] = {"schema": {"type": "string"}}
    reply = good(
        "The scorer's reply as it is.", JSON, {"type": "object"}, example=examples["raw"]["reply"]
    )
    reply["headers"][HEADER.decode()] = {
        "schema": {"type": "string"},
        "description": "Names the scorer's process.",
    }
    return {
        "operationId": "invocations",
        "summary": "Ask a version in MLflow's own protocol",
        "description": "The body goes to `mlflow models serve` untouched, and its reply comes "
        "back untouched. The numbers are raw: no calibration is applied. "
        "`python -m serving request MODEL > request.json` prints a body. CSV and Parquet, as "
        "MLflow takes them, are passed on, too.",
        "parameters": [_REQUEST_ID, parameter],
        "requestBody": {
            "required": True,
            "content": {
                JSON: {"schema": {"type": "object"}},
                "text/csv": {"schema": {"type": "string"}},
            },
        },
        "responses": {"200": reply, **errors},
    }


def _ready(examples: dict[str, Any]) -> dict[str, Any]:
    operation = _get("Whether every model answers", "ready", "Ready", examples["ready"]["reply"])
    late = operation["responses"]["503"]
    late["description"] = (
        "A model does not answer yet. The body is that of 200; it is an error only if there are "
        "too many connections."
    )
    media = late["content"][JSON]
    media["schema"] = {"anyOf": [ref("Ready"), media["schema"]]}
    return operation


def _models(examples: dict[str, Any]) -> dict[str, Any]:
    return _get(
        "The versions that answer",
        "models",
        "Models",
        examples["models"]["reply"],
        description="Of each model: version, stage, manifest, since when, needs and abilities, "
        "calibration, and the version that failed, if there is one.",
        codes=ANY | KEY,
        open=False,
    )


def _metrics() -> dict[str, Any]:
    operation = _page("Metrics for Prometheus", "metrics", metrics.CONTENT_TYPE, {"type": "string"})
    operation["responses"] |= refusals(ANY | KEY)
    del operation["security"]
    return operation


def _webhook() -> dict[str, Any]:
    names = (webhooks.DELIVERY_ID, webhooks.TIMESTAMP, webhooks.SIGNATURE)
    parameters = [
        {"name": name.decode(), "in": "header", "required": True, "schema": {"type": "string"}}
        for name in names
    ]
    return {
        "operationId": "webhook",
        "summary": "Take a webhook of MLflow",
        "description": "Signed with KRONOS_WEBHOOK_SECRET in the last 5 minutes. The gateway then "
        "looks at the registry at once. The body is not read.",
        "security": [],
        "parameters": [_REQUEST_ID, *parameters],
        "requestBody": {"content": {JSON: {"schema": {}}}},
        "responses": {
            "202": good(
                "It looks.",
                JSON,
                {"type": "object", "properties": {"status": {"const": "looking"}}},
                example={"status": "looking"},
            ),
            **refusals(ANY | BODY | {"UNAUTHENTICATED"}),
        },
    }


# --- parts --------------------------------------------------------------------------------------

_REQUEST_ID = {
    "name": http.REQUEST_ID.decode(),
    "in": "header",
    "schema": {"type": "string"},
    "description": "An id of yours for the log: up to 64 of A-Z a-z 0-9 . _ -. In place of "
    "another one the gateway makes its own.",
}


def _get(
    summary: str,
    name: str,
    schema: str,
    example: Any,
    *,
    description: str = "",
    codes: Collection[str] = ANY,
    open: bool = True,
) -> dict[str, Any]:
    return {
        "operationId": name,
        "summary": summary,
        **({"description": description} if description else {}),
        **({"security": []} if open else {}),
        "parameters": [_REQUEST_ID],
        "responses": {
            "200": good("As said.", JSON, ref(schema), example=example),
            **refusals(codes),
        },
    }


def _page(summary: str, name: str, media_type: str, schema: Schema) -> dict[str, Any]:
    return {
        "operationId": name,
        "summary": summary,
        "security": [],
        "parameters": [_REQUEST_ID],
        "responses": {"200": good("As said.", media_type, schema), **refusals(ANY)},
    }


def _either(*names: str) -> Schema:
    return {"oneOf": [ref(name) for name in names]}
