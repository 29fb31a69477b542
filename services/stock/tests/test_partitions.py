"""Orders and carts with lines in several partitions: all or none, wherever the step is broken off.

Each test runs on one Redis with several partitions, in the long form on a Redis Cluster, too.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from shop_contracts.envelope import Event
from shop_contracts.events.base import Fact
from stock.books import lines
from stock.domain import Action, Adjust, build
from stock.install import OtherPartitions
from stock.parts import Taken
from stock.prices import PriceEntry
from stock.scripts import StoreIsEmpty
from stock.settings import Settings
from stock.slots import PART, Slots, rebuilding
from stock.store import StockStore
from stock.store.problems import InsufficientStock

pytestmark = [pytest.mark.connected, pytest.mark.several]

PARTITIONS = 5
SKUS = ["chair", "table", "desk"]
LINES = [(sku, 1) for sku in SKUS]


class Died(Exception):
    """Whoever was at work is no more."""


async def stocked(store: StockStore) -> None:
    """There are five of each."""
    assert PARTITIONS == len(store.slots)
    for sku in SKUS:
        await store.quantities.adjust(sku, Adjust(stock=5, action=Action.SET))


async def units(store: StockStore) -> list[tuple[int, int]]:
    """Available and reserved of each SKU."""
    levels = [await store.quantities.level(sku) for sku in SKUS]
    return [(level.available, level.reserved) for level in levels]


async def told(redis: Any, store: StockStore) -> list[Event[Fact]]:
    """What was told of reservations."""
    events = [build(f) for slot in store.slots for _, f in await redis.xrange(slot.outbox)]
    return [event for event in events if event.meta.key.startswith("reservation")]


async def let_parts_pass(redis: Any, store: StockStore) -> None:
    """The time has come in which somebody looks after each part."""
    for slot in store.slots:
        for name in await redis.zrange(slot.exp, 0, -1):
            if name.startswith(PART):
                await redis.zadd(slot.exp, {name: 1})


async def let_end(redis: Any, store: StockStore, name: object) -> None:
    """The time of the hold is over."""
    home = store.slots.home(name)
    await redis.hset(home.hold(name), "exp", "1")
    await redis.zadd(home.exp, {str(name): 1})
    await let_parts_pass(redis, store)


def disturbed(store: StockStore, redis: Redis) -> None:
    """The sweep comes between the next taking of units and the decision."""
    take = store.holds._parts.take

    async def slow(*asked: Any) -> Taken:
        taken = await take(*asked)
        store.holds._parts.take = take  # type: ignore[method-assign]  # the second try is undisturbed
        await let_parts_pass(redis, store)
        await store.holds.expire_due()
        return taken

    store.holds._parts.take = slow  # type: ignore[method-assign]  # as above


@contextmanager
def dying(store: StockStore, step: int) -> Iterator[None]:
    """In the block whoever works dies after so many scripts have run."""
    left = step

    def mortal(script: Any) -> Any:
        async def call(keys: Any, args: Any) -> Any:
            nonlocal left
            if left == 0:
                raise Died
            left -= 1
            return await script(keys, args)

        return call

    parts, reserve = store.holds._parts, store.holds._reserve
    whole = (parts.holding, parts.finishing)
    parts.holding, parts.finishing = map(mortal, whole)
    store.holds._reserve = mortal(reserve)
    with suppress(Died):
        yield
    parts.holding, parts.finishing = whole
    store.holds._reserve = reserve


def test_the_skus_of_these_tests_lie_in_different_partitions() -> None:
    slots = Slots.of("", PARTITIONS)

    assert len(SKUS) == len({slots.at(sku) for sku in SKUS})


async def test_an_order_over_partitions_is_held_sold_and_returned_once(
    store: StockStore, redis: Redis
) -> None:
    await stocked(store)
    order = uuid4()
    placed, paid, refused = uuid4(), uuid4(), uuid4()
    for _ in range(2):
        assert await store.holds.reserve(order, LINES, placed) in {"held", "dup"}
    assert [(4, 1)] * 3 == await units(store)
    for _ in range(2):
        assert await store.holds.finish("commit", order, LINES, paid) in {"committed", "dup"}
    assert [(4, 0)] * 3 == await units(store)
    for _ in range(2):
        assert await store.holds.finish("return", order, LINES, refused) in {"returned", "dup"}
    assert [(5, 0)] * 3 == await units(store)

    assert ["held", "committed", "released"] == [
        event.meta.key.split(".")[1] for event in await told(redis, store)
    ]
    assert [1, 2, 3] == [event.meta.entityversion for event in await told(redis, store)]


async def test_a_rejection_names_each_line_that_is_short_and_leaves_no_unit_held(
    store: StockStore, redis: Redis
) -> None:
    await stocked(store)
    assert "rejected" == await store.holds.reserve(
        uuid4(), [("chair", 6), ("table", 5), ("desk", 7)], uuid4()
    )

    assert [(5, 0)] * 3 == await units(store)
    (rejected,) = await told(redis, store)
    assert [("chair", 6, 5), ("desk", 7, 5)] == [
        (s.sku, s.requested, s.available)
        for s in rejected.data.shortages  # type: ignore[attr-defined]  # a ReservationRejectedV1
    ]


@pytest.mark.parametrize("step", range(6))
@pytest.mark.parametrize("again", [True, False])
async def test_whoever_dies_while_an_order_is_held_leaves_all_or_nothing(
    store: StockStore, redis: Redis, step: int, *, again: bool
) -> None:
    await stocked(store)
    order, placed = uuid4(), uuid4()
    with dying(store, step):
        await store.holds.reserve(order, LINES, placed)
    if again:
        assert await store.holds.reserve(order, LINES, placed) in {"held", "dup"}
    await let_parts_pass(redis, store)
    await store.holds.expire_due()

    held = [event.meta.key for event in await told(redis, store)]
    assert held in ([["reservation.held.v1"]] if again else [[], ["reservation.held.v1"]])
    assert [(4, 1) if held else (5, 0)] * 3 == await units(store)


@pytest.mark.parametrize("step", range(8))
@pytest.mark.parametrize("end", ["commit", "release", "late"])
async def test_whoever_dies_while_an_order_ends_leaves_the_rest_to_the_next(
    store: StockStore, redis: Redis, step: int, end: str
) -> None:
    await stocked(store)
    order, cause = uuid4(), uuid4()
    await store.holds.reserve(order, LINES, uuid4())
    if end == "late":
        await let_end(redis, store, order)
        assert 1 == await store.holds.expire_due()
    op: Any = "release" if end == "release" else "commit"
    with dying(store, step):
        await store.holds.finish(op, order, LINES, cause)
    # what was taken for a commit that is never made is given back
    await let_parts_pass(redis, store)
    await store.holds.expire_due()

    assert await store.holds.finish(op, order, LINES, cause) in {"committed", "released", "dup"}

    assert [(5, 0) if op == "release" else (4, 0)] * 3 == await units(store)
    kinds = Counter(event.meta.key for event in await told(redis, store))
    assert 1 == kinds[f"reservation.{'released' if op == 'release' else 'committed'}.v1"]


async def test_an_order_that_is_over_gives_back_every_line_once(
    store: StockStore, redis: Redis
) -> None:
    await stocked(store)
    order = uuid4()
    await store.holds.reserve(order, LINES, uuid4())
    await let_end(redis, store, order)

    ended = await asyncio.gather(*(store.holds.expire_due() for _ in range(4)))

    assert 1 == sum(ended)
    assert [(5, 0)] * 3 == await units(store)
    assert ["reservation.held.v1", "reservation.expired.v1"] == [
        event.meta.key for event in await told(redis, store)
    ]


async def test_parts_of_an_order_that_is_over_stand_in_nobodys_way(
    store: StockStore, redis: Redis
) -> None:
    await stocked(store)
    over = uuid4()
    await store.holds.reserve(over, [(sku, 5) for sku in SKUS], uuid4())
    await let_end(redis, store, over)

    assert "held" == await store.holds.reserve(uuid4(), [("desk", 1)], uuid4())

    assert [(5, 0), (5, 0), (4, 1)] == await units(store)


async def test_a_part_is_kept_as_long_as_its_order_is_held(store: StockStore, redis: Redis) -> None:
    await stocked(store)
    order = uuid4()
    await store.holds.reserve(order, LINES, uuid4())
    for _ in range(3):
        await let_parts_pass(redis, store)
        assert 0 == await store.holds.expire_due()

    assert [(4, 1)] * 3 == await units(store)
    assert "committed" == await store.holds.finish("commit", order, LINES, uuid4())


async def test_a_decision_that_counts_on_a_part_that_was_given_back_is_made_anew(
    store: StockStore, redis: Redis
) -> None:
    await stocked(store)
    order = uuid4()
    disturbed(store, redis)

    assert "held" == await store.holds.reserve(order, LINES, uuid4())
    assert [(4, 1)] * 3 == await units(store)


async def test_a_cancel_between_the_parts_and_the_decision_leaves_nothing_held(
    store: StockStore, redis: Redis
) -> None:
    await stocked(store)
    order = uuid4()
    take = store.holds._parts.take

    async def slow(*asked: Any) -> Any:
        taken = await take(*asked)
        store.holds._parts.take = take  # type: ignore[method-assign]  # the second try is undisturbed
        await store.holds.finish("release", order, LINES, uuid4())
        return taken

    store.holds._parts.take = slow  # type: ignore[method-assign]  # as if the cancel came between

    assert "dup" == await store.holds.reserve(order, LINES, uuid4())
    assert [(5, 0)] * 3 == await units(store)
    assert [] == await told(redis, store)


async def test_of_crossing_orders_as_many_are_held_as_there_are_units(store: StockStore) -> None:
    await stocked(store)
    wanted = [random.sample(SKUS, 3) for _ in range(20)]

    outcomes = await asyncio.gather(
        *(store.holds.reserve(uuid4(), [(sku, 1) for sku in skus], uuid4()) for skus in wanted)
    )

    assert {"held": 5, "rejected": 15} == Counter(outcomes)
    assert [(0, 5)] * 3 == await units(store)


async def test_a_cart_over_partitions_holds_extends_replaces_and_gives_back(
    store: StockStore, redis: Redis
) -> None:
    await stocked(store)
    cart = uuid4()
    await store.carts.hold(cart, [("chair", 2), ("table", 2)], seconds=5)
    await store.carts.hold(cart, [("table", 1), ("desk", 5)], seconds=5)
    assert [(5, 0), (4, 1), (0, 5)] == await units(store)
    with pytest.raises(InsufficientStock) as refused:
        await store.carts.hold(cart, [("chair", 6), ("table", 9)])
    assert {"chair": 5, "table": 5} == {
        line["sku"]: line["available"] for line in refused.value.extensions["lines"]
    }
    await store.carts.extend(cart, seconds=500)
    await let_parts_pass(redis, store)
    assert 0 == await store.holds.expire_due()
    assert [(5, 0), (4, 1), (0, 5)] == await units(store)

    await store.carts.release(cart)

    assert [(5, 0)] * 3 == await units(store)


async def test_an_order_gets_what_its_cart_held(store: StockStore) -> None:
    await stocked(store)
    cart, order = uuid4(), uuid4()
    await store.carts.hold(cart, [(sku, 5) for sku in SKUS])

    assert "held" == await store.holds.reserve(
        order, [(sku, 5) for sku in SKUS], uuid4(), taking=cart
    )

    assert [(0, 5)] * 3 == await units(store)
    assert "taken" == (await store.carts.reservation(cart)).state


async def test_a_store_that_was_installed_refuses_another_number_of_partitions(
    redis: Redis, settings: Settings
) -> None:
    def of(number: int) -> StockStore:
        return StockStore(redis, f"{settings.key_prefix}new:", partitions=number)

    await of(4).install.make()
    await of(4).install.make()
    with pytest.raises(OtherPartitions, match="STOCK_PARTITIONS=4"):
        await of(5).install.make()


async def test_a_store_that_is_older_than_the_question_has_one_partition(
    redis: Redis, settings: Settings
) -> None:
    old = StockStore(redis, f"{settings.key_prefix}old:")
    await old.install.make()
    await old.quantities.adjust("chair", Adjust(stock=1, action=Action.SET))

    await redis.delete(old.slots[0].partitions)

    with pytest.raises(OtherPartitions):
        await StockStore(redis, f"{settings.key_prefix}old:", partitions=2).install.make()
    await old.install.make()


async def test_a_partition_that_the_journal_knows_and_redis_has_nothing_of_was_lost(
    redis: Redis, settings: Settings
) -> None:
    store = StockStore(redis, f"{settings.key_prefix}lost:", partitions=4)

    with pytest.raises(StoreIsEmpty):
        await store.install.make([2])
    with pytest.raises(StoreIsEmpty):
        await store.install.check()
    assert [1, 1, 0, 1] == [await redis.exists(slot.partitions) for slot in store.slots]
    await store.install.make()
    await store.install.make([2])
    await store.install.check()


async def test_partitions_of_a_store_that_is_older_than_their_marks_are_marked(
    redis: Redis, settings: Settings
) -> None:
    store = StockStore(redis, f"{settings.key_prefix}older:", partitions=4)
    await store.install.make()
    for sku in SKUS:
        await store.quantities.adjust(sku, Adjust(stock=1, action=Action.SET))
    used = {store.slots.at(sku).number for sku in SKUS} - {0}
    for number in (1, 2, 3):
        await redis.delete(store.slots[number].partitions)

    await store.install.make(used)

    await store.install.check()


async def test_what_a_rebuild_has_not_done_with_is_not_marked(
    redis: Redis, settings: Settings
) -> None:
    store = StockStore(redis, f"{settings.key_prefix}half:")
    await store.install.make()
    await store.quantities.adjust("chair", Adjust(stock=1, action=Action.SET))
    await redis.delete(store.slots[0].partitions)
    await redis.set(rebuilding(store.slots[0]), "filled")

    with pytest.raises(StoreIsEmpty):
        await store.install.make()
    with pytest.raises(StoreIsEmpty):
        await store.install.check()


async def test_rows_of_a_job_in_several_partitions_are_each_carried_out_once(
    store: StockStore,
) -> None:
    more = Adjust(stock=2, action=Action.INCREMENT)
    changes = [(sku, more, None) for sku in SKUS]
    outcomes = [
        await store.quantities.adjust_many(changes, job="a-job", rows=[1, 2, 3]) for _ in range(2)
    ]
    prices = [PriceEntry(currency="EUR", amount_minor=5)]
    edits = [(sku, "merge", prices) for sku in SKUS]
    edited = [await store.prices.edit(edits) for _ in range(2)]  # type: ignore[arg-type]  # a list

    assert [(2, 0)] * 3 == await units(store)
    assert [["created"] * 3] * 2 == [[each.change for each in done] for done in outcomes]  # type: ignore[union-attr]  # none was refused
    assert [["created"] * 3, ["unchanged"] * 3] == edited
    assert SKUS == [priced.sku for priced in await store.prices.in_force(SKUS)]


async def test_a_refund_puts_back_what_it_names_in_every_partition_once(
    store: StockStore, redis: Redis
) -> None:
    await stocked(store)
    order, refund = uuid4(), uuid4()
    twice = [(sku, 2) for sku in SKUS]
    await store.holds.reserve(order, twice, uuid4())
    assert "early" == await store.holds.restock(order, LINES[:2], refund)
    await store.holds.finish("commit", order, twice, uuid4())

    assert "restocked" == await store.holds.restock(order, LINES[:2], refund)
    assert "dup" == await store.holds.restock(order, LINES[:2], refund)
    assert "conflict" == await store.holds.restock(order, [("chair", 2)], uuid4())

    assert [(4, 0), (4, 0), (3, 0)] == await units(store)


async def test_nothing_is_decided_before_the_units_were_asked_for(store: StockStore) -> None:
    await stocked(store)
    take = store.holds._parts.take

    async def none(*_asked: Any) -> Taken:
        store.holds._parts.take = take  # type: ignore[method-assign]  # the second try asks
        return Taken("0")

    store.holds._parts.take = none  # type: ignore[method-assign]  # as if the order had ended before

    assert "held" == await store.holds.reserve(uuid4(), LINES, uuid4())
    assert [(4, 1)] * 3 == await units(store)


async def test_a_late_commit_that_counts_on_a_part_that_was_given_back_is_made_anew(
    store: StockStore, redis: Redis
) -> None:
    await stocked(store)
    order = uuid4()
    await store.holds.reserve(order, LINES, uuid4())
    await let_end(redis, store, order)
    await store.holds.expire_due()
    disturbed(store, redis)

    assert "committed" == await store.holds.finish("commit", order, LINES, uuid4())
    assert [(4, 0)] * 3 == await units(store)


async def test_a_cart_that_counts_on_a_part_that_was_given_back_holds_anew(
    store: StockStore, redis: Redis
) -> None:
    await stocked(store)
    disturbed(store, redis)

    await store.carts.hold(uuid4(), LINES)

    assert [(4, 1)] * 3 == await units(store)


async def test_a_part_that_was_taken_anew_is_not_given_back_by_who_saw_it_before(
    store: StockStore, redis: Any
) -> None:
    await stocked(store)
    order = uuid4()
    await store.holds.reserve(order, LINES, uuid4())
    slot, part = store.slots.at("chair"), f"{PART}{order}"
    seen = await redis.hgetall(slot.hold(part)) | {"ver": "7"}

    assert "moved" == await store.holds._parts._end(slot, part, "release", seen, ("", ""))
    assert [(4, 1)] * 3 == await units(store)


async def test_the_units_of_each_partition_are_kept_by_the_holds_that_stand_in_it(
    store: StockStore, redis: Any
) -> None:
    await stocked(store)
    # an order whose home has units of it, too
    order = uuid4()
    while store.slots.home(order) is not store.slots.at("chair"):
        order = uuid4()
    await store.holds.reserve(order, LINES, uuid4())

    for sku in SKUS:
        slot, kept = store.slots.at(sku), Counter[str]()
        for name in (str(order), f"{PART}{order}"):
            if hold := await redis.hgetall(slot.hold(name)):
                kept.update(lines(hold))
        assert {sku: 1} == kept
