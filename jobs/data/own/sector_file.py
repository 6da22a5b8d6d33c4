"""Sectors from a second file: a row a symbol."""

from collections.abc import Sequence

import duckdb

from jobs.data.sources import delimited
from jobs.data.sources.files import one_file
from jobs.data.sources.mapping import settle
from registry.errors import BadHistory, BadParameter
from registry.forecast import names


def join(
    connection: duckdb.DuckDBPyConnection, path: str, columns: Sequence[str]
) -> tuple[str, ...]:
    """Give the view `staged`, which has these columns, the sectors of a CSV file; its new columns.

    Symbols of the file that are not staged are ignored. Raises BadParameter if the prices have a
    sector already or the path is no file, BadHistory for a file without both columns or with a
    symbol twice, NotFound for no file.
    """
    if names.SECTOR in columns:
        raise BadParameter("the prices have a sector column; leave out --sectors")
    [table] = delimited.tables([one_file(path, "--sectors")])
    mapped = settle([column.name for column in table.columns], {}).columns
    if "symbol" not in mapped or names.SECTOR not in mapped:
        raise BadHistory(f"{path}: expected the columns symbol and sector", code="MISSING_COLUMN")
    symbol, sector = (table.index(mapped[key]) for key in ("symbol", names.SECTOR))
    with delimited.explained():
        connection.execute(
            f"CREATE TABLE sector_file AS SELECT c{symbol} AS unique_id, "
            f"nullif(c{sector}, '') AS sector FROM {table.relation}"
        )
    _check_once(connection, path)
    connection.execute("ALTER VIEW staged RENAME TO staged_prices")
    connection.execute(
        "CREATE VIEW staged AS SELECT staged_prices.*, sector_file.sector "
        "FROM staged_prices LEFT JOIN sector_file USING (unique_id)"
    )
    return (*columns, names.SECTOR)


def _check_once(connection: duckdb.DuckDBPyConnection, path: str) -> None:
    twice = connection.execute(
        "SELECT unique_id FROM sector_file GROUP BY unique_id HAVING count(*) > 1 "
        "ORDER BY unique_id LIMIT 1"
    ).fetchone()
    if twice:
        raise BadHistory(
            f"{path}: {twice[0]} has two rows, expected one a symbol", code="BAD_SOURCE"
        )
