"""Where the bill of an order goes, when that is not where the goods go."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.add_column("order_private", sa.Column("billing", sa.JSON(none_as_null=True)))
