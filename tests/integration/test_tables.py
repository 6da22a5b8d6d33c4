"""The ledger's tables on SQLite and PostgreSQL: migrations make what the code declares.

The imports declare all tables: one that is missing here is one too many in the database.
"""

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext

from registry.ledger import (
    calibrations,
    database,
    faults,
    fills,
    job_runs,
    promotions,
    recommendations,
    regimes,
    requests,
)
from registry.ledger.fills import Fill
from registry.ledger.recommendations import Recommendation
from registry.ledger.regimes import Regime
from registry.ledger.requests import Request
from registry.ledger.states import Scope, States

DAY = date(2026, 11, 26)
NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)
ONE = Decimal(1)
FILL = Fill(
    strategy="s", fill_id="f", data="panel", symbol="A", side="buy", quantity=ONE, price=ONE,
    fee=ONE, filled_at=NOON, sequence=0,
)  # fmt: skip
RECOMMENDATION = Recommendation(
    strategy="s", data="panel", symbol="A", ds=DAY, horizon=5, side="buy", weight=0.1
)
REQUEST = Request(
    request_id="a", forecast_id=None, model="har", version=1, received_at=NOON, status=200,
    payload=b"",
)  # fmt: skip
STATES = States(
    keys=[("global", "")],
    steps=np.array([1]),
    bias=np.zeros(1),
    scale=np.ones(1),
    offsets=np.zeros((1, 1)),
)


def test_migrations_make_the_tables_that_the_code_declares(ledger_uri: str):
    engine = database.connect(ledger_uri)
    database.bring_up_to_date(engine)
    with database.read(engine) as connection:
        options = {"version_table": database.VERSION_TABLE, "compare_type": True}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, database.metadata) == []
    migrated = reflected(engine)
    with database.write(engine) as connection:
        database.metadata.drop_all(connection)
        database.metadata.create_all(connection)
    assert reflected(engine) == migrated
    engine.dispose()


def reflected(engine: sa.Engine) -> dict[str, Any]:
    """What the database says of each table: columns, keys and indexes."""
    found = {}
    with database.read(engine) as connection:
        inspector = sa.inspect(connection)
        for name in inspector.get_table_names():
            columns = [
                (column["name"], str(column["type"]), column["nullable"])
                for column in inspector.get_columns(name)
            ]
            found[name] = {
                "columns": sorted(columns),
                "key": inspector.get_pk_constraint(name)["constrained_columns"],
                "unique": sorted(map(str, inspector.get_unique_constraints(name))),
                "foreign": inspector.get_foreign_keys(name),
                "indexes": sorted(map(index, inspector.get_indexes(name))),
            }
    return found


def index(reflected_index: Any) -> tuple[str, list[str], bool, str]:
    """Name, columns, whether it is unique, and its condition."""
    options = reflected_index.get("dialect_options", {})
    condition = options.get("sqlite_where", options.get("postgresql_where", ""))
    columns = reflected_index["column_names"]
    return reflected_index["name"], columns, bool(reflected_index["unique"]), str(condition)


def fill(engine: sa.Engine) -> None:
    """Put rows into the tables of 0005."""
    with job_runs.job_run(engine, "score", "2026-11-26") as held:
        assert held is not None
        held.complete("mlflow-run")
    fills.record(engine, [FILL])
    recommendations.record(engine, [RECOMMENDATION])
    regimes.record(engine, [Regime(data="panel", name="volatility", ds=DAY, label="calm")])
    requests.record(engine, [REQUEST])
    calibrations.publish(
        engine,
        Scope(registry="r", model="har", version=1, data="panel"),
        method="ewma",
        learned_until=DAY,
        levels=[0.5],
        states=STATES,
        evidence={},
    )


def test_migrations_go_back_and_forward_over_rows_of_every_state(ledger_uri: str):
    engine = database.connect(ledger_uri)
    database.bring_up_to_date(engine)
    fill(engine)
    assert faults.find(engine) == []
    assert promotions.promotions.name in reflected(engine)
    before = reflected(engine)
    config = Config()
    config.set_main_option("script_location", str(database.MIGRATIONS))
    with database.write(engine) as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0002")
    assert sorted(reflected(engine)) == [database.VERSION_TABLE, "promotions"]
    database.bring_up_to_date(engine)
    assert reflected(engine) == before
    fill(engine)
    assert requests.find(engine, "a") == REQUEST
    engine.dispose()
