"""Orders as rows and back: what is read of them, and a step as it is written. Decides nothing."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa
import uuid_utils.compat as uuids
from msgspec import Struct
from sqlalchemy.ext.asyncio import AsyncConnection

from checkout import after, quotes
from checkout.after import Fulfilment, Refund, RefundState, Shipment
from checkout.domain import Asked, Op, Order, Status
from checkout.store import parcels, tables
from checkout.totals import Breakdown
from shop_contracts import envelope
from shop_contracts.envelope import Event
from shop_contracts.events.base import Fact
from shop_contracts.events.checkout.order_cancelled_v1 import CancelReason
from shop_contracts.types import PricedLine, Shortage

CONSUMER = "checkout"
# the saga moves an order without reading all its amounts
_STATE = [column for column in tables.orders.c if column.name != "breakdown"]


class Moment(Struct, frozen=True, kw_only=True):
    """One step of an order's way."""

    version: int
    status: Status
    cause: str
    at: datetime


class OrderView(Struct, frozen=True, kw_only=True):
    """An order as its customer sees it; it does not say who that is.

    `breakdown` is how `total_minor` came about, and never changes. `invoice` is the number of the
    invoice, once it can be read.
    """

    order_id: UUID
    status: Status
    version: int
    reason: CancelReason | None
    shortages: list[Shortage]
    lines: list[PricedLine]
    total_minor: int
    breakdown: Breakdown
    currency: str
    placed_at: datetime
    history: list[Moment]
    fulfilment: Fulfilment = Fulfilment.OPEN
    refunded_minor: int = 0
    refunds: list[Refund] = []
    shipments: list[Shipment] = []
    invoice: str | None = None

    @property
    def cancellable(self) -> bool:
        """Whether the customer may still take it back."""
        return self.status in {Status.PLACED, Status.RESERVED}


class OrderLine(Struct, frozen=True, kw_only=True):
    """An order in a list."""

    order_id: UUID
    status: Status
    reason: CancelReason | None
    total_minor: int
    refunded_minor: int
    currency: str
    placed_at: datetime


class Sold(Struct, frozen=True, kw_only=True):
    """What an order has sold out of a cart."""

    cart_id: str
    order_id: UUID
    lines: list[PricedLine]


async def load(
    connection: AsyncConnection, ids: Sequence[UUID], *, locked: bool = False
) -> dict[UUID, Order]:
    """The orders as the saga sees them; `locked` until the transaction ends, in one order."""
    wanted = {"ids": ids}
    rows = (await connection.execute(_LOCKED if locked else _ORDERS, wanted)).all()
    lines: dict[UUID, list[PricedLine]] = {row.id: [] for row in rows}
    payments: dict[UUID, dict[Op, Asked]] = {row.id: {} for row in rows}
    for order_id, sku, qty, name, unit in await connection.execute(_LINES, wanted):
        if order_id in lines:
            lines[order_id].append(PricedLine(sku=sku, qty=qty, name=name, unit_minor=unit))
    for order_id, op, state in await connection.execute(_PAYMENTS, wanted):
        if order_id in payments:
            payments[order_id][Op(op)] = Asked(state)
    return {
        row.id: Order(
            id=row.id,
            status=Status(row.status),
            version=row.version,
            lines=lines[row.id],
            total_minor=row.total_minor,
            currency=row.currency,
            placed_at=row.placed_at,
            deadline_at=row.deadline_at,
            reason=CancelReason(row.reason) if row.reason else None,
            shortages=msgspec.convert(row.shortages, list[Shortage]),
            payments=payments[row.id],
        )
        for row in rows
    }


async def sold(connection: AsyncConnection, after: str, limit: int) -> list[Sold]:
    """What confirmed orders have sold and still lies in their carts, by the carts' ids."""
    found = (await connection.execute(_SOLD, {"after": after, "most": limit})).all()
    lines: dict[UUID, list[PricedLine]] = {row.id: [] for row in found}
    if found:
        for order_id, sku, qty, name, unit in await connection.execute(
            _LINES, {"ids": list(lines)}
        ):
            lines[order_id].append(PricedLine(sku=sku, qty=qty, name=name, unit_minor=unit))
    return [Sold(cart_id=row.claims_cart, order_id=row.id, lines=lines[row.id]) for row in found]


async def breakdown_of(connection: AsyncConnection, order: Order) -> Breakdown:
    """All amounts of the order; one from before they were kept had nothing but its lines."""
    query = sa.select(tables.orders.c.breakdown).where(tables.orders.c.id == order.id)
    kept: Breakdown | None = await connection.scalar(query)
    return kept or quotes.plain(order.lines, order.currency)


async def view(connection: AsyncConnection, order_id: UUID) -> OrderView | None:
    """The order with its history."""
    order = (await load(connection, [order_id])).get(order_id)
    if order is None:
        return None
    table = tables.order_history.c
    rows = await connection.execute(
        sa.select(table.version, table.to_status, table.cause, table.at)
        .where(table.order_id == order_id)
        .order_by(table.version)
    )
    history = [
        Moment(version=version, status=Status(status), cause=cause, at=at)
        for version, status, cause, at in rows
    ]
    refunds = await parcels.refunds(connection, order_id)
    shipments = await parcels.shipments(connection, order_id)
    breakdown = await breakdown_of(connection, order)
    given = [one.amount_minor for one in refunds if one.state is RefundState.REFUNDED]
    return OrderView(
        order_id=order.id,
        status=order.status,
        version=order.version,
        reason=order.reason,
        shortages=order.shortages,
        lines=order.lines,
        total_minor=order.total_minor,
        breakdown=breakdown,
        currency=order.currency,
        placed_at=order.placed_at,
        history=history,
        fulfilment=after.fulfilment(after.paid(breakdown), refunds, shipments),
        refunded_minor=sum(given),
        refunds=refunds,
        shipments=shipments,
        invoice=await _invoice_of(connection, order_id),
    )


async def page(
    connection: AsyncConnection, status: Status | None, before: UUID | None, limit: int
) -> list[OrderLine]:
    """Orders, newest first: ids are made in the order of time."""
    table = tables.orders.c
    query = sa.select(*_STATE).order_by(table.id.desc()).limit(limit)
    if status is not None:
        query = query.where(table.status == status.value)
    if before is not None:
        query = query.where(table.id < before)
    return [
        OrderLine(
            order_id=row.id,
            status=Status(row.status),
            reason=CancelReason(row.reason) if row.reason else None,
            total_minor=row.total_minor,
            refunded_minor=row.refunded_minor,
            currency=row.currency,
            placed_at=row.placed_at,
        )
        for row in await connection.execute(query)
    ]


async def _invoice_of(connection: AsyncConnection, order_id: UUID) -> str | None:
    table = tables.invoices.c
    found: str | None = await connection.scalar(
        sa.select(table.number).where(table.cause == order_id, table.due_at.is_(None))
    )
    return found


async def seen(connection: AsyncConnection, events: Sequence[Event[Any]]) -> set[tuple[str, str]]:
    """Which of the events have had their effect."""
    if not events:
        return set()
    asked = {
        "sources": {event.meta.source for event in events},
        "events": [str(event.meta.id) for event in events],
    }
    return {(source, event_id) for source, event_id in await connection.execute(_SEEN, asked)}


def moment(
    order: Order, before: Status | None, cause: str, cause_id: UUID | None, now: datetime
) -> dict[str, Any]:
    """The row of one step of an order's way."""
    return {
        "order_id": order.id,
        "version": order.version,
        "from_status": before.value if before else None,
        "to_status": order.status.value,
        "cause": cause,
        "cause_event": str(cause_id) if cause_id else None,
        "at": now,
    }


def event(
    fact: Fact, version: int, order_id: UUID, cause_id: UUID | None, traceparent: str | None
) -> Event[Fact]:
    """The event of an order's step; the same cause makes the same event."""
    return envelope.new(
        fact,
        id=envelope.derived_id(cause_id, fact.KEY) if cause_id else uuids.uuid7(),
        entityversion=version,
        correlationid=str(order_id),
        causationid=str(cause_id) if cause_id else None,
        traceparent=traceparent,
    )


# built once: to build a query and its key anew costs as much as to send it
_IDS: sa.BindParameter[UUID] = sa.bindparam("ids", expanding=True)
_ORDERS = sa.select(*_STATE).where(tables.orders.c.id.in_(_IDS)).order_by(tables.orders.c.id)
_LOCKED = _ORDERS.with_for_update()
_LINE, _PAID, _INBOX = tables.order_lines.c, tables.payments.c, tables.inbox.c
_LINES = (
    sa.select(_LINE.order_id, _LINE.sku, _LINE.qty, _LINE.name, _LINE.unit_minor)
    .where(_LINE.order_id.in_(_IDS))
    .order_by(_LINE.order_id, _LINE.line_no)
)
_PAYMENTS = sa.select(_PAID.order_id, _PAID.op, _PAID.state).where(_PAID.order_id.in_(_IDS))
_SOLD = (
    sa.select(tables.orders.c.id, tables.orders.c.claims_cart)
    .where(
        tables.orders.c.claims_cart > sa.bindparam("after"),
        tables.orders.c.status == Status.CONFIRMED.value,
    )
    .order_by(tables.orders.c.claims_cart)
    .limit(sa.bindparam("most"))
)
_SEEN = sa.select(_INBOX.source, _INBOX.event_id).where(
    _INBOX.consumer == CONSUMER,
    # the key's columns from the first on: without its source, each look reads the whole inbox
    _INBOX.source.in_(sa.bindparam("sources", expanding=True)),
    _INBOX.event_id.in_(sa.bindparam("events", expanding=True)),
)
