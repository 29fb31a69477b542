"""Invoices with their numbers, one after the other in each year, and their PDFs."""

import sqlalchemy as sa
from alembic import op

from chassis.database import UtcTime

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.create_table(
        "invoices",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("order_id", sa.Uuid(), nullable=False),
        sa.Column("cause", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("due_at", UtcTime(), nullable=True),
        sa.Column("series", sa.String(length=16), nullable=True),
        sa.Column("count", sa.Integer(), nullable=True),
        sa.Column("number", sa.String(length=32), nullable=True),
        sa.Column("issued_at", UtcTime(), nullable=True),
        sa.Column("document", sa.LargeBinary(length=500000), nullable=True),
        sa.CheckConstraint("kind IN ('invoice', 'credit_note')", name=op.f("ck_invoices_kind")),
        sa.CheckConstraint("(number IS NULL) = (document IS NULL)", name=op.f("ck_invoices_given")),
        sa.ForeignKeyConstraint(["order_id"], ["orders.id"]),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_invoices")),
        sa.UniqueConstraint("cause", name=op.f("uq_invoices_cause")),
        sa.UniqueConstraint("number", name=op.f("uq_invoices_number")),
        sa.UniqueConstraint("series", "count", name=op.f("uq_invoices_series")),
    )
    op.create_index(op.f("ix_invoices_due_at"), "invoices", ["due_at"])
    op.create_index(op.f("ix_invoices_order_id"), "invoices", ["order_id"])
    op.create_table(
        "invoice_series",
        sa.Column("series", sa.String(length=16), nullable=False),
        sa.Column("last", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("series", name=op.f("pk_invoice_series")),
    )
    op.create_table(
        "invoice_files",
        sa.Column("invoice_id", sa.Uuid(), nullable=False),
        sa.Column("pdf", sa.LargeBinary(length=5000000), nullable=False),
        sa.ForeignKeyConstraint(["invoice_id"], ["invoices.id"]),
        sa.PrimaryKeyConstraint("invoice_id", name=op.f("pk_invoice_files")),
    )
