"""The saga's table, cell by cell, and what a cart costs. `test_simulation` lets it live."""

from datetime import UTC, datetime, timedelta
from typing import TypeVar
from uuid import UUID

import pytest
from msgspec import structs

from checkout.domain import (
    NEXT,
    Asked,
    CancelRequested,
    CaptureRefused,
    Cause,
    DeadlinePassed,
    Decision,
    Op,
    Order,
    Status,
    Stay,
    Timers,
    decide,
)
from checkout.quotes import Offer, quote
from shop_contracts.events.checkout import (
    OrderAuthorisedV1,
    OrderCancelledV1,
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

M = TypeVar("M")
NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
ID = UUID("01936a7e-0000-7000-8000-000000000001")
LINES = [PricedLine(sku="LAMP-1", qty=2, name="Lamp", unit_minor=1_250)]
UNITS = [Line(sku="LAMP-1", qty=2)]
SHORT = [Shortage(sku="LAMP-1", requested=2, available=1)]
MONEY = {"order_id": ID, "payment_ref": "ref", "amount_minor": 2_500, "currency": "EUR"}
TIMERS = Timers()

CAUSES: dict[str, Cause] = {
    "held": ReservationHeldV1(order_id=ID, lines=UNITS, expires_at=NOW),
    "rejected": ReservationRejectedV1(order_id=ID, shortages=SHORT),
    "committed": ReservationCommittedV1(order_id=ID, lines=UNITS),
    "commit_failed": ReservationCommitFailedV1(order_id=ID, shortages=SHORT),
    "released": ReservationReleasedV1(order_id=ID, lines=UNITS),
    "expired": ReservationExpiredV1(order_id=ID, lines=UNITS),
    "authorised": PaymentAuthorisedV1(**MONEY),
    "declined": PaymentDeclinedV1(**MONEY, reason="no"),
    "captured": PaymentCapturedV1(**MONEY),
    "refused": CaptureRefused(reason="no"),
    "voided": PaymentVoidedV1(**MONEY),
    "deadline": DeadlinePassed(),
    "customer": CancelRequested(),
}

# what each cause does to an order of each status whose deadline is over
TABLE = """
              placed           reserved          authorised  committed        confirmed cancelled
held          reserved         late              late        late             late      late
rejected      out_of_stock     odd               odd         odd              odd       late
committed     odd              odd               committed   late             late      returned
commit_failed odd              odd               stock_lost  odd              odd       late
released      odd              odd               odd         odd              odd       late
expired       hold_expired     hold_expired      late        late             late      late
authorised    odd              authorised        late        late             late      voided
declined      odd              payment_declined  odd         odd              odd       late
captured      odd              odd               odd         confirmed        late      odd
refused       odd              odd               odd         capture_refused  odd       late
voided        odd              odd               odd         odd              odd       late
deadline      stock_timeout    payment_timeout   authorised  late             late      late
customer      by_customer      by_customer       refused     refused          refused   refused
"""
_HEAD, *_ROWS = (line.split() for line in TABLE.strip().splitlines())
CELLS = [
    (status, row[0], expected)
    for row in _ROWS
    for status, expected in zip(_HEAD, row[1:], strict=True)
]


def an_order(status: Status, **changes: object) -> Order:
    auth = {
        Status.RESERVED: {Op.AUTH: Asked.PENDING},
        Status.AUTHORISED: {Op.AUTH: Asked.DONE},
        Status.COMMITTED: {Op.AUTH: Asked.DONE, Op.CAPTURE: Asked.PENDING},
        Status.CONFIRMED: {Op.AUTH: Asked.DONE, Op.CAPTURE: Asked.DONE},
    }
    order = Order(
        id=ID,
        status=status,
        version=4,
        lines=LINES,
        total_minor=2_500,
        currency="EUR",
        placed_at=NOW,
        deadline_at=None if status.terminal or status is Status.COMMITTED else NOW,
        reason=CancelReason.BY_CUSTOMER if status is Status.CANCELLED else None,
        payments=auth.get(status, {}),
    )
    return structs.replace(order, **changes)


def meets(order: Order, cause: Cause, now: datetime = NOW) -> Decision:
    return decide(order, cause, now, TIMERS)


def outcome(order: Order, decision: Decision) -> str:
    if decision.order is None:
        return decision.stay.value if decision.stay else "nothing"
    if order.status is Status.CANCELLED:
        return "voided" if decision.ask is Op.VOID else "returned"
    return str(decision.order.reason or decision.order.status)


def test_the_table_has_a_row_for_every_cause_in_every_status() -> None:
    expected = {type(cause) for cause in CAUSES.values()}

    assert dict.fromkeys(Status, expected) == {s: set(row) for s, row in NEXT.items()}


@pytest.mark.parametrize(("status", "cause", "expected"), CELLS)
def test_each_cause_meets_each_status_as_the_table_says(
    status: str, cause: str, expected: str
) -> None:
    order = an_order(Status(status))

    decision = meets(order, CAUSES[cause])

    assert expected == outcome(order, decision)
    if decision.order is not None:
        assert order.version + 1 == decision.order.version


@pytest.mark.parametrize("cause", CAUSES)
@pytest.mark.parametrize("status", [Status.CONFIRMED, Status.CANCELLED])
def test_an_end_is_an_end(status: Status, cause: str) -> None:
    decision = meets(an_order(status), CAUSES[cause])

    assert status == (decision.order.status if decision.order else status)


def test_a_deadline_that_is_not_over_changes_nothing() -> None:
    order = an_order(Status.PLACED, deadline_at=NOW + timedelta(seconds=1))

    assert meets(order, DeadlinePassed()) == Decision(stay=Stay.LATE)


def test_a_hold_that_expires_while_the_payment_is_out_does_not_cancel() -> None:
    order = an_order(Status.RESERVED, payments={Op.AUTH: Asked.SENT})

    assert meets(order, CAUSES["expired"]) == Decision(stay=Stay.LATE)


def test_a_payment_that_nobody_has_sent_is_dropped_with_its_order() -> None:
    decision = meets(an_order(Status.RESERVED), CancelRequested())

    assert (True, None) == (decision.drop_auth, decision.ask)


def test_a_payment_that_was_sent_is_voided_when_its_answer_comes_late() -> None:
    order = an_order(Status.RESERVED, payments={Op.AUTH: Asked.SENT})
    cancelled = meets(order, CancelRequested())
    assert cancelled.order is not None
    answered = structs.replace(cancelled.order, payments={Op.AUTH: Asked.DONE})

    decision = meets(answered, CAUSES["authorised"])

    assert (False, None) == (cancelled.drop_auth, cancelled.ask)
    assert Op.VOID is decision.ask
    again = structs.replace(answered, payments={Op.AUTH: Asked.DONE, Op.VOID: Asked.PENDING})
    assert Decision(stay=Stay.LATE) == meets(again, CAUSES["authorised"])


def test_units_sold_to_a_cancelled_order_go_back_with_an_alarm() -> None:
    decision = meets(an_order(Status.CANCELLED), CAUSES["committed"])

    assert isinstance(decision.publish, OrderCancelledV1)
    assert CancelReason.CAPTURE_REFUSED is decision.publish.reason
    assert decision.alarm


def test_an_unanswered_commit_is_asked_for_again_and_alarms_when_it_takes_too_long() -> None:
    soon, late = NOW + timedelta(minutes=1), NOW + TIMERS.whole + timedelta(seconds=1)

    first, last = (meets(an_order(Status.AUTHORISED), DeadlinePassed(), at) for at in (soon, late))

    assert isinstance(first.publish, OrderAuthorisedV1)
    assert isinstance(last.publish, OrderAuthorisedV1)
    assert (True, False) == (first.alarm is None, last.alarm is None)


def test_shortages_stand_in_the_order_and_its_event() -> None:
    decision = meets(an_order(Status.PLACED), CAUSES["rejected"])

    assert decision.order is not None
    assert isinstance(decision.publish, OrderCancelledV1)
    assert SHORT == decision.order.shortages == decision.publish.shortages


# ---- what a cart costs ----


def test_a_quote_prefers_the_shops_currency_and_sums_integers() -> None:
    offers = {
        "A": Offer(name="Apple", prices={"EUR": 101, "USD": 120}),
        "B": Offer(prices={"EUR": 7, "USD": 9}),
    }

    euros = quote({"B": 3, "A": 2}, offers, currency=None, preferred="EUR")

    assert ("EUR", 223) == (euros.currency, euros.total_minor)
    assert ["Apple", "B"] == [line.name for line in euros.lines]
    assert 267 == quote({"B": 3, "A": 2}, offers, currency="USD", preferred="EUR").total_minor


@pytest.mark.parametrize(
    ("offers", "currency", "expected"),
    [
        ({"A": Offer(prices={"USD": 5}), "B": Offer(prices={"USD": 6})}, None, "USD"),
        ({"A": Offer(prices={"USD": 5}), "B": Offer(prices={"SEK": 6})}, None, None),
        ({"A": Offer(prices={"EUR": 5}), "B": Offer(prices={"EUR": 6})}, "USD", None),
        ({"A": Offer(prices={"EUR": 5})}, None, None),
        (
            {"A": Offer(prices={"EUR": 5}), "B": Offer(prices={"EUR": 6}, withdrawn=True)},
            None,
            None,
        ),
    ],
    ids=["one in common", "mixed", "not in that currency", "unknown", "withdrawn"],
)
def test_a_quote_has_a_total_only_when_one_currency_prices_every_line(
    offers: dict[str, Offer], currency: str | None, expected: str | None
) -> None:
    quoted = quote({"A": 1, "B": 1}, offers, currency=currency, preferred="EUR")

    assert expected == (None if quoted.total_minor is None else quoted.currency)
    assert (expected is None) == bool(quoted.unavailable)
