"""Orders in SQL: placing them once, reading them, and moving them on with their events.

Every change is one transaction: the row by compare-and-set on its version, the history, the inbox
mark of the cause, the payments to ask for and the events in the outbox. Nothing here waits for a
provider or a broker.
"""

import asyncio
import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa
from opentelemetry import metrics
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from bus import sql
from chassis import telemetry
from chassis.database import Database
from checkout import domain
from checkout.domain import Answer, Cause, Decision, Order, Status, Timers
from checkout.letters import ANY_SHOP, Shop
from checkout.purchase import Purchase
from checkout.quotes import Quote
from checkout.store import payments, rows, tables
from checkout.store import placing as placing_
from checkout.store.group import Group
from checkout.store.invoices import Drawn, of_order
from checkout.store.payments import Ask
from checkout.store.placing import Acceptance, Accepted, Placing
from checkout.store.problems import AlreadyOrdered, IdempotencyKeyReused
from checkout.store.rows import OrderLine, OrderView
from checkout.store.sheet import Meeting, Sheet
from shop_contracts import envelope
from shop_contracts.envelope import Event

log = logging.getLogger(__name__)
_alarms = metrics.get_meter(__name__).create_counter(
    "shop_saga_alarms", description="causes that should never have met their order"
)


PLACING_PATIENCE, MOVING_PATIENCE, NOTICE_PATIENCE = 0.015, 0.02, 0.05
"""How long a busy group lets more come, in seconds: a shopper waits, a step of the saga may."""
PLACING_ENOUGH = 32
"""With so many orders a group costs an order no more than with all others."""


class Orders:
    """The orders of one database.

    `asked` is set when a step of this process wants something of the payment provider.
    """

    def __init__(self, database: Database, timers: Timers, shop: Shop = ANY_SHOP) -> None:
        self.asked = asyncio.Event()
        self._due = False
        self._database = database
        self._timers = timers
        self._shop = shop
        self._replaying: Group[tuple[str, str], Any] = Group(database, placing_.answers, reads=True)
        self._noticing: Group[tuple[str, str], bool] = Group(
            database, payments.notice, patience=NOTICE_PATIENCE
        )
        self._placing: Group[Placing, Accepted] = Group(
            database, placing_.place, patience=PLACING_PATIENCE, enough=PLACING_ENOUGH
        )
        self._moving: Group[Meeting, Decision] = Group(
            database, self._move, patience=MOVING_PATIENCE
        )

    # ---- placing ----

    async def replay(self, cart_id: str, key: str, fingerprint: bytes) -> Accepted | None:
        """The answer already given under this key. Raises IdempotencyKeyReused."""
        answer = await self._replaying.do((cart_id, key))
        if answer is None:
            return None
        accepted = placing_.again(answer, fingerprint)
        if isinstance(accepted, IdempotencyKeyReused):
            raise accepted
        return accepted

    async def place(
        self,
        cart_id: str,
        key: str,
        fingerprint: bytes,
        purchase: Purchase,
        quote: Quote,
        customer_id: UUID | None = None,
    ) -> Accepted:
        """Make the order durable with its event and its answer, once per key and per cart.

        It is the customer's, or a guest's. The quote must have a total; it does not matter where
        the key has its answer, which is given again.
        Raises AlreadyOrdered, IdempotencyKeyReused.
        """
        if quote.breakdown is None or quote.total_minor is None:
            raise ValueError("a quote without a total is no order")
        now = datetime.now(UTC)
        order = Order(
            id=placing_.new_id(now),
            status=Status.PLACED,
            version=1,
            lines=quote.agreed(),
            total_minor=quote.total_minor,
            currency=quote.currency,
            placed_at=now,
            deadline_at=domain.first_deadline(now, self._timers),
        )
        body = msgspec.json.encode(Acceptance(order_id=order.id, status=order.status))
        placing = Placing(
            order=order,
            breakdown=quote.breakdown,
            cart_id=cart_id,
            customer_id=customer_id,
            key=key,
            fingerprint=fingerprint,
            purchase=purchase,
            body=body,
            traceparent=telemetry.inject() or None,
        )
        try:
            return await self._placing.do(placing)
        except IntegrityError:
            # the same key or the same cart came first: its transaction has committed by now
            answered = await self.replay(cart_id, key, fingerprint)
            if answered is None:
                raise await self._claimed(cart_id) from None
            return answered

    async def claimant(self, cart_id: str) -> UUID | None:
        """The living order of this cart."""
        query = sa.select(tables.orders.c.id).where(tables.orders.c.claims_cart == cart_id)
        async with self._database.read() as connection:
            found: UUID | None = await connection.scalar(query)
        return found

    async def _claimed(self, cart_id: str) -> AlreadyOrdered:
        order_id = await self.claimant(cart_id)
        if order_id is None:
            return AlreadyOrdered()
        return AlreadyOrdered(headers={"Location": f"/orders/{order_id}"}, order_id=str(order_id))

    # ---- reading ----

    async def order(self, order_id: UUID) -> Order | None:
        """The order as the saga sees it."""
        async with self._database.read() as connection:
            return (await rows.load(connection, [order_id])).get(order_id)

    async def view(self, order_id: UUID) -> OrderView | None:
        """The order with its history."""
        async with self._database.read() as connection:
            return await rows.view(connection, order_id)

    async def page(self, status: Status | None, before: UUID | None, limit: int) -> list[OrderLine]:
        """At most `limit` orders that are older than `before`, newest first."""
        async with self._database.read() as connection:
            return await rows.page(connection, status, before, limit)

    async def invoice(self, order_id: UUID) -> Drawn | None:
        """The order's invoice; None while it has none that can be read."""
        async with self._database.read() as connection:
            return await of_order(connection, order_id)

    # ---- moving ----

    async def apply(
        self, order_id: UUID, cause: Cause, event: Event[Any] | None = None
    ) -> Decision:
        """Let the cause meet the order; an event counts once. Raises UnknownOrder."""
        meeting = Meeting(
            order_id=order_id, cause=cause, event=event, traceparent=telemetry.inject() or None
        )
        return self._decided(order_id, await self._moving.do(meeting))

    async def overdue(self, limit: int = 100) -> Sequence[UUID]:
        """Orders whose status has lasted longer than it may."""
        table = tables.orders.c
        query = (
            sa.select(table.id)
            .where(table.deadline_at <= datetime.now(UTC))
            .order_by(table.deadline_at)
            .limit(limit)
        )
        async with self._database.read() as connection:
            return (await connection.scalars(query)).all()

    async def sold_carts(self, after: str, limit: int) -> Sequence[rows.Sold]:
        """What confirmed orders have sold and still lies in their carts, by the carts' ids."""
        async with self._database.read() as connection:
            return await rows.sold(connection, after, limit)

    async def free_carts(self, ids: Sequence[UUID]) -> None:
        """Let the carts be ordered again: what these orders sold is out of them."""

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(
                sa.update(tables.orders).where(tables.orders.c.id.in_(ids)).values(claims_cart=None)
            )

        await self._database.write(work)

    async def forget_keys(self) -> None:
        """Drop the Idempotency-Keys that have had their time."""

        async def work(connection: AsyncConnection) -> None:
            table = tables.idempotency
            await connection.execute(sa.delete(table).where(table.c.expires_at < datetime.now(UTC)))

        await self._database.write(work)

    async def forget_seen(self, limit: int) -> bool:
        """Drop some `limit` marks of events that come no more; whether more are left."""
        return await self._database.write(
            lambda connection: sql.forget_seen(connection, tables.inbox, limit)
        )

    async def _move(
        self, connection: AsyncConnection, meetings: Sequence[Meeting]
    ) -> list[Decision | Exception]:
        ids = sorted({meeting.order_id for meeting in meetings})
        sheet = Sheet(await rows.load(connection, ids, locked=True), self._timers, self._shop)
        sheet.seen = await rows.seen(connection, [m.event for m in meetings if m.event])
        decisions = [sheet.meet(meeting) for meeting in meetings]
        await sheet.write(connection)
        return decisions

    # ---- payments ----

    async def claim_payments(self, limit: int, lease: timedelta) -> list[Ask]:
        """Operations to ask the provider for; nobody else gets them for as long as `lease`."""
        if not self._due:  # what a step of this process has asked for needs no look
            async with self._database.read() as connection:
                if not await payments.due(connection):
                    return []
        self._due = False
        return await self._database.write(
            lambda connection: payments.claim(connection, limit, lease)
        )

    async def hurry(self, notice_id: str, key: str) -> bool:
        """Ask soon what became of an operation that was sent; False where the notice is known.

        What the notice says is not believed: it may be late, doubled or out of order.
        """
        return await self._noticing.do((str(envelope.derived_id("payments", notice_id)), key))

    async def later(self, ask: Ask, pause: timedelta) -> None:
        """Ask again after `pause`: the provider gave no answer."""
        await self._database.write(lambda connection: payments.postpone(connection, ask, pause))

    async def answered(self, ask: Ask, answer: Answer) -> None:
        """Record the provider's answer, publish it, and let it meet the order; counts once."""
        meeting = Meeting(
            order_id=ask.order_id, ask=ask, answer=answer, traceparent=telemetry.inject() or None
        )
        self._decided(ask.order_id, await self._moving.do(meeting))

    def _decided(self, order_id: UUID, decision: Decision) -> Decision:
        if decision.ask is not None:
            self._due = True
            self.asked.set()
        if decision.alarm is not None:
            log.error("alarm at order %s: %s", order_id, decision.alarm)
            _alarms.add(1)
        return decision
