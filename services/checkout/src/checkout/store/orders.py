"""Orders in SQL: placing them once, reading them, and moving them on with their events.

Every change is one transaction: the row by compare-and-set on its version, the history, the inbox
mark of the cause, the payments to ask for and the events in the outbox. Nothing here waits for a
provider or a broker.
"""

import logging
from collections.abc import Iterator, Sequence
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
from checkout.store.group import Group
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
PAYMENTS = "payments"
"""The source of webhooks, in the inbox."""
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
    traceparent: str = ""


class Placing(Struct, frozen=True, kw_only=True):
    """An order that is to become durable, with the answer to whoever placed it."""

    order: Order
    cart_id: str
    key: str
    fingerprint: bytes
    purchase: Purchase
    body: bytes
    traceparent: str | None


class Meeting(Struct, frozen=True, kw_only=True):
    """A cause, or the provider's answer to an ask, that is to meet its order."""

    order_id: UUID
    cause: Cause | None = None
    event: Event[Any] | None = None
    ask: Ask | None = None
    answer: Answer | None = None
    traceparent: str | None = None


class Orders:
    """The orders of one database."""

    def __init__(self, database: Database, timers: Timers) -> None:
        self._database = database
        self._timers = timers
        self._replaying: Group[tuple[str, str], Any] = Group(database, _answers, reads=True)
        self._noticing: Group[tuple[str, str], bool] = Group(database, _notice)
        self._placing: Group[Placing, Accepted] = Group(database, _place)
        self._moving: Group[Meeting, Decision] = Group(database, self._move)

    # ---- placing ----

    async def replay(self, cart_id: str, key: str, fingerprint: bytes) -> Accepted | None:
        """The answer already given under this key. Raises IdempotencyKeyReused."""
        row = await self._replaying.do((cart_id, key))
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
        placing = Placing(
            order=order,
            cart_id=cart_id,
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
            return (await _load(connection, [order_id])).get(order_id)

    async def view(self, order_id: UUID) -> OrderView | None:
        """The order with its history."""
        table = tables.order_history.c
        query = (
            sa.select(table.version, table.to_status, table.cause, table.at)
            .where(table.order_id == order_id)
            .order_by(table.version)
        )
        async with self._database.read() as connection:
            order = (await _load(connection, [order_id])).get(order_id)
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
        meeting = Meeting(
            order_id=order_id, cause=cause, event=event, traceparent=telemetry.inject() or None
        )
        decision = await self._moving.do(meeting)
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

    async def sold_carts(self, limit: int = 100) -> Sequence[tuple[str, Order]]:
        """Confirmed orders whose units still lie in their carts, with those carts."""
        table = tables.orders.c
        query = (
            sa.select(table.id, table.claims_cart)
            .where(table.claims_cart.is_not(None), table.status == Status.CONFIRMED.value)
            .limit(limit)
        )
        async with self._database.read() as connection:
            carts = {row.id: row.claims_cart for row in await connection.execute(query)}
            if not carts:
                return []
            orders = await _load(connection, list(carts))
            return [(carts[id_], order) for id_, order in orders.items()]

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

    async def _move(
        self, connection: AsyncConnection, meetings: Sequence[Meeting]
    ) -> list[Decision | Exception]:
        ids = sorted({meeting.order_id for meeting in meetings})
        sheet = Sheet(await _load(connection, ids, locked=True), self._timers)
        sheet.seen = await _seen(connection, [m.event for m in meetings if m.event])
        decisions = [sheet.meet(meeting) for meeting in meetings]
        await sheet.write(connection)
        return decisions

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
            if claimed:
                await connection.execute(
                    sa.update(table)
                    .where(sa.tuple_(table.c.order_id, table.c.op).in_(claimed))
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
        """Ask soon what became of an operation that was sent; False where the notice is known.

        What the notice says is not believed: it may be late, doubled or out of order.
        """
        return await self._noticing.do((str(envelope.derived_id("payments", notice_id)), key))

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
        meeting = Meeting(
            order_id=ask.order_id, ask=ask, answer=answer, traceparent=telemetry.inject() or None
        )
        _raise_alarm(ask.order_id, await self._moving.do(meeting))


async def _notice(
    connection: AsyncConnection, notices: Sequence[tuple[str, str]]
) -> list[bool | Exception]:
    """Make the operations due that notices are about; each notice counts once."""
    inbox, payments, now = tables.inbox, tables.payments, datetime.now(UTC)
    known = set(
        await connection.scalars(
            sa.select(inbox.c.event_id).where(
                inbox.c.consumer == CONSUMER,
                inbox.c.source == PAYMENTS,
                inbox.c.event_id.in_({id_ for id_, _ in notices}),
            )
        )
    )
    first: list[bool | Exception] = []
    fresh: dict[str, str] = {}
    for id_, key in notices:
        first.append(id_ not in known and id_ not in fresh)
        if first[-1]:
            fresh[id_] = key
    if fresh:
        await connection.execute(
            sa.insert(inbox),
            [
                {
                    "consumer": CONSUMER,
                    "source": PAYMENTS,
                    "event_id": id_,
                    "received_at": now.replace(tzinfo=None),
                }
                for id_ in fresh
            ],
        )
        await connection.execute(
            sa.update(payments)
            .where(
                payments.c.psp_key.in_(set(fresh.values())),
                payments.c.state == Asked.SENT.value,
                payments.c.next_at > now + HINT,
            )
            .values(next_at=now + HINT)
        )
    return first


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
            payments.traceparent,
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
            traceparent=row.traceparent or "",
        )
        for row in rows
        if (row.order_id, row.op) in wanted
    ]


async def _load(
    connection: AsyncConnection, ids: Sequence[UUID], *, locked: bool = False
) -> dict[UUID, Order]:
    """The orders as the saga sees them; `locked` until the transaction ends, in one order."""
    query = sa.select(tables.orders).where(tables.orders.c.id.in_(ids)).order_by(tables.orders.c.id)
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


async def _seen(connection: AsyncConnection, events: Sequence[Event[Any]]) -> set[tuple[str, str]]:
    """Which of the events have had their effect."""
    if not events:
        return set()
    table = tables.inbox.c
    query = sa.select(table.source, table.event_id).where(
        table.consumer == CONSUMER,
        table.event_id.in_([str(event.meta.id) for event in events]),
    )
    return {(source, event_id) for source, event_id in await connection.execute(query)}


async def _answers(
    connection: AsyncConnection, keys: Sequence[tuple[str, str]]
) -> list[Any | Exception]:
    """What was answered under each scope and key."""
    table = tables.idempotency.c
    query = sa.select(
        table.scope, table.idem_key, table.order_id, table.fingerprint, table.body
    ).where(sa.tuple_(table.scope, table.idem_key).in_(set(keys)))
    rows = {(row.scope, row.idem_key): row for row in await connection.execute(query)}
    return [rows.get(key) for key in keys]


async def _place(
    connection: AsyncConnection, placings: Sequence[Placing]
) -> list[Accepted | Exception]:
    """Orders with their answers and events; fails as a whole when one key or cart is taken."""
    for table, rows in (
        (tables.idempotency, [_key_row(placing) for placing in placings]),
        (tables.orders, [_order_row(placing) for placing in placings]),
        (tables.order_lines, [row for placing in placings for row in _line_rows(placing.order)]),
        (tables.order_private, [_private_row(placing) for placing in placings]),
        (
            tables.order_history,
            [
                _moment(placing.order, None, "checkout", None, placing.order.placed_at)
                for placing in placings
            ],
        ),
    ):
        await connection.execute(sa.insert(table), rows)
    await sql.add(
        connection,
        tables.outbox,
        *(
            _event(domain.placed(p.order), p.order.version, p.order.id, None, p.traceparent)
            for p in placings
        ),
    )
    return [Accepted(order_id=p.order.id, body=p.body, replayed=False) for p in placings]


def _key_row(placing: Placing) -> dict[str, Any]:
    return {
        "scope": placing.cart_id,
        "idem_key": placing.key,
        "fingerprint": placing.fingerprint,
        "order_id": placing.order.id,
        "body": placing.body,
        "expires_at": placing.order.placed_at + KEPT,
    }


def _order_row(placing: Placing) -> dict[str, Any]:
    order = placing.order
    return {
        "id": order.id,
        "status": order.status.value,
        "version": order.version,
        "currency": order.currency,
        "total_minor": order.total_minor,
        "reason": None,
        "shortages": [],
        "cart_id": placing.cart_id,
        "claims_cart": placing.cart_id,
        "deadline_at": order.deadline_at,
        "placed_at": order.placed_at,
        "updated_at": order.placed_at,
    }


def _line_rows(order: Order) -> list[dict[str, Any]]:
    return [
        {"order_id": order.id, "line_no": number, **structs.asdict(line)}
        for number, line in enumerate(order.lines, 1)
    ]


def _private_row(placing: Placing) -> dict[str, Any]:
    purchase = placing.purchase
    return {
        "order_id": placing.order.id,
        "email": purchase.email,
        "name": purchase.name,
        "address": msgspec.to_builtins(purchase.address),
        "payment_token": purchase.payment.token,
    }


def _moment(
    order: Order, before: Status | None, cause: str, cause_id: UUID | None, now: datetime
) -> dict[str, Any]:
    return {
        "order_id": order.id,
        "version": order.version,
        "from_status": before.value if before else None,
        "to_status": order.status.value,
        "cause": cause,
        "cause_event": str(cause_id) if cause_id else None,
        "at": now,
    }


def _event(
    fact: Fact, version: int, order_id: UUID, cause_id: UUID | None, traceparent: str | None
) -> Event[Fact]:
    return envelope.new(
        fact,
        id=envelope.derived_id(cause_id, fact.KEY) if cause_id else uuids.uuid7(),
        entityversion=version,
        correlationid=str(order_id),
        causationid=str(cause_id) if cause_id else None,
        traceparent=traceparent,
    )


class Sheet:
    """What follows from causes, kept until it is written in one go: the same for one as for many.

    Orders are locked while a sheet is filled, so what it reads of them stays true.
    """

    def __init__(self, orders: dict[UUID, Order], timers: Timers) -> None:
        self.seen: set[tuple[str, str]] = set()
        self._before = dict(orders)
        self._orders = orders
        self._timers = timers
        self._now = datetime.now(UTC)
        self._inbox: list[dict[str, Any]] = []
        self._history: list[dict[str, Any]] = []
        self._asked: list[dict[str, Any]] = []
        self._answered: list[dict[str, Any]] = []
        self._dropped: list[UUID] = []
        self._events: list[Event[Fact]] = []

    def meet(self, meeting: Meeting) -> Decision | Exception:
        """What follows when the meeting takes place."""
        order = self._orders.get(meeting.order_id)
        if order is None:
            return UnknownOrder(str(meeting.order_id))
        if meeting.ask is not None and meeting.answer is not None:
            return self._answer(order, meeting.ask, meeting.answer, meeting.traceparent)
        event, cause = meeting.event, meeting.cause
        if cause is None or (event is not None and not self._first_time(event)):
            return Decision(stay=Stay.LATE)
        return self._move(order, cause, event.meta.id if event else None, meeting.traceparent)

    async def write(self, connection: AsyncConnection) -> None:
        """Put it all into the transaction. Raises LostRace where it is no longer true."""
        for table, rows in (
            (tables.inbox, self._inbox),
            (tables.order_history, self._history),
            (tables.payments, self._asked),
        ):
            if rows:
                await connection.execute(sa.insert(table), rows)
        await self._update(connection, _MOVE, list(self._moved()))
        await self._update(connection, _ANSWER, self._answered)
        await self._update(connection, _DROP, [{"b_order": id_} for id_ in self._dropped])
        await sql.add(connection, tables.outbox, *self._events)

    def _first_time(self, event: Event[Any]) -> bool:
        mark = (event.meta.source, str(event.meta.id))
        if mark in self.seen:
            return False
        self.seen.add(mark)
        self._inbox.append(
            {
                "consumer": CONSUMER,
                "source": mark[0],
                "event_id": mark[1],
                "received_at": self._now.replace(tzinfo=None),
            }
        )
        return True

    def _answer(self, order: Order, ask: Ask, answer: Answer, traceparent: str | None) -> Decision:
        if order.payments.get(ask.op) is not Asked.SENT:
            return Decision(stay=Stay.LATE)
        state = Asked.DONE if isinstance(answer, Approved) else Asked.REFUSED
        self._answered.append(
            {
                "b_order": order.id,
                "b_op": ask.op.value,
                "b_state": state.value,
                "b_ref": answer.ref if isinstance(answer, Approved) else None,
            }
        )
        order = structs.replace(order, payments={**order.payments, ask.op: state})
        self._orders[order.id] = order
        cause = _cause(order, ask, answer)
        if cause is None:
            return Decision(alarm="the provider refused to void an authorisation")
        if not isinstance(cause, Fact):
            return self._move(order, cause, None, traceparent)
        settled = sum(s in {Asked.DONE, Asked.REFUSED} for s in order.payments.values())
        event = _event(cause, settled, order.id, None, traceparent)
        self._events.append(event)
        return self._move(order, cause, event.meta.id, traceparent)

    def _move(
        self, order: Order, cause: Cause, cause_id: UUID | None, traceparent: str | None
    ) -> Decision:
        decision = domain.decide(order, cause, self._now, self._timers)
        moved = decision.order
        if moved is None:
            return decision
        payments = dict(moved.payments)
        self._history.append(_moment(moved, order.status, _word(cause), cause_id, self._now))
        if decision.drop_auth:
            payments[Op.AUTH] = Asked.DROPPED
            self._dropped.append(order.id)
        if decision.ask is not None:
            payments[decision.ask] = Asked.PENDING
            self._asked.append(
                {
                    "order_id": order.id,
                    "op": decision.ask.value,
                    "state": Asked.PENDING.value,
                    "attempt": 0,
                    "psp_key": f"{order.id}:{decision.ask}",
                    "amount_minor": order.total_minor,
                    "next_at": self._now,
                    "traceparent": traceparent,
                }
            )
        if decision.publish is not None:
            fact, version = decision.publish, moved.version
            self._events.append(_event(fact, version, order.id, cause_id, traceparent))
        self._orders[order.id] = structs.replace(moved, payments=payments)
        return decision

    def _moved(self) -> Iterator[dict[str, Any]]:
        for id_, before in self._before.items():
            after = self._orders[id_]
            if after.version == before.version:
                continue
            yield {
                "b_order": id_,
                "b_before": before.version,
                "b_version": after.version,
                "b_status": after.status.value,
                "b_reason": after.reason.value if after.reason else None,
                "b_shortages": msgspec.to_builtins(after.shortages),
                "b_deadline": after.deadline_at,
                "b_now": self._now,
                "b_frees": after.status is Status.CANCELLED,
            }

    @staticmethod
    async def _update(
        connection: AsyncConnection, query: sa.Update, rows: Sequence[dict[str, Any]]
    ) -> None:
        if not rows:
            return
        changed = await connection.execute(query, rows)
        if changed.rowcount != len(rows):
            raise LostRace


_orders, _payments = tables.orders, tables.payments
_MOVE = (
    sa.update(_orders)
    .where(_orders.c.id == sa.bindparam("b_order"), _orders.c.version == sa.bindparam("b_before"))
    .values(
        version=sa.bindparam("b_version"),
        status=sa.bindparam("b_status"),
        reason=sa.bindparam("b_reason"),
        shortages=sa.bindparam("b_shortages"),
        deadline_at=sa.bindparam("b_deadline"),
        updated_at=sa.bindparam("b_now"),
        # a cancelled order lets its cart be ordered again
        claims_cart=sa.case(
            (sa.bindparam("b_frees", type_=sa.Boolean), None), else_=_orders.c.claims_cart
        ),
    )
)
_ANSWER = (
    sa.update(_payments)
    .where(
        _payments.c.order_id == sa.bindparam("b_order"),
        _payments.c.op == sa.bindparam("b_op"),
        _payments.c.state == Asked.SENT.value,
    )
    .values(state=sa.bindparam("b_state"), psp_ref=sa.bindparam("b_ref"), next_at=None)
)
# one that was sent meanwhile is not dropped: the transaction decides again
_DROP = (
    sa.update(_payments)
    .where(
        _payments.c.order_id == sa.bindparam("b_order"),
        _payments.c.op == Op.AUTH.value,
        _payments.c.state == Asked.PENDING.value,
    )
    .values(state=Asked.DROPPED.value, next_at=None)
)
