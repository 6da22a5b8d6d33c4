"""Numbers of many issued forecasts, read at a time."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sqlalchemy as sa

from registry.errors import Corrupt
from registry.forecast.arrays import Floats, Places
from registry.ledger import bulk
from registry.ledger.forecasts import forecast_blocks

TOGETHER = 100_000  # blocks that are read at a time, about
_FORECASTS = 10_000  # of them at most, as a statement can name


@dataclass(frozen=True, eq=False)
class Numbers:
    """Numbers of one forecast, by the id of the symbol."""

    symbol_ids: Places  # [N] ascending
    raw: Floats  # [N, H, 1 + Q]
    calibrated: Floats | None  # the same


def together(heads: Sequence[Any]) -> Iterator[list[Any]]:
    """Rows of `forecasts` in their order, in parts that `read` takes at a time."""
    part: list[Any] = []
    blocks = 0
    for head in heads:
        full = blocks + head.series > TOGETHER or len(part) == _FORECASTS
        if part and (full or form(head) != form(part[0])):
            yield part
            part, blocks = [], 0
        part.append(head)
        blocks += head.series
    if part:
        yield part


def form(head: Any) -> tuple[str, int, bool]:
    """What forecasts that are read together have in common."""
    return head.levels, head.horizon, head.calibration is not None


def read(
    connection: sa.Connection, heads: Sequence[Any], *, calibrated: bool
) -> dict[int, Numbers]:
    """Numbers of forecasts of one form, by `forecasts.id`; the calibrated ones if asked for.

    Raises Corrupt for a forecast without numbers.
    """
    rows = read_flat(connection, heads, calibrated=calibrated)
    numbers = {}
    for number, start, end in _runs(rows.forecasts):
        part = slice(start, end)
        of_calibrated = None if rows.calibrated is None else rows.calibrated[part]
        numbers[number] = Numbers(rows.symbol_ids[part], rows.raw[part], of_calibrated)
    _check_all(heads, numbers)
    return numbers


@dataclass(frozen=True, eq=False)
class Flat:
    """M blocks of several forecasts, by forecast and symbol."""

    forecasts: Places  # [M] `forecasts.id`
    symbol_ids: Places  # [M]
    raw: Floats  # [M, H, 1 + Q]
    calibrated: Floats | None  # the same


def read_flat(
    connection: sa.Connection,
    heads: Sequence[Any],
    *,
    calibrated: bool,
    symbol_ids: Sequence[int] = (),
) -> Flat:
    """Blocks of forecasts of one form; of some symbols, if any are named."""
    c = forecast_blocks.c
    first = heads[0]
    columns: list[sa.ColumnElement[Any]] = [*_key(), c.raw]
    calibrated = calibrated and first.calibration is not None
    if calibrated:
        columns.append(c.calibrated)
    query = sa.select(*columns).where(c.forecast.in_([head.id for head in heads]))
    if symbol_ids:
        query = query.where(c.symbol_id.in_(symbol_ids))
    rows = bulk.select_filled(connection, query.order_by(c.forecast, c.symbol_id))
    shape = (first.horizon, 1 + len(json.loads(first.levels)))
    return Flat(
        rows.column("forecast").to_numpy(),
        rows.column("symbol_id").to_numpy(),
        bulk.unpacked_blocks(rows.column("raw"), shape),
        bulk.unpacked_blocks(rows.column("calibrated"), shape) if calibrated else None,
    )


def keys(connection: sa.Connection, heads: Sequence[Any]) -> dict[int, Places]:
    """Ids of the symbols of forecasts, by `forecasts.id`. Raises as `read`."""
    c = forecast_blocks.c
    of_heads = c.forecast.in_([head.id for head in heads])
    query = sa.select(*_key()).where(of_heads)
    rows = bulk.select_filled(connection, query.order_by(c.forecast, c.symbol_id))
    symbol_ids = rows.column("symbol_id").to_numpy()
    runs = _runs(rows.column("forecast").to_numpy())
    by_forecast = {number: symbol_ids[start:end] for number, start, end in runs}
    _check_all(heads, by_forecast)
    return by_forecast


def _key() -> "list[sa.ColumnElement[Any]]":
    """Forecast and symbol, as big integers for `bulk.select_filled`."""
    c = forecast_blocks.c
    return [
        sa.cast(column, sa.BigInteger).label(column.name) for column in (c.forecast, c.symbol_id)
    ]


def _check_all(heads: Sequence[Any], read_numbers: Mapping[int, object]) -> None:
    for head in heads:
        if head.id not in read_numbers:
            raise Corrupt(f"the forecast {head.forecast_id} lost its numbers; see `doctor`")


def _runs(numbers: Places) -> Iterator[tuple[int, int, int]]:
    """Each number of an ascending list, with the place of its first and after its last."""
    starts = np.flatnonzero(np.diff(numbers, prepend=-1))
    ends = np.append(starts, len(numbers))[1:]
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        yield int(numbers[start]), start, end
