"""Remove old forecasts and their scores from the ledger."""

from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from registry.ledger import database
from registry.ledger.forecasts import forecast_blocks, forecasts
from registry.ledger.scores import scores
from registry.ledger.selection import Selection, day

_TOGETHER = 50_000  # rows that one transaction removes, about: less than a second


def old(engine: sa.Engine, before: str, *, data: str = "", source: str = "") -> list[Any]:
    """Forecasts with a cutoff before a date: id, series and horizon. Raises BadParameter.

    They are of all data sets and sources, or of one.
    """
    last = day("before", before) - timedelta(days=1)
    c = forecasts.c
    query = sa.select(c.id, c.series, c.horizon)
    chosen = query.where(*Selection(data=data, source=source, until=str(last)).conditions)
    with database.read(engine) as connection:
        return list(connection.execute(chosen.order_by(c.id)).all())


def prune(
    engine: sa.Engine,
    before: str,
    *,
    data: str = "",
    source: str = "",
    progress: Callable[[float], None] = lambda _: None,
) -> int:
    """Remove what `old` finds; the number of forecasts. `progress` gets the share (0..1) done.

    Each forecast goes with all its scores in one transaction, so a removal that was cut can be
    run again.
    """
    found = old(engine, before, data=data, source=source)
    done = 0
    for ids in _batches(found):
        with database.write(engine) as connection:
            # The forecast first: who writes scores for it holds its row.
            connection.execute(sa.delete(forecasts).where(forecasts.c.id.in_(ids)))
            for table in (scores, forecast_blocks):
                connection.execute(sa.delete(table).where(table.c.forecast.in_(ids)))
        done += len(ids)
        progress(done / len(found))
    return done


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
