"""The tables of the first version: orders, payments, keys, projections, outbox and inbox."""

import sqlalchemy as sa
from alembic import op

from chassis.database import UtcTime

revision = "0001"
down_revision = None


def _exact(length: int) -> sa.String:
    """Text whose case counts."""
    binary = sa.String(length, collation="utf8mb4_bin")
    return sa.String(length).with_variant(binary, "mysql", "mariadb")


def upgrade() -> None:
    op.create_table(
        "idempotency",
        sa.Column("scope", _exact(128), nullable=False),
        sa.Column("idem_key", _exact(128), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(length=32), nullable=False),
        sa.Column("order_id", sa.Uuid(), nullable=False),
        sa.Column("body", sa.LargeBinary(length=65535), nullable=False),
        sa.Column("expires_at", UtcTime(), nullable=False),
        sa.PrimaryKeyConstraint("scope", "idem_key", name=op.f("pk_idempotency")),
    )
    op.create_index(op.f("ix_idempotency_expires_at"), "idempotency", ["expires_at"], unique=False)
    op.create_table(
        "inbox",
        sa.Column("consumer", sa.String(length=64), nullable=False),
        sa.Column("source", sa.String(length=64), nullable=False),
        sa.Column("event_id", sa.String(length=36), nullable=False),
        sa.Column("received_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("consumer", "source", "event_id", name=op.f("pk_inbox")),
    )
    op.create_index(op.f("ix_inbox_received_at"), "inbox", ["received_at"], unique=False)
    op.create_table(
        "offers",
        sa.Column("sku", _exact(64), nullable=False),
        sa.Column("prices", sa.JSON(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("sku", name=op.f("pk_offers")),
    )
    op.create_table(
        "orders",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column(
            "status",
            sa.Enum(
                "placed",
                "reserved",
                "authorised",
                "committed",
                "confirmed",
                "cancelled",
                native_enum=False,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("currency", sa.String(length=3), nullable=False),
        sa.Column("total_minor", sa.BigInteger(), nullable=False),
        sa.Column(
            "reason",
            sa.Enum(
                "out_of_stock",
                "stock_timeout",
                "stock_lost",
                "payment_declined",
                "payment_timeout",
                "hold_expired",
                "capture_refused",
                "by_customer",
                "unknown",
                native_enum=False,
                length=32,
            ),
            nullable=True,
        ),
        sa.Column("shortages", sa.JSON(), nullable=False),
        sa.Column("cart_id", _exact(128), nullable=False),
        sa.Column("claims_cart", _exact(128), nullable=True),
        sa.Column("deadline_at", UtcTime(), nullable=True),
        sa.Column("placed_at", UtcTime(), nullable=False),
        sa.Column("updated_at", UtcTime(), nullable=False),
        sa.CheckConstraint(
            "(status = 'cancelled') = (reason IS NOT NULL)", name=op.f("ck_orders_reason")
        ),
        sa.CheckConstraint(
            "status IN ('placed', 'reserved', 'authorised', 'committed', 'confirmed', 'cancelled')",
            name=op.f("ck_orders_status"),
        ),
        sa.CheckConstraint("total_minor >= 0", name=op.f("ck_orders_total")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_orders")),
        sa.UniqueConstraint("claims_cart", name=op.f("uq_orders_claims_cart")),
    )
    op.create_index(op.f("ix_orders_deadline_at"), "orders", ["deadline_at"], unique=False)
    op.create_table(
        "outbox",
        sa.Column(
            "seq",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("event_id", sa.String(length=36), nullable=False),
        sa.Column("body", sa.LargeBinary(length=1000000), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_outbox")),
        sa.UniqueConstraint("event_id", name=op.f("uq_outbox_event_id")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "products",
        sa.Column("sku", _exact(64), nullable=False),
        sa.Column("product_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=500), nullable=False),
        sa.Column("withdrawn", sa.Boolean(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("sku", name=op.f("pk_products")),
    )
    op.create_index(op.f("ix_products_product_id"), "products", ["product_id"], unique=False)
    op.create_table(
        "order_history",
        sa.Column("order_id", sa.Uuid(), nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column(
            "from_status",
            sa.Enum(
                "placed",
                "reserved",
                "authorised",
                "committed",
                "confirmed",
                "cancelled",
                native_enum=False,
                length=32,
            ),
            nullable=True,
        ),
        sa.Column(
            "to_status",
            sa.Enum(
                "placed",
                "reserved",
                "authorised",
                "committed",
                "confirmed",
                "cancelled",
                native_enum=False,
                length=32,
            ),
            nullable=False,
        ),
        sa.Column("cause", sa.String(length=64), nullable=False),
        sa.Column("cause_event", sa.String(length=36), nullable=True),
        sa.Column("at", UtcTime(), nullable=False),
        sa.ForeignKeyConstraint(["order_id"], ["orders.id"]),
        sa.PrimaryKeyConstraint("order_id", "version", name=op.f("pk_order_history")),
    )
    op.create_table(
        "order_lines",
        sa.Column("order_id", sa.Uuid(), nullable=False),
        sa.Column("line_no", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("sku", _exact(64), nullable=False),
        sa.Column("qty", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=500), nullable=False),
        sa.Column("unit_minor", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("qty BETWEEN 1 AND 999", name=op.f("ck_order_lines_qty")),
        sa.CheckConstraint("unit_minor >= 0", name=op.f("ck_order_lines_unit")),
        sa.ForeignKeyConstraint(["order_id"], ["orders.id"]),
        sa.PrimaryKeyConstraint("order_id", "line_no", name=op.f("pk_order_lines")),
        sa.UniqueConstraint("order_id", "sku", name=op.f("uq_order_lines_order_id")),
    )
    op.create_table(
        "order_private",
        sa.Column("order_id", sa.Uuid(), nullable=False),
        sa.Column("email", sa.String(length=254), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=True),
        sa.Column("address", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("payment_token", sa.String(length=128), nullable=False),
        sa.ForeignKeyConstraint(["order_id"], ["orders.id"]),
        sa.PrimaryKeyConstraint("order_id", name=op.f("pk_order_private")),
    )
    op.create_table(
        "payments",
        sa.Column("order_id", sa.Uuid(), nullable=False),
        sa.Column(
            "op", sa.Enum("auth", "capture", "void", native_enum=False, length=32), nullable=False
        ),
        sa.Column(
            "state",
            sa.Enum("pending", "sent", "done", "refused", "dropped", native_enum=False, length=32),
            nullable=False,
        ),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("psp_key", sa.String(length=64), nullable=False),
        sa.Column("psp_ref", sa.String(length=500), nullable=True),
        sa.Column("amount_minor", sa.BigInteger(), nullable=False),
        sa.Column("next_at", UtcTime(), nullable=True),
        sa.CheckConstraint("op IN ('auth', 'capture', 'void')", name=op.f("ck_payments_op")),
        sa.CheckConstraint(
            "state IN ('pending', 'sent', 'done', 'refused', 'dropped')",
            name=op.f("ck_payments_state"),
        ),
        sa.ForeignKeyConstraint(["order_id"], ["orders.id"]),
        sa.PrimaryKeyConstraint("order_id", "op", name=op.f("pk_payments")),
        sa.UniqueConstraint("psp_key", name=op.f("uq_payments_psp_key")),
    )
    op.create_index(op.f("ix_payments_next_at"), "payments", ["next_at"], unique=False)
