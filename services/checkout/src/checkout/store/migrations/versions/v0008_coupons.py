"""Coupons, and which orders use them."""

import sqlalchemy as sa
from alembic import op

from chassis.database import UtcTime, exact

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.create_table(
        "coupons",
        sa.Column("code", exact(32), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.Column("currency", sa.String(3), nullable=True),
        sa.Column("min_minor", sa.BigInteger(), nullable=False),
        sa.Column("starts_at", UtcTime(), nullable=True),
        sa.Column("ends_at", UtcTime(), nullable=True),
        sa.Column("limit_total", sa.Integer(), nullable=True),
        sa.Column("limit_per_customer", sa.Integer(), nullable=True),
        sa.Column("disabled", sa.Boolean(), nullable=False),
        sa.Column("used", sa.Integer(), nullable=False),
        sa.Column("created_at", UtcTime(), nullable=False),
        sa.CheckConstraint("used >= 0", name=op.f("ck_coupons_used")),
        sa.CheckConstraint(
            "limit_total IS NULL OR used <= limit_total", name=op.f("ck_coupons_limit")
        ),
        sa.PrimaryKeyConstraint("code", name=op.f("pk_coupons")),
    )
    op.create_table(
        "coupon_uses",
        sa.Column("order_id", sa.Uuid(), nullable=False),
        sa.Column("code", exact(32), nullable=False),
        sa.ForeignKeyConstraint(["order_id"], ["orders.id"]),
        sa.ForeignKeyConstraint(["code"], ["coupons.code"]),
        sa.PrimaryKeyConstraint("order_id", name=op.f("pk_coupon_uses")),
    )
    op.create_index(op.f("ix_coupon_uses_code"), "coupon_uses", ["code"])
