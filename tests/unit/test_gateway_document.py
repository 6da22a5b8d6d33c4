"""The OpenAPI document of the gateway and its page, without a gateway."""

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest
from schemathesis.specs.openapi import definitions

from registry.codes import CODES, REQUEST, SERVING
from serving.gateway.endpoints import Endpoints
from serving.gateway.metrics import ENDPOINTS
from serving.gateway.openapi.document import document
from serving.gateway.openapi.page import page, pretty, prose
from serving.gateway.reading import forecast_request

MODELS = ["nbeats", "har"]
DOCUMENT = document(MODELS, keys=False)
ORIGIN = "http://127.0.0.1:8080"
PAGE = page(DOCUMENT, ORIGIN)
LARGEST = 40_000  # bytes of the page
VOID = {"meta", "link"}
# HTML closes these by itself.
OPTIONAL = {"tr", "td", "th"}

RESPONSES = [
    (path, status, response)
    for path, methods in DOCUMENT["paths"].items()
    for operation in methods.values()
    for status, response in operation["responses"].items()
]


def validator(schema: dict[str, Any]) -> jsonschema.Draft202012Validator:
    """Of a schema that may refer to others of the document."""
    return jsonschema.Draft202012Validator({**schema, "components": DOCUMENT["components"]})


def codes(schema: dict[str, Any]) -> Iterator[str]:
    """All codes that a schema of an error lists."""
    for part in (*schema.get("allOf", ()), *schema.get("anyOf", ())):
        yield from codes(part)
    yield from schema.get("properties", {}).get("error_code", {}).get("enum", ())


def listed(response: dict[str, Any]) -> list[str]:
    return [code for media in response["content"].values() for code in codes(media["schema"])]


# --- the document -----------------------------------------------------------------------------


@pytest.mark.parametrize("keys", [True, False])
@pytest.mark.parametrize("models", [["har"], MODELS])
def test_the_document_is_one_of_openapi_3_1(models: list[str], keys: bool) -> None:
    described = json.loads(json.dumps(document(models, keys)))
    jsonschema.Draft202012Validator(definitions.OPENAPI_31).validate(described)
    for schema in described["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_every_reference_leads_to_a_schema() -> None:
    references = re.findall(r'"\$ref": "#/components/schemas/(\w+)"', json.dumps(DOCUMENT))
    assert set(references) <= set(DOCUMENT["components"]["schemas"])
    assert set(DOCUMENT["components"]["schemas"]) <= set(references)


def test_the_paths_are_those_of_the_gateway_with_their_methods() -> None:
    parts = SimpleNamespace(models=MODELS)
    config = SimpleNamespace(keys="", host="0.0.0.0", port=8080)
    endpoints = Endpoints(config, parts, *[None] * 4)  # type: ignore[arg-type]
    served = {name: path.method.lower() for name, path in endpoints.paths().items()}
    described = {name: next(iter(methods)) for name, methods in DOCUMENT["paths"].items()}
    assert described == served
    assert set(described) == set(ENDPOINTS)


def test_open_paths_need_no_key_and_the_others_do() -> None:
    with_keys = document(MODELS, keys=True)
    assert with_keys["security"] == [{"bearer": []}]
    closed = [
        path
        for path, methods in with_keys["paths"].items()
        for operation in methods.values()
        if operation.get("security") != []
    ]
    assert closed == ["/forecast", "/invocations", "/models", "/metrics"]


def test_a_model_must_be_named_if_there_are_several() -> None:
    single = document(["har"], keys=False)["components"]["schemas"]["ForecastRequest"]
    assert single["required"] == ["symbol"]
    several = DOCUMENT["components"]["schemas"]["ForecastRequest"]
    assert several["required"] == ["symbol", "model"]
    assert several["properties"]["model"]["enum"] == MODELS


# --- codes ------------------------------------------------------------------------------------


def test_every_code_stands_under_its_status() -> None:
    for path, status, response in RESPONSES:
        if status == "431":  # of the server below the application
            assert listed(response) == ["BAD_INPUT"]
            continue
        for code in listed(response):
            assert CODES[code].kind.status == int(status), (path, code)


def test_forecast_lists_every_code_of_requests_and_serving() -> None:
    of_forecast = {
        code for path, _, response in RESPONSES if path == "/forecast" for code in listed(response)
    }
    of_start = {"NOT_LOOPBACK", "PORT_TAKEN", "LOAD_FAILED"}
    elsewhere = {"WRONG_METHOD", "BAD_OUTPUT"}
    expected = {code for code, entry in CODES.items() if entry.part in (REQUEST, SERVING)}
    assert expected - of_start - elsewhere <= of_forecast
    assert not of_forecast & (of_start | elsewhere)


def test_every_error_has_the_one_form() -> None:
    error = {"error_code": "NOT_READY", "message": "not yet", "request_id": "17"}
    for path, status, response in RESPONSES:
        assert "kronos-request-id" in response["headers"]
        assert ("retry-after" in response["headers"]) == (status in ("429", "503")), path
        if status >= "400":
            schema = response["content"]["application/json"]["schema"]
            code = listed(response)[0]
            validator(schema).validate({**error, "error_code": code})


# --- examples ---------------------------------------------------------------------------------


def media() -> Iterator[tuple[dict[str, Any], Any]]:
    """(schema, example) of all requests and replies."""
    for methods in DOCUMENT["paths"].values():
        for operation in methods.values():
            bodies = [
                operation.get("requestBody", {"content": {}}),
                *operation["responses"].values(),
            ]
            for body in bodies:
                for one in body["content"].values():
                    named = [example["value"] for example in one.get("examples", {}).values()]
                    unnamed = [one["example"]] if "example" in one else []
                    yield from [(one["schema"], example) for example in (*named, *unnamed)]


def test_every_example_is_as_its_schema_says() -> None:
    examples = list(media())
    assert len(examples) > 10
    for schema, example in examples:
        validator(schema).validate(example)


def requests() -> dict[str, Any]:
    content = DOCUMENT["paths"]["/forecast"]["post"]["requestBody"]["content"]
    return {name: one["value"] for name, one in content["application/json"]["examples"].items()}


@pytest.mark.parametrize("name", ["symbol", "series", "batch"])
def test_every_example_is_read(name: str) -> None:
    request = forecast_request(json.dumps(requests()[name]).encode())
    assert (request.model, request.refused) == ("nbeats", [])


SERIES = {"symbol": "A", "model": "har", "series": [0.01, 0.02]}
BARS = {name: [1.0, 2.0] for name in ("open", "high", "low", "close")}
BAD = [
    {"symbol": ""},
    {"symbol": " A"},
    {"symbol": "A\nB"},
    {"symbol": "A" * 129},
    {"model": "nobody"},
    {"series": []},
    {"series": ["1"]},
    {"bars": BARS},
    {"ds": ["2021-01-04", "2021-01-04"]},
    {"ds": ["20210104", "20210105"]},
    {"horizon": 0},
    {"horizon": 61},
    {"horizon": [1, 1]},
    {"horizon": []},
    {"levels": [0]},
    {"levels": 1},
    {"seed": -1},
    {"freq": "1h"},
    {"data": "../x"},
    {"options": {"output": "packed"}},
    {"options": {"paths": None}},
    {"features": {"y": [0.0, 0.0]}},
    {"cumulative": 1},
    {"horizont": 5},
]


@pytest.mark.parametrize("change", BAD, ids=str)
def test_schemas_refuse_what_the_reader_refuses(change: dict[str, Any]) -> None:
    schema = validator(DOCUMENT["components"]["schemas"]["ForecastRequest"])
    assert schema.is_valid(SERIES)
    assert not schema.is_valid({**SERIES, **change})


GOOD = [
    {"ds": ["2021-01-04", "2021-01-05"]},
    {"ds": ["2021-01-04T00:00:00", "2021-01-05 00:00:00"]},
    {"horizon": [5, 1.0]},
    {"levels": 0.5},
    {"seed": 2**63 - 1},
    {"options": {"paths": 10, "kind": "x", "fast": True}},
    {"features": {"news_count": [0, 1]}},
    {"symbol": "日本 é%"},
    {"symbol": "A"},
]


@pytest.mark.parametrize("change", GOOD, ids=str)
def test_schemas_allow_what_the_reader_reads(change: dict[str, Any]) -> None:
    request = {**SERIES, **change}
    assert validator(DOCUMENT["components"]["schemas"]["ForecastRequest"]).is_valid(request)
    assert len(forecast_request(json.dumps(request).encode()).items) == 1


# --- the page ---------------------------------------------------------------------------------


class Tags(HTMLParser):
    """Checks that tags are closed, and collects addresses and ids."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.addresses += [attributes[key] or "" for key in ("href", "src") if key in attributes]
        if "id" in attributes:
            self.ids.append(attributes["id"] or "")
        if tag not in VOID | OPTIONAL:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in OPTIONAL:
            assert self.open.pop() == tag


def test_the_page_is_whole_small_and_needs_nothing_else() -> None:
    tags = Tags()
    tags.feed(PAGE)
    assert tags.open == []
    assert len(tags.ids) == len(set(tags.ids))
    for address in tags.addresses:
        local = address in ("/openapi.json", "data:,")
        assert local or address.removeprefix("#") in tags.ids, address
    assert not re.search(r"@import|url\(|fetch\(|https://", PAGE)
    assert len(PAGE.encode()) < LARGEST
    assert "$" not in PAGE.replace("$KRONOS_API_KEY", "")


def test_the_page_shows_all_paths_and_codes() -> None:
    for path, _, response in RESPONSES:
        assert f"</span> {path}</h2>" in PAGE
        for code in listed(response):
            assert f"<code>{code}</code>" in PAGE


def test_curl_lines_send_the_key_where_one_is_needed() -> None:
    lines = re.findall(r'<pre class="curl"[^>]*>(.*?)</pre>', page(document(MODELS, True), ORIGIN))
    with_key = [line for line in lines if "Bearer $KRONOS_API_KEY" in line]
    assert len(with_key) == 6  # three of /forecast, and the other closed paths
    assert "Bearer" not in "".join(re.findall(r'<pre class="curl".*?</pre>', PAGE))


def test_words_of_a_description_are_escaped_and_code_is_marked() -> None:
    assert prose("a `<b>` & c") == "a <code>&lt;b&gt;</code> &amp; c"


def test_json_that_fits_stands_on_one_line() -> None:
    assert pretty({"a": [1, 2]}) == '{"a": [1, 2]}'
    wide = pretty({"a": ["x" * 60, "y" * 60]})
    assert wide.splitlines()[:2] == ["{", '  "a": [']
    assert json.loads(wide) == {"a": ["x" * 60, "y" * 60]}
