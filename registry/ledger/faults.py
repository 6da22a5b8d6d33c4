"""What is wrong in the ledger's data sets."""

from collections.abc import Iterator
from dataclasses import dataclass

import sqlalchemy as sa

from registry.ledger import database, loads
from registry.ledger.forecasts import forecast_blocks, forecasts
from registry.ledger.observations import OBSERVED, symbols
from registry.ledger.scores import scores

TWO_VALUES = "TWO_VALUES"
BLOCKS_LOST = "BLOCKS_LOST"
# A value has these, but for `data` if it has a symbol; one universe holds at an instant.
_KEY = ("data", "forecast", "step", "symbol_id", "ds")


@dataclass(frozen=True)
class Fault:
    """A fault of a data set."""

    data: str
    code: str  # stable, for programs
    message: str

    @property
    def repair(self) -> str:
        if self.code in (TWO_VALUES, BLOCKS_LOST):
            return "none: restore the ledger from a backup"
        return f"none here: `python -m jobs data load {self.data}` loads it again"


def find(engine: sa.Engine) -> list[Fault]:
    """All faults. Values that somebody edited are not among them: they carry no hash."""
    with database.read(engine) as connection:
        return [
            *_cut(connection),
            *_lost(connection),
            *_lost_blocks(connection),
            *_overlapping(connection),
        ]


def _cut(connection: sa.Connection) -> Iterator[Fault]:
    """Loads that nobody will complete."""
    for load in loads.incomplete(connection):
        if load.abandoned:
            begun = f"{load.known_from:%Y-%m-%d %H:%M:%S} UTC"
            yield Fault(load.data, "LOAD_CUT", f"the load of {begun} was never completed")


def _lost(connection: sa.Connection) -> Iterator[Fault]:
    """Data sets with other numbers of current rows than their last load had."""
    under_way = {load.data for load in loads.incomplete(connection)}
    complete = [load for load in loads.all_completed(connection) if load.data not in under_way]
    if not complete:
        return
    for table in OBSERVED:
        data = _data_of(table)
        query = sa.select(data, sa.func.count()).where(table.c.known_until.is_(None))
        counts = {row[0]: row[1] for row in connection.execute(query.group_by(data))}
        for load in complete:
            expected, found = getattr(load, table.name), counts.get(load.data, 0)
            if found != expected:
                message = f"{table.name} has {found} current rows, the last load had {expected}"
                yield Fault(load.data, "ROWS_LOST", message)


def _lost_blocks(connection: sa.Connection) -> Iterator[Fault]:
    """Forecasts that do not have the numbers of each symbol that they were issued with."""
    f, b = forecasts.c, forecast_blocks.c
    counts = sa.select(b.forecast, sa.func.count().label("number")).group_by(b.forecast).subquery()
    found = sa.func.coalesce(counts.c.number, 0)
    joined = forecasts.outerjoin(counts, counts.c.forecast == f.id)
    query = sa.select(f.data, f.forecast_id, f.series, found.label("found")).select_from(joined)
    for row in connection.execute(query.where(found != f.series).order_by(f.id)):
        message = f"the forecast {row.forecast_id} has {row.found} symbols of {row.series}"
        yield Fault(row.data, BLOCKS_LOST, message)


def _overlapping(connection: sa.Connection) -> Iterator[Fault]:
    """Data sets with two values of one key at one instant."""
    for table in (*OBSERVED, scores):
        later, earlier = table.alias("later"), table.alias("earlier")
        key = [name for name in _KEY if name in table.c]
        same = [later.c[name] == earlier.c[name] for name in key]
        begins = later.c.known_from
        holds = earlier.c.known_until.is_(None) | (earlier.c.known_until > begins)
        pairs = later.join(earlier, sa.and_(*same, earlier.c.known_from < begins, holds))
        data = _data_of(later)
        query = sa.select(data, sa.func.count()).select_from(pairs).group_by(data)
        # Only a row that is not the first of its key can overlap another.
        for name, number in connection.execute(query.where(sa.not_(later.c.assumed))):
            yield Fault(name, TWO_VALUES, f"{number} rows of {table.name} hold beside another one")


def _data_of(table: sa.FromClause) -> sa.ColumnElement[str]:
    """The data set of a row."""
    if "data" in table.c:
        return table.c.data
    of_symbol = sa.select(symbols.c.data).where(symbols.c.id == table.c.symbol_id)
    return of_symbol.scalar_subquery()
