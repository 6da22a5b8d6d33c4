"""Answers of single endpoints, without a server."""

import asyncio
import json
from types import SimpleNamespace

import pytest

from serving.gateway.endpoints import Endpoints
from serving.gateway.routes import Routes


@pytest.fixture
def endpoints() -> Endpoints:
    """Of a gateway whose only model does not answer yet."""
    config = SimpleNamespace(keys="", host="127.0.0.1", port=8080)
    routes = Routes(["har"], on_drained=lambda _: None)
    return Endpoints(config, routes, *[None] * 4)  # type: ignore[arg-type]


def test_a_gateway_that_is_not_ready_says_when_to_ask_again(endpoints: Endpoints) -> None:
    response = asyncio.run(endpoints.ready(None, None))  # type: ignore[arg-type]
    assert response.status == 503
    assert json.loads(response.body) == {"ready": False, "models": {"har": "starting"}}
    assert (b"retry-after", b"1") in response.headers
