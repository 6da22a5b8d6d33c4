"""Forecasts as they were issued.

A row of `forecasts` is what one version said after one cutoff; `forecast_blocks` has the numbers of
each symbol. Neither is ever changed. A forecast is known from the instant when it was issued.
"""

import json
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from registry.errors import BadParameter, Conflict, NotFound
from registry.forecast.arrays import Floats
from registry.forecast.forecast import Forecast
from registry.ledger import bulk, checks, database, instants, loads
from registry.ledger.claims import now
from registry.ledger.instants import Day, Instant
from registry.ledger.observations import symbols

# A backfill was computed later than its `issued_at`, from what was known then.
SERVED, BACKFILL = "served", "backfill"
SOURCES = ("nightly", SERVED, "shadow", BACKFILL)
_IDS = uuid.UUID("b0f5a2bb-3d5d-4c3e-9d0e-6a2a6b0c8f11")  # namespace of the ids made here
_LISTED = 5  # symbols that a message names

forecasts = sa.Table(
    "forecasts",
    database.metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("forecast_id", sa.String(64), nullable=False, unique=True),
    sa.Column("registry", sa.Text, nullable=False),  # id of the registry
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("data", sa.String(64), nullable=False),  # data set
    sa.Column("calendar", sa.Text, nullable=False),
    sa.Column("source", sa.String(8), nullable=False),
    sa.Column("cutoff", Day, nullable=False),
    sa.Column("issued_at", Instant, nullable=False),
    sa.Column("recorded_at", Instant, nullable=False),
    sa.Column("series", sa.Integer, nullable=False),  # number of blocks
    sa.Column("horizon", sa.Integer, nullable=False),
    sa.Column("levels", sa.Text, nullable=False),  # JSON
    sa.Column("calibration", sa.Integer),  # version of the calibration; empty: none
    sa.Index("forecasts_model_cutoff", "model", "cutoff"),
)
forecast_blocks = sa.Table(
    "forecast_blocks",
    database.metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True),
    sa.Column("forecast", sa.Integer, nullable=False),  # `forecasts.id`
    sa.Column("symbol_id", sa.Integer, nullable=False),
    sa.Column("raw", sa.LargeBinary, nullable=False),  # [H, 1 + Q] float64, little-endian
    sa.Column("calibrated", sa.LargeBinary),  # the same; empty: no calibration was applied
    sa.UniqueConstraint("forecast", "symbol_id", name="forecast_blocks_forecast_symbol"),
)


@dataclass(frozen=True, kw_only=True)
class Issue:
    """Who issued a forecast, of what, and when."""

    registry: str  # id of the registry
    model: str
    version: int
    data: str  # data set in the ledger
    source: str  # one of SOURCES
    cutoff: date
    issued_at: datetime
    calibration: int | None = None  # version of the calibration that was applied
    forecast_id: str = ""  # empty: made from registry to cutoff; needed if it was served

    @property
    def id(self) -> str:
        """`forecast_id`, or the one id that this version has for the cutoff."""
        if self.forecast_id:
            return self.forecast_id
        key = [self.registry, self.model, self.version, self.data, self.source, str(self.cutoff)]
        return str(uuid.uuid5(_IDS, json.dumps(key)))


@dataclass(frozen=True)
class Blocks:
    """Numbers of a forecast: for each symbol and step its mean, then its quantiles."""

    symbols: tuple[str, ...]  # [N]
    levels: tuple[float, ...]  # [Q]
    raw: Floats  # [N, H, 1 + Q]
    calibrated: Floats | None = None  # [N, H, 1 + Q]

    @classmethod
    def of(cls, raw: Forecast, calibrated: Forecast | None = None) -> "Blocks":
        """Of a forecast and of the same one calibrated, both at the levels of the model."""
        after = None if calibrated is None else _block(calibrated)
        return cls(raw.unique_id, raw.levels, _block(raw), after)


def issue(engine: sa.Engine, what: Issue, blocks: Blocks) -> bool:
    """Record a forecast; False if it is there already, with the same numbers.

    Raises BadParameter, NotFound for a symbol that the ledger lacks, and Conflict if other numbers
    were issued under this id: those stay.
    """
    _check(what)
    _check_blocks(blocks)
    try:
        with database.write(engine) as connection:
            calendar, ids = find_symbols(connection, what.data, blocks.symbols)
            _check_instant(what, calendar)
            row = _row(what, blocks) | {"calendar": calendar, "recorded_at": now()}
            inserted = sa.insert(forecasts).values(**row).returning(forecasts.c.id)
            number = connection.execute(inserted).scalar_one()
            bulk.insert(connection, forecast_blocks, _table(number, ids, blocks))
    except IntegrityError as error:
        _check_same(engine, what, blocks, error)
        return False
    return True


def _block(forecast: Forecast) -> Floats:
    return np.concatenate([forecast.mean[:, :, None], forecast.quantiles], axis=2)


# --- checks -----------------------------------------------------------------------------------


def _check(what: Issue) -> None:
    checks.check_name("registry", what.registry)
    checks.check_name("model", what.model, 64)
    checks.check_whole("version", what.version, 1)
    checks.check_choice("source", what.source, SOURCES)
    checks.check_session("cutoff", what.cutoff)
    checks.check_instant("issued_at", what.issued_at)
    if what.forecast_id:
        checks.check_name("forecast_id", what.forecast_id, 64)
    if what.source == SERVED and not what.forecast_id:
        raise BadParameter("a served forecast needs the forecast_id that its reply has")
    if what.issued_at > now():
        raise BadParameter(f"issued_at {what.issued_at} is in the future")


def _check_instant(what: Issue, calendar: str) -> None:
    close = instants.close_of(calendar, what.cutoff)
    if what.issued_at < close:
        raise BadParameter(
            f"issued at {what.issued_at}, before the cutoff {what.cutoff} closed at {close}"
        )


def _check_blocks(blocks: Blocks) -> None:
    number = len(blocks.symbols)
    expected = (number, blocks.raw.shape[1] if blocks.raw.ndim > 1 else 0, 1 + len(blocks.levels))
    if not number or not expected[1] or len(set(blocks.symbols)) != number:
        raise BadParameter("a forecast has at least one step and symbol, and no symbol twice")
    for values in (blocks.raw, blocks.calibrated):
        if values is None:
            continue
        if values.shape != expected:
            raise BadParameter(
                f"blocks have shape {values.shape}, expected [N, H, 1 + Q] = {expected}"
            )
        if not np.isfinite(values).all():
            raise BadParameter("a forecast holds a value that is not finite")
        if (values[:, :, 2:] < values[:, :, 1:-1]).any():
            raise BadParameter("quantiles cross")


def _check_same(engine: sa.Engine, what: Issue, blocks: Blocks, error: Exception) -> None:
    """Raise Conflict unless the forecast is there with these numbers."""
    b, f = forecast_blocks.c, forecasts.c
    with database.read(engine) as connection:
        there = connection.execute(sa.select(forecasts).where(f.forecast_id == what.id)).one()
        _, ids = find_symbols(connection, what.data, blocks.symbols)
        query = sa.select(b.symbol_id, b.raw, b.calibrated).where(b.forecast == there.id)
        stored = {row.symbol_id: (row.raw, row.calibrated) for row in connection.execute(query)}
    row = _row(what, blocks)
    same = all(there._mapping[name] == row[name] for name in row if name != "issued_at")
    given = _table(there.id, ids, blocks).to_pydict()
    numbers = zip(given["raw"], given["calibrated"], strict=True)
    if not same or stored != dict(zip(given["symbol_id"], numbers, strict=True)):
        raise Conflict(
            f"{what.model}/{what.version} has issued other numbers for the cutoff {what.cutoff} "
            f"at {there.issued_at:%Y-%m-%d %H:%M:%S} UTC (forecast {what.id}); those stay",
            code="FORECAST_DIFFERS",
        ) from error


# --- rows -------------------------------------------------------------------------------------


def find_symbols(
    connection: sa.Connection, data: str, wanted: Sequence[str]
) -> tuple[str, dict[str, int]]:
    """The calendar of a data set, and the id of each wanted symbol. Raises NotFound.

    The data set is not removed before the transaction ends.
    """
    calendar = loads.needed(connection, data)
    c = symbols.c
    rows = connection.execute(sa.select(c.symbol, c.id).where(c.data == data))
    known = {row.symbol: row.id for row in rows}
    if missing := [symbol for symbol in wanted if symbol not in known]:
        raise NotFound(f"{data} in the ledger has no symbol {', '.join(missing[:_LISTED])}")
    return calendar, {symbol: known[symbol] for symbol in wanted}


def _row(what: Issue, blocks: Blocks) -> dict[str, Any]:
    """The row of `forecasts`, but for what the ledger adds."""
    return asdict(what) | {
        "forecast_id": what.id,
        "series": len(blocks.symbols),
        "horizon": blocks.raw.shape[1],
        "levels": json.dumps(blocks.levels),
    }


def _table(number: int, ids: dict[str, int], blocks: Blocks) -> pa.Table:
    columns = {
        "forecast": pa.repeat(number, len(ids)),
        "symbol_id": pa.array(list(ids.values()), pa.int64()),
        "raw": bulk.packed_blocks(blocks.raw),
        "calibrated": pa.nulls(len(ids), pa.binary()),
    }
    if blocks.calibrated is not None:
        columns["calibrated"] = bulk.packed_blocks(blocks.calibrated)
    return pa.table(columns)
