"""Forecasts of a version whose sessions have passed, with what came true, session by session.

with TrackRecord(Settings()) as record:
    for night in nights(record.engine, scope, until=date(2022, 6, 30)):
        night.session, night.matured[0].y

One forecast of each cutoff counts: the nightly one, or else the backfill. What was served or
shadowed never counts. An outcome is the return as it was first known; a symbol without a return in
the session is left out.
"""

import json
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import numpy as np
import sqlalchemy as sa

from registry.forecast import calendars
from registry.forecast.arrays import Floats, Places
from registry.ledger import blocks, checks, database, first_known, observations
from registry.ledger.blocks import Numbers
from registry.ledger.claims import now
from registry.ledger.first_known import Listed
from registry.ledger.forecasts import forecasts
from registry.ledger.issue import BACKFILL, NIGHTLY
from registry.ledger.states import Scope

SOURCES = (NIGHTLY, BACKFILL)  # of forecasts that count, the preferred one first


@dataclass(frozen=True, eq=False)
class LedgerMatured:
    """What came true in one session of the forecasts of one step."""

    step: int
    forecast_id: str
    cutoff: date
    levels: tuple[float, ...]  # [Q]
    symbols: tuple[str, ...]  # [N] sorted, at least one
    y: Floats  # [N] log return of the session, as it was first known
    raw: Floats  # [N, 1 + Q] mean and quantiles, as issued
    calibrated: Floats | None  # the same; None: no calibration was applied, or not asked for

    @property
    def quantiles(self) -> Floats:
        """Raw quantiles [N, Q], as issued."""
        return self.raw[:, 1:]


@dataclass(frozen=True, eq=False)
class LedgerNight:
    """All that matured in one session. Steps ascend; one without an outcome is left out."""

    session: date
    matured: tuple[LedgerMatured, ...]  # at least one


def nights(
    engine: sa.Engine,
    scope: Scope,
    since: date | None = None,
    until: date | None = None,
    *,
    as_of: datetime | None = None,
    calibrated: bool = False,
) -> Generator[LedgerNight, None, None]:
    """Nights of a scope from `since` to `until` (both included; None: no limit), in order.

    A session without any outcome is left out. Only forecasts and returns count that were known at
    the instant `as_of` (None: now). Calibrated numbers are read if asked for. All is read from one
    state of the ledger, in parts, so that memory stays bounded. A connection is held until the
    nights end, or `close` is called: use `contextlib.closing` where the caller may fail.
    """
    instant = _instant(as_of)
    with database.read(engine) as connection:
        due = _due(_chosen(connection, scope, instant), since, until)
        listed = Listed.of(connection, scope.data)
        reader = _Reader(connection, listed, due, calibrated)
        sessions = list(due)
        returns = first_known.by_session(connection, scope.data, listed, sessions, instant)
        for session, y in returns:
            night = reader.night(session, y)
            if night.matured:
                yield night


def count(
    engine: sa.Engine, scope: Scope, until: date | None = None, *, as_of: datetime | None = None
) -> int:
    """Number of outcomes that all nights of a scope have until a session."""
    instant = _instant(as_of)
    total = 0
    with database.read(engine) as connection:
        heads = _chosen(connection, scope, instant)
        due = _due(heads, None, until)
        listed = Listed.of(connection, scope.data)
        symbol_ids: dict[int, Places] = {}
        parts = list(blocks.together(heads))
        returns = first_known.by_session(connection, scope.data, listed, list(due), instant)
        for session, y in returns:
            there = ~np.isnan(y)
            for step, head in due[session]:
                while head.id not in symbol_ids:
                    symbol_ids |= blocks.keys(connection, parts.pop(0))
                total += int(there[listed.places(symbol_ids[head.id])].sum())
                if step == head.horizon:
                    del symbol_ids[head.id]
    return total


def counted(engine: sa.Engine, scope: Scope, *, as_of: datetime | None = None) -> list[Any]:
    """The forecasts of a scope that count, by cutoff.

    Each has cutoff, source, horizon, levels (JSON) and calendar, as in the table `forecasts`.
    """
    instant = _instant(as_of)
    with database.read(engine) as connection:
        return _chosen(connection, scope, instant)


def nights_before(
    engine: sa.Engine, scope: Scope, session: date, *, as_of: datetime | None = None
) -> tuple[int, int]:
    """Number of cutoffs before a session with a live forecast, and of those with backfills only."""
    c = forecasts.c
    nights = sa.func.count(c.cutoff.distinct())
    query = (
        observations.as_of(forecasts, _instant(as_of))
        .where(*_of(scope), c.source.in_(SOURCES), c.cutoff < session)
        .with_only_columns(nights, nights.filter(c.source == NIGHTLY))
    )
    with database.read(engine) as connection:
        total, live = connection.execute(query).one()
    return live, total - live


def issued_cutoffs(engine: sa.Engine, scope: Scope) -> set[date]:
    """Cutoffs of a scope that have a forecast that counts."""
    c = forecasts.c
    query = sa.select(c.cutoff).where(*_of(scope), c.source.in_(SOURCES))
    with database.read(engine) as connection:
        return set(connection.scalars(query))


Due = dict[date, list[tuple[int, Any]]]  # steps with their rows of `forecasts`, by session


def _instant(as_of: datetime | None) -> datetime:
    if as_of is None:
        return now()
    checks.check_instant("as_of", as_of)
    return as_of


def _chosen(connection: sa.Connection, scope: Scope, instant: datetime) -> list[Any]:
    """Rows of `forecasts` that count, by cutoff."""
    c = forecasts.c
    query = observations.as_of(forecasts, instant).where(*_of(scope), c.source.in_(SOURCES))
    chosen: dict[date, Any] = {}
    for head in connection.execute(query.order_by(c.cutoff, c.id)):
        first = chosen.setdefault(head.cutoff, head)
        if SOURCES.index(head.source) < SOURCES.index(first.source):
            chosen[head.cutoff] = head
    return list(chosen.values())


def _of(scope: Scope) -> "list[sa.ColumnElement[bool]]":
    return [forecasts.c[name] == value for name, value in vars(scope).items()]


def _due(heads: Sequence[Any], since: date | None, until: date | None) -> Due:
    """What matures in each session, in order; steps ascend."""
    due: Due = {}
    for head, sessions in zip(heads, sessions_of(heads), strict=True):
        for step, session in enumerate(sessions, start=1):
            if (since is None or session >= since) and (until is None or session <= until):
                due.setdefault(session, []).append((step, head))
    return {session: due[session][::-1] for session in sorted(due)}


def sessions_of(heads: Sequence[Any]) -> list[list[date]]:
    """Sessions that each forecast is of; forecasts of a data set have one calendar."""
    if not heads:
        return []
    longest = max(head.horizon for head in heads)
    cutoffs = np.array([head.cutoff for head in heads], dtype="datetime64[ns]")
    following = calendars.next_sessions_many(heads[0].calendar, cutoffs, longest)
    rows: list[list[date]] = following.astype("datetime64[D]").tolist()
    return [row[: head.horizon] for head, row in zip(heads, rows, strict=True)]


class _Reader:
    """Reads numbers of forecasts when they are first due, and forgets them after their end."""

    def __init__(
        self, connection: sa.Connection, listed: Listed, due: Due, calibrated: bool
    ) -> None:
        self._connection = connection
        self._listed = listed
        self._due = due
        self._calibrated = calibrated
        in_order = {head.id: head for pairs in due.values() for _, head in pairs[::-1]}
        self._parts = blocks.together(list(in_order.values()))
        self._last = {head.id: session for session, pairs in due.items() for _, head in pairs}
        self._numbers: dict[int, _Sorted] = {}

    def night(self, session: date, y: Floats) -> LedgerNight:
        """What matured in a session; y [S] are the returns of all symbols. Sessions ascend."""
        matured = []
        for step, head in self._due[session]:
            numbers = self._numbers_of(head)
            outcomes = y[numbers.places]
            there = ~np.isnan(outcomes)
            if there.any():
                matured.append(numbers.matured(self._listed, head, step, outcomes, there))
        for number in [key for key in self._numbers if self._last[key] <= session]:
            del self._numbers[number]
        return LedgerNight(session, tuple(matured))

    def _numbers_of(self, head: Any) -> "_Sorted":
        while head.id not in self._numbers:
            part = next(self._parts)
            read = blocks.read(self._connection, part, calibrated=self._calibrated)
            for number, numbers in read.items():
                self._numbers[number] = _Sorted.of(self._listed, numbers)
        return self._numbers[head.id]


@dataclass(frozen=True, eq=False)
class _Sorted:
    """Numbers of a forecast in the order of the symbols' names."""

    places: Places  # [N] in `Listed.names`
    symbols: tuple[str, ...]  # [N]
    raw: Floats  # [N, H, 1 + Q]
    calibrated: Floats | None

    @classmethod
    def of(cls, listed: Listed, numbers: Numbers) -> "_Sorted":
        places = listed.places(numbers.symbol_ids)
        raw, calibrated = numbers.raw, numbers.calibrated
        if (np.diff(places) < 0).any():
            sort = np.argsort(places)
            places, raw = places[sort], raw[sort]
            calibrated = None if calibrated is None else calibrated[sort]
        return cls(places, tuple(listed.names[places].tolist()), raw, calibrated)

    def matured(self, listed: Listed, head: Any, step: int, y: Floats, there: Any) -> LedgerMatured:
        """The part with an outcome: `there` [N] says which."""
        symbols = self.symbols
        if not there.all():
            symbols = tuple(listed.names[self.places[there]].tolist())
        calibrated = None if self.calibrated is None else self.calibrated[there, step - 1]
        return LedgerMatured(
            step=step,
            forecast_id=head.forecast_id,
            cutoff=head.cutoff,
            levels=tuple(json.loads(head.levels)),
            symbols=symbols,
            y=y[there],
            raw=self.raw[there, step - 1],
            calibrated=calibrated,
        )
