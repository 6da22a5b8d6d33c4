"""Scores of issued forecasts, one row for each forecast, step and symbol whose outcome is known.

Scores are observations: a restated outcome replaces the row from then on, and what was first true
stays. Those of a backfill count as known from the close of the session that was forecast, which is
marked `assumed`.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import sqlalchemy as sa

from registry.errors import BadParameter, NotFound
from registry.forecast import calendars, names
from registry.ledger import database, instants, observations
from registry.ledger.bulk import INSTANT
from registry.ledger.claims import now
from registry.ledger.forecasts import BACKFILL, find_symbols, forecast_blocks, forecasts
from registry.ledger.instants import Day
from registry.ledger.recording import Counts, Timing, observe

COVERED = ("covered_50", "covered_80", "covered_90")  # 1 if the outcome was in the central band
RAW = ("crps", "pit", *COVERED)
_ALWAYS = ("crps", "pit")  # a band that reaches beyond the levels has no score
CALIBRATED = tuple(f"{name}_calibrated" for name in RAW)  # empty: no calibration was applied


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

    `rows` has unique_id, y and some of RAW and CALIBRATED; symbols that it lacks keep their scores.
    Raises NotFound for an unknown forecast or symbol, and BadParameter for a step beyond the
    horizon, a session that has not closed, or a value that is not finite.
    """
    _check(rows)
    at = now()
    f = forecasts.c
    query = sa.select(forecasts).where(f.forecast_id == forecast_id).with_for_update()
    with database.write(engine) as connection:
        found = connection.execute(query).first()
        if found is None:
            raise NotFound(f"the ledger has no forecast {forecast_id[:64]!r}")
        day, close = _session(found, step, at)
        ids = _ids(connection, found, rows[names.UNIQUE_ID].tolist())
        table = _table(found.id, step, day, ids, rows)
        scope = (scores.c.forecast == found.id) & (scores.c.step == step)
        timing = Timing(at, None if found.source == BACKFILL else at)
        closes = pa.array(np.full(len(rows), close)).cast(INSTANT)
        return observe(connection, scores, scope, table, closes, timing, whole=False)


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


def _check(rows: pd.DataFrame) -> None:
    allowed = (names.UNIQUE_ID, names.Y, *RAW, *CALIBRATED)
    for name in rows.columns:
        if name not in allowed:
            raise BadParameter(f"no column {name!r}, expected some of {', '.join(allowed)}")
    needed = (names.UNIQUE_ID, names.Y, *_ALWAYS)
    if not set(needed) <= set(rows.columns) or not len(rows):
        raise BadParameter(f"scores need rows with {', '.join(needed)}")
    if rows[names.UNIQUE_ID].duplicated().any():
        raise BadParameter("scores have a symbol twice")
    for name in rows.columns.drop(names.UNIQUE_ID):
        if not np.isfinite(rows[name].to_numpy(dtype=np.float64)).all():
            raise BadParameter(f"{name} holds a value that is not finite")


def _session(forecast: Any, step: int, at: datetime) -> tuple[Any, np.datetime64]:
    """The session of a step (datetime64[D]), and when it closed."""
    if not 1 <= step <= forecast.horizon:
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
        kind = pa.int64() if name in scores.c and _is_whole(name) else pa.float64()
        given = rows[name].to_numpy() if name in rows else None
        columns[name] = pa.nulls(number, kind) if given is None else pa.array(given).cast(kind)
    return pa.table(columns).sort_by("symbol_id")


def _is_whole(name: str) -> bool:
    return isinstance(scores.c[name].type, sa.Integer)
