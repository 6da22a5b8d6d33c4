"""Calibrations of a version: numbered states, the current one, and the previous one.

A state of a key and step is a bias, a scale and an offset for each level. A calibration is written
once and never changed. Which one is current and which one previous has a past, so that a forecast
of any instant can be calibrated as it was then.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from typing import Any

import numpy as np
import sqlalchemy as sa

from registry.errors import Conflict, Corrupt, NotFound
from registry.ledger import checks, database, observations, revisions
from registry.ledger.claims import now
from registry.ledger.instants import Day, Instant
from registry.ledger.states import (
    Calibration,
    Scope,
    States,
    Version,
    checked_levels,
    evidence_json,
)

CURRENT, PREVIOUS = "current", "previous"
_NUMBER = np.dtype("<f8")  # of a stored offset


def _scope_columns() -> "list[sa.Column[Any]]":
    return [
        sa.Column("registry", sa.String(128), nullable=False),
        sa.Column("model", sa.String(64), nullable=False),
        sa.Column("version", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("data", sa.String(64), nullable=False),
    ]


_SCOPE = ("registry", "model", "version", "data")
calibrations = sa.Table(
    "calibrations",
    database.metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    *_scope_columns(),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("method", sa.String(16), nullable=False),
    sa.Column("learned_until", Day, nullable=False),
    sa.Column("known_from", Instant, nullable=False),
    sa.Column("levels", sa.Text, nullable=False),  # JSON
    sa.Column("evidence", sa.Text, nullable=False),  # JSON
    sa.Column("digest", sa.String(64), nullable=False),  # of all but the evidence
    sa.UniqueConstraint(*_SCOPE, "number", name="calibrations_number"),
    sa.UniqueConstraint(*_SCOPE, "digest", name="calibrations_digest"),
)
calibration_states = sa.Table(
    "calibration_states",
    database.metadata,
    sa.Column("calibration_id", sa.Integer, sa.ForeignKey("calibrations.id"), primary_key=True),
    sa.Column("kind", sa.String(8), primary_key=True),
    sa.Column("name", sa.String(128), primary_key=True),
    sa.Column("step", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("bias", sa.Double, nullable=False),
    sa.Column("scale", sa.Double, nullable=False),
    sa.Column("offsets", sa.LargeBinary, nullable=False),  # float64 [Q], little-endian
    sqlite_with_rowid=False,
)
calibrations_in_use = revisions.revised(
    "calibrations_in_use",
    [
        *[
            sa.Column(c.name, c.type, primary_key=True, autoincrement=False)
            for c in _scope_columns()
        ],
        sa.Column("role", sa.String(8), primary_key=True),  # current | previous
    ],
    [sa.Column("number", sa.Integer, nullable=False)],
)


def publish(
    engine: sa.Engine,
    scope: Scope,
    *,
    method: str,
    learned_until: date,
    levels: Sequence[float],
    states: States,
    evidence: Mapping[str, Any],
) -> int:
    """Make a calibration the current one, and the current one the previous one; its number.

    Content that the scope already has is not made current again, whatever its evidence, and keeps
    its number: a job that runs again does not undo a roll-back. Raises BadParameter, and Conflict
    if this host's clock is behind the last change.
    """
    checks.check_name("method", method, 16)
    checks.check_session("learned_until", learned_until)
    values = {
        "method": method,
        "learned_until": learned_until,
        "levels": json.dumps(checked_levels(levels, states)),
        "evidence": evidence_json(evidence),
    }
    rows = _rows(states)
    values["digest"] = _digest(values, rows)
    c = calibrations.c
    with revisions.alone(engine, calibrations_in_use) as connection:
        same = sa.select(c.number).where(*_of(calibrations, scope), c.digest == values["digest"])
        number: int | None = connection.scalar(same)
        if number is not None:
            return number
        newest = sa.select(sa.func.max(c.number)).where(*_of(calibrations, scope))
        number = (connection.scalar(newest) or 0) + 1
        head = {**vars(scope), **values, "number": number, "known_from": now()}
        inserted = connection.execute(sa.insert(calibrations).returning(c.id), head).scalar_one()
        if rows:
            owned = [{"calibration_id": inserted, **row} for row in rows]
            connection.execute(sa.insert(calibration_states), owned)
        at = now()  # last: readers see nothing before the commit, and many states take a second
        connection.execute(sa.update(calibrations).where(c.id == inserted).values(known_from=at))
        _use(connection, scope, number, _held(connection, scope).get(CURRENT), at)
    return number


def number_of(
    engine: sa.Engine,
    scope: Scope,
    *,
    method: str,
    learned_until: date,
    levels: Sequence[float],
    states: States,
) -> int | None:
    """Number of the calibration of a scope with this content; None: it was never published."""
    head = {
        "method": method,
        "learned_until": learned_until,
        "levels": json.dumps(checked_levels(levels, states)),
    }
    digest = _digest(head, _rows(states))
    c = calibrations.c
    query = sa.select(c.number).where(*_of(calibrations, scope), c.digest == digest)
    with database.read(engine) as connection:
        number: int | None = connection.scalar(query)
    return number


def roll_back(engine: sa.Engine, scope: Scope) -> int:
    """Exchange the current and the previous calibration; the number of what is current now.

    Raises Conflict: NOTHING_BEFORE if there is no previous one, or if this host's clock is behind
    the last change.
    """
    with revisions.alone(engine, calibrations_in_use) as connection:
        numbers = _held(connection, scope)
        if PREVIOUS not in numbers:
            raise Conflict(
                f"{scope.model} {scope.version} on {scope.data} has no calibration before the "
                "current one",
                code="NOTHING_BEFORE",
            )
        _use(connection, scope, numbers[PREVIOUS], numbers[CURRENT], now())
        return numbers[PREVIOUS]


def current(engine: sa.Engine, scope: Scope, as_of: datetime | None = None) -> Calibration | None:
    """The calibration that was current at an instant (None: now); None: the identity.

    Raises BadParameter for an instant without a zone, and Corrupt if it was changed or cut since
    it was published.
    """
    instant = now() if as_of is None else as_of
    checks.check_instant("as_of", instant)
    with database.read(engine) as connection:
        number = _in_use(connection, scope, instant).get(CURRENT)
        return None if number is None else _read(connection, scope, number)


def numbered(engine: sa.Engine, scope: Scope, number: int) -> Calibration:
    """A calibration of a scope. Raises NotFound, and Corrupt as `current`."""
    with database.read(engine) as connection:
        return _read(connection, scope, number)


def _read(connection: sa.Connection, scope: Scope, number: int) -> Calibration:
    c, of_states = calibrations.c, calibration_states.c
    query = sa.select(calibrations).where(*_of(calibrations, scope), c.number == number)
    head = connection.execute(query).first()
    if head is None:
        raise NotFound(f"{scope.model} {scope.version} on {scope.data} has no calibration {number}")
    states = sa.select(calibration_states).where(of_states.calibration_id == head.id)
    rows = _sorted(map(dict, connection.execute(states).mappings()))
    if _digest(dict(head._mapping), rows) != head.digest:
        raise Corrupt(
            f"calibration {number} of {scope.model} {scope.version} on {scope.data} is not the one "
            "that was published; restore the ledger from a backup"
        )
    return _calibration(_version(head), rows)


def current_numbers(engine: sa.Engine, registry: str) -> dict[Scope, int]:
    """The number of each calibration of a registry that is current now: it changes with it."""
    c = calibrations_in_use.c
    holds = observations.as_of(calibrations_in_use, now())
    query = holds.where(c.registry == registry, c.role == CURRENT)
    numbers = {}
    with database.read(engine) as connection:
        for row in connection.execute(query).mappings():
            scope = Scope(**{name: row[name] for name in _SCOPE})
            numbers[scope] = row["number"]
    return numbers


def versions(engine: sa.Engine, scope: Scope) -> list[Version]:
    """All calibrations of a scope, in the order of their numbers."""
    query = sa.select(calibrations).where(*_of(calibrations, scope))
    with database.read(engine) as connection:
        rows = connection.execute(query.order_by(calibrations.c.number)).all()
    return [_version(row) for row in rows]


def _of(table: sa.Table, scope: Scope) -> list[sa.ColumnElement[bool]]:
    return [table.c[name] == getattr(scope, name) for name in _SCOPE]


def _in_use(connection: sa.Connection, scope: Scope, instant: datetime) -> dict[str, int]:
    """The numbers that were current and previous at an instant."""
    rows = observations.as_of(calibrations_in_use, instant).where(*_of(calibrations_in_use, scope))
    return {row.role: row.number for row in connection.execute(rows)}


def _held(connection: sa.Connection, scope: Scope) -> dict[str, int]:
    """The numbers that hold, whatever this host's clock says: a writer ends what holds."""
    keys = [(*[getattr(scope, name) for name in _SCOPE], role) for role in (CURRENT, PREVIOUS)]
    holds = calibrations_in_use.c.known_until.is_(None)
    rows = revisions.stored(connection, calibrations_in_use, keys, holds)
    return {row["role"]: row["number"] for row in rows}


def _use(
    connection: sa.Connection, scope: Scope, number: int, previous: int | None, at: datetime
) -> None:
    roles = {CURRENT: number, PREVIOUS: previous}
    rows = [{**vars(scope), "role": role, "number": n} for role, n in roles.items() if n]
    revisions.revise(connection, calibrations_in_use, rows, at)


def _rows(states: States) -> list[dict[str, Any]]:
    """The columns of each state, sorted by (kind, name, step)."""
    bias = states.bias + 0.0  # SQLite keeps -0.0 as 0.0, which has another digest
    offsets = np.ascontiguousarray(states.offsets + 0.0, _NUMBER)
    rows = []
    for place, (kind, name) in enumerate(states.keys):
        rows.append(
            {
                "kind": kind,
                "name": name,
                "step": int(states.steps[place]),
                "bias": float(bias[place]),
                "scale": float(states.scale[place]),
                "offsets": offsets[place].tobytes(),
            }
        )
    return _sorted(rows)


def _sorted(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: (row["kind"], row["name"], row["step"]))


def _digest(head: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """sha256 of what a calibration does to forecasts, and of what it learned until."""
    content: list[Any] = [head["method"], head["learned_until"].isoformat(), head["levels"]]
    for row in rows:
        values = [row[name] for name in ("kind", "name", "step", "bias", "scale")]
        content.append([*values, row["offsets"].hex()])
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _version(row: Any) -> Version:
    return Version(
        number=row.number,
        method=row.method,
        learned_until=row.learned_until,
        known_from=row.known_from,
        levels=tuple(json.loads(row.levels)),
        evidence=json.loads(row.evidence),
    )


def _calibration(version: Version, rows: Sequence[Mapping[str, Any]]) -> Calibration:
    stored = np.frombuffer(b"".join(row["offsets"] for row in rows), _NUMBER)
    return Calibration(
        **vars(version),
        keys=[(row["kind"], row["name"]) for row in rows],
        steps=np.array([row["step"] for row in rows], dtype=np.int64),
        bias=np.array([row["bias"] for row in rows], dtype=np.float64),
        scale=np.array([row["scale"] for row in rows], dtype=np.float64),
        offsets=stored.reshape(len(rows), len(version.levels)).astype(np.float64),
    )
