"""Runs the ledger's migrations on the connection that `registry.ledger.database` opened."""

from alembic import context

from registry.ledger.database import VERSION_TABLE

context.configure(connection=context.config.attributes["connection"], version_table=VERSION_TABLE)
with context.begin_transaction():
    context.run_migrations()
