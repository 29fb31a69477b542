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

from checkout import domain
from checkout.domain import Asked, Op, Order, Status
from checkout.store import tables
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

    `breakdown` is how `total_minor` came about, and never changes.
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


async def load(
    connection: AsyncConnection, ids: Sequence[UUID], *, locked: bool = False
) -> dict[UUID, Order]:
    """The orders as the saga sees them; `locked` until the transaction ends, in one order."""
    query = sa.select(*_STATE).where(tables.orders.c.id.in_(ids)).order_by(tables.orders.c.id)
    rows = (await connection.execute(query.with_for_update() if locked else query)).all()
    line, paid = tables.order_lines.c, tables.payments.c
    lines: dict[UUID, list[PricedLine]] = {row.id: [] for row in rows}
    payments: dict[UUID, dict[Op, Asked]] = {row.id: {} for row in rows}
    for order_id, sku, qty, name, unit in await connection.execute(
        sa.select(line.order_id, line.sku, line.qty, line.name, line.unit_minor)
        .where(line.order_id.in_(ids))
        .order_by(line.order_id, line.line_no)
    ):
        if order_id in lines:
            lines[order_id].append(PricedLine(sku=sku, qty=qty, name=name, unit_minor=unit))
    for order_id, op, state in await connection.execute(
        sa.select(paid.order_id, paid.op, paid.state).where(paid.order_id.in_(ids))
    ):
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


async def breakdown_of(connection: AsyncConnection, order: Order) -> Breakdown:
    """All amounts of the order; one from before they were kept had nothing but its lines."""
    query = sa.select(tables.orders.c.breakdown).where(tables.orders.c.id == order.id)
    kept: Breakdown | None = await connection.scalar(query)
    return kept or domain.plain(order.lines, order.currency)


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
    return OrderView(
        order_id=order.id,
        status=order.status,
        version=order.version,
        reason=order.reason,
        shortages=order.shortages,
        lines=order.lines,
        total_minor=order.total_minor,
        breakdown=await breakdown_of(connection, order),
        currency=order.currency,
        placed_at=order.placed_at,
        history=history,
    )


async def seen(connection: AsyncConnection, events: Sequence[Event[Any]]) -> set[tuple[str, str]]:
    """Which of the events have had their effect."""
    if not events:
        return set()
    table = tables.inbox.c
    query = sa.select(table.source, table.event_id).where(
        table.consumer == CONSUMER,
        table.event_id.in_([str(event.meta.id) for event in events]),
    )
    return {(source, event_id) for source, event_id in await connection.execute(query)}


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
