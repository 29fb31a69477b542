"""An order and its saga, as a table. No I/O, no clock of its own.

An order moves only by `decide`: it reads the order, one cause and the time, and says what follows.
A cause that finds nothing to do is `LATE`; one that should never have come is `ODD` and is worth an
alarm; neither changes anything. A terminal status never changes.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import Enum, StrEnum
from typing import TypeAlias
from uuid import UUID

from msgspec import Struct, structs

from shop_contracts.events.base import Fact
from shop_contracts.events.checkout import (
    OrderAuthorisedV1,
    OrderCancelledV1,
    OrderConfirmedV1,
    OrderPlacedV1,
    PaymentAuthorisedV1,
    PaymentCapturedV1,
    PaymentDeclinedV1,
    PaymentVoidedV1,
)
from shop_contracts.events.checkout.order_cancelled_v1 import CancelReason
from shop_contracts.events.stock import (
    ReservationCommitFailedV1,
    ReservationCommittedV1,
    ReservationExpiredV1,
    ReservationHeldV1,
    ReservationRejectedV1,
    ReservationReleasedV1,
)
from shop_contracts.types import Line, PricedLine, Shortage


class Status(StrEnum):
    """Where an order stands."""

    PLACED = "placed"
    RESERVED = "reserved"
    AUTHORISED = "authorised"
    COMMITTED = "committed"
    CONFIRMED = "confirmed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """Whether the order has come to its end."""
        return self in {Status.CONFIRMED, Status.CANCELLED}


class Op(StrEnum):
    """What checkout asks of the payment provider, at most once each for an order."""

    AUTH = "auth"
    CAPTURE = "capture"
    VOID = "void"


class Asked(StrEnum):
    """How far a payment operation is. Only `PENDING` ones may still be dropped."""

    PENDING = "pending"
    SENT = "sent"
    DONE = "done"
    REFUSED = "refused"
    DROPPED = "dropped"


class Approved(Struct, frozen=True):
    """The provider did it; `ref` is its name for the payment."""

    ref: str


class Refused(Struct, frozen=True):
    """The provider did not do it, and never will under the same key."""

    reason: str


class Pending(Struct, frozen=True):
    """The provider has taken it and decides later; `ref` is its name for it."""

    ref: str


Answer: TypeAlias = Approved | Refused


class Order(Struct, frozen=True, kw_only=True):
    """One order as the saga sees it; nothing in it says who the customer is."""

    id: UUID
    status: Status
    version: int
    lines: list[PricedLine]
    total_minor: int
    currency: str
    placed_at: datetime
    deadline_at: datetime | None
    reason: CancelReason | None = None
    shortages: list[Shortage] = []
    payments: dict[Op, Asked] = {}

    def units(self) -> list[Line]:
        """The lines without names and prices, as stock reads them."""
        return [Line(sku=line.sku, qty=line.qty) for line in self.lines]


class CaptureRefused(Struct, frozen=True, kw_only=True):
    """The provider refuses for good to take the authorised amount."""

    reason: str


class DeadlinePassed(Struct, frozen=True, kw_only=True):
    """The time that the order's status allows has run out."""


class CancelRequested(Struct, frozen=True, kw_only=True):
    """The customer takes the order back."""


Cause: TypeAlias = (
    ReservationHeldV1
    | ReservationRejectedV1
    | ReservationCommittedV1
    | ReservationCommitFailedV1
    | ReservationExpiredV1
    | ReservationReleasedV1
    | PaymentAuthorisedV1
    | PaymentDeclinedV1
    | PaymentCapturedV1
    | PaymentVoidedV1
    | CaptureRefused
    | DeadlinePassed
    | CancelRequested
)


class Step(Struct, frozen=True, kw_only=True):
    """A row's way on: the next status, and why when that is `CANCELLED`."""

    to: Status
    reason: CancelReason | None = None


class Stay(Enum):
    """Why a cause changes nothing."""

    LATE = "late"
    ODD = "odd"
    REFUSED = "refused"


class Timers(Struct, frozen=True, kw_only=True):
    """How long each status may last, and how long all of them together."""

    stock: timedelta = timedelta(seconds=60)
    payment: timedelta = timedelta(minutes=10)
    commit: timedelta = timedelta(seconds=60)
    whole: timedelta = timedelta(minutes=20)


class Decision(Struct, frozen=True, kw_only=True):
    """What follows from a cause: `order` is the next state, or None when nothing changes."""

    order: Order | None = None
    publish: Fact | None = None
    ask: Op | None = None
    drop_auth: bool = False
    stay: Stay | None = None
    alarm: str | None = None


def first_deadline(placed_at: datetime, timers: Timers) -> datetime:
    """When an order that stock does not answer is given up."""
    return placed_at + min(timers.stock, timers.whole)


def placed(order: Order, reservation: UUID | None = None) -> OrderPlacedV1:
    """The event of an order that has just become durable."""
    return OrderPlacedV1(
        order_id=order.id,
        lines=order.lines,
        total_minor=order.total_minor,
        currency=order.currency,
        placed_at=order.placed_at,
        reservation_id=reservation,
    )


def decide(order: Order, cause: Cause, now: datetime, timers: Timers) -> Decision:
    """What follows when `cause` meets the order; the same cause again finds nothing to do."""
    row = NEXT[order.status][type(cause)]
    if isinstance(cause, DeadlinePassed) and (order.deadline_at is None or order.deadline_at > now):
        return Decision(stay=Stay.LATE)
    if isinstance(cause, ReservationExpiredV1) and order.payments.get(Op.AUTH) is Asked.SENT:
        # the answer may be yes by now: go on, and the commit tries to take the units late
        return Decision(stay=Stay.LATE)
    if order.status is Status.CANCELLED and _undone(order, cause):
        return Decision(stay=Stay.LATE)
    if isinstance(row, Stay):
        alarm = f"{type(cause).__name__} met a {order.status} order" if row is Stay.ODD else None
        return Decision(stay=row, alarm=alarm)
    if order.status is Status.CANCELLED:
        return _after_the_end(order, cause, now)
    return _advance(order, row, cause, now, timers)


def _undone(order: Order, cause: Cause) -> bool:
    """Whether the amount, or the units, are already on their way back."""
    match cause:
        case PaymentAuthorisedV1():
            return Op.VOID in order.payments
        case ReservationCommittedV1():
            return order.reason is CancelReason.CAPTURE_REFUSED
        case _:
            return False


def _after_the_end(order: Order, cause: Cause, now: datetime) -> Decision:
    moved = structs.replace(order, version=order.version + 1)
    if isinstance(cause, PaymentAuthorisedV1):
        return Decision(order=moved, ask=Op.VOID)
    # capture_refused is the reason on which stock takes sold units back
    returned = _cancelled(structs.replace(moved, reason=CancelReason.CAPTURE_REFUSED), now)
    return Decision(
        order=moved, publish=returned, alarm="stock was committed for a cancelled order"
    )


def _advance(order: Order, step: Step, cause: Cause, now: datetime, timers: Timers) -> Decision:
    shortages = (
        cause.shortages
        if isinstance(cause, ReservationRejectedV1 | ReservationCommitFailedV1)
        else order.shortages
    )
    moved = structs.replace(
        order,
        status=step.to,
        version=order.version + 1,
        reason=step.reason,
        shortages=shortages,
        deadline_at=_deadline(step.to, order.placed_at, now, timers),
    )
    alarm = None
    if step.to is Status.AUTHORISED and now > order.placed_at + timers.whole:
        alarm = "stock has not answered a commit in the time an order may take"
    if isinstance(cause, CaptureRefused):
        alarm = "the provider refused to capture an authorised amount"
    auth = order.payments.get(Op.AUTH)
    return Decision(
        order=moved,
        publish=_fact(moved, now),
        ask=_ask(step.to, auth),
        drop_auth=step.to is Status.CANCELLED and auth is Asked.PENDING,
        alarm=alarm,
    )


def _deadline(to: Status, placed_at: datetime, now: datetime, timers: Timers) -> datetime | None:
    match to:
        case Status.RESERVED:
            return min(now + timers.payment, placed_at + timers.whole)
        case Status.AUTHORISED:
            return now + timers.commit
        case _:
            return None


def _ask(to: Status, auth: Asked | None) -> Op | None:
    match to:
        case Status.RESERVED:
            return Op.AUTH
        case Status.COMMITTED:
            return Op.CAPTURE
        case Status.CANCELLED if auth is Asked.DONE:
            return Op.VOID
        case _:
            return None


def _fact(order: Order, now: datetime) -> Fact | None:
    match order.status:
        case Status.AUTHORISED:
            return OrderAuthorisedV1(
                order_id=order.id,
                lines=order.units(),
                total_minor=order.total_minor,
                currency=order.currency,
            )
        case Status.CONFIRMED:
            return OrderConfirmedV1(
                order_id=order.id,
                lines=order.lines,
                total_minor=order.total_minor,
                currency=order.currency,
                confirmed_at=now,
            )
        case Status.CANCELLED:
            return _cancelled(order, now)
        case _:
            return None


def _cancelled(order: Order, now: datetime) -> OrderCancelledV1:
    if order.reason is None:
        raise ValueError("a cancelled order has a reason")
    return OrderCancelledV1(
        order_id=order.id,
        lines=order.units(),
        reason=order.reason,
        shortages=order.shortages,
        cancelled_at=now,
    )


# ---- the table ----


def _cancel(reason: CancelReason) -> Step:
    return Step(to=Status.CANCELLED, reason=reason)


NEXT: Mapping[Status, Mapping[type[Cause], Step | Stay]] = {
    Status.PLACED: {
        ReservationHeldV1: Step(to=Status.RESERVED),
        ReservationRejectedV1: _cancel(CancelReason.OUT_OF_STOCK),
        ReservationExpiredV1: _cancel(CancelReason.HOLD_EXPIRED),
        DeadlinePassed: _cancel(CancelReason.STOCK_TIMEOUT),
        CancelRequested: _cancel(CancelReason.BY_CUSTOMER),
        ReservationCommittedV1: Stay.ODD,
        ReservationCommitFailedV1: Stay.ODD,
        ReservationReleasedV1: Stay.ODD,
        PaymentAuthorisedV1: Stay.ODD,
        PaymentDeclinedV1: Stay.ODD,
        PaymentCapturedV1: Stay.ODD,
        PaymentVoidedV1: Stay.ODD,
        CaptureRefused: Stay.ODD,
    },
    Status.RESERVED: {
        PaymentAuthorisedV1: Step(to=Status.AUTHORISED),
        PaymentDeclinedV1: _cancel(CancelReason.PAYMENT_DECLINED),
        ReservationExpiredV1: _cancel(CancelReason.HOLD_EXPIRED),
        DeadlinePassed: _cancel(CancelReason.PAYMENT_TIMEOUT),
        CancelRequested: _cancel(CancelReason.BY_CUSTOMER),
        ReservationHeldV1: Stay.LATE,
        ReservationRejectedV1: Stay.ODD,
        ReservationCommittedV1: Stay.ODD,
        ReservationCommitFailedV1: Stay.ODD,
        ReservationReleasedV1: Stay.ODD,
        PaymentCapturedV1: Stay.ODD,
        PaymentVoidedV1: Stay.ODD,
        CaptureRefused: Stay.ODD,
    },
    Status.AUTHORISED: {
        ReservationCommittedV1: Step(to=Status.COMMITTED),
        ReservationCommitFailedV1: _cancel(CancelReason.STOCK_LOST),
        # an unknown commit is asked again, never cancelled: stock may have sold the units
        DeadlinePassed: Step(to=Status.AUTHORISED),
        CancelRequested: Stay.REFUSED,
        ReservationHeldV1: Stay.LATE,
        ReservationExpiredV1: Stay.LATE,
        PaymentAuthorisedV1: Stay.LATE,
        ReservationRejectedV1: Stay.ODD,
        ReservationReleasedV1: Stay.ODD,
        PaymentDeclinedV1: Stay.ODD,
        PaymentCapturedV1: Stay.ODD,
        PaymentVoidedV1: Stay.ODD,
        CaptureRefused: Stay.ODD,
    },
    Status.COMMITTED: {
        PaymentCapturedV1: Step(to=Status.CONFIRMED),
        CaptureRefused: _cancel(CancelReason.CAPTURE_REFUSED),
        CancelRequested: Stay.REFUSED,
        ReservationHeldV1: Stay.LATE,
        ReservationCommittedV1: Stay.LATE,
        ReservationExpiredV1: Stay.LATE,
        PaymentAuthorisedV1: Stay.LATE,
        DeadlinePassed: Stay.LATE,
        ReservationRejectedV1: Stay.ODD,
        ReservationCommitFailedV1: Stay.ODD,
        ReservationReleasedV1: Stay.ODD,
        PaymentDeclinedV1: Stay.ODD,
        PaymentVoidedV1: Stay.ODD,
    },
    Status.CONFIRMED: {
        CancelRequested: Stay.REFUSED,
        ReservationHeldV1: Stay.LATE,
        ReservationCommittedV1: Stay.LATE,
        ReservationExpiredV1: Stay.LATE,
        PaymentAuthorisedV1: Stay.LATE,
        PaymentCapturedV1: Stay.LATE,
        DeadlinePassed: Stay.LATE,
        ReservationRejectedV1: Stay.ODD,
        ReservationCommitFailedV1: Stay.ODD,
        ReservationReleasedV1: Stay.ODD,
        PaymentDeclinedV1: Stay.ODD,
        PaymentVoidedV1: Stay.ODD,
        CaptureRefused: Stay.ODD,
    },
    Status.CANCELLED: {
        # never resurrect: give the amount back
        PaymentAuthorisedV1: Step(to=Status.CANCELLED),
        # must not happen, and if it does the units go back
        ReservationCommittedV1: Step(to=Status.CANCELLED),
        CancelRequested: Stay.REFUSED,
        ReservationHeldV1: Stay.LATE,
        ReservationRejectedV1: Stay.LATE,
        ReservationCommitFailedV1: Stay.LATE,
        ReservationReleasedV1: Stay.LATE,
        ReservationExpiredV1: Stay.LATE,
        PaymentDeclinedV1: Stay.LATE,
        PaymentVoidedV1: Stay.LATE,
        CaptureRefused: Stay.LATE,
        DeadlinePassed: Stay.LATE,
        PaymentCapturedV1: Stay.ODD,
    },
}
