"""The store on a real Redis: each guard of the scripts, races, the invariants against a model."""

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from msgspec import structs
from redis.asyncio import Redis

from chassis.problems import Unavailable
from shop_contracts.envelope import Event
from shop_contracts.events.base import Fact
from shop_contracts.events.stock import PriceChangedV1
from stock.app import connect
from stock.domain import Action, Adjust, Level, Movement, build
from stock.prices import PriceEntry, moment
from stock.settings import Settings
from stock.slots import PART
from stock.store import StockStore
from stock.store.offers import Offer
from stock.store.problems import (
    HoldOver,
    HoldTaken,
    InsufficientStock,
    KeyReused,
    TooManyUnits,
    UnknownHold,
    UnknownSku,
)

pytestmark = pytest.mark.connected

HOUR = timedelta(hours=1)
FAR = datetime(2100, 1, 1, tzinfo=UTC)
KEY = "a-key-of-sixteen-or-more"


def put(action: Action, stock: int) -> Adjust:
    return Adjust(stock=stock, action=action)


async def stocked(store: StockStore, **units: int) -> None:
    for sku, stock in units.items():
        await store.quantities.adjust(sku, put(Action.SET, stock))


async def numbers(store: StockStore, sku: str) -> tuple[int, int, int]:
    """Available, reserved, version."""
    found = await store.quantities.level(sku)
    return found.available, found.reserved, found.version


async def events(redis: Any, store: StockStore) -> list[Event[Fact]]:
    """Those of one partition in order, one partition after the other."""
    return [build(fields) for slot in store.slots for _, fields in await redis.xrange(slot.outbox)]


async def told(redis: Redis, store: StockStore) -> list[str]:
    return [event.meta.key for event in await events(redis, store)]


async def state(redis: Any, store: StockStore, name: object) -> str | None:
    found = await redis.hget(store.slots.home(name).hold(name), "state")
    return found if isinstance(found, str) else None


async def let_pass(redis: Any, store: StockStore, name: object) -> None:
    """The hold's time is over, without waiting for it."""
    for slot in store.slots:
        for here in (str(name), f"{PART}{name}"):
            if await redis.exists(slot.hold(here)):
                await redis.hset(slot.hold(here), "exp", "1")
                await redis.zadd(slot.exp, {here: 1})


async def expiring(redis: Any, store: StockStore) -> set[str]:
    """The orders and carts that the indices of running holds name."""
    found: set[str] = set()
    for slot in store.slots:
        found |= {name for name in await redis.zrange(slot.exp, 0, -1) if PART not in name}
    return found


# --- adjust


async def test_an_unknown_sku_has_no_level(store: StockStore) -> None:
    with pytest.raises(UnknownSku):
        await store.quantities.level("chair")


async def test_units_are_set_incremented_and_decremented(store: StockStore) -> None:
    await store.quantities.adjust("chair", put(Action.SET, 5))
    await store.quantities.adjust("chair", put(Action.INCREMENT, 3))
    adjusted = await store.quantities.adjust("chair", put(Action.DECREMENT, 1))

    expected = Level(sku="chair", stock=7, on_hand=7, reserved=0, available=7, version=3)
    assert expected == adjusted.level
    assert expected == await store.quantities.level("chair")


async def test_set_means_on_hand_so_that_reserved_units_stay(store: StockStore) -> None:
    await stocked(store, chair=5)
    await store.holds.reserve(uuid4(), [("chair", 2)], uuid4())

    adjusted = await store.quantities.adjust("chair", put(Action.SET, 10))

    assert (10, 2, 8) == (
        adjusted.level.on_hand,
        adjusted.level.reserved,
        adjusted.level.available,
    )


async def test_stock_never_goes_below_zero(store: StockStore, redis: Redis) -> None:
    await stocked(store, chair=2)
    await store.holds.reserve(uuid4(), [("chair", 1)], uuid4())
    before = await told(redis, store)

    with pytest.raises(InsufficientStock) as refused:
        await store.quantities.adjust("chair", put(Action.DECREMENT, 2))
    with pytest.raises(InsufficientStock):
        await store.quantities.adjust("chair", put(Action.SET, 0))
    with pytest.raises(InsufficientStock):
        await store.quantities.adjust("table", put(Action.DECREMENT, 1))

    assert {"available": 1} == refused.value.extensions
    assert (1, 1, 2) == await numbers(store, "chair")
    assert before == await told(redis, store)


async def test_a_change_that_changes_nothing_leaves_no_trace(
    store: StockStore, redis: Redis
) -> None:
    await stocked(store, chair=5)

    await store.quantities.adjust("chair", put(Action.SET, 5))
    await store.quantities.adjust("chair", put(Action.INCREMENT, 0))

    assert (5, 0, 1) == await numbers(store, "chair")
    assert 1 == len(await store.quantities.ledger("chair"))
    assert ["stock.changed.v1"] == await told(redis, store)


async def test_setting_an_unknown_sku_to_zero_makes_it_known(
    store: StockStore, redis: Redis
) -> None:
    await stocked(store, chair=0)

    assert (0, 0, 1) == await numbers(store, "chair")
    assert ["stock.changed.v1"] == await told(redis, store)


async def test_repeating_a_command_with_its_key_changes_nothing(
    store: StockStore, redis: Redis
) -> None:
    first = await store.quantities.adjust("chair", put(Action.INCREMENT, 5), key=KEY)
    await store.quantities.adjust("chair", put(Action.DECREMENT, 1))
    second = await store.quantities.adjust("chair", put(Action.INCREMENT, 5), key=KEY)

    assert (False, True) == (first.replayed, second.replayed)
    assert first.level == second.level
    assert (4, 0, 2) == await numbers(store, "chair")
    assert 2 == len(await told(redis, store))


async def test_repeating_a_set_that_changed_nothing_still_changes_nothing(
    store: StockStore,
) -> None:
    await stocked(store, chair=5)
    await store.quantities.adjust("chair", put(Action.SET, 5), key=KEY)
    await store.quantities.adjust("chair", put(Action.DECREMENT, 1))

    await store.quantities.adjust("chair", put(Action.SET, 5), key=KEY)

    assert (4, 0, 2) == await numbers(store, "chair")


@pytest.mark.everywhere
async def test_a_key_serves_one_command_only(store: StockStore) -> None:
    await store.quantities.adjust("chair", put(Action.INCREMENT, 5), key=KEY)

    with pytest.raises(KeyReused):
        await store.quantities.adjust("chair", put(Action.INCREMENT, 6), key=KEY)
    with pytest.raises(KeyReused):
        await store.quantities.adjust("table", put(Action.INCREMENT, 5), key=KEY)


async def test_a_refused_command_may_be_tried_again_with_its_key(store: StockStore) -> None:
    with pytest.raises(InsufficientStock):
        await store.quantities.adjust("chair", put(Action.DECREMENT, 1), key=KEY)
    await stocked(store, chair=1)

    await store.quantities.adjust("chair", put(Action.DECREMENT, 1), key=KEY)

    assert (0, 0, 2) == await numbers(store, "chair")


async def test_large_numbers_keep_every_digit(store: StockStore, redis: Redis) -> None:
    largest = 2**53 - 1
    await store.quantities.adjust("chair", put(Action.SET, largest))

    with pytest.raises(TooManyUnits):
        await store.quantities.adjust("chair", put(Action.INCREMENT, 1))

    assert (largest, 0, 1) == await numbers(store, "chair")
    assert largest == (await store.quantities.ledger("chair"))[0].available
    assert [largest] == [event.data.on_hand for event in await events(redis, store)]  # type: ignore[attr-defined]  # a StockChangedV1


async def test_the_ledger_is_read_backwards_page_by_page(store: StockStore) -> None:
    for _ in range(5):
        await store.quantities.adjust(
            "chair", Adjust(stock=1, action=Action.INCREMENT, reason="delivery")
        )
    await stocked(store, table=1)

    def versions(page: list[Movement]) -> list[int]:
        return [movement.version for movement in page]

    assert [5, 4] == versions(await store.quantities.ledger("chair", limit=2))
    assert [3, 2] == versions(await store.quantities.ledger("chair", before=4, limit=2))
    assert [1] == versions(await store.quantities.ledger("chair", before=2, limit=2))
    assert [] == await store.quantities.ledger("chair", before=1, limit=2)
    assert "delivery" == (await store.quantities.ledger("chair", limit=1))[0].reason
    with pytest.raises(UnknownSku):
        await store.quantities.ledger("sofa")


# --- reserve


@pytest.mark.everywhere
async def test_a_hold_moves_every_line_and_tells_of_each(store: StockStore, redis: Redis) -> None:
    await stocked(store, chair=5, table=1)
    order, cause = uuid4(), uuid4()

    assert "held" == await store.holds.reserve(
        order, [("table", 1), ("chair", 1), ("chair", 2)], cause, "00-a-b-01"
    )

    assert (2, 3, 2) == await numbers(store, "chair")
    assert (0, 1, 2) == await numbers(store, "table")
    assert "held" == await state(redis, store, order)
    told = [e for e in await events(redis, store) if e.meta.correlationid is not None]
    held, chair, table = sorted(told, key=lambda event: (event.meta.key, event.meta.subject))
    assert ["reservation.held.v1", "stock.changed.v1", "stock.changed.v1"] == [
        event.meta.key for event in (held, chair, table)
    ]
    for event in (held, chair, table):
        assert str(order) == event.meta.correlationid
        assert str(cause) == event.meta.causationid
        assert "00-a-b-01" == event.meta.traceparent
    assert 3 == len({event.meta.id for event in (chair, table, held)})
    assert 1 == held.meta.entityversion


@pytest.mark.everywhere
async def test_one_short_line_holds_nothing_and_names_the_shortage(
    store: StockStore, redis: Redis
) -> None:
    await stocked(store, chair=5, table=1)
    order = uuid4()

    assert "rejected" == await store.holds.reserve(
        order, [("chair", 1), ("table", 2), ("sofa", 1)], uuid4()
    )

    assert (5, 0, 1) == await numbers(store, "chair")
    assert "rejected" == await state(redis, store, order)
    (last,) = [e for e in await events(redis, store) if e.meta.key == "reservation.rejected.v1"]
    shortages = [(s.sku, s.requested, s.available) for s in last.data.shortages]  # type: ignore[attr-defined]  # a ReservationRejectedV1
    assert [("sofa", 1, 0), ("table", 2, 1)] == shortages


@pytest.mark.everywhere
async def test_an_order_is_decided_once_by_event_and_by_order(
    store: StockStore, redis: Redis
) -> None:
    await stocked(store, chair=5)
    order, cause = uuid4(), uuid4()

    assert "held" == await store.holds.reserve(order, [("chair", 1)], cause)
    count = len(await told(redis, store))
    assert "dup" == await store.holds.reserve(order, [("chair", 1)], cause)
    assert "dup" == await store.holds.reserve(order, [("chair", 1)], uuid4())

    assert (4, 1, 2) == await numbers(store, "chair")
    assert count == len(await told(redis, store))


@pytest.mark.one_partition  # a part gives back what no home knows of
async def test_an_event_that_was_handled_stays_handled_when_its_hold_is_forgotten(
    store: StockStore, redis: Redis
) -> None:
    await stocked(store, chair=5)
    order, cause = uuid4(), uuid4()
    await store.holds.reserve(order, [("chair", 1)], cause)
    await redis.delete(store.slots.home(order).hold(order))

    assert "dup" == await store.holds.reserve(order, [("chair", 1)], cause)

    assert (4, 1, 2) == await numbers(store, "chair")


@pytest.mark.parametrize("qty", [1, 2])
async def test_whoever_was_answered_by_the_order_is_later_answered_by_the_event(
    store: StockStore, redis: Redis, qty: int
) -> None:
    await stocked(store, chair=1)
    order, first, second = uuid4(), uuid4(), uuid4()
    await store.holds.reserve(order, [("chair", qty)], first)
    await store.holds.reserve(order, [("chair", qty)], second)
    await redis.delete(store.slots.home(order).hold(order))

    assert "dup" == await store.holds.reserve(order, [("chair", qty)], first)
    assert "dup" == await store.holds.reserve(order, [("chair", qty)], second)


async def test_of_500_requests_for_50_units_exactly_50_are_held(
    store: StockStore, redis: Redis
) -> None:
    await stocked(store, chair=50)

    outcomes = Counter(
        await asyncio.gather(
            *(store.holds.reserve(uuid4(), [("chair", 1)], uuid4()) for _ in range(500))
        )
    )

    assert {"held": 50, "rejected": 450} == outcomes
    assert (0, 50, 51) == await numbers(store, "chair")
    kinds = Counter(await told(redis, store))
    assert (50, 450) == (kinds["reservation.held.v1"], kinds["reservation.rejected.v1"])


@pytest.mark.everywhere
async def test_crossing_orders_never_hold_half(store: StockStore) -> None:
    await stocked(store, chair=20, table=20)
    orders = [random.sample(["chair", "table"], 2) for _ in range(60)]

    outcomes = await asyncio.gather(
        *(store.holds.reserve(uuid4(), [(sku, 1) for sku in skus], uuid4()) for skus in orders)
    )

    assert 20 == outcomes.count("held")
    assert (0, 20) == (await numbers(store, "chair"))[:2]
    assert (0, 20) == (await numbers(store, "table"))[:2]


# --- commit, release, return


async def test_a_commit_sells_what_is_held(store: StockStore, redis: Redis) -> None:
    await stocked(store, chair=5)
    order, cause = uuid4(), uuid4()
    await store.holds.reserve(order, [("chair", 2)], uuid4())

    assert "committed" == await store.holds.finish("commit", order, [("chair", 2)], cause)
    assert "dup" == await store.holds.finish("commit", order, [("chair", 2)], cause)

    assert (3, 0, 3) == await numbers(store, "chair")
    assert "committed" == await state(redis, store, order)
    assert {
        "reservation.held.v1": 1,
        "reservation.committed.v1": 1,
        "stock.changed.v1": 3,
    } == Counter(await told(redis, store))
    assert [1, 2] == [
        event.meta.entityversion
        for event in await events(redis, store)
        if event.meta.key.startswith("reservation")
    ]


async def test_a_commit_that_is_asked_for_again_is_answered_again_by_the_same_event(
    store: StockStore, redis: Redis
) -> None:
    await stocked(store, chair=5)
    sold, failed = uuid4(), uuid4()
    await store.holds.reserve(sold, [("chair", 2)], uuid4())
    await store.holds.finish("commit", sold, [("chair", 2)], uuid4())
    await store.holds.finish("commit", failed, [("chair", 9)], uuid4())
    repeated = uuid4()

    for order, qty in ((sold, 2), (failed, 9)):
        assert "again" == await store.holds.finish("commit", order, [("chair", qty)], repeated)
        assert "dup" == await store.holds.finish("commit", order, [("chair", qty)], repeated)
        repeated = uuid4()

    told = [event for event in await events(redis, store) if "commit" in event.meta.key]
    answers = [e for order in (sold, failed) for e in told if e.data.order_id == order]  # type: ignore[attr-defined]  # of a reservation
    assert (3, 0, 3) == await numbers(store, "chair")
    assert 4 == len(told) == len(answers)
    for first, again in (answers[:2], answers[2:]):
        assert (first.data, first.meta.id) == (again.data, again.meta.id)
        assert first.meta.entityversion == again.meta.entityversion


async def test_a_release_gives_back_once(store: StockStore, redis: Redis) -> None:
    await stocked(store, chair=5)
    order = uuid4()
    await store.holds.reserve(order, [("chair", 2)], uuid4())

    assert "released" == await store.holds.finish("release", order, [("chair", 2)], uuid4())
    assert "noop" == await store.holds.finish("release", order, [("chair", 2)], uuid4())

    assert set() == await expiring(redis, store)
    assert (5, 0, 3) == await numbers(store, "chair")
    assert 1 == (await told(redis, store)).count("reservation.released.v1")


async def test_a_cancel_that_overtakes_its_order_leaves_a_tombstone(
    store: StockStore, redis: Redis
) -> None:
    await stocked(store, chair=5)
    order = uuid4()

    assert "tombstone" == await store.holds.finish("release", order, [("chair", 2)], uuid4())
    assert "dup" == await store.holds.reserve(order, [("chair", 2)], uuid4())

    assert (5, 0, 1) == await numbers(store, "chair")
    assert ["stock.changed.v1"] == await told(redis, store)


async def test_a_return_takes_sold_units_back_once(store: StockStore, redis: Redis) -> None:
    await stocked(store, chair=5)
    order = uuid4()
    await store.holds.reserve(order, [("chair", 2)], uuid4())
    await store.holds.finish("commit", order, [("chair", 2)], uuid4())

    assert "returned" == await store.holds.finish("return", order, [("chair", 2)], uuid4())
    assert "noop" == await store.holds.finish("return", order, [("chair", 2)], uuid4())
    assert "noop" == await store.holds.finish("commit", order, [("chair", 2)], uuid4())

    assert (5, 0, 4) == await numbers(store, "chair")
    assert [2, -2, 0, 0] == [
        movement.sold * -1 for movement in await store.quantities.ledger("chair")
    ]
    assert 1 == (await told(redis, store)).count("reservation.released.v1")


async def test_a_return_of_what_is_only_held_is_a_release(store: StockStore) -> None:
    await stocked(store, chair=5)
    order = uuid4()
    await store.holds.reserve(order, [("chair", 2)], uuid4())

    assert "released" == await store.holds.finish("return", order, [("chair", 2)], uuid4())

    assert (5, 0) == (await numbers(store, "chair"))[:2]


async def test_what_is_sold_cannot_be_released(store: StockStore, redis: Redis) -> None:
    await stocked(store, chair=5)
    order, cause = uuid4(), uuid4()
    await store.holds.reserve(order, [("chair", 2)], uuid4())
    await store.holds.finish("commit", order, [("chair", 2)], uuid4())
    before = await told(redis, store)

    assert "conflict" == await store.holds.finish("release", order, [("chair", 2)], cause)
    assert "conflict" == await store.holds.finish("release", order, [("chair", 2)], cause)

    assert (3, 0, 3) == await numbers(store, "chair")
    assert before == await told(redis, store)


@pytest.mark.parametrize("step", ["commit", "release", "return"])
@pytest.mark.parametrize(
    "lines", [[("chair", 1)], [("table", 2)], [("chair", 2), ("table", 1)], []]
)
async def test_other_lines_than_those_held_change_nothing(
    store: StockStore, redis: Redis, step: Any, lines: list[tuple[str, int]]
) -> None:
    await stocked(store, chair=5, table=5)
    order = uuid4()
    await store.holds.reserve(order, [("chair", 2)], uuid4())
    before = await told(redis, store)

    assert "conflict" == await store.holds.finish(step, order, lines, uuid4())

    assert (3, 2, 2) == await numbers(store, "chair")
    assert before == await told(redis, store)


async def test_other_lines_than_those_sold_are_not_confirmed_again(
    store: StockStore, redis: Redis
) -> None:
    await stocked(store, chair=5)
    order = uuid4()
    await store.holds.reserve(order, [("chair", 2)], uuid4())
    await store.holds.finish("commit", order, [("chair", 2)], uuid4())
    before = await told(redis, store)

    assert "conflict" == await store.holds.finish("commit", order, [("chair", 1)], uuid4())

    assert before == await told(redis, store)


async def test_a_commit_of_a_rejected_or_released_order_fails_once(
    store: StockStore, redis: Redis
) -> None:
    await stocked(store, chair=1)
    rejected, released = uuid4(), uuid4()
    await store.holds.reserve(rejected, [("chair", 2)], uuid4())
    await store.holds.finish("release", released, [("chair", 1)], uuid4())

    for order, qty in ((rejected, 2), (released, 1)):
        assert "commit_failed" == await store.holds.finish(
            "commit", order, [("chair", qty)], uuid4()
        )

    assert (1, 0, 1) == await numbers(store, "chair")
    assert 2 == (await told(redis, store)).count("reservation.commit_failed.v1")


async def test_a_commit_without_a_hold_takes_free_units(store: StockStore, redis: Redis) -> None:
    await stocked(store, chair=3)
    order = uuid4()

    assert "committed" == await store.holds.finish("commit", order, [("chair", 2)], uuid4())
    assert "dup" == await store.holds.reserve(order, [("chair", 2)], uuid4())
    assert "returned" == await store.holds.finish("return", order, [("chair", 2)], uuid4())

    assert (3, 0) == (await numbers(store, "chair"))[:2]
    assert 1 == (await told(redis, store)).count("reservation.committed.v1")


async def test_a_commit_without_a_hold_fails_for_good_when_units_are_gone(
    store: StockStore, redis: Redis
) -> None:
    await stocked(store, chair=1)
    order = uuid4()

    assert "commit_failed" == await store.holds.finish("commit", order, [("chair", 2)], uuid4())
    await store.quantities.adjust("chair", put(Action.INCREMENT, 5))
    assert "again" == await store.holds.finish("commit", order, [("chair", 2)], uuid4())

    assert (6, 0, 2) == await numbers(store, "chair")
    failed = next(e for e in await events(redis, store) if "commit_failed" in e.meta.key)
    assert [("chair", 2, 1)] == [
        (s.sku, s.requested, s.available)
        for s in failed.data.shortages  # type: ignore[attr-defined]  # a ReservationCommitFailedV1
    ]


# --- the end of holds


@pytest.mark.everywhere
async def test_a_hold_ends_when_its_time_is_over(store: StockStore, redis: Redis) -> None:
    await stocked(store, chair=2)
    over, running = uuid4(), uuid4()
    await store.holds.reserve(over, [("chair", 1)], uuid4())
    await store.holds.reserve(running, [("chair", 1)], uuid4())
    assert 0 == await store.holds.expire_due()
    await let_pass(redis, store, over)

    assert 1 == await store.holds.expire_due()
    assert 0 == await store.holds.expire_due()

    assert (1, 1) == (await numbers(store, "chair"))[:2]
    assert ("expired", "held") == (
        await state(redis, store, over),
        await state(redis, store, running),
    )
    kinds = Counter(await told(redis, store))
    assert (1, 1, 4) == (
        kinds["reservation.expired.v1"],
        kinds["stock.came_back.v1"],
        kinds["stock.changed.v1"],
    )


async def test_a_hold_is_not_ended_on_the_word_of_the_index_alone(
    store: StockStore, redis: Redis
) -> None:
    await stocked(store, chair=1)
    order = uuid4()
    await store.holds.reserve(order, [("chair", 1)], uuid4())
    await redis.zadd(store.slots.home(order).exp, {str(order): 1})

    assert 0 == await store.holds.expire_due()

    assert (0, 1, 2) == await numbers(store, "chair")


async def test_an_index_that_names_an_ended_hold_moves_nothing_and_is_mended(
    store: StockStore, redis: Redis
) -> None:
    await stocked(store, chair=1)
    order = uuid4()
    await store.holds.reserve(order, [("chair", 1)], uuid4())
    await store.holds.finish("commit", order, [("chair", 1)], uuid4())
    index = store.slots.home(order).exp
    await redis.zadd(index, {str(order): 1})

    assert 0 == await store.holds.expire_due()

    assert (0, 0, 3) == await numbers(store, "chair")
    assert 0 == await redis.zcard(index)


async def test_a_hold_lasts_as_long_as_the_settings_say(redis: Redis, settings: Settings) -> None:
    store = StockStore(redis, settings.key_prefix, 1, settings.partitions)
    await stocked(store, chair=1)
    await store.holds.reserve(uuid4(), [("chair", 1)], uuid4())

    async with asyncio.timeout(30):
        while not await store.holds.expire_due():
            await asyncio.sleep(0.01)

    assert (1, 0) == (await numbers(store, "chair"))[:2]


@pytest.mark.parametrize("taker", ["reserve", "adjust", "commit"])
async def test_a_hold_that_is_over_never_stands_in_the_way(
    store: StockStore, redis: Redis, taker: str
) -> None:
    await stocked(store, chair=1)
    over = uuid4()
    await store.holds.reserve(over, [("chair", 1)], uuid4())
    await let_pass(redis, store, over)

    if taker == "reserve":
        assert "held" == await store.holds.reserve(uuid4(), [("chair", 1)], uuid4())
    elif taker == "commit":
        assert "committed" == await store.holds.finish("commit", uuid4(), [("chair", 1)], uuid4())
    else:
        await store.quantities.adjust("chair", put(Action.DECREMENT, 1))

    assert "expired" == await state(redis, store, over)
    assert 0 == (await numbers(store, "chair"))[0]


@pytest.mark.everywhere
async def test_a_late_commit_takes_free_units_else_fails(store: StockStore, redis: Redis) -> None:
    await stocked(store, chair=2)
    lucky, unlucky = uuid4(), uuid4()
    for order in (lucky, unlucky):
        await store.holds.reserve(order, [("chair", 1)], uuid4())
        await let_pass(redis, store, order)
    assert 2 == await store.holds.expire_due()
    await store.quantities.adjust("chair", put(Action.DECREMENT, 1))

    assert "committed" == await store.holds.finish("commit", lucky, [("chair", 1)], uuid4())
    assert "commit_failed" == await store.holds.finish("commit", unlucky, [("chair", 1)], uuid4())

    assert (0, 0) == (await numbers(store, "chair"))[:2]


async def test_a_commit_in_time_for_the_units_beats_the_sweeper(
    store: StockStore, redis: Redis
) -> None:
    await stocked(store, chair=1)
    order = uuid4()
    await store.holds.reserve(order, [("chair", 1)], uuid4())
    await let_pass(redis, store, order)

    assert "committed" == await store.holds.finish("commit", order, [("chair", 1)], uuid4())
    assert 0 == await store.holds.expire_due()

    assert (0, 0) == (await numbers(store, "chair"))[:2]


async def test_ended_holds_are_forgotten_in_time_and_running_ones_never(
    store: StockStore, redis: Redis
) -> None:
    await stocked(store, chair=2)
    held, released, rejected = uuid4(), uuid4(), uuid4()
    for order in (held, released):
        await store.holds.reserve(order, [("chair", 1)], uuid4())
    await store.holds.reserve(rejected, [("chair", 9)], uuid4())
    await store.holds.finish("release", released, [("chair", 1)], uuid4())
    await store.quantities.adjust("chair", put(Action.INCREMENT, 1), key=KEY)
    home = store.slots.home

    assert -1 == await redis.pttl(home(held).hold(held))
    for ended in (
        home(released).hold(released),
        home(rejected).hold(rejected),
        store.slots.at("chair").marker(KEY),
    ):
        assert await redis.pttl(ended) > 29 * 86_400_000


# --- prices and offers


async def test_prices_are_replaced_and_told_only_when_they_differ(
    store: StockStore, redis: Redis
) -> None:
    euro = PriceEntry(currency="EUR", amount_minor=1999)
    trade = PriceEntry(currency="EUR", amount_minor=1500, group="trade", min_qty=12)

    first = await store.prices.put("chair", [trade, euro])
    same = await store.prices.put("chair", [euro, trade])
    none = await store.prices.put("chair", [])

    assert [euro, trade] == first.prices
    assert (1, 1, 2) == (first.version, same.version, none.version)
    assert [] == none.prices
    assert ["price.changed.v1"] * 2 == await told(redis, store)
    assert [none] == await store.prices.in_force(["table", "chair"])


@pytest.mark.everywhere
async def test_an_offer_is_taken_over_once_and_leaves_other_prices(
    store: StockStore, redis: Redis
) -> None:
    trade = PriceEntry(currency="EUR", amount_minor=1500, group="trade")
    await store.prices.put("chair", [trade, PriceEntry(currency="EUR", amount_minor=1)])
    euro = PriceEntry(currency="EUR", amount_minor=1999, list_minor=2999)
    offers = [
        Offer(sku="chair", stock=5, prices=[euro]),
        Offer(sku="table", prices=[euro]),
        Offer(sku="sofa", stock=0),
        Offer(sku="lamp"),
    ]

    assert ["created", "created", "created", "unchanged"] == await store.offers.put(offers)
    count = len(await told(redis, store))
    assert ["unchanged"] * 4 == await store.offers.put(offers)
    assert ["updated"] == await store.offers.put([Offer(sku="chair", stock=6)])

    assert [euro, trade] == (await store.prices.in_force(["chair"]))[0].prices
    assert count + 1 == len(await told(redis, store))


async def test_an_offer_below_what_is_reserved_is_short(store: StockStore) -> None:
    await stocked(store, chair=5)
    await store.holds.reserve(uuid4(), [("chair", 3)], uuid4())

    assert ["short"] == await store.offers.put([Offer(sku="chair", stock=2)])

    assert (2, 3) == (await numbers(store, "chair"))[:2]


def planned(amount: int, begin: datetime | None, end: datetime | None = None) -> PriceEntry:
    return PriceEntry(currency="EUR", amount_minor=amount, valid_from=begin, valid_until=end)


async def test_a_boundary_is_turned_and_told_once_however_many_see_it(
    store: StockStore, redis: Redis
) -> None:
    later = datetime.now(UTC) + timedelta(hours=1)
    await store.prices.put("chair", [planned(100, None), planned(90, later, later + HOUR)])
    assert 0 == await store.prices.turn_due()
    first = (await events(redis, store))[0].data
    # As if the hour had passed: the text of the plan, and its place among the boundaries.
    earlier = int((later - 2 * HOUR).timestamp() * 1000)
    slot = store.slots.at("chair")
    plan = f"EUR::1:100:;EUR::1:90::{earlier}:{earlier + 2 * 3_600_000}::"
    await redis.hset(slot.price("chair"), "plan", plan)
    await redis.zadd(slot.bounds, {"chair": earlier})

    since = await redis.hget(slot.price("chair"), "since")
    assert since is not None

    turned = await asyncio.gather(*(store.prices.turn_due() for _ in range(8)))

    assert 1 == sum(turned)
    last = (await events(redis, store))[-1]
    assert 2 == last.meta.entityversion
    assert isinstance(first, PriceChangedV1)
    assert isinstance(last.data, PriceChangedV1)
    assert ([100], [90]) == tuple(
        [price.amount_minor for price in data.prices] for data in (first, last.data)
    )
    assert first.valid_until == later.replace(microsecond=later.microsecond // 1000 * 1000)
    assert moment(earlier + 2 * 3_600_000) == last.data.valid_until
    assert 2 == len(await told(redis, store))
    # the plan is as old as before: nobody edited it
    assert since == await redis.hget(slot.price("chair"), "since")
    assert [("chair", float(earlier + 2 * 3_600_000))] == await redis.zrange(
        slot.bounds, 0, -1, withscores=True
    )


async def test_boundaries_that_passed_while_nobody_was_awake_are_one_change(
    store: StockStore, redis: Redis
) -> None:
    await store.prices.put("chair", [planned(100, None), planned(90, FAR)])
    slot = store.slots.at("chair")
    plan = "EUR::1:100:;EUR::1:90::1000:2000::;EUR::1:80::2000:::"
    await redis.hset(slot.price("chair"), "plan", plan)
    await redis.zadd(slot.bounds, {"chair": 1000})

    assert 1 == await store.prices.turn_due()
    assert 0 == await store.prices.turn_due()

    data = (await events(redis, store))[-1].data
    assert isinstance(data, PriceChangedV1)
    assert [80] == [price.amount_minor for price in data.prices]
    assert data.valid_until is None
    assert 0 == await redis.zcard(slot.bounds)
    await store.prices.put("chair", [planned(100, None)])
    assert {"prices", "ver", "since", "first"} == set(await redis.hkeys(slot.price("chair")))


async def test_the_ledger_records_whole_what_a_step_has_made(store: StockStore, redis: Any) -> None:
    await stocked(store, chair=9)
    order, refused, cart = uuid4(), uuid4(), uuid4()
    await store.holds.reserve(order, [("chair", 1)], uuid4())
    await store.holds.reserve(refused, [("chair", 10)], uuid4())
    await store.holds.finish("commit", order, [("chair", 1)], uuid4())
    await store.carts.hold(cart, [("chair", 1)])
    await store.carts.extend(cart)
    await store.quantities.adjust("chair", put(Action.INCREMENT, 1), key=KEY)
    await store.prices.put("chair", [planned(100, FAR)])
    here, home = store.slots.at("chair"), store.slots.home

    notes: dict[tuple[str, str], dict[str, str]] = {}
    for slot in store.slots:
        for _, fields in await redis.xrange(slot.ledger):
            if "name" in fields:
                notes[fields.pop("op"), fields.pop("name")] = fields

    for (op, name), key in {
        ("hold", str(order)): home(order).hold(order),
        ("hold", str(refused)): home(refused).hold(refused),
        ("hold", f"cart:{cart}"): home(f"cart:{cart}").hold(f"cart:{cart}"),
        ("key", KEY): here.marker(KEY),
        ("price", "chair"): here.price("chair"),
    }.items():
        assert notes[op, name] == await redis.hgetall(key)


async def test_a_price_begins_by_itself_for_whoever_asks(store: StockStore) -> None:
    now = datetime.now(UTC)
    await store.prices.put(
        "chair", [planned(100, None), planned(90, now + HOUR, now + 2 * HOUR), planned(80, FAR)]
    )

    async def at(when: datetime | None) -> list[int]:
        return [p.amount_minor for p in (await store.prices.in_force(["chair"], when))[0].prices]

    assert [100] == await at(None)
    assert [90] == await at(now + HOUR)
    assert [100] == await at(now + 2 * HOUR)
    assert [80] == await at(FAR)
    assert [100, 90, 80] == [p.amount_minor for p in (await store.prices.plan("chair")).prices]


@pytest.mark.everywhere
async def test_edits_of_one_sku_in_one_batch_follow_each_other(
    store: StockStore, redis: Redis
) -> None:
    euro = PriceEntry(currency="EUR", amount_minor=100)
    yen = PriceEntry(currency="JPY", amount_minor=9)

    changes = await store.prices.edit(
        [
            ("a", "merge", [euro]),
            ("a", "merge", [yen]),
            ("b", "merge", [yen]),
            ("a", "merge", [yen]),
        ]
    )

    assert ["created", "updated", "created", "unchanged"] == changes
    assert [euro, yen] == (await store.prices.plan("a")).prices
    assert 3 == len(await told(redis, store))


async def test_two_edits_at_once_lose_neither(store: StockStore) -> None:
    await asyncio.gather(
        *(
            store.prices.edit(
                [("a", "merge", [PriceEntry(currency="EUR", amount_minor=n, min_qty=n)])]
            )
            for n in range(1, 21)
        )
    )

    assert list(range(1, 21)) == [p.amount_minor for p in (await store.prices.plan("a")).prices]


# --- what runs low, and what comes back


async def test_a_sku_runs_low_once_when_it_crosses_its_threshold(
    store: StockStore, redis: Redis
) -> None:
    await stocked(store, chair=10)
    level = await store.quantities.set_threshold("chair", 5)
    assert 5 == level.low_stock_threshold
    for stock in (6, 5, 3, 9, 4):
        await store.quantities.adjust("chair", put(Action.SET, stock))
    await store.quantities.set_threshold("chair", None)
    for stock in (9, 1):
        await store.quantities.adjust("chair", put(Action.SET, stock))

    low = [event for event in await events(redis, store) if "ran_low" in event.meta.key]
    assert [(5, 5, 3), (4, 5, 6)] == [
        (event.data.available, event.data.threshold, event.meta.entityversion)  # type: ignore[attr-defined]  # a StockRanLowV1
        for event in low
    ]
    ids = [event.meta.id for event in await events(redis, store)]
    assert len(ids) == len(set(ids))


async def test_a_threshold_of_an_unknown_sku_is_refused(store: StockStore) -> None:
    with pytest.raises(UnknownSku):
        await store.quantities.set_threshold("chair", 5)


async def test_a_threshold_that_stands_leaves_no_trace(store: StockStore, redis: Redis) -> None:
    await stocked(store, chair=10)
    for units in (5, 5, None, None):
        await store.quantities.set_threshold("chair", units)

    assert (await store.quantities.level("chair")).low_stock_threshold is None
    slot = store.slots.at("chair")
    assert not await redis.hexists(slot.quantity("chair"), "low")
    assert 3 == await redis.xlen(slot.ledger)


async def test_units_that_come_back_are_told_by_whatever_cause(
    store: StockStore, redis: Redis
) -> None:
    await stocked(store, chair=1)
    order, over = uuid4(), uuid4()
    await store.holds.reserve(order, [("chair", 1)], uuid4())
    await store.holds.finish("release", order, [("chair", 1)], uuid4())
    await store.holds.reserve(over, [("chair", 1)], uuid4())
    await let_pass(redis, store, over)
    await store.holds.expire_due()
    sold = uuid4()
    await store.holds.reserve(sold, [("chair", 1)], uuid4())
    await store.holds.finish("commit", sold, [("chair", 1)], uuid4())
    await store.quantities.adjust("chair", put(Action.INCREMENT, 3))
    await store.quantities.adjust("chair", put(Action.INCREMENT, 3))

    back = [event for event in await events(redis, store) if "came_back" in event.meta.key]
    assert [1, 1, 3] == [event.data.available for event in back]  # type: ignore[attr-defined]  # a StockCameBackV1


# --- reservations of carts


@pytest.mark.everywhere
async def test_a_cart_holds_all_lines_or_none(store: StockStore, redis: Redis) -> None:
    await stocked(store, chair=5, table=1)
    cart = uuid4()

    with pytest.raises(InsufficientStock) as refused:
        await store.carts.hold(cart, [("chair", 1), ("table", 2), ("sofa", 1)])
    held = await store.carts.hold(cart, [("chair", 2), ("chair", 1), ("table", 1)])

    assert {
        "lines": [
            {"sku": "sofa", "requested": 1, "available": 0},
            {"sku": "table", "requested": 2, "available": 1},
        ]
    } == refused.value.extensions
    assert (2, 3, 2) == await numbers(store, "chair")
    assert held == await store.carts.reservation(cart)
    assert "held" == held.state
    # a cart is no order: nothing but the levels is told of it
    assert ["stock.changed.v1"] * 4 == await told(redis, store)
    assert [None, None] == [event.meta.correlationid for event in (await events(redis, store))[2:]]


@pytest.mark.everywhere
async def test_a_cart_that_holds_again_gives_up_what_it_held(
    store: StockStore, redis: Redis
) -> None:
    await stocked(store, chair=5, table=3)
    cart = uuid4()
    await store.carts.hold(cart, [("chair", 4)])

    held = await store.carts.hold(cart, [("chair", 5)])
    assert (0, 5) == (await numbers(store, "chair"))[:2]
    await store.carts.hold(cart, [("table", 3), ("chair", 2)])
    assert (3, 2) == (await numbers(store, "chair"))[:2]
    with pytest.raises(InsufficientStock) as refused:
        await store.carts.hold(cart, [("table", 4)])

    assert [{"sku": "table", "requested": 4, "available": 3}] == refused.value.extensions["lines"]
    assert 2 == held.version
    assert [("chair", 2), ("table", 3)] == [
        (line.sku, line.qty) for line in (await store.carts.reservation(cart)).lines
    ]
    assert {f"cart:{cart}"} == await expiring(redis, store)


async def test_holding_the_same_again_moves_nothing_but_the_time(store: StockStore) -> None:
    await stocked(store, chair=5)
    cart = uuid4()
    first = await store.carts.hold(cart, [("chair", 4)], seconds=10)
    second = await store.carts.hold(cart, [("chair", 4)], seconds=1000)

    assert second.expires_at > first.expires_at
    assert (1, 4, 2) == await numbers(store, "chair")


@pytest.mark.everywhere
async def test_of_two_calls_of_one_cart_at_once_one_hold_is_left(
    store: StockStore, redis: Redis
) -> None:
    await stocked(store, chair=50)
    cart = uuid4()

    await asyncio.gather(*(store.carts.hold(cart, [("chair", n)]) for n in range(1, 11)))

    (line,) = (await store.carts.reservation(cart)).lines
    assert (50 - line.qty, line.qty) == (await numbers(store, "chair"))[:2]


async def test_a_reservation_lasts_longer_only_while_it_lasts(
    store: StockStore, redis: Redis
) -> None:
    await stocked(store, chair=5)
    cart = uuid4()
    first = await store.carts.hold(cart, [("chair", 4)], seconds=10)
    extended = await store.carts.extend(cart, seconds=1000)
    assert extended.expires_at > first.expires_at
    assert 2 == extended.version
    index = await redis.zscore(store.slots.home(f"cart:{cart}").exp, f"cart:{cart}")
    assert extended.expires_at == moment(int(index or 0))

    await let_pass(redis, store, f"cart:{cart}")

    assert "expired" == (await store.carts.reservation(cart)).state
    with pytest.raises(HoldOver):
        await store.carts.extend(cart)
    assert 1 == await store.holds.expire_due()
    with pytest.raises(HoldOver):
        await store.carts.extend(cart)
    with pytest.raises(UnknownHold):
        await store.carts.extend(uuid4())
    assert (5, 0) == (await numbers(store, "chair"))[:2]


@pytest.mark.everywhere
async def test_a_reservation_is_released_once_and_not_when_it_is_over(
    store: StockStore, redis: Redis
) -> None:
    await stocked(store, chair=5)
    cart, late = uuid4(), uuid4()
    await store.carts.hold(cart, [("chair", 2)])
    await store.carts.hold(late, [("chair", 1)])
    await let_pass(redis, store, f"cart:{late}")

    await store.carts.release(cart)
    await store.carts.release(cart)
    for _ in range(2):
        with pytest.raises(HoldOver):
            await store.carts.release(late)
    with pytest.raises(UnknownHold):
        await store.carts.release(uuid4())
    with pytest.raises(UnknownHold):
        await store.carts.reservation(uuid4())

    assert (5, 0, 5) == await numbers(store, "chair")
    assert "released" == (await store.carts.reservation(cart)).state
    ids = [event.meta.id for event in await events(redis, store)]
    assert len(ids) == len(set(ids))


async def test_a_cart_may_hold_again_after_its_time_and_each_end_is_told(
    store: StockStore, redis: Redis
) -> None:
    await stocked(store, chair=1)
    cart = uuid4()
    for _ in range(3):
        await store.carts.hold(cart, [("chair", 1)])
        await let_pass(redis, store, f"cart:{cart}")
        assert 1 == await store.holds.expire_due()

    await store.carts.hold(cart, [("chair", 1)])
    name = f"cart:{cart}"
    assert -1 == await redis.pttl(store.slots.home(name).hold(name))
    assert (0, 1, 8) == await numbers(store, "chair")
    ids = [event.meta.id for event in await events(redis, store)]
    assert len(ids) == len(set(ids))


@pytest.mark.one_partition  # on several a cart gives its units back before its order asks for them
async def test_an_order_takes_over_what_its_cart_held(store: StockStore, redis: Redis) -> None:
    await stocked(store, chair=3, table=2)
    cart, order = uuid4(), uuid4()
    await store.carts.hold(cart, [("chair", 3), ("table", 1)])
    before = await numbers(store, "chair")

    assert "held" == await store.holds.reserve(
        order, [("chair", 3), ("table", 2)], uuid4(), taking=cart
    )

    # chairs did not move: they are held as before, by the order now
    assert before == await numbers(store, "chair")
    assert (0, 2) == (await numbers(store, "table"))[:2]
    assert "taken" == (await store.carts.reservation(cart)).state
    assert {str(order)} == await expiring(redis, store)
    name = f"cart:{cart}"
    assert await redis.pttl(store.slots.home(name).hold(name)) > 29 * 86_400_000
    with pytest.raises(HoldTaken):
        await store.carts.release(cart)
    with pytest.raises(HoldTaken):
        await store.carts.extend(cart)
    with pytest.raises(HoldTaken):
        await store.carts.hold(cart, [("chair", 1)])
    assert "committed" == await store.holds.finish(
        "commit", order, [("chair", 3), ("table", 2)], uuid4()
    )
    assert 0 == await store.holds.expire_due()


@pytest.mark.one_partition  # on several a cart gives its units back before its order asks for them
async def test_what_the_cart_held_and_the_order_leaves_out_is_free_again(
    store: StockStore, redis: Redis
) -> None:
    await stocked(store, chair=3, table=2)
    cart, order = uuid4(), uuid4()
    await store.carts.hold(cart, [("chair", 3), ("table", 1)])

    assert "held" == await store.holds.reserve(order, [("chair", 1)], uuid4(), taking=cart)

    assert (2, 1) == (await numbers(store, "chair"))[:2]
    assert (2, 0) == (await numbers(store, "table"))[:2]
    held = (await events(redis, store))[-1].data
    assert [("chair", 1)] == [(line.sku, line.qty) for line in held.lines]  # type: ignore[attr-defined]  # a ReservationHeldV1
    assert "committed" == await store.holds.finish("commit", order, [("chair", 1)], uuid4())


async def test_an_order_looks_again_when_its_cart_changed_meanwhile(store: StockStore) -> None:
    await stocked(store, chair=5)
    cart = uuid4()
    await store.carts.hold(cart, [("chair", 3)])
    look = store.carts.given

    async def look_early(*asked: Any) -> Any:
        seen = await look(*asked)
        store.carts.given = look  # type: ignore[method-assign]  # the second look is the real one
        await store.carts.hold(cart, [("chair", 1)])
        return seen

    store.carts.given = look_early  # type: ignore[method-assign]  # as if another call came between

    assert "held" == await store.holds.reserve(uuid4(), [("chair", 2)], uuid4(), taking=cart)

    assert (3, 2) == (await numbers(store, "chair"))[:2]


@pytest.mark.one_partition  # on several a cart gives its units back before its order asks for them
async def test_an_order_that_needs_more_than_its_cart_held_leaves_the_cart_alone(
    store: StockStore,
) -> None:
    await stocked(store, chair=3)
    cart = uuid4()
    await store.carts.hold(cart, [("chair", 3)])

    assert "rejected" == await store.holds.reserve(uuid4(), [("chair", 4)], uuid4(), taking=cart)

    assert "held" == (await store.carts.reservation(cart)).state
    assert (0, 3) == (await numbers(store, "chair"))[:2]


async def test_an_order_whose_cart_holds_nothing_any_more_is_held_like_any_other(
    store: StockStore, redis: Redis
) -> None:
    await stocked(store, chair=3)
    over, unknown = uuid4(), uuid4()
    await store.carts.hold(over, [("chair", 2)])
    await let_pass(redis, store, f"cart:{over}")
    await store.holds.expire_due()

    assert "held" == await store.holds.reserve(uuid4(), [("chair", 1)], uuid4(), taking=over)
    assert "held" == await store.holds.reserve(uuid4(), [("chair", 1)], uuid4(), taking=unknown)

    assert (1, 2) == (await numbers(store, "chair"))[:2]


async def test_a_hold_of_a_cart_that_is_over_is_no_ones_obstacle(
    store: StockStore, redis: Redis
) -> None:
    await stocked(store, chair=1)
    over = uuid4()
    await store.carts.hold(over, [("chair", 1)])
    await let_pass(redis, store, f"cart:{over}")

    await store.carts.hold(uuid4(), [("chair", 1)])

    assert "expired" == (await store.carts.reservation(over)).state


# --- the server


async def test_a_forgotten_script_is_loaded_again(store: StockStore, redis: Redis) -> None:
    await stocked(store, chair=1)
    await redis.script_flush()

    assert "held" == await store.holds.reserve(uuid4(), [("chair", 1)], uuid4())


async def test_a_store_that_does_not_answer_is_unavailable() -> None:
    nobody = connect(Settings(redis_url="redis://127.0.0.1:1/0"))

    with pytest.raises(Unavailable):
        await StockStore(nobody).quantities.level("chair")

    await nobody.aclose()


# --- the invariants, against a model

SKUS = ("a", "b", "c")
PLENTY = {"a": 6, "b": 9, "c": 15}


# (step, state) -> state when there are units, state when not, what moves
TAKING: dict[tuple[str, str], tuple[str, str, tuple[int, ...]]] = {
    ("reserve", "none"): ("held", "rejected", (-1, 1, 0)),
    ("commit", "none"): ("committed", "commit_failed", (-1, 0, 1)),
    ("commit", "expired"): ("committed", "commit_failed", (-1, 0, 1)),
}
# (step, state) -> answer, new state, what moves
GIVING: dict[tuple[str, str], tuple[str, str | None, tuple[int, ...]]] = {
    **{
        ("reserve", was): ("dup", None, ())
        for was in (
            *("held", "rejected", "committed", "released"),
            *("expired", "commit_failed", "returned"),
        )
    },
    ("release", "none"): ("tombstone", "released", ()),
    ("return", "none"): ("tombstone", "released", ()),
    ("release", "held"): ("released", "released", (1, -1, 0)),
    ("return", "held"): ("released", "released", (1, -1, 0)),
    ("release", "committed"): ("conflict", None, ()),
    ("return", "committed"): ("returned", "returned", (1, 0, -1)),
    ("commit", "held"): ("committed", "committed", (0, -1, 1)),
    ("commit", "committed"): ("again", None, ()),
    ("commit", "commit_failed"): ("again", None, ()),
    ("commit", "released"): ("commit_failed", "commit_failed", ()),
    ("commit", "rejected"): ("commit_failed", "commit_failed", ()),
    ("expire", "held"): ("expired", "expired", (1, -1, 0)),
}


class Model:
    """What the scripts promise, said once more in Python."""

    def __init__(self) -> None:
        self.units = {sku: [PLENTY[sku], 0, 0, PLENTY[sku]] for sku in SKUS}
        self.orders: dict[int, str] = {}

    def move(self, lines: dict[str, int], *signs: int) -> None:
        for sku, qty in lines.items():
            for place, sign in enumerate(signs):
                self.units[sku][place] += sign * qty

    def fits(self, lines: dict[str, int]) -> bool:
        return all(self.units[sku][0] >= qty for sku, qty in lines.items())

    def step(self, op: str, order: int, lines: dict[str, int]) -> str:
        was = self.orders.get(order, "none")
        outcome, new = self._decide(op, was, lines)
        if new is not None:
            self.orders[order] = new
        return outcome

    def _decide(self, op: str, was: str, lines: dict[str, int]) -> tuple[str, str | None]:
        if (op, was) in TAKING:
            taken, refused, signs = TAKING[op, was]
            if not self.fits(lines):
                return refused, refused
            self.move(lines, *signs)
            return taken, taken
        outcome, new, signs = GIVING.get((op, was), ("noop", None, ()))
        self.move(lines, *signs)
        return outcome, new

    def adjust(self, sku: str, action: Action, stock: int) -> bool:
        available, reserved, _, _ = self.units[sku]
        delta = {
            Action.INCREMENT: stock,
            Action.DECREMENT: -stock,
            Action.SET: stock - available - reserved,
        }[action]
        if available + delta < 0:
            return False
        self.units[sku][0] += delta
        self.units[sku][3] += delta
        return True


orders_lines = st.dictionaries(st.sampled_from(SKUS), st.integers(1, 3), min_size=1)
steps = st.one_of(
    st.tuples(
        st.sampled_from(["reserve", "reserve", "commit", "release", "return", "expire"]),
        st.integers(0, 11),
    ),
    st.tuples(st.sampled_from(list(Action)), st.tuples(st.sampled_from(SKUS), st.integers(0, 12))),
)


@given(
    lines=st.lists(orders_lines, min_size=12, max_size=12),
    history=st.lists(steps, min_size=10, max_size=40),
)
@hypothesis_settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_any_history_keeps_the_invariants(
    run: Callable[[Coroutine[Any, Any, None]], None],
    settings: Settings,
    lines: list[dict[str, int]],
    history: list[tuple[Any, Any]],
) -> None:
    run(_follow(settings, lines, history))


@pytest.fixture
def run() -> Callable[[Coroutine[Any, Any, None]], None]:
    """Hypothesis calls a plain function: each example gets a loop of its own."""
    return asyncio.run


async def _follow(
    settings: Settings, lines: list[dict[str, int]], history: list[tuple[Any, Any]]
) -> None:
    settings = structs.replace(settings, key_prefix=f"{settings.key_prefix}{uuid4()}:")
    model, orders = Model(), [uuid4() for _ in lines]
    async with connect(settings) as redis:
        store = StockStore(redis, settings.key_prefix, partitions=settings.partitions)
        await store.install.make()
        await stocked(store, **PLENTY)
        for op, what in history:
            if isinstance(op, Action):
                sku, stock = what
                try:
                    await store.quantities.adjust(sku, put(op, stock))
                    done = True
                except InsufficientStock:
                    done = False
                assert model.adjust(sku, op, stock) == done
                continue
            order, pairs = orders[what], list(lines[what].items())
            expected = model.step(op, what, lines[what])
            if op == "reserve":
                assert expected == await store.holds.reserve(order, pairs, uuid4())
            elif op == "expire":
                if await state(redis, store, order) == "held":
                    await let_pass(redis, store, order)
                assert (expected == "expired") == (await store.holds.expire_due() == 1)
            else:
                assert expected == await store.holds.finish(op, order, pairs, uuid4())
        await _agree(redis, store, model, orders)


async def _agree(redis: Any, store: StockStore, model: Model, orders: list[UUID]) -> None:
    for place, order in enumerate(orders):
        assert model.orders.get(place) == await state(redis, store, order)
    held = {str(orders[place]) for place, was in model.orders.items() if was == "held"}
    assert held == await expiring(redis, store)
    # an answer that is asked for again is the same event once more
    published = list({event.meta.id: event for event in await events(redis, store)}.values())
    for sku in SKUS:
        q = await redis.hgetall(store.slots.at(sku).quantity(sku))
        counters = [int(q[field]) for field in ("avail", "resv", "sold", "recv")]
        assert model.units[sku] == counters
        assert counters[3] == sum(counters[:3])
        assert min(counters) >= 0
        ledger = await store.quantities.ledger(sku, limit=100)
        sums = [
            sum(getattr(movement, field) for movement in ledger)
            for field in ("available", "reserved", "sold", "received")
        ]
        assert counters == sums
        last = ledger[0].version
        assert list(range(last, 0, -1)) == [movement.version for movement in ledger]
        levels = [e for e in published if e.meta.subject == sku and "changed" in e.meta.key]
        assert list(range(1, last + 1)) == [event.meta.entityversion for event in levels]
        assert [movement.event_id for movement in reversed(ledger)] == [
            event.meta.id for event in levels
        ]
        for event in levels:
            data: Any = event.data
            assert data.on_hand == data.available + data.reserved
    reservations = Counter(
        (event.meta.subject, event.meta.key)
        for event in published
        if event.meta.key.startswith("reservation")
    )
    assert all(1 == count for count in reservations.values())
