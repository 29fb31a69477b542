"""What comes back from a refund, and what an order takes over from a cart, on the real Redis."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
from redis.asyncio import Redis
from uuid_utils.compat import uuid7

from bus.consumer import Permanent
from shop_contracts import envelope
from shop_contracts.envelope import Event
from shop_contracts.events.base import Fact
from shop_contracts.events.checkout import OrderPlacedV1, OrderRefundedV1
from shop_contracts.events.checkout.order_refunded_v1 import RefundReason
from shop_contracts.types import Line, PricedLine
from stock.domain import Action, Adjust, build
from stock.settings import Settings
from stock.store import StockStore
from stock.worker import HANDLERS, TooEarly

pytestmark = [pytest.mark.connected, pytest.mark.one_partition]

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TWO = [("chair", 2)]


async def counters(redis: Any, settings: Settings, sku: str = "chair") -> list[int]:
    """Available, reserved, sold."""
    names = ("avail", "resv", "sold")
    found = await redis.hmget(f"{settings.key_prefix}{{s0}}:q:{sku}", names)
    return [int(value or 0) for value in found]


async def sold(store: StockStore, lines: list[tuple[str, int]] = TWO) -> UUID:
    """An order that has bought these lines, of 5 units each."""
    order = uuid4()
    for sku, _ in lines:
        await store.quantities.adjust(sku, Adjust(stock=5, action=Action.SET))
    await store.holds.reserve(order, lines, uuid4())
    await store.holds.finish("commit", order, lines, uuid4())
    return order


async def told(redis: Any, store: StockStore) -> list[Event[Fact]]:
    return [build(fields) for _, fields in await redis.xrange(store.slots[0].outbox)]


def refunded(order: UUID, restocked: list[Line]) -> Event[Fact]:
    bought = [PricedLine(sku="chair", qty=2, name="Chair", unit_minor=1)]
    return envelope.new(
        OrderRefundedV1(
            order_id=order,
            refund_id=uuid4(),
            lines=bought,
            restocked=restocked,
            amount_minor=1,
            refunded_minor=1,
            currency="EUR",
            reason=RefundReason.RETURNED,
            refunded_at=NOW,
        ),
        id=uuid7(),
        entityversion=9,
    )


async def test_returned_units_are_for_sale_again_once_with_their_cause(
    store: StockStore, redis: Redis, settings: Settings
) -> None:
    order, cause = await sold(store), uuid4()
    before = len(await told(redis, store))

    assert "restocked" == await store.holds.restock(order, [("chair", 1)], cause)
    assert "dup" == await store.holds.restock(order, [("chair", 1)], cause)

    assert [4, 0, 1] == await counters(redis, settings)
    movement = (await store.quantities.ledger("chair"))[0]
    assert ("restock", order, str(cause)) == (movement.op, movement.order_id, movement.cause)
    (event,) = (await told(redis, store))[before:]
    data: Any = event.data
    assert ("stock.changed.v1", "returned", 4) == (event.meta.key, data.cause, data.available)
    assert (str(order), str(cause)) == (event.meta.correlationid, event.meta.causationid)
    marker = f"{settings.key_prefix}{{s0}}:in:{cause}"
    assert await redis.pttl(marker) > 29 * 86_400_000


async def test_parcels_come_back_one_by_one_and_never_more_than_were_sold(
    store: StockStore, redis: Any, settings: Settings
) -> None:
    await sold(store, [("chair", 2), ("table", 1)])
    order = await sold(store, [("chair", 2), ("table", 1)])

    for lines, answer in (
        ([("chair", 1)], "restocked"),
        ([("chair", 2)], "conflict"),
        ([("lamp", 1)], "conflict"),
        ([("chair", 1), ("table", 1)], "restocked"),
        ([("chair", 1)], "conflict"),
        ([("table", 1)], "conflict"),
    ):
        assert answer == await store.holds.restock(order, lines, uuid4()), lines

    # what another order has bought stays sold
    assert [5, 0, 2] == await counters(redis, settings)
    assert [5, 0, 1] == await counters(redis, settings, "table")
    slot = f"{settings.key_prefix}{{s0}}:"
    hold = await redis.hgetall(f"{slot}r:{order}")
    assert ("2", "1", "1") == (hold["b1"], hold["b2"], hold["back"])
    notes = [fields for _, fields in await redis.xrange(f"{slot}ledger") if "name" in fields]
    assert hold == {name: notes[-1][name] for name in hold}
    assert {"op": "hold", "name": str(order)} == {
        name: value for name, value in notes[-1].items() if name not in hold
    }


async def test_a_refusal_changes_nothing_even_when_other_lines_would_fit(
    store: StockStore, redis: Redis, settings: Settings
) -> None:
    order = await sold(store, [("chair", 2), ("table", 1)])
    cause = uuid4()

    assert "conflict" == await store.holds.restock(order, [("chair", 1), ("table", 2)], cause)

    assert [3, 0, 2] == await counters(redis, settings)
    assert "restocked" == await store.holds.restock(order, [("chair", 1), ("table", 1)], cause)


async def test_what_is_not_sold_yet_cannot_come_back(
    store: StockStore, redis: Redis, settings: Settings
) -> None:
    await store.quantities.adjust("chair", Adjust(stock=5, action=Action.SET))
    order, cause = uuid4(), uuid4()
    await store.holds.reserve(order, TWO, uuid4())

    assert "early" == await store.holds.restock(order, TWO, cause)
    await store.holds.finish("commit", order, TWO, uuid4())
    assert "restocked" == await store.holds.restock(order, TWO, cause)

    assert [5, 0, 0] == await counters(redis, settings)


@pytest.mark.parametrize("end", ["release", "return"])
async def test_an_order_that_keeps_nothing_has_nothing_to_give_back(
    store: StockStore, redis: Redis, settings: Settings, end: Any
) -> None:
    order, other = await sold(store), uuid4()
    await store.holds.reserve(other, TWO, uuid4())
    if end == "return":
        await store.holds.finish("commit", other, TWO, uuid4())
    await store.holds.finish(end, other, TWO, uuid4())

    assert "conflict" == await store.holds.restock(other, TWO, uuid4())

    assert [3, 0, 2] == await counters(redis, settings)
    assert "restocked" == await store.holds.restock(order, TWO, uuid4())


async def test_a_refund_after_the_sale_was_forgotten_is_taken_at_its_word(
    store: StockStore, redis: Redis, settings: Settings
) -> None:
    order = await sold(store)
    hold = f"{settings.key_prefix}{{s0}}:r:{order}"
    await redis.delete(hold)

    assert "conflict" == await store.holds.restock(order, [("chair", 3)], uuid4())
    assert "restocked" == await store.holds.restock(order, TWO, uuid4())

    assert [5, 0, 0] == await counters(redis, settings)
    assert 0 == await redis.exists(hold)


async def test_what_came_back_in_part_does_not_come_back_as_a_whole(
    store: StockStore, redis: Redis, settings: Settings
) -> None:
    order = await sold(store)
    await store.holds.restock(order, [("chair", 1)], uuid4())

    assert "conflict" == await store.holds.finish("return", order, TWO, uuid4())
    assert "conflict" == await store.holds.finish("release", order, TWO, uuid4())
    assert "again" == await store.holds.finish("commit", order, TWO, uuid4())

    assert [4, 0, 1] == await counters(redis, settings)


async def test_the_event_of_a_refund_is_handled_once_and_parked_when_it_cannot_be(
    store: StockStore, redis: Redis, settings: Settings
) -> None:
    order, unsold = await sold(store), uuid4()
    event = refunded(order, [Line(sku="chair", qty=1), Line(sku="chair", qty=1)])
    handle = HANDLERS[OrderRefundedV1]

    for _ in range(3):
        await handle(store, event)
    await handle(store, refunded(order, []))

    assert [5, 0, 0] == await counters(redis, settings)
    with pytest.raises(Permanent):
        await handle(store, refunded(order, [Line(sku="chair", qty=1)]))
    await store.holds.reserve(unsold, TWO, uuid4())
    with pytest.raises(TooEarly):
        await handle(store, refunded(unsold, [Line(sku="chair", qty=1)]))


def placed(order: UUID, reservation: UUID | None, qty: int = 2) -> Event[Fact]:
    return envelope.new(
        OrderPlacedV1(
            order_id=order,
            lines=[PricedLine(sku="chair", qty=qty, name="Chair", unit_minor=1)],
            total_minor=1,
            currency="EUR",
            placed_at=NOW,
            reservation_id=reservation,
        ),
        id=uuid7(),
        entityversion=1,
    )


async def test_an_order_takes_over_the_last_units_that_its_cart_holds(
    store: StockStore, redis: Redis, settings: Settings
) -> None:
    await store.quantities.adjust("chair", Adjust(stock=2, action=Action.SET))
    cart, order, rival = uuid4(), uuid4(), uuid4()
    await store.carts.hold(cart, TWO)
    handle = HANDLERS[OrderPlacedV1]

    await handle(store, placed(rival, None))
    event = placed(order, cart)
    await handle(store, event)
    await handle(store, event)

    assert [0, 2, 0] == await counters(redis, settings)
    assert "taken" == (await store.carts.reservation(cart)).state
    assert [(rival, "reservation.rejected.v1"), (order, "reservation.held.v1")] == [
        (UUID(event.meta.subject), event.meta.key)
        for event in await told(redis, store)
        if event.meta.key.startswith("reservation.")
    ]


async def test_a_reservation_that_is_over_or_unknown_leaves_an_ordinary_order(
    store: StockStore, redis: Redis, settings: Settings
) -> None:
    await store.quantities.adjust("chair", Adjust(stock=2, action=Action.SET))
    cart = uuid4()
    await store.carts.hold(cart, TWO)
    await store.carts.release(cart)
    handle = HANDLERS[OrderPlacedV1]

    await handle(store, placed(uuid4(), cart, qty=1))
    await handle(store, placed(uuid4(), uuid4(), qty=1))

    assert [0, 2, 0] == await counters(redis, settings)
    assert "released" == (await store.carts.reservation(cart)).state
