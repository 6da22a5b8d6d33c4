"""Remove old forecasts and their scores from the ledger."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from registry.errors import NotFound
from registry.ledger import database
from registry.ledger.forecasts import forecast_blocks, forecasts
from registry.ledger.scores import scores
from registry.ledger.selection import Selection, day

_TOGETHER = 50_000  # rows that one transaction removes, about: less than a second


def old(engine: sa.Engine, before: str, *, data: str = "", source: str = "") -> list[Any]:
    """Forecasts with a cutoff before a date: id, series and horizon.

    They are of all data sets and sources, or of one. Raises BadParameter, and NotFound for a data
    set without forecasts.
    """
    c = forecasts.c
    early = c.cutoff < day("before", before)
    of_data = sa.select(c.id).where(c.data == data).limit(1)
    query = sa.select(c.id, c.series, c.horizon)
    chosen = query.where(early, *Selection(data=data, source=source).conditions)
    with database.read(engine) as connection:
        if data and connection.scalar(of_data) is None:
            raise NotFound(f"the ledger has no forecasts of a data set {data[:64]!r}")
        return list(connection.execute(chosen.order_by(c.id)).all())


def prune(
    engine: sa.Engine,
    before: str,
    *,
    data: str = "",
    source: str = "",
    progress: Callable[[float], None] = lambda _: None,
) -> int:
    """Remove what `old` finds; how many forecasts this process removed.

    `progress` gets the share (0..1) done. A forecast and its scores go in one transaction,
    so a removal that was interrupted can be run again.
    """
    found = old(engine, before, data=data, source=source)
    removed = done = 0
    for ids in _batches(found):
        with database.write(engine) as connection:
            # The forecast first: who writes scores for it holds its row.
            gone = connection.execute(sa.delete(forecasts).where(forecasts.c.id.in_(ids)))
            for table in (scores, forecast_blocks):
                connection.execute(sa.delete(table).where(table.c.forecast.in_(ids)))
        removed += gone.rowcount
        done += len(ids)
        progress(done / len(found))
    return removed


def _batches(found: Sequence[Any]) -> Iterator[list[int]]:
    """Ids of forecasts that are removed together."""
    ids: list[int] = []
    rows = 0
    for forecast in found:
        ids.append(forecast.id)
        rows += forecast.series * (1 + forecast.horizon)
        if rows >= _TOGETHER:
            yield ids
            ids, rows = [], 0
    if ids:
        yield ids
