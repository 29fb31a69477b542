"""What may follow a confirmed order: money given back, units taken back, parcels. Pure: no I/O.

A refund counts from when it is asked for, and no more once the provider has refused it. Of no line
are more units given back, or sent, than were sold; of the order no more money than was captured.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal, TypeAlias
from uuid import UUID

from msgspec import Meta, Struct, structs

from checkout.domain import Order
from checkout.quotes import MAX_LINES, Qty
from checkout.totals import Breakdown
from shop_contracts.events.checkout import OrderDeliveredV1, OrderRefundedV1, OrderShippedV1
from shop_contracts.events.checkout.order_refunded_v1 import RefundReason
from shop_contracts.types import MAX_SAFE, Line, Sku, Text

Reason: TypeAlias = Literal["returned", "damaged", "not_delivered", "goodwill"]


class RefundState(StrEnum):
    """How far a refund is; `PENDING` has been taken by the provider, who decides later."""

    REQUESTED = "requested"
    PENDING = "pending"
    REFUNDED = "refunded"
    FAILED = "failed"


class Units(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Units of one SKU of the order."""

    sku: Sku
    qty: Qty


class Back(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Units that are given back the money for; `restock` puts them on sale again."""

    sku: Sku
    qty: Qty
    restock: bool = False


class RefundWanted(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be given back: what was paid for the units and for shipping, or `amount_minor`."""

    lines: Annotated[list[Back], Meta(max_length=MAX_LINES)] = []
    shipping: bool = False
    amount_minor: Annotated[int, Meta(ge=0, le=MAX_SAFE)] | None = None
    reason: Reason = "returned"


class ShipmentWanted(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A parcel that has left: its units, who carries it, and where it can be followed."""

    lines: Annotated[list[Units], Meta(min_length=1, max_length=MAX_LINES)]
    carrier: Annotated[str, Meta(min_length=1, max_length=100)]
    tracking: Annotated[str, Meta(min_length=1, max_length=100)] | None = None


class RefundLine(Struct, frozen=True, kw_only=True):
    """A line of a refund; `worth_minor` is what was paid for its units."""

    sku: Sku
    qty: int
    restock: bool
    worth_minor: int


class Refund(Struct, frozen=True, kw_only=True):
    """Money on its way back, or there once `refunded`; `failure` is the provider's reason."""

    refund_id: UUID
    state: RefundState
    lines: list[RefundLine]
    shipping_minor: int
    amount_minor: int
    reason: Reason
    requested_at: datetime
    ended_at: datetime | None = None
    failure: str | None = None


class Shipment(Struct, frozen=True, kw_only=True):
    """One parcel."""

    shipment_id: UUID
    lines: list[Line]
    carrier: Text
    tracking: Text | None
    shipped_at: datetime
    delivered_at: datetime | None = None


class Fulfilment(StrEnum):
    """How much of what is to be sent has left; `DELIVERED` when all of it has arrived."""

    OPEN = "open"
    PARTLY = "partly"
    SHIPPED = "shipped"
    DELIVERED = "delivered"


class Paid(Struct, frozen=True, kw_only=True):
    """What an order was sold for: units and amount of each line, tax and discount in it."""

    qty: Mapping[str, int]
    gross_minor: Mapping[str, int]
    shipping_minor: int
    total_minor: int


class Excess(Struct, frozen=True):
    """A value that asks for what there is not: `code` is a word, `left` how much there would be."""

    pointer: str
    code: Literal["unknown-sku", "twice", "nothing", "too-many", "too-much"]
    left: int = 0


def paid(breakdown: Breakdown) -> Paid:
    """What the order was sold for."""
    return Paid(
        qty={line.sku: line.qty for line in breakdown.lines},
        gross_minor={line.sku: line.gross_minor for line in breakdown.lines},
        shipping_minor=breakdown.shipping.gross_minor if breakdown.shipping else 0,
        total_minor=breakdown.total_minor,
    )


def refund(
    paid: Paid, refunds: Sequence[Refund], wanted: RefundWanted, refund_id: UUID, now: datetime
) -> Refund | list[Excess]:
    """The refund that is wanted, or what is wrong with it."""
    taken, given = _units_back(refunds), _worth_back(refunds)
    wrong = _faults(wanted.lines, {sku: qty - taken[sku] for sku, qty in paid.qty.items()})
    if not wanted.lines and not wanted.shipping and not wanted.amount_minor:
        wrong.append(Excess("", "nothing"))
    if wrong:
        return wrong
    lines = [
        RefundLine(
            sku=back.sku,
            qty=back.qty,
            restock=back.restock,
            worth_minor=_worth(paid, back.sku, taken[back.sku] + back.qty, given[back.sku]),
        )
        for back in wanted.lines
    ]
    shipping = (
        max(0, paid.shipping_minor - sum(one.shipping_minor for one in living(refunds)))
        if wanted.shipping
        else 0
    )
    amount = wanted.amount_minor
    if amount is None:
        amount = sum(line.worth_minor for line in lines) + shipping
    if amount > refundable(paid, refunds):
        return [Excess("/amount_minor", "too-much", refundable(paid, refunds))]
    return Refund(
        refund_id=refund_id,
        state=RefundState.REQUESTED,
        lines=lines,
        shipping_minor=shipping,
        amount_minor=amount,
        reason=wanted.reason,
        requested_at=now,
    )


def shipment(
    paid: Paid,
    refunds: Sequence[Refund],
    shipments: Sequence[Shipment],
    wanted: ShipmentWanted,
    shipment_id: UUID,
    now: datetime,
) -> Shipment | list[Excess]:
    """The parcel, or what is wrong with it."""
    wrong = _faults(wanted.lines, unshipped(paid, refunds, shipments))
    if wrong:
        return wrong
    return Shipment(
        shipment_id=shipment_id,
        lines=[Line(sku=units.sku, qty=units.qty) for units in wanted.lines],
        carrier=wanted.carrier,
        tracking=wanted.tracking,
        shipped_at=now,
    )


def refunded(
    order: Order, refunds: Sequence[Refund], refund: Refund, now: datetime
) -> OrderRefundedV1:
    """What is told of a refund that the provider has carried out, the others being `refunds`."""
    sold = {line.sku: line for line in order.lines}
    given = sum(one.amount_minor for one in refunds if one.state is RefundState.REFUNDED)
    return OrderRefundedV1(
        order_id=order.id,
        refund_id=refund.refund_id,
        lines=[structs.replace(sold[line.sku], qty=line.qty) for line in refund.lines],
        restocked=[Line(sku=line.sku, qty=line.qty) for line in refund.lines if line.restock],
        amount_minor=refund.amount_minor,
        refunded_minor=given + refund.amount_minor,
        currency=order.currency,
        reason=RefundReason(refund.reason),
        refunded_at=now,
    )


def shipped(order: Order, parcel: Shipment, *, complete: bool) -> OrderShippedV1:
    """What is told of a parcel; `complete` when nothing is left to ship."""
    return OrderShippedV1(
        order_id=order.id,
        shipment_id=parcel.shipment_id,
        lines=parcel.lines,
        carrier=parcel.carrier,
        tracking=parcel.tracking,
        complete=complete,
        shipped_at=parcel.shipped_at,
    )


def delivered(order: Order, parcel: Shipment, now: datetime, *, complete: bool) -> OrderDeliveredV1:
    """What is told of a parcel that was handed over; `complete` when nothing is under way."""
    return OrderDeliveredV1(
        order_id=order.id, shipment_id=parcel.shipment_id, complete=complete, delivered_at=now
    )


def living(refunds: Sequence[Refund]) -> list[Refund]:
    """The refunds that count."""
    return [one for one in refunds if one.state is not RefundState.FAILED]


def refundable(paid: Paid, refunds: Sequence[Refund]) -> int:
    """How much may still be given back."""
    return paid.total_minor - sum(one.amount_minor for one in living(refunds))


def unshipped(
    paid: Paid, refunds: Sequence[Refund], shipments: Sequence[Shipment]
) -> dict[str, int]:
    """The units by SKU that are neither sent nor given back; below 0 where some came back."""
    gone = _units_back(refunds)
    for parcel in shipments:
        for line in parcel.lines:
            gone[line.sku] += line.qty
    return {sku: qty - gone[sku] for sku, qty in paid.qty.items()}


def complete(paid: Paid, refunds: Sequence[Refund], shipments: Sequence[Shipment]) -> bool:
    """Whether there is nothing left to ship."""
    return all(left <= 0 for left in unshipped(paid, refunds, shipments).values())


def fulfilment(paid: Paid, refunds: Sequence[Refund], shipments: Sequence[Shipment]) -> Fulfilment:
    """How much of the order has left; what was given back before it left need not."""
    if not shipments:
        return Fulfilment.OPEN
    if not complete(paid, refunds, shipments):
        return Fulfilment.PARTLY
    return Fulfilment.DELIVERED if arrived(shipments) else Fulfilment.SHIPPED


def arrived(shipments: Sequence[Shipment]) -> bool:
    """Whether all parcels have been handed over."""
    return all(parcel.delivered_at is not None for parcel in shipments)


def _units_back(refunds: Sequence[Refund]) -> Counter[str]:
    back: Counter[str] = Counter()
    for one in living(refunds):
        for line in one.lines:
            back[line.sku] += line.qty
    return back


def _worth_back(refunds: Sequence[Refund]) -> Counter[str]:
    back: Counter[str] = Counter()
    for one in living(refunds):
        for line in one.lines:
            back[line.sku] += line.worth_minor
    return back


def _worth(paid: Paid, sku: str, units: int, given: int) -> int:
    """What `units` of the line have in sum, less what was given for some: rounding loses none."""
    return max(0, paid.gross_minor[sku] * units // paid.qty[sku] - given)


def _faults(lines: Sequence[Back | Units], left: Mapping[str, int]) -> list[Excess]:
    found: list[Excess] = []
    seen: set[str] = set()
    for number, line in enumerate(lines):
        if line.sku in seen:
            found.append(Excess(f"/lines/{number}/sku", "twice"))
        elif line.sku not in left:
            found.append(Excess(f"/lines/{number}/sku", "unknown-sku"))
        elif line.qty > left[line.sku]:
            found.append(Excess(f"/lines/{number}/qty", "too-many", max(0, left[line.sku])))
        seen.add(line.sku)
    return found
