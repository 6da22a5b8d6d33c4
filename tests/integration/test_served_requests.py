"""Requests kept for replay, on SQLite and PostgreSQL."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

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


def test_only_the_last_requests_to_arrive_are_kept(engine: sa.Engine):
    rows = [
        replace(REQUEST, request_id=f"{n}", received_at=NOON + timedelta(seconds=n))
        for n in range(9)
    ]
    requests.record(engine, rows[5:], keep=5)
    requests.record(engine, rows[:5], keep=6)  # received earlier, they arrive late
    assert [number for number in range(9) if is_kept(engine, f"{number}")] == [0, 1, 2, 3, 4, 8]
    requests.record(engine, [replace(REQUEST, request_id="new")], keep=2)
    assert is_kept(engine, "new")
    with pytest.raises(NotFound, match="no request '3' is kept"):
        requests.find(engine, "3")
    assert requests.find(engine, "4") == rows[4]


def test_of_requests_of_one_instant_as_many_are_kept_as_asked_for(engine: sa.Engine):
    requests.record(engine, [replace(REQUEST, request_id=name) for name in "hgfedcba"], keep=3)
    assert [name for name in "hgfedcba" if is_kept(engine, name)] == ["c", "b", "a"]
    requests.record(engine, [replace(REQUEST, request_id=name) for name in "zab"], keep=3)
    assert [name for name in "hgfedcbaz" if is_kept(engine, name)] == ["b", "a", "z"]


def test_two_different_requests_of_one_id_are_refused(engine: sa.Engine):
    with pytest.raises(BadParameter, match="two different requests have the id 'a'"):
        requests.record(engine, [REQUEST, replace(REQUEST, status=500)])
    requests.record(engine, [REQUEST, REQUEST])
    assert requests.find(engine, "a") == REQUEST


def test_neither_a_repr_nor_an_error_shows_what_was_sent(engine: sa.Engine):
    assert "symbols" not in repr(REQUEST)
    again = {**vars(REQUEST), "digest": ""}
    with pytest.raises(IntegrityError) as caught, database.write(engine) as connection:
        connection.execute(sa.insert(requests.requests), [again, again])
    assert "nbeats" not in str(caught.value)


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
    ("forecast_id", "x" * 65, "forecast_id is no text of 1 to 64"),
]


@pytest.mark.parametrize(("field", "value", "message"), WRONG)
def test_wrong_requests_are_refused(field: str, value: Any, message: str):
    with pytest.raises(BadParameter, match=message):
        replace(REQUEST, **{field: value})
