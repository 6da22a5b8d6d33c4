"""Served requests, kept for replay: the last ones to arrive only, their bodies compressed.

A body is what a client sent. Headers and keys are not kept.
"""

import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime

import sqlalchemy as sa

from registry.errors import BadParameter, Corrupt, NotFound
from registry.ledger import checks, database, revisions
from registry.ledger.instants import Instant

KEEP = 10_000
LARGEST = 1 << 20  # bytes of a body, before it is compressed


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request that was answered. Raises BadParameter."""

    request_id: str
    forecast_id: str | None  # None: it was refused
    model: str
    version: int
    received_at: datetime
    status: int  # of HTTP
    payload: bytes = field(repr=False)  # the body

    def __post_init__(self) -> None:
        checks.check_name("request_id", self.request_id)
        if self.forecast_id is not None:
            checks.check_name("forecast_id", self.forecast_id, 64)
        checks.check_name("model", self.model, 64)
        checks.check_whole("version", self.version, 1)
        checks.check_instant("received_at", self.received_at)
        if self.status not in range(100, 600):
            raise BadParameter("status is no status of HTTP, 100 to 599")
        if not isinstance(self.payload, bytes):
            raise BadParameter(f"payload is {type(self.payload).__name__}, expected bytes")
        if len(self.payload) > LARGEST:
            raise BadParameter(
                f"payload has {len(self.payload)} bytes, at most {LARGEST} are kept for replay"
            )


requests = sa.Table(
    "requests",
    database.metadata,
    sa.Column("id", sa.Integer, primary_key=True),  # in the order of arrival
    sa.Column("request_id", sa.String(128), nullable=False),
    sa.Column("forecast_id", sa.String(64)),
    sa.Column("model", sa.String(64), nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("received_at", Instant, nullable=False),
    sa.Column("status", sa.Integer, nullable=False),
    sa.Column("payload", sa.LargeBinary, nullable=False),  # compressed by zlib
    sa.Column("digest", sa.String(64), nullable=False),  # sha256 of the body
    sa.UniqueConstraint("request_id", name="requests_request_id"),
)


def record(engine: sa.Engine, rows: Sequence[Request], keep: int = KEEP) -> None:
    """Add requests in the order given, and remove all but the last `keep` that were added.

    The first request of an id stays: one that comes with this id in a later call is dropped. Raises
    BadParameter if two different requests of a call have one id.
    """
    checks.check_whole("keep", keep, 1)
    given = _by_id(rows)
    c = requests.c
    with revisions.alone(engine, requests) as connection:
        there = set(connection.scalars(sa.select(c.request_id).where(c.request_id.in_(given))))
        new = [_packed(row) for request_id, row in given.items() if request_id not in there]
        if new:
            connection.execute(sa.insert(requests), new)
        _remove_old(connection, keep)


def find(engine: sa.Engine, request_id: str) -> Request:
    """A request with its body. Raises NotFound, and Corrupt if the body was changed."""
    query = sa.select(requests).where(requests.c.request_id == request_id)
    with database.read(engine) as connection:
        row = connection.execute(query).mappings().first()
    if row is None:
        raise NotFound(f"no request {request_id[:64]!r} is kept; the ledger has the last ones only")
    values = dict(row)
    del values["id"]
    digest = values.pop("digest")
    return Request(**{**values, "payload": _body(request_id, values["payload"], digest)})


def _by_id(rows: Sequence[Request]) -> dict[str, Request]:
    given: dict[str, Request] = {}
    for row in rows:
        if given.setdefault(row.request_id, row) != row:
            raise BadParameter(f"two different requests have the id {row.request_id[:64]!r}")
    return given


def _packed(row: Request) -> dict[str, object]:
    """The columns of a request."""
    digest = hashlib.sha256(row.payload).hexdigest()
    return {**asdict(row), "payload": zlib.compress(row.payload), "digest": digest}


def _body(request_id: str, packed: bytes, digest: str) -> bytes:
    try:
        body = zlib.decompressobj().decompress(packed, LARGEST)
    except zlib.error as error:
        raise _changed(request_id) from error
    if hashlib.sha256(body).hexdigest() != digest:
        raise _changed(request_id)
    return body


def _changed(request_id: str) -> Corrupt:
    return Corrupt(f"the body of request {request_id} is not the one that was recorded")


def _remove_old(connection: sa.Connection, keep: int) -> None:
    c = requests.c
    newest_first = sa.select(c.id).order_by(c.id.desc())
    newest_removed = connection.scalar(newest_first.offset(keep).limit(1))
    if newest_removed is not None:
        connection.execute(sa.delete(requests).where(c.id <= newest_removed))
