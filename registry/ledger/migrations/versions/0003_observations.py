"""Symbols, prices, returns and market columns with the instants at which they were known."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

DAY = sa.Date().with_variant(sa.Integer(), "sqlite")
INSTANT = sa.DateTime(timezone=True).with_variant(sa.BigInteger(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "symbols",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("data", sa.String(64), nullable=False),
        sa.Column("symbol", sa.Text, nullable=False),
        sa.Column("isin", sa.String(12)),
        sa.Column("name", sa.Text),
        sa.Column("sector", sa.Text),
        sa.Column("calendar", sa.Text, nullable=False),
        sa.Column("currency", sa.Text),
        sa.Column("listed_from", DAY, nullable=False),
        sa.Column("listed_to", DAY, nullable=False),
        sa.UniqueConstraint("data", "symbol", name="symbols_data_symbol"),
    )
    _observed("daily_returns", _of_symbol(), ["y"])
    bar = ["open", "high", "low", "close", "volume", "amount", "close_unadjusted"]
    _observed("prices", _of_symbol(), bar)
    of_market: list[sa.Column[Any]] = [
        sa.Column("data", sa.String(64), primary_key=True),
        sa.Column("universe", sa.String(96), primary_key=True),
        sa.Column("ds", DAY, primary_key=True),
    ]
    _observed("market_daily", of_market, ["market_abs_return", "index_return", "market_members"])
    op.create_table(
        "loads",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("host", sa.Text),
        sa.Column("pid", sa.Integer),
        sa.Column("process_started", sa.Text),
        sa.Column("held_since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("completed_at", sa.DateTime(timezone=True)),
        sa.Column("data", sa.String(64), nullable=False),
        sa.Column("sequence", sa.Integer, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("calendar", sa.Text, nullable=False),
        sa.Column("known_from", sa.DateTime(timezone=True), nullable=False),
        sa.Column("daily_returns", sa.Integer),
        sa.Column("prices", sa.Integer),
        sa.Column("market_daily", sa.Integer),
        sa.UniqueConstraint("data", "sequence", name="loads_data_sequence"),
    )


def downgrade() -> None:
    for name in ("loads", "market_daily", "prices", "daily_returns", "symbols"):
        op.drop_table(name)


def _of_symbol() -> "list[sa.Column[Any]]":
    return [
        sa.Column("symbol_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("ds", DAY, primary_key=True),
    ]


def _observed(name: str, keys: "list[sa.Column[Any]]", numbers: list[str]) -> None:
    op.create_table(
        name,
        *keys,
        sa.Column("known_from", INSTANT, primary_key=True),
        sa.Column("known_until", INSTANT),
        sa.Column("assumed", sa.Boolean, nullable=False),
        *[sa.Column(number, sa.Double) for number in numbers],
        sqlite_with_rowid=False,
    )
    later = sa.text("NOT assumed")
    columns = [column.name for column in keys]
    op.create_index(f"{name}_later", name, columns, sqlite_where=later, postgresql_where=later)
