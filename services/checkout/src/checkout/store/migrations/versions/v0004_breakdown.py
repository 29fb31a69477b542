"""An order keeps all its amounts: lines, discount, shipping and taxes."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("orders", sa.Column("breakdown", sa.JSON(none_as_null=True)))
