"""What follows a confirmed order: refunds, which count against what was captured, and parcels."""

import sqlalchemy as sa
from alembic import op

from chassis.database import UtcTime, exact

revision = "0007"
down_revision = "0006"

BOUND = "refunded_minor BETWEEN 0 AND total_minor"


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        # SQLite adds no constraint to a table that stands, but a column with one
        op.execute(
            "ALTER TABLE orders ADD COLUMN refunded_minor BIGINT DEFAULT '0' NOT NULL"
            f" CONSTRAINT ck_orders_refunded CHECK ({BOUND})"
        )
    else:
        op.add_column(
            "orders",
            sa.Column("refunded_minor", sa.BigInteger(), server_default="0", nullable=False),
        )
        op.create_check_constraint(op.f("ck_orders_refunded"), "orders", BOUND)
    op.create_table(
        "refunds",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("order_id", sa.Uuid(), nullable=False),
        sa.Column(
            "state",
            sa.Enum("pending", "sent", "done", "refused", "dropped", native_enum=False, length=32),
            nullable=False,
        ),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("psp_key", sa.String(length=128), nullable=False),
        sa.Column("psp_ref", sa.String(length=500), nullable=True),
        sa.Column("amount_minor", sa.BigInteger(), nullable=False),
        sa.Column("shipping_minor", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.String(length=32), nullable=False),
        sa.Column("failure", sa.String(length=500), nullable=True),
        sa.Column("requested_at", UtcTime(), nullable=False),
        sa.Column("ended_at", UtcTime(), nullable=True),
        sa.Column("next_at", UtcTime(), nullable=True),
        sa.Column("traceparent", sa.String(length=55), nullable=True),
        sa.CheckConstraint(
            "state IN ('pending', 'sent', 'done', 'refused', 'dropped')",
            name=op.f("ck_refunds_state"),
        ),
        sa.CheckConstraint("amount_minor >= 0", name=op.f("ck_refunds_amount")),
        sa.ForeignKeyConstraint(["order_id"], ["orders.id"]),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_refunds")),
        sa.UniqueConstraint("psp_key", name=op.f("uq_refunds_psp_key")),
    )
    op.create_index(op.f("ix_refunds_order_id"), "refunds", ["order_id"])
    op.create_index(op.f("ix_refunds_next_at"), "refunds", ["next_at"])
    op.create_table(
        "refund_lines",
        sa.Column("refund_id", sa.Uuid(), nullable=False),
        sa.Column("line_no", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("sku", exact(64), nullable=False),
        sa.Column("qty", sa.Integer(), nullable=False),
        sa.Column("restock", sa.Boolean(), nullable=False),
        sa.Column("worth_minor", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("qty BETWEEN 1 AND 999", name=op.f("ck_refund_lines_qty")),
        sa.ForeignKeyConstraint(["refund_id"], ["refunds.id"]),
        sa.PrimaryKeyConstraint("refund_id", "line_no", name=op.f("pk_refund_lines")),
    )
    op.create_table(
        "shipments",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("order_id", sa.Uuid(), nullable=False),
        sa.Column("carrier", sa.String(length=100), nullable=False),
        sa.Column("tracking", sa.String(length=100), nullable=True),
        sa.Column("shipped_at", UtcTime(), nullable=False),
        sa.ForeignKeyConstraint(["order_id"], ["orders.id"]),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_shipments")),
    )
    op.create_index(op.f("ix_shipments_order_id"), "shipments", ["order_id"])
    op.create_table(
        "shipment_lines",
        sa.Column("shipment_id", sa.Uuid(), nullable=False),
        sa.Column("line_no", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("sku", exact(64), nullable=False),
        sa.Column("qty", sa.Integer(), nullable=False),
        sa.CheckConstraint("qty BETWEEN 1 AND 999", name=op.f("ck_shipment_lines_qty")),
        sa.ForeignKeyConstraint(["shipment_id"], ["shipments.id"]),
        sa.PrimaryKeyConstraint("shipment_id", "line_no", name=op.f("pk_shipment_lines")),
    )
