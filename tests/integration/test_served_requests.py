"""Requests kept for replay, on SQLite and PostgreSQL."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from registry.errors import BadParameter, Corrupt, NotFound
from registry.ledger import database, requests
from registry.ledger.requests import LARGEST, Request

NOON = datetime(2026, 11, 26, 12, 0, 0, 123456, tzinfo=UTC)
REQUEST = Request(
    request_id="a",
    forecast_id="f1",
    model="nbeats",
    version=3,
    received_at=NOON,
    status=200,
    payload=b'{"symbols": ["A"]}\0',
)


@pytest.fixture
def engine(ledger_uri: str) -> Iterator[sa.Engine]:
    """Of an empty ledger."""
    engine = database.connect(ledger_uri)
    database.bring_up_to_date(engine)
    yield engine
    engine.dispose()


def test_a_request_comes_back_as_it_was_and_again_changes_nothing(engine: sa.Engine):
    refused = replace(REQUEST, request_id="b", forecast_id=None, status=400, payload=b"")
    largest = replace(REQUEST, request_id="c", payload=b"x" * LARGEST)
    requests.record(engine, [REQUEST, refused, largest])
    requests.record(engine, [replace(REQUEST, status=500, payload=b"other")])
    for row in (REQUEST, refused, largest):
        assert requests.find(engine, row.request_id) == row
    with database.write(engine) as connection:
        connection.execute(sa.update(requests.requests).values(payload=b"no zlib"))
    with pytest.raises(Corrupt, match="the body of request a is not the one"):
        requests.find(engine, "a")


def test_only_the_newest_requests_are_kept(engine: sa.Engine):
    rows = [
        replace(REQUEST, request_id=f"{n}", received_at=NOON + timedelta(seconds=n))
        for n in range(9)
    ]
    requests.record(engine, rows[5:], keep=5)
    requests.record(engine, rows[:5], keep=5)  # older ones that arrive late
    with pytest.raises(NotFound, match="no request '3' is kept"):
        requests.find(engine, "3")
    assert requests.find(engine, "4") == rows[4]
    requests.record(engine, [replace(REQUEST, request_id="new", received_at=NOON)], keep=2)
    kept = [number for number in range(9) if is_kept(engine, f"{number}")]
    assert kept == [7, 8]


def is_kept(engine: sa.Engine, request_id: str) -> bool:
    try:
        requests.find(engine, request_id)
    except NotFound:
        return False
    return True


WRONG: list[tuple[str, Any, str]] = [
    ("payload", b"x" * (LARGEST + 1), "payload has 1048577 bytes, at most 1048576"),
    ("payload", "text", "payload is str, expected bytes"),
    ("status", 42, "status is no status of HTTP"),
    ("received_at", NOON.replace(tzinfo=None), "received_at is no time with a zone"),
    ("request_id", "", "request_id is no text"),
]


@pytest.mark.parametrize(("field", "value", "message"), WRONG)
def test_wrong_requests_are_refused(field: str, value: Any, message: str):
    with pytest.raises(BadParameter, match=message):
        replace(REQUEST, **{field: value})
