"""Judge staged rows and derive a data set from them: returns, prices on one basis, market columns.

The same staged rows, in any order, give the same rows, bit for bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb

from jobs.data.dataset import Splits
from jobs.data.market import MEMBERS, Universe
from jobs.data.own import (
    events,
    market,
    prices,
    repeats,
    returns,
    sectors,
    sessions,
    splits,
    suspicious,
    symbols,
    values,
)
from jobs.data.own.basis import Basis, choose
from jobs.data.own.findings import Finding, one
from jobs.data.own.options import Options
from jobs.data.own.previous import Previous, check_basis
from jobs.data.own.symbols import Symbol
from registry.errors import BadHistory
from registry.forecast import names

_VIEWS = ("rows", "base", "priced", "adjusted", "clean", "given")
_TABLES = ("sectors", "market", "merged", "begins", "events", "repeated", "sessions")


@dataclass(frozen=True)
class Derived:
    """What the view `rows` holds, and what a user should know of it."""

    kind: str  # returns, closes or bars
    columns: tuple[str, ...]  # of `rows`, in order
    universe: Universe
    splits: Splits
    amount_given: bool  # by the user
    basis: str  # of the prices, in words
    stated: bool  # whether the user or the columns say the basis
    symbols: tuple[Symbol, ...]
    findings: tuple[Finding, ...]


def derive(
    connection: duckdb.DuckDBPyConnection,
    columns: Sequence[str],
    options: Options,
    *,
    previous: Previous | None = None,
) -> Derived:
    """Make the views `rows` and `base` from the table `staged`; what they hold.

    `columns` are those of `staged` that carry data. `rows` has no missing value and no order.
    In an append, the rows and findings are those of the user's rows among the `previous` ones.
    They need `staged` no more. Raises BadHistory, BadParameter and NotFound; the message says which
    row or symbol is at fault and what to do.
    """
    _clear(connection)
    basis = choose(columns, options)
    sessions.create(connection, options.exchange, previous.span(connection) if previous else None)
    values.check(connection, basis)
    prices.create_symbols(connection, previous)
    used = prices.create_given(connection, basis)
    findings = prices.incomplete(connection, basis)
    findings += repeats.create(connection, used)
    if basis.events:
        events.create(connection, basis, options.adjusted)
    prices.create_adjusted(connection, basis)
    if previous and basis.prices:
        check_basis(connection, previous)
    prices.create_priced(connection, basis, previous)
    _check_any(connection, basis, previous)
    returns.check(connection, basis)
    if basis.prices:
        findings += symbols.without_return(connection)
    universe, of_market = market.create(connection, options, previous)
    prices.create_base(connection, basis, previous)
    with_sector = names.SECTOR in (previous.columns if previous else columns)
    if with_sector:
        sectors.create(connection, names.SECTOR in columns, previous)
    stored = (*names.HISTORY, *prices.stored(basis), *names.MARKET, MEMBERS)
    stored += (names.SECTOR,) if with_sector else ()
    _create_rows(connection, stored, previous.year if previous else 0)
    return Derived(
        kind=basis.kind,
        columns=stored,
        universe=universe,
        splits=previous.splits if previous else splits.choose(connection, options),
        amount_given=basis.gives_amount,
        basis=_basis_words(basis, previous),
        stated=basis.stated,
        symbols=symbols.of(connection),
        findings=(*findings, *of_market, *suspicious.findings(connection, stored)),
    )


def _clear(connection: duckdb.DuckDBPyConnection) -> None:
    """Remove what an earlier call has made."""
    for view in _VIEWS:
        connection.execute(f"DROP VIEW IF EXISTS {view}")
    for table in _TABLES:
        connection.execute(f"DROP TABLE IF EXISTS {table}")
    connection.execute("DROP TYPE IF EXISTS symbol")


def _check_any(
    connection: duckdb.DuckDBPyConnection, basis: Basis, previous: Previous | None
) -> None:
    """Raise BadHistory (EMPTY) if no return is new."""
    (count,) = one(connection, "SELECT count(*) FROM priced WHERE fresh")
    if count:
        return
    lack = "no symbol has complete prices on two sessions"
    if previous:
        lack = f"no new row is complete, with {', '.join(basis.needed)}"
    raise BadHistory(f"{lack}, so there is no return", code="EMPTY")


def _create_rows(connection: duckdb.DuckDBPyConnection, columns: Sequence[str], year: int) -> None:
    """Make the view `rows`, from the calendar year `year` on."""
    others = ", ".join(columns[1:])
    source = "priced JOIN market USING (ds)"
    if names.SECTOR in columns:
        source += " JOIN sectors USING (symbol)"
    connection.execute(
        f"CREATE VIEW rows AS SELECT symbol::VARCHAR AS unique_id, {others} FROM {source} "
        f"WHERE year(ds) >= {year}"
    )


def _basis_words(basis: Basis, previous: Previous | None) -> str:
    return "as given, on the basis of the set" if previous and not basis.stated else basis.words
