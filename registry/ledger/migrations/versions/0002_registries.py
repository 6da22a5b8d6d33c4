"""Each row names its registry and the rule of its hash; completed rows are sealed."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    # SQLite cannot change a constraint: Alembic copies the rows into a new table.
    with op.batch_alter_table("promotions") as table:
        table.add_column(sa.Column("registry", sa.Text))
        table.add_column(sa.Column("rule", sa.Integer, nullable=False, server_default="1"))
        table.add_column(sa.Column("seal", sa.Text))
        table.drop_constraint("promotions_model_sequence", type_="unique")
        table.create_unique_constraint(
            "promotions_registry_model_sequence", ["registry", "model", "sequence"]
        )
