"""The journal: movements, levels, prices and holds as the ledgers in Redis tell of them."""

import sqlalchemy as sa
from alembic import op

from chassis.database import BIG, UtcTime, exact

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "stock_audits",
        sa.Column("id", BIG, autoincrement=True, nullable=False),
        sa.Column("at", UtcTime(), nullable=False),
        sa.Column("slot", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("name", exact(128), nullable=False),
        sa.Column("found", sa.Text(), nullable=False),
        sa.Column("expected", sa.Text(), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_stock_audits")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_stock_audits_name", "stock_audits", ["name", "kind"], unique=False)
    op.create_table(
        "stock_commands",
        sa.Column("slot", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("key", exact(128), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("fields", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("slot", "key", name=op.f("pk_stock_commands")),
    )
    op.create_index(op.f("ix_stock_commands_at_ms"), "stock_commands", ["at_ms"], unique=False)
    op.create_table(
        "stock_cursors",
        sa.Column("slot", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("ledger", sa.String(length=41), nullable=False),
        sa.PrimaryKeyConstraint("slot", name=op.f("pk_stock_cursors")),
    )
    op.create_table(
        "stock_held_lines",
        sa.Column("slot", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("name", exact(128), nullable=False),
        sa.Column("sku", exact(64), nullable=False),
        sa.Column("qty", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("slot", "name", "sku", name=op.f("pk_stock_held_lines")),
    )
    op.create_index("ix_stock_held_lines_sku", "stock_held_lines", ["sku"], unique=False)
    op.create_table(
        "stock_holds",
        sa.Column("slot", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("name", exact(128), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("fields", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("slot", "name", name=op.f("pk_stock_holds")),
    )
    op.create_index("ix_stock_holds_state", "stock_holds", ["state", "at_ms"], unique=False)
    op.create_table(
        "stock_levels",
        sa.Column("sku", exact(64), nullable=False),
        sa.Column("slot", sa.Integer(), nullable=False),
        sa.Column("recv", sa.BigInteger(), nullable=False),
        sa.Column("avail", sa.BigInteger(), nullable=False),
        sa.Column("resv", sa.BigInteger(), nullable=False),
        sa.Column("sold", sa.BigInteger(), nullable=False),
        sa.Column("ver", sa.BigInteger(), nullable=False),
        sa.Column("low", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("sku", name=op.f("pk_stock_levels")),
    )
    op.create_index("ix_stock_levels_slot", "stock_levels", ["slot", "sku"], unique=False)
    op.create_table(
        "stock_movements",
        sa.Column("slot", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("at_ms", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("sku", exact(64), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("op", sa.String(length=16), nullable=False),
        sa.Column("davail", sa.BigInteger(), nullable=False),
        sa.Column("dresv", sa.BigInteger(), nullable=False),
        sa.Column("dsold", sa.BigInteger(), nullable=False),
        sa.Column("drecv", sa.BigInteger(), nullable=False),
        sa.Column("order_id", sa.String(length=36), nullable=False),
        sa.Column("cause", sa.String(length=128), nullable=False),
        sa.Column("event", sa.String(length=36), nullable=False),
        sa.Column("reason", sa.String(length=200), nullable=False),
        sa.PrimaryKeyConstraint("slot", "at_ms", "seq", name=op.f("pk_stock_movements")),
    )
    op.create_index("ix_stock_movements_sku", "stock_movements", ["sku", "version"], unique=False)
    op.create_table(
        "stock_prices",
        sa.Column("sku", exact(64), nullable=False),
        sa.Column("slot", sa.Integer(), nullable=False),
        sa.Column("fields", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("sku", name=op.f("pk_stock_prices")),
    )
    op.create_index("ix_stock_prices_slot", "stock_prices", ["slot", "sku"], unique=False)
    op.create_table(
        "stock_untold",
        sa.Column("slot", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("at_ms", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("fields", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("slot", "at_ms", "seq", name=op.f("pk_stock_untold")),
    )
