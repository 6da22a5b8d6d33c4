"""MLflow's webhooks: whether a message comes from our tracking server, and now.

MLflow 3.17 signs like Standard Webhooks, under headers of its own (mlflow/webhooks/delivery.py):
the signature is `v1,` and the base64 HMAC-SHA256 of `ID.TIMESTAMP.BODY`, keyed with the secret.
Every message that verifies wakes the poll, which reads the registry; the body itself is not
believed. So a message that is repeated within `TOLERANCE_S` costs one look and changes nothing.
MLflow sends nothing for a changed stage or a deleted version, so polling goes on beside them.
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping

from registry.errors import Unauthenticated

# As in ASGI, names of headers are in lower case.
DELIVERY_ID = b"x-mlflow-delivery-id"
TIMESTAMP = b"x-mlflow-timestamp"
SIGNATURE = b"x-mlflow-signature"

TOLERANCE_S = 300.0  # MLflow repeats a message with its first time, for up to two minutes

_VERSION = b"v1,"
_SECONDS = re.compile(rb"[0-9]{1,12}")

# A webhook should name these. A promotion moves an alias.
EVENTS = (
    "model_version_alias.created",
    "model_version_alias.deleted",
    "model_version_tag.set",
    "model_version_tag.deleted",
)


def verify(headers: Mapping[bytes, bytes], body: bytes, secret: str, now: float) -> None:
    """Raise Unauthenticated unless the body was signed with the secret in the last 5 minutes.

    `now` is seconds since 1970. An empty secret verifies nothing.
    """
    if not secret:
        raise Unauthenticated("the gateway takes no webhooks; set KRONOS_WEBHOOK_SECRET")
    names = (DELIVERY_ID, TIMESTAMP, SIGNATURE)
    delivery, timestamp, signature = (headers.get(name, b"") for name in names)
    if not (delivery and timestamp and signature):
        raise Unauthenticated("the webhook is not signed; create it in MLflow with a secret")
    content = b".".join((delivery, timestamp, body))
    if not hmac.compare_digest(_signature(secret, content), signature):
        raise Unauthenticated("the webhook's signature is wrong; compare the secrets")
    if not _SECONDS.fullmatch(timestamp) or abs(now - int(timestamp)) > TOLERANCE_S:
        raise Unauthenticated("the webhook was not sent in the last 5 minutes; compare the clocks")


def _signature(secret: str, content: bytes) -> bytes:
    digest = hmac.new(secret.encode(), content, hashlib.sha256).digest()
    return _VERSION + base64.b64encode(digest)
