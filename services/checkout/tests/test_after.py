"""Refunds and parcels: the pure rules, the rows on both databases, the provider and the worker."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from chassis.database import Database
from chassis.problems import Invalid, NotFound
from checkout import after, worker
from checkout.after import (
    Back,
    Fulfilment,
    Paid,
    Refund,
    RefundState,
    RefundWanted,
    Shipment,
    ShipmentWanted,
    Units,
)
from checkout.domain import Approved, DeadlinePassed, Refused, Timers
from checkout.provider import NoAnswer
from checkout.provider.stripe import Stripe, _authorised
from checkout.store import tables
from checkout.store.after import After, RefundAsk
from checkout.store.carts import Carts
from checkout.store.orders import Orders
from checkout.store.problems import IdempotencyKeyReused, NotConfirmed, NotLeft
from checkout.store.projections import Projections
from checkout.store.rows import OrderView
from payments.app import Simulator
from payments.domain import Fault, Script, Settled
from shop_contracts.events.checkout import OrderDeliveredV1, OrderRefundedV1, OrderShippedV1
from shop_contracts.types import Line

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
LEASE = timedelta(seconds=30)
KEY = "key-0123456789abcdef"
PATIENCE_S = 20
LAMP = "LAMP-1"

Sent = Callable[[Database], Awaitable[list[Any]]]


@pytest.fixture
def following(database: Database) -> After:
    return After(database)


async def confirmed(orders: Orders, make: Any, qty: int = 3, unit: int = 1_000) -> UUID:
    accepted = await orders.place(
        f"c{uuid4()}", KEY, b"x" * 32, make.a_purchase(), make.a_quote(qty, unit)
    )
    await make.authorise(orders, str(accepted.order_id))
    await orders.apply(accepted.order_id, make.committed(accepted.order_id))
    for ask in await orders.claim_payments(10, LEASE):
        await orders.answered(ask, Approved("pi_1"))
    return accepted.order_id


def back(qty: int = 1, *, restock: bool = False, **more: Any) -> RefundWanted:
    return RefundWanted(lines=[Back(sku=LAMP, qty=qty, restock=restock)], **more)


def parcel(qty: int = 1, tracking: str | None = "T-1") -> ShipmentWanted:
    return ShipmentWanted(lines=[Units(sku=LAMP, qty=qty)], carrier="Ship & Co", tracking=tracking)


async def viewed(orders: Orders, order_id: UUID) -> OrderView:
    view = await orders.view(order_id)
    assert view is not None
    return view


async def claimed(following: After) -> RefundAsk:
    (ask,) = await following.claim(10, LEASE)
    return ask


async def refunded(following: After, order_id: UUID, key: str, wanted: RefundWanted) -> None:
    await following.refund(order_id, key, wanted)
    await following.answered(await claimed(following), Approved("re_1"))


# ---- the rules, pure ----


@given(
    st.integers(1, 40).flatmap(
        lambda qty: st.tuples(
            st.just(qty),
            st.integers(0, 5_000),
            st.lists(st.tuples(st.integers(1, 5), st.booleans()), max_size=60),
        )
    )
)
def test_units_that_come_back_one_by_one_are_worth_what_was_paid_for_all_of_them(
    drawn: tuple[int, int, list[tuple[int, bool]]],
) -> None:
    qty, gross, asked = drawn
    paid = Paid(qty={LAMP: qty}, gross_minor={LAMP: gross}, shipping_minor=0, total_minor=gross)
    refunds: list[Refund] = []
    for units, fails in asked:
        one = after.refund(paid, refunds, back(units), uuid4(), NOW)
        if isinstance(one, Refund):
            state = RefundState.FAILED if fails else RefundState.REFUNDED
            refunds.append(msgspec.structs.replace(one, state=state))
    living = after.living(refunds)
    taken = sum(line.qty for one in living for line in one.lines)
    given_back = sum(one.amount_minor for one in living)

    assert taken <= qty
    assert given_back <= gross
    left = after.refund(paid, refunds, back(qty - taken), uuid4(), NOW) if taken < qty else None
    assert gross == given_back + (left.amount_minor if isinstance(left, Refund) else 0)


PAID = Paid(
    qty={LAMP: 3, "B": 1}, gross_minor={LAMP: 1_000, "B": 0}, shipping_minor=490, total_minor=1_490
)


@pytest.mark.parametrize(
    ("wanted", "codes"),
    [
        (RefundWanted(), ["nothing"]),
        (RefundWanted(amount_minor=0), ["nothing"]),
        (back(4), ["too-many"]),
        (RefundWanted(lines=[Back(sku="C", qty=1)]), ["unknown-sku"]),
        (RefundWanted(lines=[Back(sku="B", qty=1), Back(sku="B", qty=1)]), ["twice"]),
        (RefundWanted(amount_minor=1_491), ["too-much"]),
        (back(1, amount_minor=1_491), ["too-much"]),
    ],
)
def test_what_cannot_be_given_back_is_refused_with_its_reason(
    wanted: RefundWanted, codes: list[str]
) -> None:
    found = after.refund(PAID, [], wanted, uuid4(), NOW)

    assert isinstance(found, list)
    assert codes == [one.code for one in found]


def test_shipping_is_given_back_once_and_an_amount_may_differ_from_the_worth() -> None:
    one = after.refund(PAID, [], back(1, shipping=True, amount_minor=100), uuid4(), NOW)
    assert isinstance(one, Refund)
    other = after.refund(PAID, [one], back(2, shipping=True), uuid4(), NOW)
    assert isinstance(other, Refund)

    assert (100, 333, 490) == (one.amount_minor, one.lines[0].worth_minor, one.shipping_minor)
    assert (667, 0) == (other.amount_minor, other.shipping_minor)


# ---- the rows, on both databases ----


async def test_a_refund_goes_from_requested_to_refunded_and_is_told_once(
    orders: Orders, following: After, database: Database, make: Any, sent: Sent
) -> None:
    order_id = await confirmed(orders, make)

    done = await following.refund(order_id, KEY, back(2, restock=True, reason="damaged"))
    before = await viewed(orders, order_id)
    ask = await claimed(following)
    await asyncio.gather(*(following.answered(ask, Approved("re_1")) for _ in range(4)))

    refund = msgspec.json.decode(done.body, type=Refund)
    assert (RefundState.REQUESTED, 2_000) == (refund.state, refund.amount_minor)
    assert ([RefundState.REQUESTED], 0) == (
        [one.state for one in before.refunds],
        before.refunded_minor,
    )
    view = await viewed(orders, order_id)
    assert ([RefundState.REFUNDED], 2_000) == (
        [one.state for one in view.refunds],
        view.refunded_minor,
    )
    told = [event for event in await sent(database) if isinstance(event.data, OrderRefundedV1)]
    assert [view.version] == [event.meta.entityversion for event in told]
    fact = told[0].data
    assert (2_000, 2_000, "damaged") == (fact.amount_minor, fact.refunded_minor, fact.reason)
    assert [(LAMP, 2, 1_000)] == [(line.sku, line.qty, line.unit_minor) for line in fact.lines]
    assert [Line(sku=LAMP, qty=2)] == fact.restocked


async def test_a_refund_that_the_provider_refuses_counts_no_more(
    orders: Orders, following: After, database: Database, make: Any, sent: Sent
) -> None:
    order_id = await confirmed(orders, make)
    await following.refund(order_id, KEY, back(3))
    with pytest.raises(NotLeft):
        await following.refund(order_id, f"{KEY}-2", back(1))

    await following.answered(await claimed(following), Refused("the card is gone"))
    await refunded(following, order_id, f"{KEY}-3", back(3))

    view = await viewed(orders, order_id)
    assert [(RefundState.FAILED, "the card is gone"), (RefundState.REFUNDED, None)] == [
        (one.state, one.failure) for one in view.refunds
    ]
    assert 3_000 == view.refunded_minor
    told = [event.data for event in await sent(database)]
    assert 1 == sum(isinstance(fact, OrderRefundedV1) for fact in told)


async def test_twenty_refunds_at_once_give_back_no_more_than_was_captured(
    orders: Orders, following: After, database: Database, make: Any
) -> None:
    order_id = await confirmed(orders, make, qty=3)

    results = await asyncio.gather(
        *(following.refund(order_id, f"{KEY}-{n:02}", back(1)) for n in range(20)),
        return_exceptions=True,
    )

    assert 3 == sum(not isinstance(result, BaseException) for result in results)
    assert all(isinstance(r, NotLeft) for r in results if isinstance(r, BaseException)), results
    async with database.read() as connection:
        row = (await connection.execute(sa.select(tables.orders))).one()
        asked = await connection.scalar(sa.select(sa.func.sum(tables.refunds.c.amount_minor)))
    assert (3_000, 3_000) == (row.refunded_minor, asked)


async def test_the_database_itself_refuses_to_give_back_more_than_was_paid(
    orders: Orders, database: Database, make: Any
) -> None:
    await confirmed(orders, make)

    for amount in (3_001, -1):
        with pytest.raises(sa.exc.DBAPIError):
            async with database.engine.begin() as connection:
                await connection.execute(sa.update(tables.orders).values(refunded_minor=amount))


async def test_one_key_is_one_refund_also_for_twenty_at_once(
    orders: Orders, following: After, make: Any
) -> None:
    order_id = await confirmed(orders, make)

    done = await asyncio.gather(*(following.refund(order_id, KEY, back(1)) for _ in range(20)))

    assert 1 == len({one.body for one in done})
    assert 19 == sum(one.replayed for one in done)
    assert 1 == len((await viewed(orders, order_id)).refunds)
    with pytest.raises(IdempotencyKeyReused):
        await following.refund(order_id, KEY, back(2))


async def test_parcels_take_no_more_than_was_sold_less_what_was_given_back(
    orders: Orders, following: After, database: Database, make: Any, sent: Sent
) -> None:
    order_id = await confirmed(orders, make, qty=4)

    await following.ship(order_id, KEY, parcel(2))
    await following.ship(order_id, KEY, parcel(2))
    partly = await viewed(orders, order_id)
    await following.refund(order_id, KEY, back(1))
    with pytest.raises(NotLeft) as refused:
        await following.ship(order_id, f"{KEY}-2", parcel(2))
    await following.ship(order_id, f"{KEY}-3", parcel(1, None))

    assert "partly" == partly.fulfilment
    assert "There are 1 units left." == refused.value.errors[0]["detail"]
    view = await viewed(orders, order_id)
    assert "shipped" == view.fulfilment
    assert [("Ship & Co", "T-1", 2), ("Ship & Co", None, 1)] == [
        (one.carrier, one.tracking, one.lines[0].qty) for one in view.shipments
    ]
    told = [event.data for event in await sent(database) if isinstance(event.data, OrderShippedV1)]
    assert [(2, False), (1, True)] == [(fact.lines[0].qty, fact.complete) for fact in told]


async def test_a_parcel_is_delivered_once_and_the_order_when_all_of_it_is(
    orders: Orders, following: After, database: Database, make: Any, sent: Sent
) -> None:
    order_id = await confirmed(orders, make)
    made = [await following.ship(order_id, f"{KEY}-{n}", parcel(n)) for n in (2, 1)]
    two, one = (msgspec.json.decode(done.body, type=Shipment) for done in made)

    first = await following.deliver(order_id, two.shipment_id)
    between = await viewed(orders, order_id)
    again = await asyncio.gather(
        *(following.deliver(order_id, two.shipment_id) for _ in range(3)),
        *(following.deliver(order_id, one.shipment_id) for _ in range(3)),
    )

    view = await viewed(orders, order_id)
    assert [first] * 3 == again[:3]
    assert (Fulfilment.SHIPPED, Fulfilment.DELIVERED) == (between.fulfilment, view.fulfilment)
    assert all(each.delivered_at for each in view.shipments)
    told = [event for event in await sent(database) if isinstance(event.data, OrderDeliveredV1)]
    assert [(two.shipment_id, False), (one.shipment_id, True)] == [
        (event.data.shipment_id, event.data.complete) for event in told
    ]
    assert [between.version, view.version] == [event.meta.entityversion for event in told]
    with pytest.raises(NotFound):
        await following.deliver(order_id, uuid4())
    with pytest.raises(NotFound):
        await following.deliver(uuid4(), one.shipment_id)


async def test_refunds_and_parcels_at_once_never_share_a_unit(
    orders: Orders, following: After, make: Any
) -> None:
    order_id = await confirmed(orders, make, qty=5)

    await asyncio.gather(
        *(following.refund(order_id, f"{KEY}-{n:02}", back(1)) for n in range(4)),
        *(following.ship(order_id, f"{KEY}-{n:02}", parcel(1)) for n in range(4)),
        return_exceptions=True,
    )

    view = await viewed(orders, order_id)
    sent = sum(line.qty for one in view.shipments for line in one.lines)
    given_back = sum(line.qty for one in view.refunds for line in one.lines)
    # a refund may be for a unit that was sent; a parcel takes none that was given back before
    assert 4 == given_back
    assert 1 <= sent <= 4
    versions = [moment.version for moment in view.history]
    assert versions == list(range(1, view.version + 1))


async def test_only_a_confirmed_order_is_given_back_or_sent(
    orders: Orders, following: After, make: Any
) -> None:
    accepted = await orders.place("c1", KEY, b"x" * 32, make.a_purchase(), make.a_quote())

    with pytest.raises(NotConfirmed):
        await following.refund(accepted.order_id, KEY, back())
    with pytest.raises(NotConfirmed):
        await following.ship(accepted.order_id, KEY, parcel())
    with pytest.raises(NotFound):
        await following.refund(uuid4(), KEY, back())
    with pytest.raises(Invalid):
        await following.refund(await confirmed(orders, make), KEY, RefundWanted())


async def test_a_claimed_refund_is_nobody_elses_until_its_lease_ends(
    orders: Orders, following: After, make: Any
) -> None:
    order_id = await confirmed(orders, make)
    await following.refund(order_id, KEY, back())

    (first,) = await following.claim(10, timedelta(0))
    (second,) = await following.claim(10, LEASE)

    assert (first.key, 1, 2) == (second.key, first.attempt, second.attempt)
    assert "pi_1" == first.ref
    assert [] == await following.claim(10, LEASE)


# ---- the provider is asked ----


@pytest.fixture
def work(own: Database, carts: Carts, provider: Stripe) -> worker.Work:
    return worker.Work(
        orders=Orders(own, Timers()),
        after=After(own),
        projections=Projections(own),
        carts=carts,
        provider=provider,
    )


async def bought(work: worker.Work, make: Any, qty: int = 3) -> UUID:
    """A confirmed order that the provider has really captured."""
    orders = work.orders
    accepted = await orders.place(
        f"c{uuid4()}", KEY, b"x" * 32, make.a_purchase(), make.a_quote(qty, 1_000)
    )
    await orders.apply(accepted.order_id, make.held(accepted.order_id))
    for ask in await orders.claim_payments(1, LEASE):
        await worker._ask(work, ask)
    await orders.apply(accepted.order_id, make.committed(accepted.order_id))
    for ask in await orders.claim_payments(1, LEASE):
        await worker._ask(work, ask)
    return accepted.order_id


def given_back(simulator: Simulator) -> list[tuple[str, int]]:
    return [(one.reference, one.amount) for one in simulator.bank.ledger if one.op == "refunded"]


async def until(look: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await look():
            await asyncio.sleep(0.05)


@pytest.mark.connected
@pytest.mark.parametrize("fault", ["error", "error_after", "lose_request", "lose_answer"])
async def test_a_refund_survives_every_fault_and_the_money_goes_back_once(
    work: worker.Work, simulator: Simulator, make: Any, fault: Any
) -> None:
    order_id = await bought(work, make)
    await work.after.refund(order_id, KEY, back(2))
    simulator.follow(Script(faults=[Fault(on="refund", does=fault)]))

    await worker._ask_back(work, await claimed(work.after))
    (again,) = await _due(work)
    await worker._ask_back(work, again)

    view = await viewed(work.orders, order_id)
    assert [RefundState.REFUNDED] == [one.state for one in view.refunds]
    assert [(again.key, 2_000)] == given_back(simulator)


@pytest.mark.connected
@pytest.mark.parametrize(
    ("status", "state", "given"),
    [("succeeded", RefundState.REFUNDED, 2_000), ("failed", RefundState.FAILED, 0)],
)
async def test_a_refund_that_the_provider_has_yet_to_decide_is_shown_as_that(
    work: worker.Work,
    simulator: Simulator,
    make: Any,
    sent: Sent,
    own: Database,
    status: Any,
    state: RefundState,
    given: int,
) -> None:
    order_id = await bought(work, make)
    await work.after.refund(order_id, KEY, back(2, restock=True))
    simulator.follow(Script(faults=[Fault(on="refund", does="pending")]))

    ask = await claimed(work.after)
    await worker._ask_back(work, ask)
    pending = await viewed(work.orders, order_id)
    too_early = await work.after.claim(1, LEASE)
    told = [event for event in await sent(own) if isinstance(event.data, OrderRefundedV1)]
    (taken,) = (one for kept in simulator.bank.refunds.values() for one in kept)
    simulator.settle(taken["id"], Settled(status=status))
    await work.orders.hurry("evt_1", ask.key)
    (again,) = await _due(work)
    await worker._ask_back(work, again)

    assert ([RefundState.PENDING], 0) == (
        [one.state for one in pending.refunds],
        pending.refunded_minor,
    )
    assert ([], []) == (too_early, told)
    view = await viewed(work.orders, order_id)
    assert ([state], given) == (
        [one.state for one in view.refunds],
        view.refunded_minor,
    )
    assert [(ask.key, given)] * bool(given) == given_back(simulator)


async def _due(work: worker.Work) -> list[RefundAsk]:
    found: list[RefundAsk] = []

    async def look() -> bool:
        found.extend(await work.after.claim(1, LEASE))
        return bool(found)

    await until(look)
    return found


@pytest.mark.connected
async def test_the_loop_gives_back_what_is_asked_for_and_a_webhook_hurries_it(
    work: worker.Work, simulator: Simulator, make: Any
) -> None:
    order_id = await bought(work, make)
    await work.after.refund(order_id, KEY, back(1))
    (lost,) = await work.after.claim(1, timedelta(minutes=10))
    assert await work.orders.hurry("evt_1", lost.key)
    asking = asyncio.create_task(worker.refunds(work))

    async def over() -> bool:
        return (await viewed(work.orders, order_id)).refunded_minor == 1_000

    await until(over)
    asking.cancel()
    await asyncio.wait([asking])

    assert [(lost.key, 1_000)] == given_back(simulator)


@pytest.mark.connected
async def test_units_that_cost_nothing_come_back_without_asking_the_provider(
    work: worker.Work, simulator: Simulator, make: Any, own: Database, sent: Sent
) -> None:
    order_id = await bought(work, make)
    await work.after.refund(order_id, KEY, back(1, restock=True, amount_minor=0))

    await worker._ask_back(work, await claimed(work.after))

    assert [] == given_back(simulator)
    facts = [event.data for event in await sent(own) if isinstance(event.data, OrderRefundedV1)]
    assert [[Line(sku=LAMP, qty=1)]] == [fact.restocked for fact in facts]


# ---- unpaid orders cancel themselves ----


@pytest.mark.connected
async def test_an_order_whose_payment_is_never_decided_is_cancelled_and_a_late_yes_is_undone(
    own: Database, carts: Carts, provider: Stripe, simulator: Simulator, make: Any
) -> None:
    orders = Orders(own, Timers(payment=timedelta(0)))
    accepted = await orders.place("c1", KEY, b"x" * 32, make.a_purchase(), make.a_quote())
    await orders.apply(accepted.order_id, make.held(accepted.order_id))
    (asked,) = await orders.claim_payments(1, timedelta(0))
    simulator.follow(Script(faults=[Fault(on="create", does="lose_answer")]))
    with pytest.raises(NoAnswer):
        await worker._answer(provider, asked)

    await orders.apply(accepted.order_id, DeadlinePassed())
    cancelled = await viewed(orders, accepted.order_id)
    with_late_answers = worker.Work(
        orders=orders,
        after=After(own),
        projections=Projections(own),
        carts=carts,
        provider=provider,
    )
    for _ in ("the authorisation", "its undoing"):
        for ask in await orders.claim_payments(1, LEASE):
            await worker._ask(with_late_answers, ask)

    view = await viewed(orders, accepted.order_id)
    assert ("cancelled", "payment_timeout") == (cancelled.status, cancelled.reason)
    assert ("cancelled", "payment_timeout") == (view.status, view.reason)
    assert ["authorised", "canceled"] == [entry.op for entry in simulator.bank.ledger]


@pytest.mark.parametrize("status", ["requires_action", "requires_confirmation"])
def test_a_payment_that_wants_a_redirect_is_a_no(status: str) -> None:
    answer = _authorised({"id": "pi_1", "status": status})

    assert isinstance(answer, Refused)


def test_a_payment_that_is_still_processed_is_no_answer() -> None:
    with pytest.raises(NoAnswer):
        _authorised({"id": "pi_1", "status": "processing"})
