"""Webhooks: what MLflow signs is taken, anything else is not."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from mlflow.entities.webhook import Webhook, WebhookEvent
from mlflow.webhooks import delivery
from mlflow.webhooks.types import get_example_payload_for_event

from registry.errors import Unauthenticated
from serving.gateway import webhooks

SECRET = "s3cret with ünicode"
NOW = 1_800_000_000.0


class Wire:
    """Stands in for the session of MLflow's delivery and keeps what would be sent."""

    def post(self, url: str, data: bytes, headers: dict[str, str], timeout: int) -> Any:  # noqa: ARG002
        self.request = requests.Request("POST", url, data=data, headers=headers).prepare()
        return requests.Response()


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    monkeypatch.setattr(delivery, "_validate_webhook_url", lambda url: None)  # noqa: ARG005
    monkeypatch.setattr(delivery, "time", SimpleNamespace(time=lambda: NOW))
    return Wire()


def sent(wire: Wire, event: str, secret: str | None = SECRET) -> tuple[dict[bytes, bytes], bytes]:
    """Headers as ASGI has them, and body, of a message of MLflow's own code."""
    kind = WebhookEvent.from_str(event)
    webhook = Webhook(
        "1", "poll", "https://kronos.example/webhooks/mlflow", [kind], 0, 0, secret=secret
    )
    delivery._send_webhook_request(webhook, get_example_payload_for_event(kind), kind, wire)
    headers = wire.request.headers.items()
    body = wire.request.body
    assert isinstance(body, bytes)
    return {name.lower().encode(): value.encode() for name, value in headers}, body


@pytest.mark.parametrize("event", webhooks.EVENTS)
def test_what_mlflow_signs_is_taken(wire: Wire, event: str) -> None:
    headers, body = sent(wire, event)
    assert json.loads(body)["entity"] == event.split(".")[0]
    webhooks.verify(headers, body, SECRET, NOW + 1)


@pytest.mark.parametrize("late", [300.0, -300.0])
def test_a_message_may_be_five_minutes_off(wire: Wire, late: float) -> None:
    headers, body = sent(wire, "model_version_alias.created")
    webhooks.verify(headers, body, SECRET, NOW + late)
    with pytest.raises(Unauthenticated, match="last 5 minutes"):
        webhooks.verify(headers, body, SECRET, NOW + late * 1.01)


@pytest.mark.parametrize("part", ["body", "secret", "id", "timestamp", "signature", "version"])
def test_a_changed_message_is_refused(wire: Wire, part: str) -> None:
    headers, body = sent(wire, "model_version_alias.created")
    secret = SECRET
    match part:
        case "body":
            body += b" "
        case "secret":
            secret = "another"
        case "id":
            headers[webhooks.DELIVERY_ID] = b"1"
        case "timestamp":
            headers[webhooks.TIMESTAMP] = str(int(NOW) + 1).encode()
        case "signature":
            headers[webhooks.SIGNATURE] = b"v1,\xff"
        case "version":
            headers[webhooks.SIGNATURE] = headers[webhooks.SIGNATURE].replace(b"v1,", b"")
    with pytest.raises(Unauthenticated, match="signature is wrong") as caught:
        webhooks.verify(headers, body, secret, NOW)
    assert secret not in caught.value.message


@pytest.mark.parametrize("name", [webhooks.DELIVERY_ID, webhooks.TIMESTAMP, webhooks.SIGNATURE])
def test_a_message_without_one_of_the_headers_is_refused(wire: Wire, name: bytes) -> None:
    headers, body = sent(wire, "model_version_tag.set")
    del headers[name]
    with pytest.raises(Unauthenticated, match="not signed"):
        webhooks.verify(headers, body, SECRET, NOW)


def test_a_webhook_without_a_secret_is_refused(wire: Wire) -> None:
    headers, body = sent(wire, "model_version_tag.set", secret=None)
    with pytest.raises(Unauthenticated, match="create it in MLflow with a secret"):
        webhooks.verify(headers, body, SECRET, NOW)


def test_an_empty_secret_verifies_nothing(wire: Wire) -> None:
    headers, body = sent(wire, "model_version_tag.set")
    headers[webhooks.SIGNATURE] = webhooks._signature("", b"anything")
    with pytest.raises(Unauthenticated, match="takes no webhooks"):
        webhooks.verify(headers, body, "", NOW)


@pytest.mark.parametrize("timestamp", [b"-1", b"1e9", b"now", b"9" * 5000, b"1.5", "٣".encode()])
def test_a_signed_time_that_is_no_number_of_seconds_is_refused(timestamp: bytes) -> None:
    content = b".".join((b"1", timestamp, b"{}"))
    headers = {
        webhooks.DELIVERY_ID: b"1",
        webhooks.TIMESTAMP: timestamp,
        webhooks.SIGNATURE: webhooks._signature(SECRET, content),
    }
    with pytest.raises(Unauthenticated, match="last 5 minutes"):
        webhooks.verify(headers, b"{}", SECRET, NOW)
