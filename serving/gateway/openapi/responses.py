"""Responses of the OpenAPI document: good ones, and the errors of each status with their codes."""

from collections.abc import Iterable
from typing import Any

from registry.codes import CODES, REQUEST, SERVING
from registry.errors import BadInput
from serving.gateway import bodies, http, protocol
from serving.gateway.openapi.forms import Schema, ref

JSON = bodies.JSON

# Of any request: it is no HTTP, its head does not come, there are too many connections.
ANY = {"BAD_INPUT", "TOO_SLOW", "NOT_READY", "INTERNAL"}
KEY = {"UNAUTHENTICATED", "OVERLOADED"}
BODY = {"BODY_TOO_LARGE"}
RAW = {
    "UNKNOWN_PARAM", "BAD_MODEL_NAME", "FORBIDDEN", "UNSUPPORTED_MEDIA_TYPE",
    "UNSUPPORTED_ENCODING", "DEADLINE",
}  # fmt: skip
# Of the start of a gateway, or of other paths.
_NOT_OF_FORECASTS = {"NOT_LOOPBACK", "PORT_TAKEN", "LOAD_FAILED", "WRONG_METHOD", "BAD_OUTPUT"}
_OF_LEDGER = {"LEDGER_UNAVAILABLE", "NEWER_LEDGER", "NOT_FOUND"}


def forecast_codes() -> set[str]:
    """All codes of /forecast."""
    parts = {code for code, entry in CODES.items() if entry.part in (REQUEST, SERVING)}
    return (parts - _NOT_OF_FORECASTS) | _OF_LEDGER | {"BAD_MODEL_NAME"}


# --- responses -------------------------------------------------------------------------------

_HEADERS: dict[str, Any] = {
    http.REQUEST_ID.decode(): {
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"},
        "description": "Id of the request, also in the log.",
    }
}
_RETRY = {
    "retry-after": {
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
        "description": "Seconds after which to try again.",
    }
}
_AUTHENTICATE = {"www-authenticate": {"schema": {"const": "Bearer"}}}
_HEAD_TOO_LARGE = 431
_MEANINGS = {
    400: "The request is wrong.",
    401: "No API key, a wrong one, or a wrong signature.",
    403: "The API key is not for this model.",
    404: "There is no such data set.",
    408: "The request did not arrive in time.",
    409: "The ledger is newer than this code.",
    413: "The request is too large.",
    415: "The body is in a form that is not read here.",
    422: "The request is valid, but not possible with this model.",
    429: "Too many requests at once.",
    431: f"The head has more than {protocol.LARGEST_HEAD} bytes.",
    500: "The gateway or the model failed.",
    503: "The model or the ledger does not answer now.",
    504: "The forecast took too long.",
}


def good(description: str, media_type: str, schema: Schema, **examples: Any) -> dict[str, Any]:
    return {
        "description": description,
        "headers": dict(_HEADERS),
        "content": {media_type: {"schema": schema, **examples}},
    }


def refusals(codes: Iterable[str], example: Any = None) -> dict[str, Any]:
    """Responses of all errors by status, with the codes of each."""
    by_status: dict[int, list[str]] = {}
    for code in sorted({*codes, *ANY}):
        by_status.setdefault(CODES[code].kind.status, []).append(code)
    responses = {}
    for status in sorted(by_status):
        of_status = {"example": example} if example and status == BadInput.status else {}
        responses[str(status)] = _refusal(status, by_status[status], of_status)
    responses[str(_HEAD_TOO_LARGE)] = _refusal(_HEAD_TOO_LARGE, ["BAD_INPUT"], {})
    return responses


def _refusal(status: int, codes: list[str], example: dict[str, Any]) -> dict[str, Any]:
    headers = dict(_HEADERS)
    if status in (429, 503):
        headers |= _RETRY
    if status == 401:
        headers |= _AUTHENTICATE
    schema = {
        "allOf": [ref("Error"), {"properties": {"error_code": {"enum": codes}}}],
    }
    return {
        "description": _MEANINGS[status],
        "headers": headers,
        "content": {JSON: {"schema": schema, **example}},
    }
