"""The page of the OpenAPI document for people: one file of HTML that needs nothing else."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from registry.codes import CODES
from serving.gateway.openapi.forms import Schema

TEMPLATE = Path(__file__).with_name("page.html")
WIDTH = 92  # characters of a line of JSON

_REF = "#/components/schemas/"
_UNITED = {"Item", "Meta"}  # their fields stand in other tables
_ELSEWHERE = {"ForecastRequest", "BatchRequest", "Health"}  # shown with their paths


def page(document: Mapping[str, Any], origin: str) -> str:
    """HTML of the whole document.

    curl lines begin with the address that the browser asked. Without scripts that is `origin`.
    """
    operations = []
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            operations.append(_operation(path, method, operation, document, origin))
    schemas = document["components"]["schemas"]
    objects = [_named(title, schemas[title]) for title in schemas if title not in _ELSEWHERE]
    links = [f'<li><a href="#{name(path)}">{path}</a></li>' for path in document["paths"]]
    info = document["info"]
    return Template(TEMPLATE.read_text()).substitute(
        title=escape(info["title"]),
        description=prose(info["description"]),
        links="\n".join(links),
        operations="\n".join(operations),
        objects="\n".join(objects),
        codes=_all_codes(document),
    )


def name(path: str) -> str:
    """Of a section."""
    return path.strip("/").replace("/", "-").replace(".", "-")


def prose(text: str) -> str:
    """A description; words between backticks are code."""
    parts = escape(text, quote=False).split("`")
    for place in range(1, len(parts), 2):
        parts[place] = f"<code>{parts[place]}</code>"
    return "".join(parts)


# --- one path -----------------------------------------------------------------------------------


def _operation(
    path: str, method: str, operation: Mapping[str, Any], document: Mapping[str, Any], origin: str
) -> str:
    schemas = document["components"]["schemas"]
    locked = bool(operation.get("security", document["security"]))
    parts = [
        f'<section id="{name(path)}">',
        f'<h2><span class="method">{method.upper()}</span> {path}</h2>',
        f"<p><strong>{prose(operation['summary'])}.</strong> "
        f"{prose(operation.get('description', ''))}"
        f"{' Needs an API key.' if locked else ''}</p>",
    ]
    parameters = operation["parameters"]
    if method == "post":
        parts.append(_parameters(parameters))
    body = operation.get("requestBody")
    if body is not None:
        parts += _fields(body["content"], schemas)
    parts += _examples(path, method, operation, locked, origin)
    parts += [_errors(operation["responses"]), "</section>"]
    return "\n".join(parts)


def _parameters(parameters: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        _row(
            one["name"],
            f"{one['in']}, {_kind(one['schema'])}",
            one.get("description", ""),
            one.get("required", False),
        )
        for one in parameters
    ]
    return _table("Query and headers", rows)


def _fields(content: Mapping[str, Any], schemas: Mapping[str, Schema]) -> list[str]:
    """Tables of the fields of each form of a request. A later form does not repeat fields."""
    tables = []
    shown: dict[str, Schema] = {}
    for media in content.values():
        for form in media["schema"].get("oneOf", ()):
            schema = schemas[_target(form)]
            fields = schema["properties"]
            again = [key for key in fields if shown.get(key) == fields[key]]
            rows = _rows(schema, without=again)
            tables.append(_table(_title(schema), rows))
            if again:
                listed = ", ".join(f"<code>{key}</code>" for key in again)
                tables.append(f"<p>And as above: {listed}.</p>")
            shown |= fields
    return tables


def _title(schema: Schema) -> str:
    return f"Fields: {schema['description'][0].lower()}{schema['description'][1:].rstrip('.')}"


def _examples(
    path: str, method: str, operation: Mapping[str, Any], locked: bool, origin: str
) -> list[str]:
    """A curl line and the reply of each example."""
    status, good = next(iter(operation["responses"].items()))
    media = next(iter(good["content"].values()))
    replies = _values(media)
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    requests = _values(body)
    parts = []
    for key in requests or replies or [""]:
        parts.append(f"<h3>Example{f': {key}' if key else ''}</h3>")
        if not _is_signed(operation):
            parts.append(_curl(path, method, requests.get(key), locked, origin))
        if key in replies:
            parts.append(_reply(status, replies[key]))
    return parts


def _is_signed(operation: Mapping[str, Any]) -> bool:
    """Whether a request needs headers that no person writes."""
    return any(one["in"] == "header" and one.get("required") for one in operation["parameters"])


def _values(media: Mapping[str, Any]) -> dict[str, Any]:
    """Examples by name; a single one has none."""
    if "example" in media:
        return {"": media["example"]}
    return {key: example["value"] for key, example in media.get("examples", {}).items()}


def _curl(path: str, method: str, request: Any, locked: bool, origin: str) -> str:
    words = ["curl -s", f'<span class="origin">{escape(origin)}</span>{path}']
    if locked:
        words.append('-H "Authorization: Bearer $KRONOS_API_KEY"')
    if path == "/invocations":
        request = "@request.json"
    if method == "post":
        sent = request if isinstance(request, str) else json.dumps(request)
        quoted = sent.replace("'", "'\\''")
        words += ["-H 'Content-Type: application/json'", f"-d '{escape(quoted, quote=False)}'"]
    return f'<pre class="curl">{" ".join(words)}</pre>'


def _reply(status: str, value: Any) -> str:
    return f'<pre><span class="status">{status}</span>\n{escape(pretty(value), quote=False)}</pre>'


def pretty(value: Any, indent: int = 0) -> str:
    """JSON in which what fits on a line stands on one."""
    line = json.dumps(value, ensure_ascii=False)
    if len(line) + indent <= WIDTH or not isinstance(value, dict | list):
        return line
    margin = " " * (indent + 2)
    if isinstance(value, dict):
        parts = [f"{json.dumps(key)}: {pretty(one, indent + 2)}" for key, one in value.items()]
    else:
        parts = [pretty(one, indent + 2) for one in value]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    lines = f",\n{margin}".join(parts)
    return f"{opening}\n{margin}{lines}\n{' ' * indent}{closing}"


def _errors(responses: Mapping[str, Any]) -> str:
    """The codes of each status; what they mean stands in one table for all paths."""
    rows = []
    for status, response in responses.items():
        schemas = [media["schema"] for media in response["content"].values()]
        codes = list(_codes(schemas))
        if codes:
            listed = " ".join(f"<code>{code}</code>" for code in codes)
            rows.append(f"<tr><td>{status}<td>{prose(response['description'])}<td>{listed}")
    return (
        '<details><summary>Errors</summary><table class="codes"><tr><th>Status<th>When'
        f"<th>Codes{''.join(rows)}</table></details>"
    )


def _all_codes(document: Mapping[str, Any]) -> str:
    """The meaning of each code that a path lists."""
    codes: set[str] = set()
    for methods in document["paths"].values():
        for operation in methods.values():
            for response in operation["responses"].values():
                codes.update(_codes(media["schema"] for media in response["content"].values()))
    rows = [f"<tr><td><code>{code}</code><td>{prose(CODES[code].when)}" for code in sorted(codes)]
    return f'<table class="meanings">{"".join(rows)}</table>'


def _codes(schemas: Iterable[Schema]) -> Iterable[str]:
    """Codes that a response can have."""
    for schema in schemas:
        parts = [*schema.get("allOf", ()), *schema.get("anyOf", ())]
        yield from _codes(parts)
        yield from schema.get("properties", {}).get("error_code", {}).get("enum", ())


# --- fields -------------------------------------------------------------------------------------


def _named(title: str, schema: Schema) -> str:
    table = "" if title in _UNITED else _table("", _rows(schema))
    description = prose(schema.get("description", ""))
    return f'<h3 id="object-{title}">{title}</h3><p>{description}</p>{table}'


def _rows(schema: Schema, without: Collection[str] = ()) -> list[str]:
    required = schema.get("required", ())
    return [
        _row(key, _kind(one), one.get("description", ""), key in required)
        for key, one in schema["properties"].items()
        if key not in without
    ]


def _row(field: str, kind: str, description: str, required: bool) -> str:
    star = ' <b title="required">*</b>' if required else ""
    return f"<tr><td><code>{escape(field)}</code>{star}<td>{kind}<td>{prose(description)}"


def _table(title: str, rows: Sequence[str]) -> str:
    heading = f"<h3>{escape(title)}</h3>" if title else ""
    return f'{heading}<table class="fields">{"".join(rows)}</table>'


def _target(schema: Schema) -> str:
    target: str = schema["$ref"]
    return target.removeprefix(_REF)


def _kind(schema: Schema) -> str:
    """The type of a value in words."""
    if "$ref" in schema:
        target = _target(schema)
        return f'<a href="#object-{target}">{target}</a>'
    if "oneOf" in schema:
        return ", or ".join(map(_kind, schema["oneOf"]))
    if "enum" in schema:
        return " or ".join(f"<code>{escape(str(one))}</code>" for one in schema["enum"])
    if "const" in schema:
        return f"<code>{escape(json.dumps(schema['const']))}</code>"
    types = schema.get("type", "any")
    if isinstance(types, list):
        return " or ".join(_kind({**schema, "type": one}) for one in types)
    return _kind_of_type(types, schema)


def _kind_of_type(kind: str, schema: Schema) -> str:
    match kind:
        case "array":
            return f"list of {_plural(_kind(schema['items']))}{_size(schema)}"
        case "object":
            values = schema.get("additionalProperties")
            return f"object of {_plural(_kind(values))}" if values else "object"
        case "integer":
            return f"whole number{_range(schema)}"
        case "number":
            return f"number{_range(schema)}"
        case "string":
            longest = schema.get("maxLength")
            return f"text, up to {longest} characters" if longest else "text"
    return {"boolean": "true or false", "null": "null"}.get(kind, "any")


def _plural(kind: str) -> str:
    for one in ("whole number", "number"):
        if kind.startswith(one):
            return kind.replace(one, f"{one}s", 1)
    return {"text": "texts"}.get(kind, kind.replace("list of", "lists of", 1))


def _size(schema: Schema) -> str:
    least, most = schema.get("minItems", 0), schema.get("maxItems")
    if most:
        return f", {least} to {most}"
    return f", at least {least}" if least > 1 else ""


def _range(schema: Schema) -> str:
    if "exclusiveMinimum" in schema and "exclusiveMaximum" in schema:
        return f" between {schema['exclusiveMinimum']} and {schema['exclusiveMaximum']}"
    if "exclusiveMinimum" in schema:
        return f" above {schema['exclusiveMinimum']}"
    if "maximum" in schema:
        return f" {schema['minimum']}..{schema['maximum']}"
    return f" from {schema['minimum']}" if "minimum" in schema else ""
