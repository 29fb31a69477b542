"""What follows when causes and answers meet orders, gathered, then written in one go.

The saga's table (`domain.decide`) says what follows; this turns it into rows and events. Opens no
transaction.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa
from msgspec import Struct, structs
from sqlalchemy.ext.asyncio import AsyncConnection

from bus import sql
from chassis.database import LostRace
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
    Refused,
    Status,
    Stay,
    Timers,
)
from checkout.letters import Shop
from checkout.store import coupons, hooks, invoices, mails, rows, tables
from checkout.store.payments import Ask
from checkout.store.rows import CONSUMER
from shop_contracts.envelope import Event
from shop_contracts.events.base import Fact
from shop_contracts.events.checkout import (
    PaymentAuthorisedV1,
    PaymentCapturedV1,
    PaymentDeclinedV1,
    PaymentVoidedV1,
)
from shop_contracts.types import Shortage


class UnknownOrder(Exception):
    """No such order yet: the cause may have overtaken it."""


class Meeting(Struct, frozen=True, kw_only=True):
    """A cause, or the provider's answer to an ask, that is to meet its order."""

    order_id: UUID
    cause: Cause | None = None
    event: Event[Any] | None = None
    ask: Ask | None = None
    answer: Answer | None = None
    traceparent: str | None = None


class Sheet:
    """What follows from causes, kept until it is written in one go: the same for one as for many.

    Orders are locked while a sheet is filled, so what it reads of them stays true.
    """

    def __init__(self, orders: dict[UUID, Order], timers: Timers, shop: Shop) -> None:
        self.seen: set[tuple[str, str]] = set()
        self._before = dict(orders)
        self._orders = orders
        self._timers = timers
        self._shop = shop
        self._now = datetime.now(UTC)
        self._inbox: list[dict[str, Any]] = []
        self._history: list[dict[str, Any]] = []
        self._asked: list[dict[str, Any]] = []
        self._answered: dict[tuple[Op, Asked], dict[UUID, str | None]] = defaultdict(dict)
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
        for table, values in (
            (tables.inbox, self._inbox),
            (tables.order_history, self._history),
            (tables.payments, self._asked),
        ):
            if values:
                await connection.execute(sa.insert(table), values)
        freed: list[UUID] = []
        for move, orders in self._moved().items():
            await self._update(connection, move.update(orders), orders)
            if move.status is Status.CANCELLED:
                freed += orders
        await coupons.give_back(connection, freed)
        for (op, state), refs in self._answered.items():
            await self._update(connection, _answer(op, state, refs), refs)
        if self._dropped:
            await self._update(connection, _drop(self._dropped), self._dropped)
        await sql.add(connection, tables.outbox, *self._events)
        await hooks.announce(connection, self._events)
        ended = [order for id_, order in self._orders.items() if self._ends(id_)]
        await mails.tell_ends(connection, self._shop, ended)
        if self._shop.invoices:
            sold = [order.id for order in ended if order.status is Status.CONFIRMED]
            await invoices.want(connection, sold, self._now)

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
        ref = answer.ref if isinstance(answer, Approved) else None
        self._answered[ask.op, state][order.id] = ref
        order = structs.replace(order, payments={**order.payments, ask.op: state})
        self._orders[order.id] = order
        cause = cause_of(order, ask, answer)
        if cause is None:
            return Decision(alarm="the provider refused to void an authorisation")
        if not isinstance(cause, Fact):
            return self._move(order, cause, None, traceparent)
        settled = sum(s in {Asked.DONE, Asked.REFUSED} for s in order.payments.values())
        event = rows.event(cause, settled, order.id, None, traceparent)
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
        self._history.append(rows.moment(moved, order.status, _word(cause), cause_id, self._now))
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
                    # who ordered first is asked for first, whatever the operation
                    "next_at": order.placed_at,
                    "traceparent": traceparent,
                }
            )
        if decision.publish is not None:
            fact, version = decision.publish, moved.version
            self._events.append(rows.event(fact, version, order.id, cause_id, traceparent))
        self._orders[order.id] = structs.replace(moved, payments=payments)
        return decision

    def _ends(self, id_: UUID) -> bool:
        return self._orders[id_].status.terminal and not self._before[id_].status.terminal

    def _moved(self) -> dict["_Move", list[UUID]]:
        """The orders that have moved, by what is written of them: most of a group move alike."""
        alike: dict[_Move, list[UUID]] = defaultdict(list)
        for id_, before in self._before.items():
            after = self._orders[id_]
            if after.version != before.version:
                alike[_Move.of(before, after, self._now)].append(id_)
        return alike

    @staticmethod
    async def _update(
        connection: AsyncConnection, query: sa.Update, rows: Sequence[UUID] | Mapping[UUID, Any]
    ) -> None:
        changed = await connection.execute(query)
        if changed.rowcount != len(rows):
            raise LostRace


class _Move(Struct, frozen=True):
    """What one step, or several in one go, write into an order's row."""

    before: int
    version: int
    status: Status
    reason: str | None
    shortages: tuple[Shortage, ...]
    deadline_at: datetime | None
    now: datetime

    @classmethod
    def of(cls, before: Order, after: Order, now: datetime) -> "_Move":
        return cls(
            before.version,
            after.version,
            after.status,
            after.reason.value if after.reason else None,
            tuple(after.shortages),
            after.deadline_at,
            now,
        )

    def update(self, orders: Sequence[UUID]) -> sa.Update:
        """Write it to these orders, where they still are as they were."""
        values: dict[str, Any] = {
            "version": self.version,
            "status": self.status.value,
            "reason": self.reason,
            "shortages": msgspec.to_builtins(self.shortages),
            "deadline_at": self.deadline_at,
            "updated_at": self.now,
        }
        if self.status is Status.CANCELLED:
            # its cart may be ordered again
            values["claims_cart"] = None
        table = tables.orders
        return (
            sa.update(table)
            .where(table.c.id.in_(orders), table.c.version == self.before)
            .values(values)
        )


def _answer(op: Op, state: Asked, refs: Mapping[UUID, str | None]) -> sa.Update:
    """Write the provider's answers to an operation of several orders, each with its reference."""
    table = tables.payments
    ref = sa.case(*((table.c.order_id == order, ref) for order, ref in refs.items()))
    return (
        sa.update(table)
        .where(
            table.c.order_id.in_(list(refs)),
            table.c.op == op.value,
            table.c.state == Asked.SENT.value,
        )
        .values(state=state.value, psp_ref=ref if state is Asked.DONE else None, next_at=None)
    )


def _drop(orders: Sequence[UUID]) -> sa.Update:
    """Ask for no authorisation of these; one that was sent meanwhile makes the race lost."""
    table = tables.payments
    return (
        sa.update(table)
        .where(
            table.c.order_id.in_(orders),
            table.c.op == Op.AUTH.value,
            table.c.state == Asked.PENDING.value,
        )
        .values(state=Asked.DROPPED.value, next_at=None)
    )


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


def cause_of(order: Order, ask: Ask, answer: Answer) -> _PaymentCause | None:
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
