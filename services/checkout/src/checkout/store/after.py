"""After the order in SQL: refunds and parcels, each in one transaction with its events.

The order's row is locked, then changed by compare-and-set on its version, so that what is added up
of refunds and parcels stays true until the commit. A refund is a row that some worker claims, asks
the provider for outside any transaction, and records. Nothing here waits for a provider.
"""

import hashlib
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa
import uuid_utils.compat as uuids
from msgspec import Struct, structs
from opentelemetry import metrics
from sqlalchemy.ext.asyncio import AsyncConnection

from bus import sql
from chassis import telemetry
from chassis.database import Database, LostRace
from chassis.problems import Fault, Invalid, NotFound
from checkout import after
from checkout.after import Excess, Paid, Refund, RefundState, RefundWanted, Shipment, ShipmentWanted
from checkout.domain import Answer, Approved, Asked, Op, Order, Pending, Status
from checkout.letters import ANY_SHOP, Shop
from checkout.store import hooks, invoices, mails, parcels, placing, rows, tables
from checkout.store.problems import IdempotencyKeyReused, NotConfirmed, NotLeft
from shop_contracts.events.base import Fact

log = logging.getLogger(__name__)
_failed = metrics.get_meter(__name__).create_counter(
    "shop_refunds_failed", description="refunds that the provider refused for good"
)

OPEN = {RefundState.REQUESTED, RefundState.PENDING}
"""A refund that has not ended."""
FORM = {"unknown-sku", "twice", "nothing"}
"""What is wrong whatever the order's state."""
SAYS = {
    "unknown-sku": "The order has no such line.",
    "twice": "A SKU is named once.",
    "nothing": "Name lines, shipping or an amount.",
    "too-many": "There are {left} units left.",
    "too-much": "There is {left} left in minor units.",
}


class Done(Struct, frozen=True, kw_only=True):
    """The stored answer, byte for byte, and whether it was given before."""

    body: bytes
    replayed: bool


class RefundAsk(Struct, frozen=True, kw_only=True):
    """A refund that this process has claimed and is to ask the provider for."""

    order_id: UUID
    refund_id: UUID
    key: str
    attempt: int
    amount_minor: int
    ref: str
    traceparent: str = ""


class Standing(Struct, frozen=True, kw_only=True):
    """An order under its lock, with what has followed it so far."""

    order: Order
    paid: Paid
    refunds: list[Refund]
    shipments: list[Shipment]


class After:
    """What follows the confirmed orders of one database."""

    def __init__(self, database: Database, shop: Shop = ANY_SHOP) -> None:
        self._database = database
        self._shop = shop

    async def refund(self, order_id: UUID, key: str, wanted: RefundWanted) -> Done:
        """Have money given back, once per key.

        Raises NotFound, NotConfirmed, NotLeft, Invalid, IdempotencyKeyReused.
        """

        async def act(connection: AsyncConnection, now: datetime, at: Standing) -> Refund:
            found = after.refund(at.paid, at.refunds, wanted, uuids.uuid7(), now)
            if isinstance(found, list):
                raise _refused(found)
            await parcels.add_refund(connection, at.order.id, found, telemetry.inject() or None)
            await _moves(connection, at.order, "refund requested", now, found.amount_minor)
            return found

        return await self._once(f"{order_id}:refunds", order_id, key, wanted, act)

    async def ship(self, order_id: UUID, key: str, wanted: ShipmentWanted) -> Done:
        """A parcel has left, told once per key.

        Raises NotFound, NotConfirmed, NotLeft, Invalid, IdempotencyKeyReused.
        """

        async def act(connection: AsyncConnection, now: datetime, at: Standing) -> Shipment:
            parcel = after.shipment(at.paid, at.refunds, at.shipments, wanted, uuids.uuid7(), now)
            if isinstance(parcel, list):
                raise _refused(parcel)
            await parcels.add_shipment(connection, at.order.id, parcel)
            whole = after.complete(at.paid, at.refunds, [*at.shipments, parcel])
            fact = after.shipped(at.order, parcel, complete=whole)
            await _moves(connection, at.order, fact.KEY, now, 0, fact)
            await mails.tell_after(connection, self._shop, at.order, fact)
            return parcel

        return await self._once(f"{order_id}:shipments", order_id, key, wanted, act)

    async def deliver(self, order_id: UUID, shipment_id: UUID) -> Shipment:
        """A parcel has been handed over; told again changes nothing. Raises NotFound."""

        async def work(connection: AsyncConnection) -> Shipment:
            at = await _standing(connection, order_id)
            known = (one for one in at.shipments if one.shipment_id == shipment_id) if at else ()
            parcel = next(iter(known), None)
            if at is None or parcel is None:
                raise NotFound("The order has no such parcel.")
            if parcel.delivered_at is not None:
                return parcel
            now = datetime.now(UTC)
            parcel = structs.replace(parcel, delivered_at=now)
            await parcels.note_delivery(connection, parcel)
            others = [one for one in at.shipments if one.shipment_id != shipment_id]
            shipments = [*others, parcel]
            whole = after.complete(at.paid, at.refunds, shipments) and after.arrived(shipments)
            fact = after.delivered(at.order, parcel, now, complete=whole)
            await _moves(connection, at.order, fact.KEY, now, 0, fact)
            return parcel

        return await self._database.write(work)

    async def claim(self, limit: int, lease: timedelta) -> list[RefundAsk]:
        """Refunds to ask the provider for; nobody else gets them for as long as `lease`."""
        table, now = tables.refunds, datetime.now(UTC)
        due = sa.select(table.c.id).where(table.c.next_at <= now).limit(limit)

        async def work(connection: AsyncConnection) -> list[RefundAsk]:
            query = due.order_by(table.c.next_at).with_for_update(skip_locked=True)
            ids = (await connection.scalars(query)).all()
            if not ids:
                return []
            await connection.execute(
                sa.update(table)
                .where(table.c.id.in_(ids))
                .values(state=Asked.SENT.value, attempt=table.c.attempt + 1, next_at=now + lease)
            )
            captured = tables.payments.c
            found = await connection.execute(
                sa.select(table, captured.psp_ref.label("captured"))
                .join(tables.payments, captured.order_id == table.c.order_id)
                .where(table.c.id.in_(ids), captured.op == Op.CAPTURE.value)
            )
            return [
                RefundAsk(
                    order_id=row.order_id,
                    refund_id=row.id,
                    key=row.psp_key,
                    attempt=row.attempt,
                    amount_minor=row.amount_minor,
                    ref=row.captured or "",
                    traceparent=row.traceparent or "",
                )
                for row in found
            ]

        # an idle poll must not take SQLite's write lock
        async with self._database.read() as connection:
            if await connection.scalar(due) is None:
                return []
        return await self._database.write(work)

    async def later(self, ask: RefundAsk, pause: timedelta) -> None:
        """Ask again after `pause`: the provider gave no answer."""
        table = tables.refunds

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(
                sa.update(table)
                .where(table.c.id == ask.refund_id, table.c.state == Asked.SENT.value)
                .values(next_at=datetime.now(UTC) + pause)
            )

        await self._database.write(work)

    async def pending(self, ask: RefundAsk, answer: Pending, pause: timedelta) -> None:
        """The provider has taken it: look after `pause` what became of it, or when it says so."""
        table = tables.refunds

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(
                sa.update(table)
                .where(table.c.id == ask.refund_id, table.c.state == Asked.SENT.value)
                .values(psp_ref=answer.ref, next_at=datetime.now(UTC) + pause)
            )

        await self._database.write(work)

    async def answered(self, ask: RefundAsk, answer: Answer) -> None:
        """Record the provider's answer and tell of it; counts once."""
        failed = await self._database.write(
            lambda connection: _ends(connection, ask, answer, datetime.now(UTC), self._shop)
        )
        if failed:
            log.error("refund %s of order %s is refused", ask.refund_id, ask.order_id)
            _failed.add(1)

    async def _once(
        self,
        scope: str,
        order_id: UUID,
        key: str,
        wanted: Struct,
        act: Callable[[AsyncConnection, datetime, Standing], Awaitable[Refund | Shipment]],
    ) -> Done:
        fingerprint = hashlib.sha256(msgspec.json.encode(wanted)).digest()

        async def work(connection: AsyncConnection) -> Done:
            # under the order's lock whoever used this key before has committed
            at = await _standing(connection, order_id)
            if at is None:
                raise NotFound("There is no such order.")
            known: Any = (await placing.answers(connection, [(scope, key)]))[0]
            if known is not None:
                if known.fingerprint != fingerprint:
                    raise IdempotencyKeyReused
                return Done(body=known.body, replayed=True)
            if at.order.status is not Status.CONFIRMED:
                raise NotConfirmed(order_status=at.order.status.value)
            now = datetime.now(UTC)
            body = msgspec.json.encode(await act(connection, now, at))
            await connection.execute(
                sa.insert(tables.idempotency).values(
                    scope=scope,
                    idem_key=key,
                    fingerprint=fingerprint,
                    order_id=order_id,
                    body=body,
                    expires_at=now + placing.KEPT,
                )
            )
            return Done(body=body, replayed=False)

        return await self._database.write(work)


async def _standing(connection: AsyncConnection, order_id: UUID) -> Standing | None:
    order = (await rows.load(connection, [order_id], locked=True)).get(order_id)
    if order is None:
        return None
    return Standing(
        order=order,
        paid=after.paid(await rows.breakdown_of(connection, order)),
        refunds=await parcels.refunds(connection, order_id),
        shipments=await parcels.shipments(connection, order_id),
    )


async def _ends(
    connection: AsyncConnection, ask: RefundAsk, answer: Answer, now: datetime, shop: Shop
) -> bool:
    """Write how the refund ended, the first time; whether it failed."""
    at = await _standing(connection, ask.order_id)
    known = (one for one in at.refunds if one.refund_id == ask.refund_id) if at else iter(())
    refund = next(known, None)
    if at is None or refund is None or refund.state not in OPEN:
        return False
    failed = not isinstance(answer, Approved)
    table = tables.refunds
    changed = await connection.execute(
        sa.update(table)
        .where(table.c.id == ask.refund_id, table.c.state == Asked.SENT.value)
        .values(
            state=(Asked.REFUSED if failed else Asked.DONE).value,
            psp_ref=answer.ref if isinstance(answer, Approved) else None,
            failure=None if isinstance(answer, Approved) else answer.reason[:500],
            ended_at=now,
            next_at=None,
        )
    )
    if changed.rowcount != 1:
        raise LostRace
    if failed:
        await _moves(connection, at.order, "refund refused", now, -refund.amount_minor)
    else:
        fact = after.refunded(at.order, at.refunds, refund, now)
        await _moves(connection, at.order, fact.KEY, now, 0, fact)
        if refund.amount_minor:
            await mails.tell_after(connection, shop, at.order, fact)
        if refund.amount_minor and shop.invoices:
            await invoices.want_credit_note(connection, at.order.id, refund.refund_id, now)
    return failed


async def _moves(
    connection: AsyncConnection,
    order: Order,
    cause: str,
    now: datetime,
    refunded: int,
    fact: Fact | None = None,
) -> None:
    """The order's next version, with its history and its event. Raises LostRace."""
    table = tables.orders
    version = order.version + 1
    changed = await connection.execute(
        sa.update(table)
        .where(table.c.id == order.id, table.c.version == order.version)
        .values(version=version, refunded_minor=table.c.refunded_minor + refunded, updated_at=now)
    )
    if changed.rowcount != 1:
        raise LostRace
    moved = structs.replace(order, version=version)
    await connection.execute(
        sa.insert(tables.order_history).values(rows.moment(moved, order.status, cause, None, now))
    )
    if fact is not None:
        event = rows.event(fact, version, order.id, None, telemetry.inject() or None)
        await sql.add(connection, tables.outbox, event)
        await hooks.announce(connection, [event])


def _refused(wrong: list[Excess]) -> Invalid | NotLeft:
    errors: list[Fault] = [
        {"pointer": one.pointer, "code": one.code, "detail": SAYS[one.code].format(left=one.left)}
        for one in wrong
    ]
    if any(one.code in FORM for one in wrong):
        return Invalid(errors=errors)
    return NotLeft(errors=errors)
