"""The journal's tables in SQL, the same for SQLite and MariaDB. Opens no engine.

A cursor and all that it has seen change in one transaction. `slot` is the number of the partition
whose ledger a row came from. Times of Redis are milliseconds, as its streams count them.
"""

import sqlalchemy as sa

from chassis.database import BIG, UtcTime, exact

METADATA = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "pk": "pk_%(table_name)s",
    }
)

SKU = exact(64)
NAME = exact(128)

cursors = sa.Table(
    "stock_cursors",
    METADATA,
    sa.Column("slot", sa.Integer, primary_key=True, autoincrement=False),
    # the last entry of the ledger that is in these tables; "" when there is none yet
    sa.Column("ledger", sa.String(41), nullable=False),
)

movements = sa.Table(
    "stock_movements",
    METADATA,
    sa.Column("slot", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("at_ms", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("sku", SKU, nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("op", sa.String(16), nullable=False),
    sa.Column("davail", sa.BigInteger, nullable=False),
    sa.Column("dresv", sa.BigInteger, nullable=False),
    sa.Column("dsold", sa.BigInteger, nullable=False),
    sa.Column("drecv", sa.BigInteger, nullable=False),
    sa.Column("order_id", sa.String(36), nullable=False),
    sa.Column("cause", sa.String(128), nullable=False),
    sa.Column("event", sa.String(36), nullable=False),
    sa.Column("reason", sa.String(200), nullable=False),
    sa.Index("ix_stock_movements_sku", "sku", "version"),
)

levels = sa.Table(
    "stock_levels",
    METADATA,
    sa.Column("sku", SKU, primary_key=True),
    sa.Column("slot", sa.Integer, nullable=False),
    sa.Column("recv", sa.BigInteger, nullable=False),
    sa.Column("avail", sa.BigInteger, nullable=False),
    sa.Column("resv", sa.BigInteger, nullable=False),
    sa.Column("sold", sa.BigInteger, nullable=False),
    sa.Column("ver", sa.BigInteger, nullable=False),
    sa.Column("low", sa.BigInteger),
    sa.Index("ix_stock_levels_slot", "slot", "sku"),
)

prices = sa.Table(
    "stock_prices",
    METADATA,
    sa.Column("sku", SKU, primary_key=True),
    sa.Column("slot", sa.Integer, nullable=False),
    # the hash as Redis has it
    sa.Column("fields", sa.JSON, nullable=False),
    sa.Index("ix_stock_prices_slot", "slot", "sku"),
)

plans = sa.Table(
    "stock_price_plans",
    METADATA,
    # plans that were replaced: `version` is the last one of the prices while it stood
    sa.Column("slot", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("sku", SKU, primary_key=True),
    sa.Column("version", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("since_ms", sa.BigInteger, nullable=False),
    sa.Column("plan", sa.Text, nullable=False),
)

holds = sa.Table(
    "stock_holds",
    METADATA,
    sa.Column("slot", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("name", NAME, primary_key=True),
    sa.Column("state", sa.String(16), nullable=False),
    # when it came into its state
    sa.Column("at_ms", sa.BigInteger, nullable=False),
    sa.Column("fields", sa.JSON, nullable=False),
    sa.Index("ix_stock_holds_state", "state", "at_ms"),
)

held_lines = sa.Table(
    "stock_held_lines",
    METADATA,
    sa.Column("slot", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("name", NAME, primary_key=True),
    sa.Column("sku", SKU, primary_key=True),
    sa.Column("qty", sa.BigInteger, nullable=False),
    sa.Index("ix_stock_held_lines_sku", "sku"),
)

commands = sa.Table(
    "stock_commands",
    METADATA,
    sa.Column("slot", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("key", NAME, primary_key=True),
    sa.Column("at_ms", sa.BigInteger, nullable=False, index=True),
    sa.Column("fields", sa.JSON, nullable=False),
)

untold = sa.Table(
    "stock_untold",
    METADATA,
    # entries of the outbox that had not left when the cursor was where it is
    sa.Column("slot", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("at_ms", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("fields", sa.JSON, nullable=False),
)

audits = sa.Table(
    "stock_audits",
    METADATA,
    sa.Column("id", BIG, primary_key=True, autoincrement=True),
    sa.Column("at", UtcTime, nullable=False),
    sa.Column("slot", sa.Integer, nullable=False),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("name", NAME, nullable=False),
    sa.Column("found", sa.Text, nullable=False),
    sa.Column("expected", sa.Text, nullable=False),
    sa.Column("outcome", sa.String(16), nullable=False),
    sa.Index("ix_stock_audits_name", "name", "kind"),
    sqlite_autoincrement=True,
)

JOURNAL = (
    cursors,
    movements,
    levels,
    prices,
    plans,
    holds,
    held_lines,
    commands,
    untold,
    audits,
)
