"""Outcomes that have no score yet, and scores of outcomes that were restated since.

An outcome is scored as it was first known. If it is restated, its score is too: the first one stays
in the past of `scores`.
"""

import json
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import sqlalchemy as sa

from registry.forecast import names
from registry.forecast.arrays import Dates, Floats, Places
from registry.ledger import blocks, bulk, database, first_known, instants, observations
from registry.ledger.bulk import packed
from registry.ledger.changes import Changes
from registry.ledger.first_known import Listed
from registry.ledger.forecasts import forecasts
from registry.ledger.maturing import sessions_of
from registry.ledger.observations import symbols
from registry.ledger.scores import scores

_SYMBOLS = 1 << 31  # more than any symbol_id; packs (place of the forecast, symbol) into one number
_FEW = 500  # symbols or sessions that are asked for by number


@dataclass(frozen=True, eq=False)
class Outcomes:
    """R outcomes of forecasts that have one form, sorted by forecast, step and symbol."""

    levels: tuple[float, ...]  # [Q]
    forecasts: Places  # [R] `forecasts.id`
    steps: Places  # [R]
    symbol_ids: Places  # [R]
    sessions: Dates  # [R] datetime64[D]
    y: Floats  # [R]
    quantiles: Floats  # [R, Q] raw
    calibrated: Floats | None  # [R, Q]; None: no calibration was applied
    before: Floats  # [R] outcome that was scored before; NaN: none was

    def __len__(self) -> int:
        return len(self.y)

    def part(self, chosen: Any) -> "Outcomes":
        """Some of the outcomes."""
        return Outcomes(
            self.levels,
            self.forecasts[chosen],
            self.steps[chosen],
            self.symbol_ids[chosen],
            self.sessions[chosen],
            self.y[chosen],
            self.quantiles[chosen],
            None if self.calibrated is None else self.calibrated[chosen],
            self.before[chosen],
        )


def data_sets(engine: sa.Engine) -> list[str]:
    """Data sets that have forecasts, sorted."""
    with database.read(engine) as connection:
        query = sa.select(forecasts.c.data).distinct().order_by(forecasts.c.data)
        return list(connection.scalars(query))


def named(engine: sa.Engine, symbol_ids: Sequence[int]) -> dict[int, str]:
    """Names of symbols by id."""
    c = symbols.c
    query = sa.select(c.id, c.symbol).where(c.id.in_(symbol_ids))
    with database.read(engine) as connection:
        return {row.id: row.symbol for row in connection.execute(query)}


def new(engine: sa.Engine, data: str, instant: datetime) -> Generator[Outcomes, None, None]:
    """Outcomes of steps without any score, as they were first known.

    Only forecasts and returns count that were known at the instant. It holds a connection until it
    ends or is closed.
    """
    with database.read(engine) as connection:
        heads = _unfinished(connection, data, instant)
        reader = _Reader(connection, data, instant, _by_form(heads))
        for part in blocks.together(reader.heads):
            outcomes = reader.new(part)
            if len(outcomes):
                yield outcomes


def late(engine: sa.Engine, data: str, instant: datetime) -> Generator[Outcomes, None, None]:
    """Outcomes without a score that became known after others of their session, and restated ones.

    `before` tells them apart. A late one is given as it was first known, a restated one as it is
    known at the instant; what the ledger learned after the instant is never undone. It holds a
    connection, as `new`.
    """
    with database.read(engine) as connection:
        changes = Changes.read(connection, data, instant)
        if not len(changes.keys):
            return
        heads = _by_form(_known(connection, data, instant))
        reader = _Reader(connection, data, instant, heads)
        for part in blocks.together(reader.heads):
            outcomes = reader.changed(part, changes)
            if len(outcomes):
                yield outcomes


# --- forecasts --------------------------------------------------------------------------------


def _known(connection: sa.Connection, data: str, instant: datetime) -> list[Any]:
    query = observations.as_of(forecasts, instant).where(forecasts.c.data == data)
    return list(connection.execute(query).all())


def _unfinished(connection: sa.Connection, data: str, instant: datetime) -> list[Any]:
    """Forecasts whose last step has no score: all steps of a forecast are scored together."""
    f, c = forecasts.c, scores.c
    scored = sa.exists().where(c.forecast == f.id, c.step == f.horizon)
    query = observations.as_of(forecasts, instant).where(f.data == data, ~scored)
    return list(connection.execute(query).all())


def _by_form(heads: Sequence[Any]) -> list[Any]:
    return sorted(heads, key=lambda head: (*blocks.form(head), head.cutoff, head.id))


# --- outcomes ---------------------------------------------------------------------------------


class _Reader:
    """Reads outcomes of some of the forecasts `heads` of a data set at a time."""

    def __init__(
        self, connection: sa.Connection, data: str, instant: datetime, heads: Sequence[Any]
    ) -> None:
        self._connection = connection
        self._data = data
        self._instant = instant
        self._listed = Listed.of(connection, data)
        self._sessions: dict[int, list[date]] = {}
        self.heads = []
        sessions = sessions_of(heads)
        passed = _passed(heads, sessions, instant)
        for head, days in zip(heads, sessions, strict=True):
            if days[0] in passed:
                self._sessions[head.id] = [day for day in days if day in passed]
                self.heads.append(head)

    def new(self, heads: Sequence[Any]) -> Outcomes:
        """First known outcomes of the steps without a score."""
        due = self._due(heads) & ~self._scored(heads)
        heads = [head for head, steps in zip(heads, due, strict=True) if steps.any()]
        due = due[due.any(axis=1)]
        if not heads:
            return _nothing()
        flat = blocks.read_flat(self._connection, heads, calibrated=True)
        of_block = _places(heads, flat.forecasts)
        sessions = self._table(heads)
        wanted = np.unique(sessions[due])
        y = self._first_known(wanted)
        places = self._listed.places(flat.symbol_ids)
        rows = np.searchsorted(wanted, sessions)[of_block]  # [M, H] where each session is in y
        outcomes = y[np.where(due[of_block], rows, 0), places[:, None]]
        outcomes[~due[of_block]] = np.nan
        return _outcomes(heads, flat, sessions[of_block], outcomes, np.full_like(outcomes, np.nan))

    def changed(self, heads: Sequence[Any], changes: Changes) -> Outcomes:
        """Outcomes of scored steps that became known late or were restated."""
        due = self._due(heads) & np.isin(self._table(heads), changes.sessions)
        due &= self._scored(heads)
        heads = [head for head, steps in zip(heads, due, strict=True) if steps.any()]
        due = due[due.any(axis=1)]
        if not heads:
            return _nothing()
        few = changes.symbol_ids if len(changes.symbol_ids) <= _FEW else ()
        flat = blocks.read_flat(self._connection, heads, calibrated=True, symbol_ids=few)
        of_block = _places(heads, flat.forecasts)
        sessions = self._table(heads)[of_block]  # [M, H]
        keys = _packed(flat.symbol_ids[:, None], sessions)
        near = np.minimum(np.searchsorted(changes.keys, keys), len(changes.keys) - 1)
        affected = due[of_block] & (changes.keys[near] == keys)
        before = self._stored(heads, flat, few)
        y = np.where(np.isnan(before), changes.first[near], changes.last[near])
        affected &= (y != before) & ~np.isnan(y)
        for block, step in np.argwhere(affected & ~np.isnan(before)).tolist():
            known = changes.values[int(keys[block, step])]
            affected[block, step] = before[block, step] in known
        return _outcomes(heads, flat, sessions, np.where(affected, y, np.nan), before)

    def _due(self, heads: Sequence[Any]) -> Any:
        """Steps [K, H] whose session has passed."""
        passed = np.array([len(self._sessions[head.id]) for head in heads])
        return np.arange(heads[0].horizon) < passed[:, None]

    def _table(self, heads: Sequence[Any]) -> Dates:
        """Sessions [K, H]; those that have not passed repeat the last one."""
        rows = []
        for head in heads:
            passed = self._sessions[head.id]
            rows.append([*passed, *[passed[-1]] * (head.horizon - len(passed))])
        return np.array(rows, dtype="datetime64[D]")

    def _scored(self, heads: Sequence[Any]) -> Any:
        """Steps [K, H] of which any symbol has a score."""
        f, c = forecasts.c, scores.c
        numbers = [head.id for head in heads]
        scored = []
        for step in range(1, heads[0].horizon + 1):
            any_score = sa.exists().where(c.forecast == f.id, c.step == step)
            query = sa.select(f.id).where(f.id.in_(numbers), any_score)
            scored.append(np.isin(numbers, self._connection.scalars(query).all()))
        return np.stack(scored, axis=1)

    def _first_known(self, sessions: Dates) -> Floats:
        """First known returns [T, S]."""
        days = sessions.tolist()
        rows = first_known.by_session(
            self._connection, self._data, self._listed, days, self._instant
        )
        return np.stack([y for _, y in rows])

    def _stored(self, heads: Sequence[Any], flat: blocks.Flat, few: Sequence[int]) -> Floats:
        """Outcomes [M, H] of the scores that hold; NaN where there is none."""
        c = scores.c
        numbers = np.array(sorted(head.id for head in heads))
        query = sa.select(c.forecast, c.step, c.symbol_id, c.y).where(
            c.forecast.in_(numbers.tolist()), c.known_until.is_(None)
        )
        if few:
            steps = range(1, heads[0].horizon + 1)
            query = query.where(c.step.in_(steps), c.symbol_id.in_(few))
        rows = bulk.select(self._connection, query)
        stored = _keys(numbers, rows.column("forecast"), rows.column("symbol_id"))
        keys = _keys(numbers, flat.forecasts, flat.symbol_ids)  # ascending, as blocks are
        near = np.minimum(np.searchsorted(keys, stored), len(keys) - 1)
        there = keys[near] == stored
        y = np.full((len(keys), heads[0].horizon), np.nan)
        steps_of_rows = rows.column(names.STEP).to_numpy() - 1
        y[near[there], steps_of_rows[there]] = rows.column(names.Y).to_numpy()[there]
        return y


def _passed(
    heads: Sequence[Any], sessions: Sequence[Sequence[date]], instant: datetime
) -> set[date]:
    """Those of the sessions that have closed by an instant."""
    if not heads:
        return set()
    days = np.unique(np.array([day for of_head in sessions for day in of_head], "datetime64[D]"))
    closes = instants.closes_of(heads[0].calendar, days)
    return set(days[closes <= np.datetime64(instant.replace(tzinfo=None))].tolist())


def _places(heads: Sequence[Any], numbers: Places) -> Places:
    """Place in `heads` of each number [M]."""
    ids = np.array([head.id for head in heads])
    sort = np.argsort(ids)
    places: Places = sort[np.searchsorted(ids[sort], numbers)]
    return places


def _keys(numbers: Places, forecast: Any, symbol_ids: Any) -> Places:
    places = np.searchsorted(numbers, np.asarray(forecast))
    keys: Places = places * _SYMBOLS + np.asarray(symbol_ids)
    return keys


def _packed(symbol_ids: Places, sessions: Dates) -> Places:
    """Keys as those of `bulk.packed`."""
    ids, days = np.broadcast_arrays(symbol_ids, sessions)
    rows = pa.table({"symbol_id": ids.reshape(-1), names.DS: pa.array(days.reshape(-1))})
    return packed(rows).reshape(days.shape)


def _outcomes(
    heads: Sequence[Any], flat: blocks.Flat, sessions: Dates, y: Floats, before: Floats
) -> Outcomes:
    """The outcomes [M, H] that are not NaN, by forecast, step and symbol."""
    block, step = np.nonzero(~np.isnan(y))
    sort = np.lexsort((block, step, flat.forecasts[block]))
    block, step = block[sort], step[sort]
    return Outcomes(
        levels=tuple(json.loads(heads[0].levels)),
        forecasts=flat.forecasts[block],
        steps=step + 1,
        symbol_ids=flat.symbol_ids[block],
        sessions=sessions[block, step],
        y=y[block, step],
        quantiles=flat.raw[block, step, 1:],
        calibrated=None if flat.calibrated is None else flat.calibrated[block, step, 1:],
        before=before[block, step],
    )


def _nothing() -> Outcomes:
    none = np.zeros(0)
    numbers = none.astype(np.int64)
    days = none.astype("datetime64[D]")
    return Outcomes((), numbers, numbers, numbers, days, none, none[:, None], None, none)
