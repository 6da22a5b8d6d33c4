"""Runs of jobs, calibrations, fills, recommendations, regimes and served requests."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

DAY = sa.Date().with_variant(sa.Integer(), "sqlite")
INSTANT = sa.DateTime(timezone=True).with_variant(sa.BigInteger(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "job_runs",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("host", sa.Text),
        sa.Column("pid", sa.Integer),
        sa.Column("process_started", sa.Text),
        sa.Column("held_since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("completed_at", sa.DateTime(timezone=True)),
        sa.Column("job", sa.String(64), nullable=False),
        sa.Column("key", sa.String(128), nullable=False),
        sa.Column("run_id", sa.Text),
        sa.UniqueConstraint("job", "key", name="job_runs_job_key"),
    )
    _calibrations()
    _revised(
        "fills",
        [_key("strategy", sa.String(128)), _key("fill_id", sa.String(128))],
        [
            _value("data", sa.String(64)),
            _value("symbol", sa.String(128)),
            _value("side", sa.String(4)),
            _value("quantity", sa.Text()),
            _value("price", sa.Text()),
            _value("fee", sa.Text()),
            _value("filled_at", INSTANT),
            _value("sequence", sa.Integer()),
        ],
    )
    _revised(
        "recommendations",
        [
            _key("strategy", sa.String(128)),
            _key("data", sa.String(64)),
            _key("symbol", sa.String(128)),
            _key("ds", DAY),
            _key("horizon", sa.Integer()),
        ],
        [
            _value("side", sa.String(4)),
            _value("weight", sa.Double()),
            sa.Column("forecast_id", sa.String(64)),
        ],
    )
    _revised(
        "regimes",
        [_key("data", sa.String(64)), _key("name", sa.String(128)), _key("ds", DAY)],
        [_value("label", sa.String(128))],
    )
    op.create_table(
        "requests",
        sa.Column("id", sa.Integer, primary_key=True),
        _value("request_id", sa.String(128)),
        sa.Column("forecast_id", sa.String(64)),
        _value("model", sa.String(64)),
        _value("version", sa.Integer()),
        _value("received_at", INSTANT),
        _value("status", sa.Integer()),
        _value("payload", sa.LargeBinary()),
        _value("digest", sa.String(64)),
        sa.UniqueConstraint("request_id", name="requests_request_id"),
    )


def downgrade() -> None:
    for name in (
        "requests", "regimes", "recommendations", "fills", "calibrations_in_use",
        "calibration_states", "calibrations", "job_runs",
    ):  # fmt: skip
        op.drop_table(name)


def _calibrations() -> None:
    scope = {
        "registry": sa.String(128),
        "model": sa.String(64),
        "version": sa.Integer(),
        "data": sa.String(64),
    }
    op.create_table(
        "calibrations",
        sa.Column("id", sa.Integer, primary_key=True),
        *[_value(name, kind) for name, kind in scope.items()],
        _value("number", sa.Integer()),
        _value("method", sa.String(16)),
        _value("learned_until", DAY),
        _value("known_from", INSTANT),
        _value("levels", sa.Text()),
        _value("evidence", sa.Text()),
        _value("digest", sa.String(64)),
        sa.UniqueConstraint(*scope, "number", name="calibrations_number"),
        sa.UniqueConstraint(*scope, "digest", name="calibrations_digest"),
    )
    op.create_table(
        "calibration_states",
        sa.Column("calibration_id", sa.Integer, sa.ForeignKey("calibrations.id"), primary_key=True),
        _key("kind", sa.String(8)),
        _key("name", sa.String(128)),
        _key("step", sa.Integer()),
        _value("bias", sa.Double()),
        _value("scale", sa.Double()),
        _value("offsets", sa.LargeBinary()),
        sqlite_with_rowid=False,
    )
    keys = [_key(name, kind) for name, kind in scope.items()]
    _revised(
        "calibrations_in_use",
        [*keys, _key("role", sa.String(8))],
        [_value("number", sa.Integer())],
    )


def _key(name: str, kind: Any) -> "sa.Column[Any]":
    return sa.Column(name, kind, primary_key=True, autoincrement=False)


def _value(name: str, kind: Any) -> "sa.Column[Any]":
    return sa.Column(name, kind, nullable=False)


def _revised(name: str, keys: "list[sa.Column[Any]]", values: "list[sa.Column[Any]]") -> None:
    op.create_table(
        name,
        *keys,
        sa.Column("known_from", INSTANT, primary_key=True),
        sa.Column("known_until", INSTANT),
        *values,
        sqlite_with_rowid=False,
    )
    holds = sa.text("known_until IS NULL")
    columns = [column.name for column in keys]
    op.create_index(
        f"{name}_current", name, columns, unique=True, sqlite_where=holds, postgresql_where=holds
    )
