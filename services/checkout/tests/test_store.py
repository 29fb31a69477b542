"""Orders on both databases: once per key, once per cart, and every step with its records."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
import uuid_utils.compat as uuids
from sqlalchemy.ext.asyncio import AsyncConnection

from chassis.database import Database
from checkout.domain import (
    Approved,
    Asked,
    CancelRequested,
    DeadlinePassed,
    Op,
    Refused,
    Status,
    Stay,
    Timers,
)
from checkout.quotes import Offer
from checkout.store import rows, tables
from checkout.store.orders import Orders
from checkout.store.problems import AlreadyOrdered, IdempotencyKeyReused
from checkout.store.projections import Projections
from checkout.store.schema import HISTORY
from checkout.store.sheet import UnknownOrder
from shop_contracts.envelope import Event, new
from shop_contracts.events.base import Fact
from shop_contracts.events.catalog import ProductWithdrawnV1
from shop_contracts.events.stock import (
    ReservationCommitFailedV1,
    ReservationCommittedV1,
    ReservationHeldV1,
    ReservationRejectedV1,
)
from shop_contracts.types import Line, Shortage

LEASE = timedelta(seconds=30)
UNITS = [Line(sku="LAMP-1", qty=2)]
Sent = Callable[[Database], Awaitable[list[Event[Fact]]]]


def printed(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


async def placed(orders: Orders, make: Any, cart: str = "c1", token: str = "tok_ok") -> UUID:
    accepted = await orders.place(
        cart, "k" * 16, printed("one"), make.a_purchase(token), make.a_quote()
    )
    return accepted.order_id


def held(order_id: UUID) -> Event[ReservationHeldV1]:
    fact = ReservationHeldV1(order_id=order_id, lines=UNITS, expires_at=datetime.now(UTC))
    return new(fact, id=uuids.uuid7(), entityversion=1)


def committed(order_id: UUID) -> Event[ReservationCommittedV1]:
    fact = ReservationCommittedV1(order_id=order_id, lines=UNITS)
    return new(fact, id=uuids.uuid7(), entityversion=2)


async def hear(orders: Orders, event: Event[Any]) -> Stay | None:
    return (await orders.apply(event.data.order_id, event.data, event)).stay


async def pay(orders: Orders, answer: Approved | Refused) -> list[Op]:
    asks = await orders.claim_payments(10, LEASE)
    for ask in asks:
        await orders.answered(ask, answer)
    return [ask.op for ask in asks]


async def status(orders: Orders, order_id: UUID) -> Status:
    order = await orders.order(order_id)
    assert order is not None
    return order.status


def keys(events: list[Event[Fact]]) -> list[str]:
    return [event.meta.key for event in events]


async def test_fifty_posts_with_one_key_make_one_order_and_one_answer(
    orders: Orders, database: Database, sent: Sent, make: Any
) -> None:
    async def post() -> tuple[bytes, bool]:
        accepted = await orders.place(
            "c1", "k" * 16, printed("one"), make.a_purchase(), make.a_quote()
        )
        return accepted.body, accepted.replayed

    answers = await asyncio.gather(*(post() for _ in range(50)))

    assert 1 == len({body for body, _ in answers})
    assert 49 == sum(replayed for _, replayed in answers)
    assert ["order.placed.v1"] == keys(await sent(database))
    async with database.read() as connection:
        for table in (tables.orders, tables.order_private, tables.order_history):
            query = sa.select(sa.func.count()).select_from(table)
            assert 1 == await connection.scalar(query)


async def test_two_tabs_with_one_cart_make_one_order(
    orders: Orders, database: Database, sent: Sent, make: Any
) -> None:
    async def post(key: str) -> UUID | str:
        try:
            accepted = await orders.place(
                "c1", key * 16, printed(key), make.a_purchase(), make.a_quote()
            )
        except AlreadyOrdered as refused:
            return str(refused.extensions["order_id"])
        return str(accepted.order_id)

    answers = await asyncio.gather(*(post(key) for key in "abcdefgh"))

    assert 1 == len(set(answers))
    assert 1 == len(await sent(database))


async def test_a_key_with_another_body_is_refused(orders: Orders, make: Any) -> None:
    await placed(orders, make)

    with pytest.raises(IdempotencyKeyReused):
        await orders.replay("c1", "k" * 16, printed("two"))

    assert await orders.replay("c2", "k" * 16, printed("two")) is None


async def test_an_order_that_is_paid_and_sold_is_confirmed_with_all_its_events(
    orders: Orders, database: Database, sent: Sent, make: Any
) -> None:
    order_id = await placed(orders, make)

    assert await hear(orders, held(order_id)) is None
    assert [Op.AUTH] == await pay(orders, Approved("ref-1"))
    sold = committed(order_id)
    assert await hear(orders, sold) is None
    assert [Op.CAPTURE] == await pay(orders, Approved("ref-1"))

    assert Status.CONFIRMED is await status(orders, order_id)
    events = await sent(database)
    assert [
        ("order.placed.v1", 1),
        ("payment.authorised.v1", 1),
        ("order.authorised.v1", 3),
        ("payment.captured.v1", 2),
        ("order.confirmed.v1", 5),
    ] == [(event.meta.key, event.meta.entityversion) for event in events]
    assert {str(order_id)} == {event.meta.correlationid for event in events}
    assert str(events[1].meta.id) == events[2].meta.causationid
    view = await orders.view(order_id)
    assert view is not None
    assert [
        (1, "placed", "checkout"),
        (2, "reserved", "reservation.held.v1"),
        (3, "authorised", "payment.authorised.v1"),
        (4, "committed", "reservation.committed.v1"),
        (5, "confirmed", "payment.captured.v1"),
    ] == [(moment.version, moment.status, moment.cause) for moment in view.history]


async def test_an_event_counts_once_however_often_and_side_by_side_it_comes(
    orders: Orders, database: Database, sent: Sent, make: Any
) -> None:
    order_id = await placed(orders, make)
    event = held(order_id)

    stays = await asyncio.gather(*(hear(orders, event) for _ in range(10)))

    assert 1 == stays.count(None)
    order = await orders.order(order_id)
    assert order is not None
    assert (2, {Op.AUTH: Asked.PENDING}) == (order.version, order.payments)
    assert 1 == len(await sent(database))


@pytest.mark.connected
@pytest.mark.parametrize("database", ["mariadb"], indirect=True)
async def test_whether_an_event_was_seen_is_read_from_its_own_row(database: Database) -> None:
    event = held(uuid4())
    marks = [
        {
            "consumer": "checkout",
            "source": event.meta.source,
            "event_id": str(uuid4()),
            "received_at": datetime.now(UTC).replace(tzinfo=None),
        }
        for _ in range(500)
    ]

    async def work(connection: AsyncConnection) -> int:
        await connection.execute(sa.insert(tables.inbox), marks)
        before = await rows_read(connection)
        assert set() == await rows.seen(connection, [event, held(uuid4())])
        return await rows_read(connection) - before

    assert 5 > await database.write(work)


async def rows_read(connection: AsyncConnection) -> int:
    """How many rows the server has gone through for this connection."""
    found = await connection.execute(sa.text("SHOW SESSION STATUS LIKE 'Handler_read_next'"))
    return int(found.one()[1])


async def test_a_cause_of_an_order_that_is_not_there_yet_is_tried_again_later(
    orders: Orders, make: Any
) -> None:
    event = held(uuid4())

    with pytest.raises(UnknownOrder):
        await hear(orders, event)
    with pytest.raises(UnknownOrder):  # the refused try has left no inbox mark
        await hear(orders, event)


async def test_shortages_cancel_the_order_and_free_its_cart(
    orders: Orders, database: Database, sent: Sent, make: Any
) -> None:
    order_id = await placed(orders, make)
    short = [Shortage(sku="LAMP-1", requested=2, available=1)]
    fact = ReservationRejectedV1(order_id=order_id, shortages=short)

    await hear(orders, new(fact, id=uuids.uuid7(), entityversion=1))

    view = await orders.view(order_id)
    assert view is not None
    assert ("cancelled", "out_of_stock", short) == (view.status, view.reason, view.shortages)
    assert ["order.placed.v1", "order.cancelled.v1"] == keys(await sent(database))
    assert await orders.claimant("c1") is None
    again = await orders.place("c1", "n" * 16, printed("n"), make.a_purchase(), make.a_quote())
    assert not again.replayed


async def test_a_declined_payment_cancels_and_asks_for_nothing_more(
    orders: Orders, database: Database, sent: Sent, make: Any
) -> None:
    order_id = await placed(orders, make)
    await hear(orders, held(order_id))

    await pay(orders, Refused("no"))

    assert Status.CANCELLED is await status(orders, order_id)
    assert [] == await pay(orders, Approved("ref"))
    assert "payment.declined.v1" in keys(await sent(database))


async def test_a_lost_commit_voids_the_payment(
    orders: Orders, database: Database, sent: Sent, make: Any
) -> None:
    order_id = await placed(orders, make)
    await hear(orders, held(order_id))
    await pay(orders, Approved("ref-1"))
    fact = ReservationCommitFailedV1(order_id=order_id)
    await hear(orders, new(fact, id=uuids.uuid7(), entityversion=2))

    asks = await orders.claim_payments(10, LEASE)
    await orders.answered(asks[0], Approved("ref-1"))

    assert [(Op.VOID, "ref-1", f"{order_id}:void")] == [(a.op, a.ref, a.key) for a in asks]
    assert ["order.cancelled.v1", "payment.voided.v1"] == keys(await sent(database))[-2:]


async def test_a_cancelled_order_gives_back_what_is_authorised_late(
    orders: Orders, database: Database, sent: Sent, make: Any
) -> None:
    order_id = await placed(orders, make)
    await hear(orders, held(order_id))
    (auth,) = await orders.claim_payments(10, LEASE)
    await orders.apply(order_id, CancelRequested())

    await orders.answered(auth, Approved("ref-1"))

    assert Status.CANCELLED is await status(orders, order_id)
    assert [Op.VOID] == await pay(orders, Approved("ref-1"))
    assert "order.authorised.v1" not in keys(await sent(database))


async def test_a_payment_nobody_sent_is_dropped_with_its_order(orders: Orders, make: Any) -> None:
    order_id = await placed(orders, make)
    await hear(orders, held(order_id))

    await orders.apply(order_id, CancelRequested())

    order = await orders.order(order_id)
    assert order is not None
    assert {Op.AUTH: Asked.DROPPED} == order.payments
    assert [] == await orders.claim_payments(10, LEASE)


async def test_a_payment_is_claimed_by_one_worker_and_comes_back_when_its_lease_is_over(
    orders: Orders, make: Any
) -> None:
    order_id = await placed(orders, make)
    await hear(orders, held(order_id))

    claims = await asyncio.gather(
        *(orders.claim_payments(10, timedelta(seconds=0)) for _ in range(4))
    )
    again = await orders.claim_payments(10, LEASE)

    assert [f"{order_id}:auth"] == [ask.key for ask in again]
    assert again[0].attempt == 1 + sum(len(claim) for claim in claims)
    assert [] == await orders.claim_payments(10, LEASE)


async def test_who_ordered_first_is_asked_for_first_whatever_the_operation(
    orders: Orders, make: Any
) -> None:
    first, second = await placed(orders, make, "c1"), await placed(orders, make, "c2")
    await hear(orders, held(first))
    await pay(orders, Approved("ref-1"))
    await hear(orders, held(second))
    await hear(orders, committed(first))

    asks = [await orders.claim_payments(1, LEASE) for _ in range(2)]

    assert [[(first, Op.CAPTURE)], [(second, Op.AUTH)]] == [
        [(ask.order_id, ask.op) for ask in some] for some in asks
    ]


async def test_orders_that_move_together_each_keep_what_is_theirs(
    orders: Orders, database: Database, make: Any
) -> None:
    ids = [await placed(orders, make, f"c{n}") for n in range(4)]
    await asyncio.gather(*(hear(orders, held(id_)) for id_ in ids))
    asks = {ask.order_id: ask for ask in await orders.claim_payments(10, LEASE)}
    answers = [Approved("ref-0"), Approved("ref-1"), Refused("no"), Refused("no")]

    await asyncio.gather(
        *(orders.answered(asks[id_], said) for id_, said in zip(ids, answers, strict=True))
    )

    ends = [Status.AUTHORISED] * 2 + [Status.CANCELLED] * 2
    assert ends == [await status(orders, id_) for id_ in ids]
    paid, kept = tables.payments.c, tables.orders.c
    async with database.read() as connection:
        refs = await connection.execute(sa.select(paid.order_id, paid.state, paid.psp_ref))
        carts = await connection.execute(sa.select(kept.id, kept.claims_cart))
    assert {(row.order_id, row.state, row.psp_ref) for row in refs} == {
        (ids[0], "done", "ref-0"),
        (ids[1], "done", "ref-1"),
        (ids[2], "refused", None),
        (ids[3], "refused", None),
    }
    assert {ids[0]: "c0", ids[1]: "c1", ids[2]: None, ids[3]: None} == {
        row.id: row.claims_cart for row in carts
    }


async def test_an_answer_counts_once(
    orders: Orders, database: Database, sent: Sent, make: Any
) -> None:
    order_id = await placed(orders, make)
    await hear(orders, held(order_id))
    (ask,) = await orders.claim_payments(10, LEASE)

    await asyncio.gather(*(orders.answered(ask, Approved("ref-1")) for _ in range(5)))

    assert 1 == keys(await sent(database)).count("payment.authorised.v1")
    assert 1 == keys(await sent(database)).count("order.authorised.v1")


async def test_an_order_without_an_answer_is_overdue_and_cancelled(
    database: Database, make: Any
) -> None:
    impatient = Orders(database, Timers(stock=timedelta(0)))
    order_id = await placed(impatient, make)

    overdue = await impatient.overdue()
    await impatient.apply(order_id, DeadlinePassed())

    assert [order_id] == list(overdue)
    assert [] == list(await impatient.overdue())
    view = await impatient.view(order_id)
    assert view is not None
    assert "stock_timeout" == view.reason


async def test_a_commit_without_an_answer_is_published_again(
    database: Database, sent: Sent, make: Any
) -> None:
    impatient = Orders(database, Timers(commit=timedelta(0)))
    order_id = await placed(impatient, make)
    await hear(impatient, held(order_id))
    await pay(impatient, Approved("ref-1"))

    await impatient.apply(order_id, DeadlinePassed())

    assert Status.AUTHORISED is await status(impatient, order_id)
    asked = [event for event in await sent(database) if event.meta.key == "order.authorised.v1"]
    assert [3, 4] == [event.meta.entityversion for event in asked]


async def test_personal_data_stands_in_one_table_and_in_no_event(
    orders: Orders, database: Database, sent: Sent, make: Any
) -> None:
    await placed(orders, make, token="tok_canary")

    found = []
    async with database.read() as connection:
        for table in tables.METADATA.sorted_tables:
            rows = str((await connection.execute(sa.select(table))).all())
            if any(word in rows for word in ("ada@example.com", "'Ada'", "tok_canary")):
                found.append(table.name)

    assert ["order_private"] == found


async def test_the_schema_can_be_created_again(database: Database, orders: Orders) -> None:
    await HISTORY.migrate(database)

    assert await orders.order(uuid4()) is None


async def test_the_database_refuses_a_status_that_is_none(
    orders: Orders, database: Database, make: Any
) -> None:
    order_id = await placed(orders, make)
    table = tables.orders

    for values in ({"total_minor": -1}, {"status": "cancelled"}):
        with pytest.raises(sa.exc.DBAPIError):
            async with database.engine.begin() as connection:
                await connection.execute(
                    sa.update(table).where(table.c.id == order_id).values(**values)
                )

    assert Status.PLACED is await status(orders, order_id)


# ---- projections ----


async def test_the_newest_price_counts_in_whatever_order_it_comes(
    projections: Projections, make: Any
) -> None:
    await projections.price_changed(make.price("LAMP-1", 2, EUR=200))
    await projections.price_changed(make.price("LAMP-1", 1, EUR=100))

    assert {"LAMP-1": Offer(prices={"EUR": 200})} == await projections.offers({"LAMP-1", "NO"})


async def test_skus_that_differ_by_case_are_two(projections: Projections, make: Any) -> None:
    await projections.price_changed(make.price("lamp-1", EUR=1))
    await projections.price_changed(make.price("LAMP-1", EUR=2))

    assert {"EUR": 2} == (await projections.offers({"LAMP-1"}))["LAMP-1"].prices


async def test_a_variant_that_left_its_product_is_withdrawn_and_one_that_moved_is_not(
    projections: Projections, make: Any
) -> None:
    one, two = uuid4(), uuid4()
    await projections.product_published(make.product("One", "A", "B", "C", product_id=one))
    await projections.product_published(make.product("Two", "B", product_id=two))
    await projections.product_published(make.product("One", "A", version=2, product_id=one))
    fact = ProductWithdrawnV1(
        product_id=one, slug="one", skus=["A"], withdrawn_at=datetime.now(UTC)
    )
    await projections.product_published(make.product("Late", "A", "C", product_id=one))

    offers = await projections.offers({"A", "B", "C"})
    await projections.product_withdrawn(new(fact, id=uuids.uuid7(), entityversion=3))
    late = make.product("Late", "A", version=2, product_id=one)
    await projections.product_published(late)
    after = await projections.offers({"A", "B", "C"})

    assert Offer(name="One") == offers["A"]
    assert Offer(name="Two") == offers["B"]
    assert offers["C"].withdrawn
    assert [True, False, True] == [after[sku].withdrawn for sku in "ABC"]
