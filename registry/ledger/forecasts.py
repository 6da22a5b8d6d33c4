"""Forecasts as they were issued.

A row of `forecasts` is what one version said after one cutoff; `forecast_blocks` has the numbers of
each symbol.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from registry.errors import BadInput, BadParameter, Conflict, KronosError, NotFound
from registry.ledger import bulk, database, instants, loads
from registry.ledger.claims import now
from registry.ledger.instants import Day, Instant
from registry.ledger.issue import BACKFILL, Blocks, Issue, check
from registry.ledger.observations import symbols

_LISTED = 5  # symbols that a message names
_FEW = 500  # symbols that are asked for by name; of more, all of the data set are read

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


def issue_all(
    engine: sa.Engine, given: Sequence[tuple[Issue, Blocks]]
) -> list[tuple[Issue, KronosError]]:
    """Record many forecasts in one transaction; those that were refused, with their errors.

    The errors are those that `issue` raises of a forecast; the others are recorded. If the database
    fails, that is raised, and all can be given again.
    """
    refused: list[tuple[Issue, KronosError]] = []
    try:
        with database.write(engine) as connection:
            rest = _insert_sound(connection, given)
    except IntegrityError:  # another process has recorded one of them meanwhile
        rest = list(given)
    for issued, blocks in rest:
        try:
            issue(engine, issued, blocks)
        except (BadInput, NotFound, Conflict) as error:
            refused.append((issued, error))
    return refused


def _insert_sound(
    connection: sa.Connection, given: Sequence[tuple[Issue, Blocks]]
) -> list[tuple[Issue, Blocks]]:
    """Insert what is new and nothing is wrong with; the rest."""
    listed = _all_listed(connection, given)
    there = set(_numbers(connection, [issued.id for issued, _ in given]))
    sound, rest = [], []
    for issued, blocks in given:
        try:
            check(issued, blocks)
            row, ids = _checked(issued, blocks, listed[issued.data])
        except (BadInput, NotFound, KeyError):  # KeyError: the ledger lacks the data set
            rest.append((issued, blocks))
            continue
        if issued.id in there:
            rest.append((issued, blocks))
            continue
        there.add(issued.id)
        sound.append((row, ids, blocks))
    if sound:
        connection.execute(sa.insert(forecasts), [row for row, _, _ in sound])
        numbers = _numbers(connection, [row["forecast_id"] for row, _, _ in sound])
        tables = [_table(numbers[row["forecast_id"]], ids, blocks) for row, ids, blocks in sound]
        bulk.insert(connection, forecast_blocks, pa.concat_tables(tables))
    return rest


def _all_listed(
    connection: sa.Connection, given: Sequence[tuple[Issue, Blocks]]
) -> dict[str, "_Listed"]:
    """The symbols of each data set; without those that the ledger lacks."""
    wanted: dict[str, set[str]] = {}
    for issued, blocks in given:
        wanted.setdefault(issued.data, set()).update(blocks.symbols)
    listed = {}
    for data in sorted(wanted):  # in one order, so that no two writers wait for each other
        with suppress(NotFound):
            listed[data] = _listed(connection, data, wanted[data])
    return listed


def _numbers(connection: sa.Connection, ids: Sequence[str]) -> dict[str, int]:
    """The key of each forecast that the ledger has, by its id."""
    c = forecasts.c
    query = sa.select(c.forecast_id, c.id).where(c.forecast_id.in_(ids))
    return {row.forecast_id: row.id for row in connection.execute(query)}


def _insert(connection: sa.Connection, issued: Issue, blocks: Blocks) -> None:
    listed = _listed(connection, issued.data, set(blocks.symbols))
    row, ids = _checked(issued, blocks, listed)
    inserted = sa.insert(forecasts).values(**row).returning(forecasts.c.id)
    number = connection.execute(inserted).scalar_one()
    bulk.insert(connection, forecast_blocks, _table(number, ids, blocks))


def _checked(
    issued: Issue, blocks: Blocks, listed: "_Listed"
) -> tuple[dict[str, Any], dict[str, int]]:
    """The row of a forecast, and the ids of its symbols. Raises NotFound and BadInput."""
    ids = listed.ids(blocks.symbols)
    _check_instant(issued, listed.calendar)
    at = now()
    known_from = issued.issued_at if issued.source == BACKFILL else at
    added = {"calendar": listed.calendar, "recorded_at": at, "known_from": known_from}
    return _row(issued, blocks) | added, ids


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


@dataclass(frozen=True)
class _Listed:
    """Symbols of a data set with their ids; `calendar` is empty if the ledger lacks the set."""

    data: str
    calendar: str
    known: Mapping[str, int]

    def ids(self, wanted: Sequence[str]) -> dict[str, int]:
        """The id of each wanted symbol. Raises NotFound."""
        if missing := [symbol for symbol in wanted if symbol not in self.known]:
            shown = ", ".join(missing[:_LISTED])
            raise NotFound(f"{self.data} in the ledger has no symbol {shown}")
        return {symbol: self.known[symbol] for symbol in wanted}


def find_symbols(
    connection: sa.Connection, data: str, wanted: Sequence[str]
) -> tuple[str, dict[str, int]]:
    """The calendar of a data set, and the id of each wanted symbol. Raises NotFound.

    The data set is not removed before the transaction ends.
    """
    listed = _listed(connection, data, set(wanted))
    return listed.calendar, listed.ids(wanted)


def _listed(connection: sa.Connection, data: str, wanted: Collection[str]) -> _Listed:
    """At least those of the wanted symbols that a data set has. Raises NotFound for the set."""
    calendar = loads.needed(connection, data)
    c = symbols.c
    query = sa.select(c.symbol, c.id).where(c.data == data)
    if len(wanted) <= _FEW:
        query = query.where(c.symbol.in_(wanted))
    known = {row.symbol: row.id for row in connection.execute(query)}
    return _Listed(data, calendar, known)


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
