"""Returns that became known late, or were restated: what may change scores of the past."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import sqlalchemy as sa

from registry.forecast import names
from registry.forecast.arrays import Dates, Floats, Places
from registry.ledger import bulk
from registry.ledger.bulk import packed
from registry.ledger.forecasts import forecasts
from registry.ledger.observations import daily_returns, symbols


@dataclass(frozen=True, eq=False)
class Changes:
    """K returns of a data set that are not assumed, with all their values, by their keys."""

    keys: Places  # [K] packed symbol and day, ascending
    first: Floats  # [K] as first known
    last: Floats  # [K] as known at the instant; NaN if it was withdrawn
    values: dict[int, set[float]]  # of each key: all that were known by the instant
    symbol_ids: tuple[int, ...]
    sessions: Dates  # datetime64[D], ascending

    @classmethod
    def read(cls, connection: sa.Connection, data: str, instant: datetime) -> "Changes":
        rows = bulk.select(connection, _query_of_changes(data, instant))
        keys = packed(rows)
        y = rows.column(names.Y).to_numpy()
        ends = rows.column("known_until")
        holds = ends.is_null().to_numpy() | (ends.to_pandas() > instant).to_numpy()
        unique, starts = np.unique(keys, return_index=True)
        stops = np.append(starts, len(keys))[1:]
        last = np.full(len(unique), np.nan)
        last[np.searchsorted(unique, keys[holds])] = y[holds]
        values = {}
        for key, start, stop in zip(unique.tolist(), starts, stops, strict=True):
            values[key] = set(y[start:stop].tolist())
        return cls(
            unique,
            y[starts],
            last,
            values,
            tuple(np.unique(rows.column("symbol_id").to_numpy()).tolist()),
            np.unique(rows.column(names.DS).to_numpy().astype("datetime64[D]")),
        )


def _query_of_changes(data: str, instant: datetime) -> sa.Select[Any]:
    """All values of each return that has one which is not assumed."""
    r, changed = daily_returns.c, daily_returns.alias()
    of_data = sa.select(symbols.c.id).where(symbols.c.data == data)
    later = (
        sa.select(changed.c.symbol_id, changed.c.ds)
        .where(~changed.c.assumed, changed.c.known_from <= instant)
        .where(changed.c.symbol_id.in_(of_data))
        .where(changed.c.ds > _first_cutoff(data))
        .distinct()
        .subquery()
    )
    same = (r.symbol_id == later.c.symbol_id) & (r.ds == later.c.ds)
    query = sa.select(r.symbol_id, r.ds, r.y, r.known_until).select_from(
        daily_returns.join(later, same)
    )
    of_instant = query.where(r.known_from <= instant, r.y.is_not(None))
    return of_instant.order_by(r.symbol_id, r.ds, r.known_from)


def _first_cutoff(data: str) -> "sa.ScalarSelect[Any]":
    c = forecasts.c
    return sa.select(sa.func.min(c.cutoff)).where(c.data == data).scalar_subquery()
