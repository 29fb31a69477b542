"""The tables of checkout's database, the same for SQLite and MariaDB. Opens no engine.

Personal data stands in `order_private`, `customers`, `addresses` and `sign_ins`, and in mails until
they have gone, so that erasing it there erases all of it but invoices, which the law wants kept.
"""

from typing import Any

import msgspec
import sqlalchemy as sa

import notify.tables
from bus.sql import inbox_table, outbox_table
from chassis.database import UtcTime, exact
from checkout.domain import Asked, Op, Status
from checkout.quotes import MAX_QTY
from checkout.totals import Breakdown
from shop_contracts.events.checkout.order_cancelled_v1 import CancelReason

MAX_DOCUMENT = 500_000
MAX_PDF = 5_000_000

METADATA = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class BreakdownJson(sa.TypeDecorator[Breakdown]):
    """All amounts of an order, as they were agreed."""

    impl = sa.JSON
    cache_ok = True

    def process_bind_param(self, value: Breakdown | None, dialect: sa.Dialect) -> Any:
        del dialect
        return msgspec.to_builtins(value)

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> Breakdown | None:
        del dialect
        return msgspec.convert(value, Breakdown | None)


def _word(*words: str) -> sa.Enum:
    return sa.Enum(*words, native_enum=False, length=32, create_constraint=False)


def _one_of(column: str, words: type[Status] | type[Op] | type[Asked]) -> sa.CheckConstraint:
    listed = ", ".join(f"'{word.value}'" for word in words)
    return sa.CheckConstraint(f"{column} IN ({listed})", name=column)


_STATUS = _word(*(status.value for status in Status))
# SKUs differ by case, whatever a database's default collation thinks of it
SKU = exact(64)
_KEY = exact(128)

orders = sa.Table(
    "orders",
    METADATA,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("status", _STATUS, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("currency", sa.String(3), nullable=False),
    sa.Column("total_minor", sa.BigInteger, nullable=False),
    # written once, with the order; null in orders that are older than it
    sa.Column("breakdown", BreakdownJson(none_as_null=True)),
    # given back, or on its way back
    sa.Column("refunded_minor", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("reason", _word(*(reason.value for reason in CancelReason))),
    sa.Column("shortages", sa.JSON, nullable=False),
    sa.Column("cart_id", _KEY, nullable=False),
    # without one it is a guest's; the customer may be erased and the order stay
    sa.Column("customer_id", sa.Uuid),
    # the cart while this order may still sell it: one cart has one living order
    sa.Column("claims_cart", _KEY, unique=True),
    sa.Column("deadline_at", UtcTime, index=True),
    sa.Column("placed_at", UtcTime, nullable=False),
    sa.Column("updated_at", UtcTime, nullable=False),
    # the unfinished ones are a queue
    sa.Index("ix_orders_status", "status", "id"),
    sa.Index("ix_orders_customer_id", "customer_id", "id"),
    _one_of("status", Status),
    sa.CheckConstraint("total_minor >= 0", name="total"),
    sa.CheckConstraint("refunded_minor BETWEEN 0 AND total_minor", name="refunded"),
    sa.CheckConstraint("(status = 'cancelled') = (reason IS NOT NULL)", name="reason"),
)

order_lines = sa.Table(
    "order_lines",
    METADATA,
    sa.Column("order_id", sa.Uuid, sa.ForeignKey("orders.id"), primary_key=True),
    sa.Column("line_no", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("sku", SKU, nullable=False),
    sa.Column("qty", sa.Integer, nullable=False),
    sa.Column("name", sa.String(500), nullable=False),
    sa.Column("unit_minor", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("order_id", "sku"),
    sa.CheckConstraint(f"qty BETWEEN 1 AND {MAX_QTY}", name="qty"),
    sa.CheckConstraint("unit_minor >= 0", name="unit"),
)

order_history = sa.Table(
    "order_history",
    METADATA,
    sa.Column("order_id", sa.Uuid, sa.ForeignKey("orders.id"), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("from_status", _STATUS),
    sa.Column("to_status", _STATUS, nullable=False),
    sa.Column("cause", sa.String(64), nullable=False),
    sa.Column("cause_event", sa.String(36)),
    sa.Column("at", UtcTime, nullable=False),
)

order_private = sa.Table(
    "order_private",
    METADATA,
    sa.Column("order_id", sa.Uuid, sa.ForeignKey("orders.id"), primary_key=True),
    sa.Column("email", sa.String(254), nullable=False, index=True),
    sa.Column("name", sa.String(200)),
    sa.Column("address", sa.JSON(none_as_null=True)),
    sa.Column("billing", sa.JSON(none_as_null=True)),
    sa.Column("payment_token", sa.String(128), nullable=False),
)

payments = sa.Table(
    "payments",
    METADATA,
    sa.Column("order_id", sa.Uuid, sa.ForeignKey("orders.id"), primary_key=True),
    sa.Column("op", _word(*(op.value for op in Op)), primary_key=True),
    sa.Column("state", _word(*(state.value for state in Asked)), nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("psp_key", sa.String(64), nullable=False, unique=True),
    sa.Column("psp_ref", sa.String(500)),
    sa.Column("amount_minor", sa.BigInteger, nullable=False),
    # when to ask next; nothing to ask any more when it is null
    sa.Column("next_at", UtcTime, index=True),
    # the span of its cause
    sa.Column("traceparent", sa.String(55)),
    _one_of("op", Op),
    _one_of("state", Asked),
)

refunds = sa.Table(
    "refunds",
    METADATA,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("order_id", sa.Uuid, sa.ForeignKey("orders.id"), nullable=False, index=True),
    sa.Column("state", _word(*(state.value for state in Asked)), nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("psp_key", sa.String(128), nullable=False, unique=True),
    sa.Column("psp_ref", sa.String(500)),
    sa.Column("amount_minor", sa.BigInteger, nullable=False),
    # what was paid for shipping, as far as it is in the amount
    sa.Column("shipping_minor", sa.BigInteger, nullable=False),
    sa.Column("reason", sa.String(32), nullable=False),
    sa.Column("failure", sa.String(500)),
    sa.Column("requested_at", UtcTime, nullable=False),
    sa.Column("ended_at", UtcTime),
    sa.Column("next_at", UtcTime, index=True),
    sa.Column("traceparent", sa.String(55)),
    _one_of("state", Asked),
    sa.CheckConstraint("amount_minor >= 0", name="amount"),
)

refund_lines = sa.Table(
    "refund_lines",
    METADATA,
    sa.Column("refund_id", sa.Uuid, sa.ForeignKey("refunds.id"), primary_key=True),
    sa.Column("line_no", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("sku", SKU, nullable=False),
    sa.Column("qty", sa.Integer, nullable=False),
    sa.Column("restock", sa.Boolean, nullable=False),
    sa.Column("worth_minor", sa.BigInteger, nullable=False),
    sa.CheckConstraint(f"qty BETWEEN 1 AND {MAX_QTY}", name="qty"),
)

shipments = sa.Table(
    "shipments",
    METADATA,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("order_id", sa.Uuid, sa.ForeignKey("orders.id"), nullable=False, index=True),
    sa.Column("carrier", sa.String(100), nullable=False),
    sa.Column("tracking", sa.String(100)),
    sa.Column("shipped_at", UtcTime, nullable=False),
    sa.Column("delivered_at", UtcTime),
)

shipment_lines = sa.Table(
    "shipment_lines",
    METADATA,
    sa.Column("shipment_id", sa.Uuid, sa.ForeignKey("shipments.id"), primary_key=True),
    sa.Column("line_no", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("sku", SKU, nullable=False),
    sa.Column("qty", sa.Integer, nullable=False),
    sa.CheckConstraint(f"qty BETWEEN 1 AND {MAX_QTY}", name="qty"),
)

idempotency = sa.Table(
    "idempotency",
    METADATA,
    sa.Column("scope", _KEY, primary_key=True),
    sa.Column("idem_key", _KEY, primary_key=True),
    sa.Column("fingerprint", sa.LargeBinary(32), nullable=False),
    sa.Column("order_id", sa.Uuid, nullable=False),
    sa.Column("body", sa.LargeBinary(65_535), nullable=False),
    sa.Column("expires_at", UtcTime, nullable=False, index=True),
)

# a row is an invoice that is wanted; with its number it is given, and then never changes
invoices = sa.Table(
    "invoices",
    METADATA,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("order_id", sa.Uuid, sa.ForeignKey("orders.id"), nullable=False, index=True),
    # what it is for, the order or a refund of it: each has one
    sa.Column("cause", sa.Uuid, nullable=False, unique=True),
    sa.Column("kind", sa.String(16), nullable=False),
    # when to go on with it; null once it is drawn
    sa.Column("due_at", UtcTime, index=True),
    sa.Column("series", sa.String(16)),
    sa.Column("count", sa.Integer),
    sa.Column("number", sa.String(32), unique=True),
    sa.Column("issued_at", UtcTime),
    # all that is printed, as JSON
    sa.Column("document", sa.LargeBinary(MAX_DOCUMENT)),
    sa.UniqueConstraint("series", "count"),
    sa.CheckConstraint("kind IN ('invoice', 'credit_note')", name="kind"),
    sa.CheckConstraint("(number IS NULL) = (document IS NULL)", name="given"),
)

# how far the numbers of each year are
invoice_series = sa.Table(
    "invoice_series",
    METADATA,
    sa.Column("series", sa.String(16), primary_key=True),
    sa.Column("last", sa.Integer, nullable=False),
)

invoice_files = sa.Table(
    "invoice_files",
    METADATA,
    sa.Column("invoice_id", sa.Uuid, sa.ForeignKey("invoices.id"), primary_key=True),
    sa.Column("pdf", sa.LargeBinary(MAX_PDF), nullable=False),
)

offers = sa.Table(
    "offers",
    METADATA,
    sa.Column("sku", SKU, primary_key=True),
    sa.Column("prices", sa.JSON, nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
)

products = sa.Table(
    "products",
    METADATA,
    sa.Column("sku", SKU, primary_key=True),
    sa.Column("product_id", sa.Uuid, nullable=False, index=True),
    sa.Column("name", sa.String(500), nullable=False),
    sa.Column("withdrawn", sa.Boolean, nullable=False),
    # null where nobody says
    sa.Column("weight_g", sa.BigInteger),
    sa.Column("tax_class", sa.String(32)),
    sa.Column("version", sa.BigInteger, nullable=False),
)

coupons = sa.Table(
    "coupons",
    METADATA,
    sa.Column("code", exact(32), primary_key=True),
    sa.Column("kind", sa.String(16), nullable=False),
    sa.Column("value", sa.BigInteger, nullable=False),
    sa.Column("currency", sa.String(3)),
    sa.Column("min_minor", sa.BigInteger, nullable=False),
    sa.Column("starts_at", UtcTime),
    sa.Column("ends_at", UtcTime),
    sa.Column("limit_total", sa.Integer),
    sa.Column("limit_per_customer", sa.Integer),
    sa.Column("disabled", sa.Boolean, nullable=False),
    # as many as there are uses
    sa.Column("used", sa.Integer, nullable=False),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.CheckConstraint("used >= 0", name="used"),
    sa.CheckConstraint("limit_total IS NULL OR used <= limit_total", name="limit"),
)

# which living order uses which coupon; whose it is, `order_private` says
coupon_uses = sa.Table(
    "coupon_uses",
    METADATA,
    sa.Column("order_id", sa.Uuid, sa.ForeignKey("orders.id"), primary_key=True),
    sa.Column("code", exact(32), sa.ForeignKey("coupons.code"), nullable=False, index=True),
)

outbox = outbox_table(METADATA)
inbox = inbox_table(METADATA)
# an address of a mail stands in its delivery until it has gone
notices = notify.tables.tables(METADATA)

customers = sa.Table(
    "customers",
    METADATA,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("email", exact(254), nullable=False, unique=True),
    sa.Column("name", sa.String(200)),
    sa.Column("created_at", UtcTime, nullable=False),
)

addresses = sa.Table(
    "addresses",
    METADATA,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column(
        "customer_id",
        sa.Uuid,
        sa.ForeignKey("customers.id", ondelete="CASCADE"),
        nullable=False,
        index=True,
    ),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("street", sa.String(200), nullable=False),
    sa.Column("city", sa.String(100), nullable=False),
    sa.Column("area", sa.String(100), nullable=False),
    sa.Column("postcode", sa.String(20), nullable=False),
    sa.Column("country", sa.String(2), nullable=False),
    sa.Column("created_at", UtcTime, nullable=False),
)

# links on their way to mailboxes, by the hash of their token
sign_ins = sa.Table(
    "sign_ins",
    METADATA,
    sa.Column("digest", exact(64), primary_key=True),
    sa.Column("email", exact(254), nullable=False, index=True),
    sa.Column("expires_at", UtcTime, nullable=False, index=True),
)

# customers whose last orders have yet to end before nothing is known of them
erasures = sa.Table(
    "erasures",
    METADATA,
    sa.Column("customer_id", sa.Uuid, primary_key=True),
    sa.Column("erased_at", UtcTime, nullable=False, index=True),
)
