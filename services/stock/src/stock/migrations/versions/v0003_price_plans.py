"""The plans of prices that were replaced, so that a rebuilt Redis knows the past."""

import sqlalchemy as sa
from alembic import op

from chassis.database import exact

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "stock_price_plans",
        sa.Column("slot", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("sku", exact(64), nullable=False),
        sa.Column("version", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("since_ms", sa.BigInteger(), nullable=False),
        sa.Column("plan", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("slot", "sku", "version", name=op.f("pk_stock_price_plans")),
    )
