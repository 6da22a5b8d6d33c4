"""Scores of many forecasts, recorded together: what a night needs."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa

from registry.errors import BadParameter
from registry.forecast import calendars, names
from registry.forecast.arrays import Places
from registry.ledger import bulk, database, instants
from registry.ledger.bulk import INSTANT
from registry.ledger.claims import now
from registry.ledger.forecasts import forecasts
from registry.ledger.issue import BACKFILL
from registry.ledger.recording import Counts, Timing, observe
from registry.ledger.scores import VALUES, check_clock, check_values, scores

_SYMBOLS = 1 << 31  # more than any symbol_id; packs (place of the forecast, symbol) into one number
_FEW = 500  # symbols that are asked for by number


def score_all(engine: sa.Engine, rows: pa.Table) -> Counts:
    """Record scores of many forecasts of a data set in one transaction; what was done.

    `rows` has the columns VALUES, sorted by forecast, step and symbol, without a key twice. Symbols
    are those of the forecasts' blocks. A forecast that was removed meanwhile is left out. The same
    scores again change nothing. Raises BadParameter, and Conflict if a clock runs behind.
    """
    _check_table(rows)
    numbers = pc.unique(rows.column("forecast")).to_pylist()
    query = sa.select(forecasts).where(forecasts.c.id.in_(numbers)).with_for_update()
    with database.write(engine) as connection:
        heads = connection.execute(query.order_by(forecasts.c.id)).all()
        at = now()  # nobody else scores these forecasts from here on
        there = pc.is_in(rows.column("forecast"), pa.array([head.id for head in heads]))
        rows = rows.filter(there)
        if not rows.num_rows:
            return Counts()
        return _Scoring(connection, heads, at).record(rows)


@dataclass(frozen=True)
class _Scoring:
    """Records scores of forecasts whose rows this transaction holds; those are by id."""

    connection: sa.Connection
    heads: Sequence[Any]
    at: datetime

    def record(self, rows: pa.Table) -> Counts:
        closes = self._closes(rows)
        scored = self._scored(rows)
        self._insert(rows.filter(pa.array(~scored)), closes.filter(pa.array(~scored)))
        counts = Counts(new=int((~scored).sum()))
        backfilled = self._of_heads(rows, [head.source == BACKFILL for head in self.heads])
        steps = rows.column(names.STEP).to_numpy()
        for step in np.unique(steps[scored]).tolist():
            for before in (None, self.at):
                kind = backfilled if before is None else ~backfilled
                chosen = pa.array(scored & (steps == step) & kind)
                part = rows.filter(chosen)
                if part.num_rows:
                    counts += self._observe(part, closes.filter(chosen), Timing(self.at, before))
        return counts

    def _insert(self, rows: pa.Table, closes: pa.Array) -> None:
        """Add scores of steps that have none."""
        backfilled = self._of_heads(rows, [head.source == BACKFILL for head in self.heads])
        assumed = pa.array(backfilled)
        begins = pc.if_else(assumed, closes, pa.scalar(self.at, INSTANT))
        kept = [name for name in VALUES if rows.column(name).null_count < rows.num_rows]
        added = rows.select(kept).append_column("known_from", begins)
        bulk.insert(self.connection, scores, added.append_column("assumed", assumed))

    def _observe(self, rows: pa.Table, closes: pa.Array, timing: Timing) -> Counts:
        """Write scores of one step where some symbols have scores already."""
        c = scores.c
        numbers = pc.unique(rows.column("forecast")).to_numpy()
        scope = (c.step == rows.column(names.STEP)[0].as_py()) & c.forecast.in_(numbers.tolist())
        symbol_ids = pc.unique(rows.column("symbol_id")).to_pylist()
        if len(symbol_ids) <= _FEW:
            scope &= c.symbol_id.in_(symbol_ids)
        check_clock(self.connection, scope, self.at)

        def keys(table: pa.Table) -> Places:
            places = np.searchsorted(numbers, table.column("forecast").to_numpy())
            packed: Places = places * _SYMBOLS + table.column("symbol_id").to_numpy()
            return packed

        return observe(self.connection, scores, scope, rows, closes, timing, whole=False, keys=keys)

    def _closes(self, rows: pa.Table) -> pa.Array:
        """When the session of each row closed. Raises BadParameter for a wrong session."""
        calendar = self.heads[0].calendar
        if any(head.calendar != calendar for head in self.heads):
            raise BadParameter("scores that are recorded together have several calendars")
        steps = rows.column(names.STEP).to_numpy()
        horizons = self._of_heads(rows, [head.horizon for head in self.heads])
        if (steps > horizons).any():
            raise BadParameter("a step is beyond the horizon of its forecast")
        cutoffs = np.array([head.cutoff for head in self.heads], dtype="datetime64[ns]")
        following = calendars.next_sessions_many(calendar, cutoffs, int(steps.max()))
        places = np.searchsorted([head.id for head in self.heads], rows.column("forecast"))
        days = following[places, steps - 1].astype("datetime64[D]")
        if (rows.column(names.DS).to_numpy().astype("datetime64[D]") != days).any():
            raise BadParameter("a row has another session than its step")
        closes = instants.closes_of(calendar, days)
        if (closes > np.datetime64(self.at.replace(tzinfo=None))).any():
            raise BadParameter(f"the session {days.max()} has not closed")
        return pa.array(closes).cast(INSTANT)

    def _scored(self, rows: pa.Table) -> Any:
        """Whether any symbol of each row's forecast and step has a score [N]."""
        f, c = forecasts.c, scores.c
        steps = rows.column(names.STEP).to_numpy()
        numbers = rows.column("forecast").to_numpy()
        scored = np.zeros(len(steps), dtype=bool)
        for step in np.unique(steps).tolist():
            of_step = steps == step
            any_score = sa.exists().where(c.forecast == f.id, c.step == step)
            wanted = f.id.in_(np.unique(numbers[of_step]).tolist())
            there = self.connection.scalars(sa.select(f.id).where(wanted, any_score)).all()
            scored |= of_step & np.isin(numbers, there)
        return scored

    def _of_heads(self, rows: pa.Table, values: Sequence[Any]) -> Any:
        """A value of each row's forecast [N]."""
        numbers = [head.id for head in self.heads]
        places = np.searchsorted(numbers, rows.column("forecast").to_numpy())
        return np.array(values)[places]


def _check_table(rows: pa.Table) -> None:
    """Columns and values of scores that are recorded together."""
    if tuple(rows.column_names) != VALUES or not rows.num_rows:
        raise BadParameter(
            f"scores have columns {', '.join(rows.column_names)}, expected {', '.join(VALUES)}"
        )
    for name in VALUES[3:]:
        if name != names.DS:
            check_values(name, rows.column(name).drop_null().to_pandas())
