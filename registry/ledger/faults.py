"""What is wrong in the ledger's data sets."""

from collections.abc import Iterator
from dataclasses import dataclass

import sqlalchemy as sa

from registry.ledger import database, loads
from registry.ledger.observations import OBSERVED, symbols

TWO_VALUES, UNLOAD_CUT = "TWO_VALUES", "UNLOAD_CUT"
_KEY = ("data", "symbol_id", "ds")  # a value has these; one universe holds at an instant


@dataclass(frozen=True)
class Fault:
    """A fault of a data set."""

    data: str
    code: str  # stable, for programs
    message: str

    @property
    def repair(self) -> str:
        if self.code == TWO_VALUES:
            return "none: restore the ledger from a backup"
        unload = f"`python -m jobs data unload {self.data}`"
        if self.code == UNLOAD_CUT:
            return f"none here: {unload} goes on with it"
        load = f"`python -m jobs data load {self.data}`"
        return f"none here: {load} loads it again, {unload} removes it from the ledger"


def find(engine: sa.Engine) -> list[Fault]:
    """All faults. Values that somebody edited are not among them: they carry no hash."""
    with database.read(engine) as connection:
        return [*_cut(connection), *_lost(connection), *_overlapping(connection)]


def _cut(connection: sa.Connection) -> Iterator[Fault]:
    """Loads and removals that nobody will complete."""
    for load in loads.incomplete(connection):
        begun = f"{load.known_from:%Y-%m-%d %H:%M:%S} UTC"
        if load.abandoned and load.is_removal:
            yield Fault(load.data, UNLOAD_CUT, f"the removal of {begun} was never completed")
        elif load.abandoned:
            yield Fault(load.data, "LOAD_CUT", f"the load of {begun} was never completed")


def _lost(connection: sa.Connection) -> Iterator[Fault]:
    """Data sets with other numbers of current rows than their last load had."""
    under_way = {load.data for load in loads.incomplete(connection)}
    complete = [load for load in loads.all_completed(connection) if load.data not in under_way]
    if not complete:
        return
    for table in OBSERVED:
        counts = _current_rows(connection, table)
        for load in complete:
            expected, found = getattr(load, table.name), counts.get(load.data, 0)
            if found != expected:
                message = f"{table.name} has {found} current rows, the last load had {expected}"
                yield Fault(load.data, "ROWS_LOST", message)


def _current_rows(connection: sa.Connection, table: sa.Table) -> dict[str, int]:
    """How many current rows each data set has.

    Rows are counted by their first key, in whose order they lie, and only then by data set.
    """
    first = next(iter(table.primary_key))
    current = table.c.known_until.is_(None)
    counted = sa.select(first, sa.func.count().label("rows")).where(current).group_by(first)
    by_first = counted.subquery()
    data = _data_of(by_first)
    query = sa.select(data, sa.func.sum(by_first.c.rows)).group_by(data)
    return {row[0]: int(row[1]) for row in connection.execute(query)}


def _overlapping(connection: sa.Connection) -> Iterator[Fault]:
    """Data sets with two values of one key at one instant."""
    for table in OBSERVED:
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
