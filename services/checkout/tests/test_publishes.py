"""What checkout tells is what its contracts say. No store, no broker, no other service is here."""

from collections.abc import Iterator
from datetime import UTC, datetime
from uuid import UUID

import pytest
from msgspec.structs import replace

from checkout.after import Refund, RefundLine, RefundState, Shipment, delivered, refunded, shipped
from checkout.domain import (
    NEXT,
    Approved,
    Asked,
    CancelRequested,
    CaptureRefused,
    Cause,
    DeadlinePassed,
    Op,
    Order,
    Refused,
    Status,
    Timers,
    decide,
    placed,
)
from checkout.store.payments import Ask
from checkout.store.sheet import cause_of
from shop_contracts import build, envelope
from shop_contracts.envelope import decode, encode
from shop_contracts.events import EVENTS
from shop_contracts.events.base import Fact
from shop_contracts.events.checkout.order_cancelled_v1 import CancelReason
from shop_contracts.kit.producer import event_problems
from shop_contracts.types import MAX_SAFE, PricedLine

ID = UUID("01936a7e-0000-7000-8000-000000000001")
NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)

SMALL = Order(
    id=ID,
    status=Status.PLACED,
    version=1,
    lines=[PricedLine(sku="0", qty=1, name="x", unit_minor=0)],
    total_minor=0,
    currency="EUR",
    placed_at=NOW,
    deadline_at=None,
)
LARGE = replace(
    SMALL,
    lines=[PricedLine(sku="s" * 64, qty=MAX_SAFE, name="n" * 500, unit_minor=MAX_SAFE)] * 100,
    total_minor=MAX_SAFE,
)


def cause(kind: type[Cause]) -> Cause:
    """One of its kind: an event as its golden example, or our own word."""
    if kind is CaptureRefused:
        return CaptureRefused(reason="no")
    if kind is DeadlinePassed:
        return DeadlinePassed()
    if kind is CancelRequested:
        return CancelRequested()
    path = build.ROOT / "examples" / getattr(kind, "KEY", "") / "full.json"
    data = decode(path.read_bytes()).data
    assert isinstance(data, kind)
    return data


def facts(order: Order) -> Iterator[Fact]:
    yield placed(order)
    yield placed(order, order.id)
    for status, row in NEXT.items():
        reason = CancelReason.BY_CUSTOMER if status is Status.CANCELLED else None
        for kind in row:
            there = replace(order, status=status, reason=reason, payments={Op.AUTH: Asked.DONE})
            if fact := decide(there, cause(kind), NOW, Timers()).publish:
                yield fact
    for op in Op:
        for answer in (Approved("r" * 500), Refused("no")):
            ask = Ask(
                order_id=ID,
                op=op,
                key="k",
                attempt=1,
                amount_minor=order.total_minor,
                currency="EUR",
                token="",
                ref="",
            )
            told = cause_of(order, ask, answer)
            if isinstance(told, Fact):
                yield told
    back = [
        RefundLine(sku=line.sku, qty=line.qty, restock=True, worth_minor=0) for line in order.lines
    ]
    refund = Refund(
        refund_id=ID,
        state=RefundState.REQUESTED,
        lines=back,
        shipping_minor=0,
        amount_minor=order.total_minor,
        reason="not_delivered",
        requested_at=NOW,
    )
    yield refunded(order, [], refund, NOW)
    parcel = Shipment(
        shipment_id=ID, lines=order.units(), carrier="c" * 100, tracking="t" * 100, shipped_at=NOW
    )
    yield shipped(order, parcel, complete=True)
    yield delivered(order, parcel, NOW, complete=True)


@pytest.mark.parametrize("order", [SMALL, LARGE], ids=["small", "large"])
def test_whatever_an_order_tells_is_valid(order: Order) -> None:
    for fact in facts(order):
        event = envelope.new(fact, id=ID, entityversion=2, correlationid=str(ID))

        assert [] == event_problems(encode(event)), fact


def test_every_event_that_checkout_owns_is_told() -> None:
    owned = {fact.KEY for fact in EVENTS["checkout"]}

    assert owned == {fact.KEY for fact in facts(SMALL)}
