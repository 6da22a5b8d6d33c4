"""What an append knows of the set that it adds to: the rows beside the new ones, and its facts."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import duckdb

from jobs.data.dataset import Splits
from jobs.data.market import Universe
from jobs.data.own.findings import one
from jobs.data.sets import Facts
from jobs.data.sources.engine import file_list
from registry.errors import BadHistory
from registry.forecast import names
from registry.sets import Part, verified
from registry.settings import Settings


@dataclass(frozen=True)
class Previous:
    """The set before an append.

    `table` has the set's rows of the years from the one before the first staged row on, the base,
    and of older years the last row of each staged symbol that has none in them: unique_id, ds, y
    and the set's own columns, `sector` where there is one, and `context` for those last rows,
    which only say what came before. The columns of the whole set are derived from the first of
    January of `year` on.
    """

    table: str
    columns: Sequence[str]  # of the set
    universe: Universe
    splits: Splits
    year: int

    def span(self, connection: duckdb.DuckDBPyConnection) -> tuple[date, date]:
        """First and last session of the table."""
        first, last = one(connection, f"SELECT min(ds), max(ds) FROM {self.table}")
        return first, last


def open_previous(
    settings: Settings, connection: duckdb.DuckDBPyConnection, facts: Facts
) -> Previous:
    """The set before, with its view `old`. Raises Corrupt.

    The year before the first new row is read, too: odd rows show beside a year of others.
    """
    (year,) = one(connection, "SELECT coalesce(year(min(ds)), 0) FROM staged")
    changed = [part for part in facts.parts if part.year >= year]
    before = [part for part in facts.parts if part.year < year]
    queries = [_rows(settings, facts, changed, _stored_columns(facts))]
    queries.append(_rows(settings, facts, before[-1:], _seen_columns(facts)))
    if facts.base:
        queries.append(_rows(settings, facts, [facts.base], facts.own_columns))
    near = " UNION ALL BY NAME ".join(query for query in queries if query)
    connection.execute(f"CREATE VIEW near AS {near}")
    _create_far(settings, connection, facts, before[:-1])
    connection.execute(
        "CREATE VIEW old AS SELECT *, false AS context FROM near "
        "UNION ALL BY NAME SELECT *, true AS context FROM far"
    )
    return Previous("old", facts.columns, facts.universe, facts.splits, int(year))


def _stored_columns(facts: Facts) -> list[str]:
    sector = [names.SECTOR] if names.SECTOR in facts.columns else []
    return [*facts.own_columns, *sector]


def _seen_columns(facts: Facts) -> list[str]:
    """Columns of rows that are not written again."""
    seen = (*names.HISTORY, "close", names.SECTOR)
    return [name for name in facts.columns if name in seen]


def _rows(settings: Settings, facts: Facts, parts: Sequence[Part], columns: Sequence[str]) -> str:
    """SQL of the rows of some files; no text without files."""
    if not parts:
        return ""
    paths = [str(path) for path in verified(settings, facts.name, parts)]
    return f"SELECT {', '.join(columns)} FROM read_parquet({file_list(paths)})"


def _create_far(
    settings: Settings,
    connection: duckdb.DuckDBPyConnection,
    facts: Facts,
    parts: Sequence[Part],
) -> None:
    """Make the table `far`: the last row before the staged ones, if `near` has none.

    The newest files are read first.
    """
    columns = _seen_columns(facts)
    connection.execute(f"CREATE TABLE far AS SELECT {', '.join(columns)} FROM near LIMIT 0")
    connection.execute(
        "CREATE TABLE lacking AS SELECT unique_id FROM "
        "(SELECT unique_id, min(ds) AS first FROM staged GROUP BY unique_id) LEFT JOIN "
        "(SELECT unique_id, min(ds) AS begins FROM near WHERE y IS NOT NULL GROUP BY unique_id) "
        "USING (unique_id) WHERE begins IS NULL OR begins >= first"
    )
    for part in reversed(parts):
        if not connection.execute("FROM lacking LIMIT 1").fetchall():
            return
        rows = _rows(settings, facts, [part], columns)
        connection.execute(
            f"INSERT INTO far SELECT {', '.join(columns)} FROM ({rows}) SEMI JOIN lacking "
            "USING (unique_id) QUALIFY row_number() OVER (PARTITION BY unique_id ORDER BY ds DESC)"
            " = 1"
        )
        connection.execute("DELETE FROM lacking WHERE unique_id IN (SELECT unique_id FROM far)")


def check_basis(connection: duckdb.DuckDBPyConnection, previous: Previous) -> None:
    """Raise BadHistory (PRICE_BASIS) if a close that is given again differs beside a kept one.

    The return between the two would mix prices of before and after a dividend or split.
    """
    rows = connection.execute(
        f"""
        WITH changed AS (
            SELECT DISTINCT unique_id FROM {previous.table} o
            JOIN adjusted a ON a.symbol = o.unique_id::symbol AND a.ds = o.ds
            WHERE o.close <> a.close
        ),
        closes AS (
            SELECT unique_id, o.ds, o.close AS stored, a.close
            FROM (FROM {previous.table} SEMI JOIN changed USING (unique_id)) o
            LEFT JOIN adjusted a ON a.symbol = o.unique_id::symbol AND a.ds = o.ds
        ),
        beside AS (
            SELECT *, lag(close IS NULL) OVER w OR lead(close IS NULL) OVER w AS beside_kept
            FROM closes WINDOW w AS (PARTITION BY unique_id ORDER BY ds)
        )
        SELECT unique_id, ds, stored, close FROM beside WHERE stored <> close AND beside_kept
        ORDER BY unique_id, ds
        """
    ).fetchall()
    if rows:
        symbol, ds, stored, close = rows[0]
        raise BadHistory(
            f"{symbol} {ds}: the close is {close:g}, that of the set is {stored:g}, and a session "
            f"beside it is not given again ({len(rows)} such closes); probably a dividend or split "
            "since has changed earlier prices: compile the set anew with all its sessions; to "
            "correct a price, give the set's sessions beside it again, too",
            code="PRICE_BASIS",
        )
