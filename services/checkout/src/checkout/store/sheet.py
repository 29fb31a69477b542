"""What follows when causes and answers meet orders, gathered, then written in one go.

The saga's table (`domain.decide`) says what follows; this turns it into rows and events. Opens no
transaction.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
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
            await self._update(connection, move.query, move.values(orders), len(orders))
            if move.status is Status.CANCELLED:
                freed += orders
        await coupons.give_back(connection, freed)
        for (op, state), refs in self._answered.items():
            await self._update(connection, *_answer(op, state, refs), len(refs))
        if self._dropped:
            await self._update(connection, _DROP, {"ids": self._dropped}, len(self._dropped))
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
        connection: AsyncConnection, query: sa.Update, values: Mapping[str, Any], rows: int
    ) -> None:
        changed = await connection.execute(query, values)
        if changed.rowcount != rows:
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

    @property
    def query(self) -> sa.Update:
        """Writes it to the orders `ids`, where they still are as they were."""
        return _CANCEL if self.status is Status.CANCELLED else _MOVE

    def values(self, orders: Sequence[UUID]) -> dict[str, Any]:
        return {
            "ids": orders,
            "before": self.before,
            "after": self.version,
            "to": self.status.value,
            "why": self.reason,
            "short": msgspec.to_builtins(self.shortages),
            "until": self.deadline_at,
            "now": self.now,
        }


def _answer(
    op: Op, state: Asked, refs: Mapping[UUID, str | None]
) -> tuple[sa.Update, dict[str, Any]]:
    """Writes the provider's answers to an operation of several orders, each with its reference."""
    values: dict[str, Any] = {"ids": list(refs), "which": op.value, "to": state.value}
    if state is not Asked.DONE:
        return _ANSWER, values
    size = next(size for size in _SIZES if size >= len(refs))
    pairs = list(refs.items())
    for number, (order, ref) in enumerate(pairs + pairs[-1:] * (size - len(pairs))):
        values |= {f"order{number}": order, f"ref{number}": ref}
    return _approve(size), values


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


# built once: to build a statement and its key anew costs as much as to send it
_ORDER, _PAYMENT = tables.orders.c, tables.payments.c
_IDS: sa.BindParameter[UUID] = sa.bindparam("ids", expanding=True)
_MOVE = (
    sa.update(tables.orders)
    .where(_ORDER.id.in_(_IDS), _ORDER.version == sa.bindparam("before"))
    .values(
        version=sa.bindparam("after"),
        status=sa.bindparam("to"),
        reason=sa.bindparam("why"),
        shortages=sa.bindparam("short"),
        deadline_at=sa.bindparam("until"),
        updated_at=sa.bindparam("now"),
    )
)
# its cart may be ordered again
_CANCEL = _MOVE.values(claims_cart=None)
_ANSWER = (
    sa.update(tables.payments)
    .where(
        _PAYMENT.order_id.in_(_IDS),
        _PAYMENT.op == sa.bindparam("which"),
        _PAYMENT.state == Asked.SENT.value,
    )
    .values(state=sa.bindparam("to"), next_at=None)
)
# one that was sent meanwhile makes the race lost
_DROP = (
    sa.update(tables.payments)
    .where(
        _PAYMENT.order_id.in_(_IDS),
        _PAYMENT.op == Op.AUTH.value,
        _PAYMENT.state == Asked.PENDING.value,
    )
    .values(state=Asked.DROPPED.value, next_at=None)
)
_SIZES = (1, 4, 16, 64, 256)


@cache
def _approve(size: int) -> sa.Update:
    """Writes a reference for each of so many orders."""
    refs = [
        (_PAYMENT.order_id == sa.bindparam(f"order{n}"), sa.bindparam(f"ref{n}", type_=sa.String))
        for n in range(size)
    ]
    return _ANSWER.values(psp_ref=sa.case(*refs))
