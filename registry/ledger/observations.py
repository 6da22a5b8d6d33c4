"""What was observed, and since when it is known: symbols, prices, returns and market columns.

A row holds the values of one key, which were known from the instant `known_from` until other ones
replaced them at `known_until` (empty: they still hold). Nothing that was known is overwritten. The
first load of a data set takes a session's values to be known from its close, and a later one those
of sessions that closed since the load before it: such rows are marked `assumed`. All other values
are known from the load that brought them.

`as_of` is the one way to read what has a past, forecasts too: it returns nothing that was not known
at the instant.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from registry.forecast import names
from registry.ledger import database
from registry.ledger.instants import Day, Instant

RAW_CLOSE = "close_unadjusted"
MEMBERS = "market_members"
PRICES = (*names.OHLC, names.VOLUME, names.AMOUNT, RAW_CLOSE)
MARKET = (*names.MARKET, MEMBERS)


def _numbers(columns: Sequence[str]) -> "list[sa.Column[Any]]":
    return [sa.Column(name, sa.Double) for name in columns]


def observed(
    name: str, keys: "Sequence[sa.Column[Any]]", values: "Sequence[sa.Column[Any]]"
) -> sa.Table:
    """A table of observations; `as_of` reads it. On SQLite its rows are in the order of the key."""
    return sa.Table(
        name,
        database.metadata,
        *keys,
        sa.Column("known_from", Instant, primary_key=True),
        sa.Column("known_until", Instant),
        sa.Column("assumed", sa.Boolean, nullable=False),
        *values,
        sa.Index(
            f"{name}_later",
            *[column.name for column in keys],
            sqlite_where=sa.text("NOT assumed"),
            postgresql_where=sa.text("NOT assumed"),
        ),
        sqlite_with_rowid=False,
    )


def _of_symbol() -> "list[sa.Column[Any]]":
    return [
        sa.Column("symbol_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column(names.DS, Day, primary_key=True),
    ]


symbols = sa.Table(
    "symbols",
    database.metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("data", sa.String(64), nullable=False),  # data set
    sa.Column("symbol", sa.Text, nullable=False),
    sa.Column("isin", sa.String(12)),
    sa.Column("name", sa.Text),
    sa.Column("sector", sa.Text),
    sa.Column("calendar", sa.Text, nullable=False),
    sa.Column("currency", sa.Text),
    sa.Column("listed_from", Day, nullable=False),  # first and last session with a return
    sa.Column("listed_to", Day, nullable=False),
    sa.UniqueConstraint("data", "symbol", name="symbols_data_symbol"),
)
daily_returns = observed("daily_returns", _of_symbol(), _numbers([names.Y]))
prices = observed("prices", _of_symbol(), _numbers(PRICES))
market_daily = observed(
    "market_daily",
    [
        sa.Column("data", sa.String(64), primary_key=True),
        sa.Column("universe", sa.String(96), primary_key=True),  # its name and digest
        sa.Column(names.DS, Day, primary_key=True),
    ],
    _numbers(MARKET),
)
OBSERVED = (daily_returns, prices, market_daily)


def as_of(table: sa.Table, instant: datetime) -> sa.Select[Any]:
    """Rows that were known at the instant. Those without `known_until` are never replaced."""
    c = table.c
    known = sa.select(table).where(c.known_from <= instant)
    if "known_until" not in c:
        return known
    replaced = c.known_until.is_not(None) & (c.known_until <= instant)
    return known.where(~replaced)
