"""The OpenAPI document of a running gateway: what it says holds for any request."""

import html
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import schemathesis
from gateways import Gateway, running
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from jobs.data.load import load
from registry.settings import Settings
from serving.gateway.openapi.document import document

MODELS = ["nbeats", "ewma"]
DOCUMENT = document(MODELS, keys=False)
# A request that breaks no schema may be refused: a series is too short, a symbol is not known.
CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
    checks.missing_required_header,
    checks.unsupported_method,
]

api = schemathesis.openapi.from_dict(DOCUMENT)
REFUSALS = ["400", "401", "413", "415", "422"]
api.config.checks.negative_data_rejection.expected_statuses = REFUSALS


@pytest.fixture(scope="module")
def gateway(served_models: Settings) -> Iterator[Gateway]:
    """A gateway with nbeats and ewma, and the built-in prices in its ledger.

    Its replies are raw, as those of the examples: other tests publish calibrations here.
    """
    load(served_models, "panel")
    with running(served_models, MODELS, KRONOS_CALIBRATION_ENABLED="0") as gateway:
        yield gateway


@schemathesis.serializer("application/vnd.apache.arrow.stream")
def as_bytes(_: schemathesis.SerializationContext, value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


@api.parametrize()
@hypothesis.settings(max_examples=50)
def test_any_request_is_answered_as_the_document_says(
    case: schemathesis.Case, gateway: Gateway
) -> None:
    """No 5xx; documented statuses, headers and bodies only; what breaks a schema is refused."""
    response = case.call(base_url=gateway.url)
    excluded = [checks.negative_data_rejection] if refuses_items(response) else []
    case.validate_response(response, checks=CHECKS, excluded_checks=excluded)


def refuses_items(response: Any) -> bool:
    """Whether it is the reply to a batch that lists bad items: they are refused alone."""
    return response.status_code == 200 and b'"refused":[{' in response.content


# --- what a person copies ---------------------------------------------------------------------


def examples() -> dict[str, Any]:
    content = DOCUMENT["paths"]["/forecast"]["post"]["requestBody"]["content"]
    return {name: one["value"] for name, one in content["application/json"]["examples"].items()}


@pytest.mark.parametrize("name", ["symbol", "series", "batch"])
def test_examples_are_answered(name: str, gateway: Gateway) -> None:
    response = gateway.post("/forecast", examples()[name])
    assert response.status_code == 200, response.text
    of_document = DOCUMENT["paths"]["/forecast"]["post"]["responses"]["200"]["content"]
    reply = of_document["application/json"]["examples"][name]["value"]
    assert keys(response.json()) == keys(reply)


def keys(reply: Any) -> Any:
    """A reply without its numbers and texts."""
    if isinstance(reply, dict):
        return {key: keys(value) for key, value in reply.items()}
    return [keys(value) for value in reply] if isinstance(reply, list) else ""


def test_document_and_page_are_served_as_they_are_built(gateway: Gateway) -> None:
    served = gateway.get("/openapi.json")
    assert served.headers["content-type"] == "application/json"
    assert served.json() == DOCUMENT
    shown = gateway.get("/docs")
    assert shown.headers["content-type"] == "text/html; charset=utf-8"
    assert "<h1>Kronos Registry gateway</h1>" in shown.text


def test_curl_lines_of_the_page_are_answered(gateway: Gateway) -> None:
    lines = re.findall(r'<pre class="curl">(.*?)</pre>', gateway.get("/docs").text, re.DOTALL)
    texts = [html.unescape(re.sub("<[^>]*>", "", line)) for line in lines]
    for text in [text for text in texts if "/forecast" in text or " -d " not in text]:
        line = re.sub(r"http://[^/]*", gateway.url, text)
        command = ["bash", "-c", f"{line} -o /dev/null -w '%{{http_code}}'"]
        status = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert status == "200", line
