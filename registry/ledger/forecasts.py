"""Forecasts as they were issued.

A row of `forecasts` is what one version said after one cutoff; `forecast_blocks` has the numbers of
each X"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from registry.errors import BadParameter, Conflict, NotFound
from registry.ledger import bulk, database, instants, loads
from registry.ledger.claims import now
from registry.ledger.instants import Day, Instant
from registry.ledger.issue import BACKFILL, Blocks, Issue, check
from registry.ledger.observations import symbols

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
    sa.Column("known_from", Instant, nullable=False),
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


def issue(engine: sa.Engine, issued: Issue, blocks: Blocks) -> bool:
    """Record a forecast; False if it is there already, with the same numbers.

    Raises BadParameter, BadHistory for a cutoff that is no session, NotFound for a symbol that the
    ledger lacks, and Conflict if other numbers were issued under this id: those stay.
    """
    check(issued, blocks)
    try:
        with database.write(engine) as connection:
            _insert(connection, issued, blocks)
        return True
    except IntegrityError as error:
        if not _is_gone(engine, issued, blocks, error):
            return False
    return issue(engine, issued, blocks)  # the other one was removed meanwhile


def _insert(connection: sa.Connection, issued: Issue, blocks: Blocks) -> None:
    calendar, ids = find_symbols(connection, issued.data, blocks.symbols)
    _check_instant(issued, calendar)
    at = now()
    known_from = issued.issued_at if issued.source == BACKFILL else at
    added = {"calendar": calendar, "recorded_at": at, "known_from": known_from}
    row = _row(issued, blocks) | added
    inserted = sa.insert(forecasts).values(**row).returning(forecasts.c.id)
    number = connection.execute(inserted).scalar_one()
    bulk.insert(connection, forecast_blocks, _table(number, ids, blocks))


def _check_instant(issued: Issue, calendar: str) -> None:
    close = instants.close_of(calendar, issued.cutoff)
    if issued.issued_at < close:
        raise BadParameter(
            f"issued at {issued.issued_at}, before the cutoff {issued.cutoff} closed at {close}"
        )


def _is_gone(engine: sa.Engine, issued: Issue, blocks: Blocks, error: Exception) -> bool:
    """Whether the forecast was removed meanwhile. Raises Conflict if it has other numbers."""
    b, f = forecast_blocks.c, forecasts.c
    with database.read(engine) as connection:
        there = connection.execute(sa.select(forecasts).where(f.forecast_id == issued.id)).first()
        if there is None:
            return True
        _, ids = find_symbols(connection, issued.data, blocks.symbols)
        query = sa.select(b.symbol_id, b.raw, b.calibrated).where(b.forecast == there.id)
        stored = {row.symbol_id: (row.raw, row.calibrated) for row in connection.execute(query)}
    row = _row(issued, blocks)
    same = all(there._mapping[name] == row[name] for name in row if name != "issued_at")
    given = _table(there.id, ids, blocks).to_pydict()
    numbers = zip(given["raw"], given["calibrated"], strict=True)
    if not same or stored != dict(zip(given["symbol_id"], numbers, strict=True)):
        raise Conflict(
            f"{there.model}/{there.version} has issued other numbers for the cutoff {there.cutoff} "
            f"at {there.issued_at:%Y-%m-%d %H:%M:%S} UTC (forecast {issued.id}); those stay",
            code="FORECAST_DIFFERS",
        ) from error
    return False


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


def _row(issued: Issue, blocks: Blocks) -> dict[str, Any]:
    """The row of `forecasts`, but for what the ledger adds."""
    return asdict(issued) | {
        "forecast_id": issued.id,
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
