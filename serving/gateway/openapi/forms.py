"""Building blocks of JSON Schemas."""

from collections.abc import Sequence
from typing import Any

Schema = dict[str, Any]

NUMBER: Schema = {"type": "number"}


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def closed(properties: dict[str, Schema], required: Sequence[str] | None = None) -> Schema:
    """An object without other keys; all of its keys are required unless some are named."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties if required is None else required),
        "additionalProperties": False,
    }


def text(description: str, **rules: Any) -> Schema:
    return {"type": "string", **rules, "description": description}


def nullable(schema: Schema) -> Schema:
    return {**schema, "type": [schema["type"], "null"]}
