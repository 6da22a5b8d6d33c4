"""What is wrong in the ledger: in data sets, forecasts, runs of jobs and revised tables."""

from collections.abc import Iterator
from dataclasses import dataclass

import sqlalchemy as sa

from registry.ledger import database, job_runs, loads, revisions
from registry.ledger.calibrations import calibrations_in_use
from registry.ledger.fills import fills
from registry.ledger.forecasts import forecast_blocks, forecasts
from registry.ledger.observations import OBSERVED, symbols
from registry.ledger.recommendations import recommendations
from registry.ledger.regimes import regimes
from registry.ledger.scores import scores

TWO_VALUES, BLOCKS_LOST = "TWO_VALUES", "BLOCKS_LOST"
JOB_CUT, UNLOAD_CUT = "JOB_CUT", "UNLOAD_CUT"
REVISED = (calibrations_in_use, fills, recommendations, regimes)


@dataclass(frozen=True)
class Fault:
    """A fault of a data set, a job or a table."""

    data: str  # its name
    code: str  # stable, for programs
    message: str
    kind: str = "data set"

    @property
    def repair(self) -> str:
        if self.code in (TWO_VALUES, BLOCKS_LOST):
            return "none: restore the ledger from a backup"
        if self.code == JOB_CUT:
            return "none here: the job does it when it runs again"
        unload = f"`python -m jobs data unload {self.data}`"
        if self.code == UNLOAD_CUT:
            return f"none here: {unload} goes on with it"
        load = f"`python -m jobs data load {self.data}`"
        return f"none here: {load} loads it again, {unload} removes it from the ledger"


def find(engine: sa.Engine) -> list[Fault]:
    """All faults. Values that somebody edited are not among them: they carry no hash."""
    with database.read(engine) as connection:
        of_data = [*_cut(connection), *_lost(connection), *_overlapping(connection)]
        others = [*_lost_blocks(connection), *_cut_jobs(connection), *_two_revisions(connection)]
        return [*of_data, *others]


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
    for table in (*OBSERVED, scores):
        later = table.alias("later")
        key = [column.name for column in table.primary_key]
        # One universe holds at an instant, so it does not tell values apart.
        same = [name for name in key if name not in ("known_from", "universe")]
        pairs = _overlaps(table, later, same)
        data = _data_of(later)
        query = sa.select(data, sa.func.count()).select_from(pairs).group_by(data)
        # Only a row that is not the first of its key can overlap another.
        for name, number in connection.execute(query.where(sa.not_(later.c.assumed))):
            yield Fault(name, TWO_VALUES, f"{number} rows of {table.name} hold beside another one")


def _cut_jobs(connection: sa.Connection) -> Iterator[Fault]:
    """Runs of jobs that nobody completes, until the job runs again."""
    for run in job_runs.incomplete(connection):
        if run.abandoned:
            since = f"{run.held_since:%Y-%m-%d %H:%M:%S} UTC"
            message = f"the run for {run.key}, held since {since}, was never completed"
            yield Fault(run.job, JOB_CUT, message, "job")


def _two_revisions(connection: sa.Connection) -> Iterator[Fault]:
    """Revised tables with two rows of one key at one instant."""
    for table in REVISED:
        pairs = _overlaps(table, table.alias("later"), revisions.key_columns(table))
        number = connection.scalar(sa.select(sa.func.count()).select_from(pairs))
        if number:
            yield Fault(table.name, TWO_VALUES, f"{number} rows hold beside another one", "table")


def _overlaps(table: sa.Table, later: sa.FromClause, key: list[str]) -> sa.Join:
    """Rows of `later` that begin while an earlier row of the same key holds."""
    earlier = table.alias("earlier")
    same = [later.c[name] == earlier.c[name] for name in key]
    begins = later.c.known_from
    holds = earlier.c.known_until.is_(None) | (earlier.c.known_until > begins)
    return later.join(earlier, sa.and_(*same, earlier.c.known_from < begins, holds))


def _data_of(table: sa.FromClause) -> sa.ColumnElement[str]:
    """The data set of a row."""
    if "data" in table.c:
        return table.c.data
    of_symbol = sa.select(symbols.c.data).where(symbols.c.id == table.c.symbol_id)
    return of_symbol.scalar_subquery()
