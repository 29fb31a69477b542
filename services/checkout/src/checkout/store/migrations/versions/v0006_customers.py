"""Customers with their addresses and links to sign in, and whose an order is."""

import sqlalchemy as sa
from alembic import op

from chassis.database import UtcTime, exact

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.create_table(
        "customers",
        sa.Column("id", sa.Uuid),
        sa.Column("email", exact(254), nullable=False),
        sa.Column("name", sa.String(200)),
        sa.Column("created_at", UtcTime, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_customers"),
        sa.UniqueConstraint("email", name="uq_customers_email"),
    )
    op.create_table(
        "addresses",
        sa.Column("id", sa.Uuid),
        sa.Column("customer_id", sa.Uuid, nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("street", sa.String(200), nullable=False),
        sa.Column("city", sa.String(100), nullable=False),
        sa.Column("area", sa.String(100), nullable=False),
        sa.Column("postcode", sa.String(20), nullable=False),
        sa.Column("country", sa.String(2), nullable=False),
        sa.Column("created_at", UtcTime, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_addresses"),
        sa.ForeignKeyConstraint(["customer_id"], ["customers.id"], ondelete="CASCADE"),
        sa.Index("ix_addresses_customer_id", "customer_id"),
    )
    op.create_table(
        "sign_ins",
        sa.Column("digest", exact(64)),
        sa.Column("email", exact(254), nullable=False),
        sa.Column("expires_at", UtcTime, nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_sign_ins"),
        sa.Index("ix_sign_ins_email", "email"),
        sa.Index("ix_sign_ins_expires_at", "expires_at"),
    )
    op.create_table(
        "erasures",
        sa.Column("customer_id", sa.Uuid),
        sa.Column("erased_at", UtcTime, nullable=False),
        sa.PrimaryKeyConstraint("customer_id", name="pk_erasures"),
        sa.Index("ix_erasures_erased_at", "erased_at"),
    )
    op.add_column("orders", sa.Column("customer_id", sa.Uuid))
    op.create_index("ix_orders_customer_id", "orders", ["customer_id", "id"])
    op.create_index("ix_order_private_email", "order_private", ["email"])
