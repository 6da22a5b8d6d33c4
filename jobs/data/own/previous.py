"""What an append knows of the set that it adds to."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import duckdb

from jobs.data.dataset import Splits
from jobs.data.market import Universe
from jobs.data.own.findings import one
from registry.errors import BadHistory


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


def check_basis(connection: duckdb.DuckDBPyConnection, previous: Previous) -> None:
    """Raise BadHistory (PRICE_BASIS) if the first or last close of a symbol that is given again
    differs beside a kept one of the set: then a dividend or split since has changed the basis, and
    the return there is wrong.
    """
    rows = connection.execute(
        f"""
        WITH again AS (
            SELECT unique_id, o.ds, o.close AS stored, a.close FROM {previous.table} o
            JOIN adjusted a ON a.symbol = o.unique_id::symbol AND a.ds = o.ds WHERE NOT context
        ),
        ends AS (SELECT unique_id, min(ds) AS first, max(ds) AS last FROM again GROUP BY unique_id),
        of_set AS (
            SELECT unique_id, min(ds) AS begins, max(ds) AS ends FROM {previous.table}
            GROUP BY unique_id
        )
        SELECT unique_id, ds, stored, close FROM again JOIN ends USING (unique_id)
        JOIN of_set USING (unique_id)
        WHERE stored <> close
            AND ((ds = first AND begins < first) OR (ds = last AND ends > last))
        ORDER BY unique_id, ds
        """
    ).fetchall()
    if rows:
        symbol, ds, stored, close = rows[0]
        raise BadHistory(
            f"{symbol} {ds}: the close is {close:g}, that of the set is {stored:g} "
            f"({len(rows)} such closes); a dividend or split since has changed earlier prices: "
            "compile the set anew with all its sessions; to correct a price, give the sessions "
            "before and after it again, too",
            code="PRICE_BASIS",
        )
