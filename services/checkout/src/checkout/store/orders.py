"""Orders in SQL: placing them once, reading them, and moving them on with their events.

Every change is one transaction: the row by compare-and-set on its version, the history, the inbox
mark of the cause, the payments to ask for and the events in the outbox. Nothing here waits for a
provider or a broker.
"""

import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa
import uuid_utils.compat as uuids
from msgspec import Struct, structs
from opentelemetry import metrics
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from bus import sql
from chassis import telemetry
from checkout import domain
from checkout.domain import (
    Answer,
    Approved,
    Asked,
    CaptureRefused,
    Cause,
    Decision,
    Op,
    Order,
    Purchase,
    Quote,
    Refused,
    Status,
    Stay,
    Timers,
)
from checkout.store import tables
from checkout.store.database import Database, LostRace
from checkout.store.problems import AlreadyOrdered, IdempotencyKeyReused
from shop_contracts import envelope
from shop_contracts.envelope import Event
from shop_contracts.events.base import Fact
from shop_contracts.events.checkout import (
    PaymentAuthorisedV1,
    PaymentCapturedV1,
    PaymentDeclinedV1,
    PaymentVoidedV1,
)
from shop_contracts.events.checkout.order_cancelled_v1 import CancelReason
from shop_contracts.types import PricedLine, Shortage

log = logging.getLogger(__name__)
_alarms = metrics.get_meter(__name__).create_counter(
    "shop_saga_alarms", description="causes that should never have met their order"
)

CONSUMER = "checkout"
KEPT = timedelta(days=30)
"""How long an Idempotency-Key is remembered."""
HINT = timedelta(seconds=1)
"""How long the answer itself may take after a webhook has told of it."""


class UnknownOrder(Exception):
    """No such order yet: the cause may have overtaken it."""


class Acceptance(Struct, frozen=True, kw_only=True):
    """The answer to a checkout: the order is durable, not yet confirmed."""

    order_id: UUID
    status: Status


class Accepted(Struct, frozen=True, kw_only=True):
    """The stored answer, byte for byte, and whether it was given before."""

    order_id: UUID
    body: bytes
    replayed: bool


class Moment(Struct, frozen=True, kw_only=True):
    """One step of an order's way."""

    version: int
    status: Status
    cause: str
    at: datetime


class OrderView(Struct, frozen=True, kw_only=True):
    """An order as its customer sees it; it does not say who that is."""

    order_id: UUID
    status: Status
    version: int
    reason: CancelReason | None
    shortages: list[Shortage]
    lines: list[PricedLine]
    total_minor: int
    currency: str
    placed_at: datetime
    history: list[Moment]


class Ask(Struct, frozen=True, kw_only=True):
    """A payment operation that this process has claimed and is to ask the provider for."""

    order_id: UUID
    op: Op
    key: str
    attempt: int
    amount_minor: int
    currency: str
    token: str
    ref: str


class Orders:
    """The orders of one database."""

    def __init__(self, database: Database, timers: Timers) -> None:
        self._database = database
        self._timers = timers

    # ---- placing ----

    async def replay(self, cart_id: str, key: str, fingerprint: bytes) -> Accepted | None:
        """The answer already given under this key. Raises IdempotencyKeyReused."""
        table = tables.idempotency.c
        query = sa.select(table.order_id, table.fingerprint, table.body).where(
            table.scope == cart_id, table.idem_key == key
        )
        async with self._database.read() as connection:
            row = (await connection.execute(query)).one_or_none()
        if row is None:
            return None
        if row.fingerprint != fingerprint:
            raise IdempotencyKeyReused
        return Accepted(order_id=row.order_id, body=row.body, replayed=True)

    async def place(
        self, cart_id: str, key: str, fingerprint: bytes, purchase: Purchase, quote: Quote
    ) -> Accepted:
        """Make the order durable with its event and its answer, once per key and per cart.

        Raises AlreadyOrdered, IdempotencyKeyReused.
        """
        now = datetime.now(UTC)
        order = Order(
            id=uuids.uuid7(),
            status=Status.PLACED,
            version=1,
            lines=quote.agreed(),
            total_minor=quote.total_minor or 0,
            currency=quote.currency,
            placed_at=now,
            deadline_at=domain.first_deadline(now, self._timers),
        )
        body = msgspec.json.encode(Acceptance(order_id=order.id, status=order.status))

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(
                sa.insert(tables.idempotency).values(
                    scope=cart_id,
                    idem_key=key,
                    fingerprint=fingerprint,
                    order_id=order.id,
                    body=body,
                    expires_at=now + KEPT,
                )
            )
            await _insert(connection, order, cart_id, purchase)
            await _record(connection, order, None, "checkout", None, now)
            await _publish(connection, domain.placed(order), order.version, order.id, None)

        try:
            await self._database.write(work)
        except IntegrityError:
            # the same key or the same cart came first: its transaction has committed by now
            answered = await self.replay(cart_id, key, fingerprint)
            if answered is None:
                raise await self._claimed(cart_id) from None
            return answered
        return Accepted(order_id=order.id, body=body, replayed=False)

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
            return await _load(connection, order_id)

    async def view(self, order_id: UUID) -> OrderView | None:
        """The order with its history."""
        table = tables.order_history.c
        query = (
            sa.select(table.version, table.to_status, table.cause, table.at)
            .where(table.order_id == order_id)
            .order_by(table.version)
        )
        async with self._database.read() as connection:
            order = await _load(connection, order_id)
            if order is None:
                return None
            rows = await connection.execute(query)
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
            currency=order.currency,
            placed_at=order.placed_at,
            history=history,
        )

    # ---- moving ----

    async def apply(
        self, order_id: UUID, cause: Cause, event: Event[Any] | None = None
    ) -> Decision:
        """Let the cause meet the order; an event counts once. Raises UnknownOrder."""

        async def work(connection: AsyncConnection) -> Decision:
            if event is not None and not await sql.first_time(
                connection, tables.inbox, CONSUMER, event
            ):
                return Decision(stay=Stay.LATE)
            order = await _load(connection, order_id, locked=True)
            if order is None:
                raise UnknownOrder(str(order_id))
            return await self._move(connection, order, cause, event.meta.id if event else None)

        decision = await self._database.write(work)
        _raise_alarm(order_id, decision)
        return decision

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

    async def sold_carts(self, limit: int = 100) -> Sequence[tuple[UUID, str]]:
        """Confirmed orders whose units still lie in their carts."""
        table = tables.orders.c
        query = (
            sa.select(table.id, table.claims_cart)
            .where(table.claims_cart.is_not(None), table.status == Status.CONFIRMED.value)
            .limit(limit)
        )
        async with self._database.read() as connection:
            rows = await connection.execute(query)
            return [(order_id, cart_id) for order_id, cart_id in rows]

    async def free_cart(self, order_id: UUID) -> None:
        """Let the cart be ordered again: what this order sold is out of it."""

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(
                sa.update(tables.orders)
                .where(tables.orders.c.id == order_id)
                .values(claims_cart=None)
            )

        await self._database.write(work)

    async def forget_keys(self) -> None:
        """Drop the Idempotency-Keys that have had their time."""

        async def work(connection: AsyncConnection) -> None:
            table = tables.idempotency
            await connection.execute(sa.delete(table).where(table.c.expires_at < datetime.now(UTC)))

        await self._database.write(work)

    async def _move(
        self, connection: AsyncConnection, order: Order, cause: Cause, cause_id: UUID | None
    ) -> Decision:
        now = datetime.now(UTC)
        decision = domain.decide(order, cause, now, self._timers)
        moved = decision.order
        if moved is None:
            return decision
        values: dict[str, Any] = {
            "status": moved.status.value,
            "version": moved.version,
            "reason": moved.reason.value if moved.reason else None,
            "shortages": msgspec.to_builtins(moved.shortages),
            "deadline_at": moved.deadline_at,
            "updated_at": now,
        }
        if moved.status is Status.CANCELLED:
            values["claims_cart"] = None
        table = tables.orders
        changed = await connection.execute(
            sa.update(table)
            .where(table.c.id == order.id, table.c.version == order.version)
            .values(**values)
        )
        if changed.rowcount != 1:
            raise LostRace
        await _record(connection, moved, order.status, _word(cause), cause_id, now)
        if decision.drop_auth:
            await _drop_auth(connection, order.id)
        if decision.ask is not None:
            await connection.execute(
                sa.insert(tables.payments).values(
                    order_id=order.id,
                    op=decision.ask.value,
                    state=Asked.PENDING.value,
                    attempt=0,
                    psp_key=f"{order.id}:{decision.ask}",
                    amount_minor=order.total_minor,
                    next_at=now,
                )
            )
        if decision.publish is not None:
            await _publish(connection, decision.publish, moved.version, order.id, cause_id)
        return decision

    # ---- payments ----

    async def claim_payments(self, limit: int, lease: timedelta) -> list[Ask]:
        """Operations to ask the provider for; nobody else gets them for as long as `lease`."""
        table = tables.payments
        now = datetime.now(UTC)
        due = (
            sa.select(table.c.order_id, table.c.op)
            .where(table.c.next_at <= now)
            .order_by(table.c.next_at)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )

        async def work(connection: AsyncConnection) -> list[Ask]:
            claimed = [(row.order_id, row.op) for row in await connection.execute(due)]
            for order_id, op in claimed:
                await connection.execute(
                    sa.update(table)
                    .where(table.c.order_id == order_id, table.c.op == op)
                    .values(
                        state=Asked.SENT.value, attempt=table.c.attempt + 1, next_at=now + lease
                    )
                )
            return await _asks(connection, claimed)

        # an idle poll must not take SQLite's write lock
        async with self._database.read() as connection:
            if (
                await connection.scalar(
                    sa.select(table.c.op).where(table.c.next_at <= now).limit(1)
                )
                is None
            ):
                return []
        return await self._database.write(work)

    async def hurry(self, notice_id: str, key: str) -> bool:
        """Ask soon what became of an operation that was sent; a notice counts once.

        What the notice says is not believed: it may be late, doubled or out of order.
        """
        table, now = tables.payments, datetime.now(UTC)
        soon = now + HINT

        async def work(connection: AsyncConnection) -> bool:
            if not await _first_notice(connection, notice_id, now):
                return False
            hurried = await connection.execute(
                sa.update(table)
                .where(
                    table.c.psp_key == key,
                    table.c.state == Asked.SENT.value,
                    table.c.next_at > soon,
                )
                .values(next_at=soon)
            )
            return hurried.rowcount == 1

        return await self._database.write(work)

    async def later(self, ask: Ask, pause: timedelta) -> None:
        """Ask again after `pause`: the provider gave no answer."""
        table = tables.payments

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(
                sa.update(table)
                .where(
                    table.c.order_id == ask.order_id,
                    table.c.op == ask.op.value,
                    table.c.state == Asked.SENT.value,
                )
                .values(next_at=datetime.now(UTC) + pause)
            )

        await self._database.write(work)

    async def answered(self, ask: Ask, answer: Answer) -> None:
        """Record the provider's answer, publish it, and let it meet the order; counts once."""
        state = Asked.DONE if isinstance(answer, Approved) else Asked.REFUSED
        table = tables.payments

        async def work(connection: AsyncConnection) -> Decision:
            order = await _load(connection, ask.order_id, locked=True)
            if order is None:
                raise UnknownOrder(str(ask.order_id))
            recorded = await connection.execute(
                sa.update(table)
                .where(
                    table.c.order_id == ask.order_id,
                    table.c.op == ask.op.value,
                    table.c.state == Asked.SENT.value,
                )
                .values(
                    state=state.value,
                    psp_ref=answer.ref if isinstance(answer, Approved) else None,
                    next_at=None,
                )
            )
            if recorded.rowcount != 1:
                return Decision(stay=Stay.LATE)
            order = structs.replace(order, payments={**order.payments, ask.op: state})
            cause = _cause(order, ask, answer)
            if cause is None:
                return Decision(alarm="the provider refused to void an authorisation")
            event_id = None
            if isinstance(cause, Fact):
                settled = sum(s in {Asked.DONE, Asked.REFUSED} for s in order.payments.values())
                event_id = await _publish(connection, cause, settled, order.id, None)
            return await self._move(connection, order, cause, event_id)

        _raise_alarm(ask.order_id, await self._database.write(work))


async def _first_notice(connection: AsyncConnection, notice_id: str, now: datetime) -> bool:
    values = {
        "consumer": CONSUMER,
        "source": "payments",
        "event_id": str(envelope.derived_id("payments", notice_id)),
        "received_at": now.replace(tzinfo=None),
    }
    try:
        async with connection.begin_nested():
            await connection.execute(sa.insert(tables.inbox).values(**values))
    except IntegrityError:
        return False
    return True


def _raise_alarm(order_id: UUID, decision: Decision) -> None:
    if decision.alarm is not None:
        log.error("alarm at order %s: %s", order_id, decision.alarm)
        _alarms.add(1)


def _word(cause: Cause) -> str:
    """What history calls a cause: an event's key, or our own word for it."""
    if isinstance(cause, Fact):
        return cause.KEY
    return {
        domain.CaptureRefused: "capture refused",
        domain.DeadlinePassed: "deadline",
        domain.CancelRequested: "customer",
    }[type(cause)]


_PaymentCause = (
    PaymentAuthorisedV1 | PaymentDeclinedV1 | PaymentCapturedV1 | PaymentVoidedV1 | CaptureRefused
)


def _cause(order: Order, ask: Ask, answer: Answer) -> _PaymentCause | None:
    """What the answer means to the saga; None where it means nothing."""
    match ask.op, answer:
        case Op.AUTH, Approved(ref):
            return PaymentAuthorisedV1(
                order_id=order.id,
                payment_ref=ref,
                amount_minor=ask.amount_minor,
                currency=order.currency,
            )
        case Op.AUTH, Refused(reason):
            return PaymentDeclinedV1(
                order_id=order.id,
                amount_minor=ask.amount_minor,
                currency=order.currency,
                reason=reason,
            )
        case Op.CAPTURE, Approved(ref):
            return PaymentCapturedV1(
                order_id=order.id,
                payment_ref=ref,
                amount_minor=ask.amount_minor,
                currency=order.currency,
            )
        case Op.CAPTURE, Refused(reason):
            return CaptureRefused(reason=reason)
        case Op.VOID, Approved(ref):
            return PaymentVoidedV1(
                order_id=order.id,
                payment_ref=ref,
                amount_minor=ask.amount_minor,
                currency=order.currency,
            )
        case _:
            return None


async def _asks(connection: AsyncConnection, claimed: Sequence[tuple[UUID, str]]) -> list[Ask]:
    if not claimed:
        return []
    payments, auth = tables.payments.c, tables.payments.alias("auth")
    rows = await connection.execute(
        sa.select(
            payments.order_id,
            payments.op,
            payments.psp_key,
            payments.attempt,
            payments.amount_minor,
            tables.orders.c.currency,
            tables.order_private.c.payment_token,
            auth.c.psp_ref,
        )
        .join(tables.orders, tables.orders.c.id == payments.order_id)
        .join(tables.order_private, tables.order_private.c.order_id == payments.order_id)
        .outerjoin(auth, sa.and_(auth.c.order_id == payments.order_id, auth.c.op == Op.AUTH.value))
        .where(payments.order_id.in_({order_id for order_id, _ in claimed}))
    )
    wanted = set(claimed)
    return [
        Ask(
            order_id=row.order_id,
            op=Op(row.op),
            key=row.psp_key,
            attempt=row.attempt,
            amount_minor=row.amount_minor,
            currency=row.currency,
            token=row.payment_token,
            ref=row.psp_ref or "",
        )
        for row in rows
        if (row.order_id, row.op) in wanted
    ]


async def _load(
    connection: AsyncConnection, order_id: UUID, *, locked: bool = False
) -> Order | None:
    query = sa.select(tables.orders).where(tables.orders.c.id == order_id)
    row = (await connection.execute(query.with_for_update() if locked else query)).one_or_none()
    if row is None:
        return None
    lines, payments = tables.order_lines.c, tables.payments.c
    line_rows = await connection.execute(
        sa.select(lines.sku, lines.qty, lines.name, lines.unit_minor)
        .where(lines.order_id == order_id)
        .order_by(lines.line_no)
    )
    payment_rows = await connection.execute(
        sa.select(payments.op, payments.state).where(payments.order_id == order_id)
    )
    return Order(
        id=row.id,
        status=Status(row.status),
        version=row.version,
        lines=[
            PricedLine(sku=sku, qty=qty, name=name, unit_minor=unit)
            for sku, qty, name, unit in line_rows
        ],
        total_minor=row.total_minor,
        currency=row.currency,
        placed_at=row.placed_at,
        deadline_at=row.deadline_at,
        reason=CancelReason(row.reason) if row.reason else None,
        shortages=msgspec.convert(row.shortages, list[Shortage]),
        payments={Op(op): Asked(state) for op, state in payment_rows},
    )


async def _insert(
    connection: AsyncConnection, order: Order, cart_id: str, purchase: Purchase
) -> None:
    await connection.execute(
        sa.insert(tables.orders).values(
            id=order.id,
            status=order.status.value,
            version=order.version,
            currency=order.currency,
            total_minor=order.total_minor,
            reason=None,
            shortages=[],
            cart_id=cart_id,
            claims_cart=cart_id,
            deadline_at=order.deadline_at,
            placed_at=order.placed_at,
            updated_at=order.placed_at,
        )
    )
    await connection.execute(
        sa.insert(tables.order_lines),
        [
            {"order_id": order.id, "line_no": number, **structs.asdict(line)}
            for number, line in enumerate(order.lines, 1)
        ],
    )
    await connection.execute(
        sa.insert(tables.order_private).values(
            order_id=order.id,
            email=purchase.email,
            name=purchase.name,
            address=msgspec.to_builtins(purchase.address),
            payment_token=purchase.payment.token,
        )
    )


async def _record(
    connection: AsyncConnection,
    order: Order,
    before: Status | None,
    cause: str,
    cause_id: UUID | None,
    now: datetime,
) -> None:
    await connection.execute(
        sa.insert(tables.order_history).values(
            order_id=order.id,
            version=order.version,
            from_status=before.value if before else None,
            to_status=order.status.value,
            cause=cause,
            cause_event=str(cause_id) if cause_id else None,
            at=now,
        )
    )


async def _drop_auth(connection: AsyncConnection, order_id: UUID) -> None:
    table = tables.payments
    dropped = await connection.execute(
        sa.update(table)
        .where(
            table.c.order_id == order_id,
            table.c.op == Op.AUTH.value,
            table.c.state == Asked.PENDING.value,
        )
        .values(state=Asked.DROPPED.value, next_at=None)
    )
    if dropped.rowcount != 1:
        raise LostRace  # it was sent meanwhile: decide again


async def _publish(
    connection: AsyncConnection, fact: Fact, version: int, order_id: UUID, cause_id: UUID | None
) -> UUID:
    event_id = envelope.derived_id(cause_id, fact.KEY) if cause_id else uuids.uuid7()
    await sql.add(
        connection,
        tables.outbox,
        envelope.new(
            fact,
            id=event_id,
            entityversion=version,
            correlationid=str(order_id),
            causationid=str(cause_id) if cause_id else None,
            traceparent=telemetry.inject() or None,
        ),
    )
    return event_id
