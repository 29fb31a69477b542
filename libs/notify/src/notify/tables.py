"""Receivers, deliveries and the log of tries as SQL tables, in the metadata of whoever uses them.

A mail's address and text stand in its delivery only until it has ended.
"""

import sqlalchemy as sa
from msgspec import Struct

from chassis.database import BIG, UtcTime, exact

MAX_BODY = 1_000_000


class Tables(Struct, frozen=True):
    """The three tables."""

    webhooks: sa.Table
    deliveries: sa.Table
    tries: sa.Table


def tables(metadata: sa.MetaData) -> Tables:
    """Add the tables to the metadata of a service's database."""
    webhooks = sa.Table(
        "webhooks",
        metadata,
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("url", sa.String(2_048), nullable=False),
        # what makes it one receiver: an index takes no text as long as a URL may be
        sa.Column("digest", sa.String(64), nullable=False, unique=True),
        sa.Column("types", sa.JSON, nullable=False),
        sa.Column("secret", sa.String(100), nullable=False),
        sa.Column("old_secret", sa.String(100)),
        sa.Column("old_until", UtcTime),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("reason", sa.String(64)),
        sa.Column("failing_since", UtcTime),
        sa.Column("created_at", UtcTime, nullable=False),
        sa.CheckConstraint("state IN ('active', 'disabled')", name="state"),
    )
    deliveries = sa.Table(
        "deliveries",
        metadata,
        sa.Column("seq", BIG, primary_key=True, autoincrement=True),
        sa.Column("id", sa.Uuid, nullable=False, unique=True),
        sa.Column("webhook_id", sa.Uuid, sa.ForeignKey("webhooks.id", ondelete="CASCADE")),
        sa.Column("address", sa.String(254)),
        sa.Column("subject", exact(128), nullable=False),
        sa.Column("type", sa.String(64), nullable=False),
        sa.Column("body", sa.LargeBinary(MAX_BODY), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("tries", sa.Integer, nullable=False),
        # counts every try since the last redelivery: when the next one is, depends on it
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("next_at", UtcTime, nullable=False),
        sa.Column("leased_until", UtcTime),
        sa.Column("created_at", UtcTime, nullable=False),
        sa.Column("done_at", UtcTime),
        sa.Index("ix_deliveries_due", "state", "next_at"),
        sa.Index("ix_deliveries_order", "webhook_id", "subject", "seq"),
        sa.CheckConstraint("state IN ('waiting', 'delivered', 'failed')", name="state"),
        sqlite_autoincrement=True,
    )
    tries = sa.Table(
        "delivery_tries",
        metadata,
        sa.Column(
            "delivery_id",
            sa.Uuid,
            sa.ForeignKey("deliveries.id", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("at", UtcTime, nullable=False),
        sa.Column("milliseconds", sa.Integer, nullable=False),
        sa.Column("status", sa.Integer),
        sa.Column("outcome", sa.String(64), nullable=False),
    )
    return Tables(webhooks, deliveries, tries)
