"""What the ledger has of a data set as a whole, and whether a version can forecast it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import pandas as pd
import sqlalchemy as sa

from registry.errors import BadHistory
from registry.forecast import names
from registry.forecast.spec import ModelSpec
from registry.ledger import observations
from registry.ledger.archive import Known
from registry.ledger.observations import MARKET, PRICES, market_daily, prices, symbols
from registry.versions import suitability

Mark = tuple[int, datetime | None, bool]


@dataclass(frozen=True)
class DataSet:
    """A data set as it is between two loads."""

    name: str
    calendar: str
    universe: str  # of its market columns: name and digest
    columns: frozenset[str]
    symbols: tuple[str, ...]  # sorted
    first: pd.Timestamp  # session
    last: pd.Timestamp
    mark: Mark
    until: datetime | None  # when another session becomes known without a load

    def is_current(self, known: Known) -> bool:
        """Whether nothing else has become known since."""
        passed = self.until is not None and self.until <= known.instant
        return self.mark == mark_of(known) and not passed


def mark_of(known: Known) -> Mark:
    """What differs between two states of a data set: its load, and whether another is under way."""
    load = known.load
    return load.sequence, load.completed_at, known.instant <= load.known_from


def data_set(known: Known) -> DataSet:
    """Read what all look-ups in a data set share. Raises BadHistory (EMPTY)."""
    name = known.load.data
    market = _market(known)
    if market is None:
        raise BadHistory(f"no session of {name} is known yet", code="EMPTY")
    last = market["last"]
    columns = {column for column in MARKET if market[column]} | {names.Y}
    return DataSet(
        name=name,
        calendar=known.load.calendar,
        universe=market["universe"],
        columns=frozenset(columns | _priced(known, last)),
        symbols=known.symbols,
        first=pd.Timestamp(market["first"]),
        last=pd.Timestamp(last),
        mark=mark_of(known),
        until=_next(known),
    )


def check_suits(
    reference: str, facts: Mapping[str, str], spec: ModelSpec, dataset: DataSet
) -> None:
    """Raise BadHistory unless the data set has the calendar of a version, and its universe."""
    if spec.calendar != dataset.calendar:
        first, last = f"{dataset.first:%Y-%m-%d}", f"{dataset.last:%Y-%m-%d}"
        raise suitability.other_calendar(
            reference, spec.calendar, dataset.name, dataset.calendar, first, last
        )
    suitability.check_universe(reference, facts, spec, dataset.name, dataset.universe)


def _market(known: Known) -> "sa.RowMapping | None":
    """Universe, first and last session, and how many values each market column has."""
    c = market_daily.c
    counts = [sa.func.count(c[column]).label(column) for column in MARKET]
    span = [sa.func.min(c.ds, type_=c.ds.type), sa.func.max(c.ds, type_=c.ds.type)]
    query = observations.as_of(market_daily, known.instant).where(c.data == known.load.data)
    chosen = query.with_only_columns(
        c.universe, span[0].label("first"), span[1].label("last"), *counts
    )
    return known.connection.execute(chosen.group_by(c.universe)).mappings().first()


def _priced(known: Known, session: object) -> set[str]:
    """Columns of prices with a value in a session."""
    c = prices.c
    ids = sa.select(symbols.c.id).where(symbols.c.data == known.load.data)
    query = observations.as_of(prices, known.instant)
    query = query.where(c.symbol_id.in_(ids), c.ds == session)
    counts = [sa.func.count(c[column]).label(column) for column in PRICES]
    row = known.connection.execute(query.with_only_columns(*counts)).mappings().one()
    return {column for column in PRICES if row[column]}


def _next(known: Known) -> datetime | None:
    """When the next session of a data set becomes known: one was loaded before its close."""
    load, c = known.load, market_daily.c
    if known.instant <= load.known_from:  # the next load is under way, and this is the state before
        return None
    later = (c.data == load.data) & (c.known_from > known.instant)
    first: datetime | None = known.connection.scalar(
        sa.select(sa.func.min(c.known_from, type_=c.known_from.type)).where(later)
    )
    return first
