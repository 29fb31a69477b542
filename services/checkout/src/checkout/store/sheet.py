"""What follows when causes and answers meet orders, gathered, then written in one go.

The saga's table (`domain.decide`) says what follows; this turns it into rows and events. Opens no
transaction.
"""

from collections.abc import Iterator, Sequence
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
        for table, values in (
            (tables.inbox, self._inbox),
            (tables.order_history, self._history),
            (tables.payments, self._asked),
        ):
            if values:
                await connection.execute(sa.insert(table), values)
        moved = list(self._moved())
        await self._update(connection, _MOVE, moved)
        await coupons.give_back(connection, [row["b_order"] for row in moved if row["b_frees"]])
        await self._update(connection, _ANSWER, self._answered)
        await self._update(connection, _DROP, [{"b_order": id_} for id_ in self._dropped])
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
                    "next_at": self._now,
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
        connection: AsyncConnection, query: sa.Update, values: Sequence[dict[str, Any]]
    ) -> None:
        if not values:
            return
        changed = await connection.execute(query, values)
        if changed.rowcount != len(values):
            raise LostRace


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
