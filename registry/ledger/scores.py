"""Scores of issued forecasts, one row for each forecast, step and symbol whose outcome is known.

Scores are observations: a restated outcome replaces the row from then on, and what was first true
stays. Those of a backfill count as known from the close of the session that was forecast, which is
marked `assumed`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa

from registry.errors import BadParameter, Conflict, NotFound
from registry.forecast import calendars, names
from registry.forecast.arrays import Places
from registry.ledger import bulk, checks, database, instants, observations
from registry.ledger.bulk import INSTANT
from registry.ledger.claims import now
from registry.ledger.forecasts import find_symbols, forecast_blocks, forecasts
from registry.ledger.instants import Day
from registry.ledger.issue import BACKFILL
from registry.ledger.recording import Counts, Timing, observe

COVERED = ("covered_50", "covered_80", "covered_90")  # 1 if the outcome was in the central band
RAW = ("crps", "pit", *COVERED)
_ALWAYS = ("crps", "pit")  # a band that reaches beyond the levels has no score
CALIBRATED = tuple(f"{name}_calibrated" for name in RAW)  # empty: no calibration was applied


VALUES = ("forecast", names.STEP, "symbol_id", names.DS, names.Y, *RAW, *CALIBRATED)
_SYMBOLS = 1 << 31  # more than any symbol_id; packs (place of the forecast, symbol) into one number
_FEW = 500  # symbols that are asked for by number


def _values() -> "list[sa.Column[Any]]":
    columns: list[sa.Column[Any]] = [sa.Column(names.DS, Day, nullable=False)]
    columns.append(sa.Column(names.Y, sa.Double, nullable=False))
    for name in (*RAW, *CALIBRATED):
        if name.startswith("covered"):
            columns.append(sa.Column(name, sa.SmallInteger))
        else:
            columns.append(sa.Column(name, sa.Double, nullable=name not in _ALWAYS))
    return columns


scores = observations.observed(
    "scores",
    [
        sa.Column("forecast", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column(names.STEP, sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("symbol_id", sa.Integer, primary_key=True, autoincrement=False),
    ],
    _values(),
)


def score(engine: sa.Engine, forecast_id: str, step: int, rows: pd.DataFrame) -> Counts:
    """Record the scores of a step; what was done. The same scores again change nothing.

    `rows` has unique_id, y, crps, pit, the bands within the levels of the forecast, and, if it was
    calibrated, all these scores `_calibrated`. Symbols that `rows` lacks keep their scores. Raises
    BadParameter for other columns or values, a step beyond the horizon or a session that has not
    closed, NotFound for an unknown forecast or symbol, and Conflict if a clock runs behind.
    """
    _check_rows(rows)
    f = forecasts.c
    query = sa.select(forecasts).where(f.forecast_id == forecast_id).with_for_update()
    with database.write(engine) as connection:
        forecast = connection.execute(query).first()
        at = now()  # nobody else scores the forecast from here on
        if forecast is None:
            raise NotFound(f"the ledger has no forecast {str(forecast_id)[:64]!r}")
        _check_columns(rows, forecast)
        day, close = _session(forecast, step, at)
        ids = _ids(connection, forecast, rows[names.UNIQUE_ID].tolist())
        table = _table(forecast.id, step, day, ids, rows)
        scope = (scores.c.forecast == forecast.id) & (scores.c.step == step)
        _check_clock(connection, scope, at)
        timing = Timing(at, None if forecast.source == BACKFILL else at)
        closes = pa.array(np.full(len(rows), close)).cast(INSTANT)
        return observe(connection, scores, scope, table, closes, timing, whole=False)


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
        added = rows.append_column("known_from", begins).append_column("assumed", assumed)
        bulk.insert(self.connection, scores, added)

    def _observe(self, rows: pa.Table, closes: pa.Array, timing: Timing) -> Counts:
        """Write scores of one step where some symbols have scores already."""
        c = scores.c
        numbers = pc.unique(rows.column("forecast")).to_numpy()
        scope = (c.step == rows.column(names.STEP)[0].as_py()) & c.forecast.in_(numbers.tolist())
        symbol_ids = pc.unique(rows.column("symbol_id")).to_pylist()
        if len(symbol_ids) <= _FEW:
            scope &= c.symbol_id.in_(symbol_ids)
        _check_clock(self.connection, scope, self.at)

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


def _ids(connection: sa.Connection, forecast: Any, wanted: Sequence[str]) -> dict[str, int]:
    """The id of each symbol. Raises NotFound for one that was not forecast."""
    _, ids = find_symbols(connection, forecast.data, wanted)
    c = forecast_blocks.c
    query = sa.select(c.symbol_id).where(c.forecast == forecast.id)
    of_forecast = set(connection.scalars(query))
    for symbol, number in ids.items():
        if number not in of_forecast:
            raise NotFound(f"the forecast {forecast.forecast_id} has no symbol {symbol}")
    return ids


# --- checks -----------------------------------------------------------------------------------


def _check_table(rows: pa.Table) -> None:
    """Columns and values of scores that are recorded together."""
    if tuple(rows.column_names) != VALUES or not rows.num_rows:
        raise BadParameter(
            f"scores have columns {', '.join(rows.column_names)}, expected {', '.join(VALUES)}"
        )
    for name in VALUES[3:]:
        if name != names.DS:
            _check_values(name, rows.column(name).drop_null().to_pandas())


def _check_rows(rows: pd.DataFrame) -> None:
    """Values of the right kind in columns of any names."""
    if not len(rows) or not rows.columns.is_unique or names.UNIQUE_ID not in rows:
        raise BadParameter("scores need rows with unique_id, and no column twice")
    for symbol in rows[names.UNIQUE_ID]:
        checks.check_name(names.UNIQUE_ID, symbol)
    if rows[names.UNIQUE_ID].duplicated().any():
        raise BadParameter("scores have a symbol twice")
    for name in rows.columns.drop(names.UNIQUE_ID):
        _check_values(str(name), rows[name])


def _check_values(name: str, column: "pd.Series[Any]") -> None:
    try:
        values = column.to_numpy(dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise BadParameter(f"{name} holds something else than numbers") from error
    if not np.isfinite(values).all():
        raise BadParameter(f"{name} holds a value that is not finite")
    if name.startswith("covered") and not np.isin(values, (0, 1)).all():
        raise BadParameter(f"{name} holds something else than 0 and 1")
    if name.startswith("crps") and (values < 0).any():
        raise BadParameter(f"{name} holds a value below 0")
    if name.startswith("pit") and ((values < 0) | (values > 1)).any():
        raise BadParameter(f"{name} holds a value that is not within 0 and 1")


def _check_columns(rows: pd.DataFrame, forecast: Any) -> None:
    """All scores that the forecast can have, and no others: groups count on it."""
    levels = json.loads(forecast.levels)
    expected = {names.UNIQUE_ID, names.Y, *_ALWAYS}
    for name in COVERED:
        outside = round((1 - int(name[-2:]) / 100) / 2, 10)
        if levels[0] <= outside and round(1 - outside, 10) <= levels[-1]:
            expected.add(name)
    if forecast.calibration is not None:
        expected |= {f"{name}_calibrated" for name in expected & set(RAW)}
    if set(rows.columns) != expected:
        listed = ", ".join(sorted(map(str, rows.columns)))
        raise BadParameter(
            f"scores of {forecast.model}/{forecast.version} have columns {listed}, expected "
            f"{', '.join(sorted(expected))}"
        )


def _check_clock(connection: sa.Connection, scope: sa.ColumnElement[bool], at: datetime) -> None:
    latest = connection.scalar(sa.select(sa.func.max(scores.c.known_from)).where(scope))
    if latest is not None and latest >= at:
        raise Conflict(
            f"scores are known from {latest}, which is not before {at}, now: set this host's "
            "clock, or that of the host that wrote them"
        )


def _session(forecast: Any, step: int, at: datetime) -> tuple[Any, np.datetime64]:
    """The session of a step (datetime64[D]), and when it closed."""
    checks.check_whole("step", step, 1)
    if step > forecast.horizon:
        raise BadParameter(f"found step {step}, expected 1 to {forecast.horizon}")
    sessions = calendars.next_sessions(forecast.calendar, pd.Timestamp(forecast.cutoff), step)
    day = sessions.to_numpy()[-1:].astype("datetime64[D]")
    close = instants.closes_of(forecast.calendar, day)[0]
    if close > np.datetime64(at.replace(tzinfo=None)):
        raise BadParameter(f"the session {day[0]} of step {step} has not closed")
    return day[0], close


def _table(
    forecast: int, step: int, day: np.datetime64, ids: dict[str, int], rows: pd.DataFrame
) -> pa.Table:
    """Rows of the table, in the order of its key."""
    number = len(rows)
    columns = {
        "forecast": pa.array(np.full(number, forecast)),
        names.STEP: pa.array(np.full(number, step)),
        "symbol_id": pa.array([ids[name] for name in rows[names.UNIQUE_ID]], pa.int64()),
        names.DS: pa.array(np.full(number, day)),
    }
    for name in (names.Y, *RAW, *CALIBRATED):
        kind = pa.int64() if isinstance(scores.c[name].type, sa.Integer) else pa.float64()
        if name in rows:
            columns[name] = pa.array(rows[name].to_numpy(dtype=np.float64)).cast(kind)
        else:
            columns[name] = pa.nulls(number, kind)
    return pa.table(columns).sort_by("symbol_id")
