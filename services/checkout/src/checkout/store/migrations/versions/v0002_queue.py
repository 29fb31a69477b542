"""The unfinished orders are a queue: find them, and their order, without reading all."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_index("ix_orders_status", "orders", ["status", "id"])
