"""The ledger's tables on SQLite and PostgreSQL: migrations make what the code declares."""

from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext

from registry.ledger import database, faults, promotions, requests
from registry.ledger.regimes import regimes

TABLES = {promotions.promotions, requests.requests, regimes, *faults.OBSERVED}


def test_migrations_make_the_tables_that_the_code_declares(ledger_uri: str):
    engine = database.connect(ledger_uri)
    database.bring_up_to_date(engine)
    assert set(database.metadata.tables.values()) > TABLES
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


def test_every_migration_that_can_go_back_does_so_on_both_databases(ledger_uri: str):
    engine = database.connect(ledger_uri)
    database.bring_up_to_date(engine)
    before = reflected(engine)
    config = Config()
    config.set_main_option("script_location", str(database.MIGRATIONS))
    with database.write(engine) as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0002")
    assert sorted(reflected(engine)) == [database.VERSION_TABLE, "promotions"]
    database.bring_up_to_date(engine)
    assert reflected(engine) == before
    engine.dispose()
