"""Scores of issued forecasts, one row for each forecast, step and symbol whose outcome is known.

Scores are observations: a restated outcome replaces the row from then on, and what was first true
stays. Those of a backfill count as known from the close of the session that was forecast, which is
marked `assumed`.
"""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import sqlalchemy as sa

from registry.errors import BadParameter, Conflict, NotFound
from registry.forecast import calendars, names
from registry.ledger import checks, database, instants, observations
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
        check_clock(connection, scope, at)
        timing = Timing(at, None if forecast.source == BACKFILL else at)
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


# --- checks -----------------------------------------------------------------------------------


def _check_rows(rows: pd.DataFrame) -> None:
    """Values of the right kind in columns of any names."""
    if not len(rows) or not rows.columns.is_unique or names.UNIQUE_ID not in rows:
        raise BadParameter("scores need rows with unique_id, and no column twice")
    for symbol in rows[names.UNIQUE_ID]:
        checks.check_name(names.UNIQUE_ID, symbol)
    if rows[names.UNIQUE_ID].duplicated().any():
        raise BadParameter("scores have a symbol twice")
    for name in rows.columns.drop(names.UNIQUE_ID):
        check_values(str(name), rows[name])


def check_values(name: str, column: "pd.Series[Any]") -> None:
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


def check_clock(connection: sa.Connection, scope: sa.ColumnElement[bool], at: datetime) -> None:
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
