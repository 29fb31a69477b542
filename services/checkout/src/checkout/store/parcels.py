"""Refunds and parcels as rows and back. Decides nothing, and opens no transaction."""

from collections import defaultdict
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from msgspec import structs
from sqlalchemy.ext.asyncio import AsyncConnection

from checkout.after import Refund, RefundLine, RefundState, Shipment
from checkout.domain import Asked
from checkout.store import tables
from shop_contracts.types import Line

STATES = {
    Asked.PENDING.value: RefundState.REQUESTED,
    Asked.SENT.value: RefundState.REQUESTED,
    Asked.DONE.value: RefundState.REFUNDED,
    Asked.REFUSED.value: RefundState.FAILED,
}


async def refunds(connection: AsyncConnection, order_id: UUID) -> list[Refund]:
    """The order's refunds, oldest first."""
    refund, line = tables.refunds.c, tables.refund_lines.c
    lines: dict[UUID, list[RefundLine]] = defaultdict(list)
    for row in await connection.execute(
        sa.select(tables.refund_lines)
        .join(tables.refunds, refund.id == line.refund_id)
        .where(refund.order_id == order_id)
        .order_by(line.refund_id, line.line_no)
    ):
        lines[row.refund_id].append(
            RefundLine(sku=row.sku, qty=row.qty, restock=row.restock, worth_minor=row.worth_minor)
        )
    found = await connection.execute(
        sa.select(tables.refunds).where(refund.order_id == order_id).order_by(refund.id)
    )
    return [
        Refund(
            refund_id=row.id,
            state=_state(row),
            lines=lines[row.id],
            shipping_minor=row.shipping_minor,
            amount_minor=row.amount_minor,
            reason=row.reason,
            requested_at=row.requested_at,
            ended_at=row.ended_at,
            failure=row.failure,
        )
        for row in found
    ]


def _state(row: Any) -> RefundState:
    taken = row.state == Asked.SENT.value and row.psp_ref is not None
    return RefundState.PENDING if taken else STATES[row.state]


async def shipments(connection: AsyncConnection, order_id: UUID) -> list[Shipment]:
    """The order's parcels, oldest first."""
    parcel, line = tables.shipments.c, tables.shipment_lines.c
    lines: dict[UUID, list[Line]] = defaultdict(list)
    for row in await connection.execute(
        sa.select(tables.shipment_lines)
        .join(tables.shipments, parcel.id == line.shipment_id)
        .where(parcel.order_id == order_id)
        .order_by(line.shipment_id, line.line_no)
    ):
        lines[row.shipment_id].append(Line(sku=row.sku, qty=row.qty))
    found = await connection.execute(
        sa.select(tables.shipments).where(parcel.order_id == order_id).order_by(parcel.id)
    )
    return [
        Shipment(
            shipment_id=row.id,
            lines=lines[row.id],
            carrier=row.carrier,
            tracking=row.tracking,
            shipped_at=row.shipped_at,
            delivered_at=row.delivered_at,
        )
        for row in found
    ]


async def add_refund(
    connection: AsyncConnection, order_id: UUID, refund: Refund, traceparent: str | None
) -> None:
    """A refund that the provider is to be asked for at once."""
    await connection.execute(
        sa.insert(tables.refunds).values(
            id=refund.refund_id,
            order_id=order_id,
            state=Asked.PENDING.value,
            attempt=0,
            psp_key=f"{order_id}:refund:{refund.refund_id}",
            amount_minor=refund.amount_minor,
            shipping_minor=refund.shipping_minor,
            reason=refund.reason,
            requested_at=refund.requested_at,
            next_at=refund.requested_at,
            traceparent=traceparent,
        )
    )
    await _add_lines(connection, tables.refund_lines, "refund_id", refund.refund_id, refund.lines)


async def add_shipment(connection: AsyncConnection, order_id: UUID, parcel: Shipment) -> None:
    """A parcel."""
    await connection.execute(
        sa.insert(tables.shipments).values(
            id=parcel.shipment_id,
            order_id=order_id,
            carrier=parcel.carrier,
            tracking=parcel.tracking,
            shipped_at=parcel.shipped_at,
        )
    )
    await _add_lines(
        connection, tables.shipment_lines, "shipment_id", parcel.shipment_id, parcel.lines
    )


async def _add_lines(
    connection: AsyncConnection,
    table: sa.Table,
    owner: str,
    owner_id: UUID,
    lines: list[RefundLine] | list[Line],
) -> None:
    values: list[dict[str, Any]] = [
        {owner: owner_id, "line_no": number, **structs.asdict(line)}
        for number, line in enumerate(lines, 1)
    ]
    if values:
        await connection.execute(sa.insert(table), values)


async def note_delivery(connection: AsyncConnection, shipment: Shipment) -> None:
    """The parcel was handed over when it says so."""
    table = tables.shipments
    await connection.execute(
        sa.update(table)
        .where(table.c.id == shipment.shipment_id)
        .values(delivered_at=shipment.delivered_at)
    )
