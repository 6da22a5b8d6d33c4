"""Forecasts as they were issued, and their scores."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

DAY = sa.Date().with_variant(sa.Integer(), "sqlite")
INSTANT = sa.DateTime(timezone=True).with_variant(sa.BigInteger(), "sqlite")
RAW = ("crps", "pit", "covered_50", "covered_80", "covered_90")


def upgrade() -> None:
    op.create_table(
        "forecasts",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("forecast_id", sa.String(64), nullable=False, unique=True),
        sa.Column("registry", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("data", sa.String(64), nullable=False),
        sa.Column("calendar", sa.Text, nullable=False),
        sa.Column("source", sa.String(8), nullable=False),
        sa.Column("cutoff", DAY, nullable=False),
        sa.Column("issued_at", INSTANT, nullable=False),
        sa.Column("known_from", INSTANT, nullable=False),
        sa.Column("recorded_at", INSTANT, nullable=False),
        sa.Column("series", sa.Integer, nullable=False),
        sa.Column("horizon", sa.Integer, nullable=False),
        sa.Column("levels", sa.Text, nullable=False),
        sa.Column("calibration", sa.Integer),
    )
    op.create_index("forecasts_model_cutoff", "forecasts", ["model", "cutoff"])
    op.create_table(
        "forecast_blocks",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True),
        sa.Column("forecast", sa.Integer, nullable=False),
        sa.Column("symbol_id", sa.Integer, nullable=False),
        sa.Column("raw", sa.LargeBinary, nullable=False),
        sa.Column("calibrated", sa.LargeBinary),
        sa.UniqueConstraint("forecast", "symbol_id", name="forecast_blocks_forecast_symbol"),
    )
    op.create_table(
        "scores",
        sa.Column("forecast", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("step", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("symbol_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("known_from", INSTANT, primary_key=True),
        sa.Column("known_until", INSTANT),
        sa.Column("assumed", sa.Boolean, nullable=False),
        sa.Column("ds", DAY, nullable=False),
        sa.Column("y", sa.Double, nullable=False),
        sa.Column("crps", sa.Double, nullable=False),
        sa.Column("pit", sa.Double, nullable=False),
        *[_score(name) for name in RAW[2:]],
        *[_score(f"{name}_calibrated") for name in RAW],
        sqlite_with_rowid=False,
    )
    later = sa.text("NOT assumed")
    key = ["forecast", "step", "symbol_id"]
    op.create_index("scores_later", "scores", key, sqlite_where=later, postgresql_where=later)


def downgrade() -> None:
    for name in ("scores", "forecast_blocks", "forecasts"):
        op.drop_table(name)


def _score(name: str) -> "sa.Column[float]":
    return sa.Column(name, sa.SmallInteger if name.startswith("covered") else sa.Double)
