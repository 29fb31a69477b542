"""An empty Redis becomes what the old one was, from the journal alone."""

import asyncio
import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

import aio_pika
import pytest
from msgspec.structs import replace

from bus.broker import confirming, connected
from shop_contracts.envelope import CONTENT_TYPE, encode
from stock.domain import build
from stock.prices import PriceEntry, moment
from stock.rebuild import Heard, NotEmpty, Rebuild, heard
from stock.settings import Settings
from stock.store.price_plans import KEPT_PLANS

pytestmark = [pytest.mark.connected, pytest.mark.one_partition]


@pytest.fixture
def settings(redis_server: Callable[..., Any]) -> Settings:
    """A Redis of the test's own: all of its keys are looked at."""
    return Settings(redis_url=redis_server("--appendonly", "no").url, redis_timeout=10)


WEEK_MS = 7 * 86_400_000


def rebuilding(shop: Any, keep_ms: int = WEEK_MS) -> Rebuild:
    return Rebuild(shop.redis, shop.store.slots, shop.journal, keep_ms=keep_ms)


@pytest.mark.parametrize("seed", range(3))
async def test_a_rebuilt_redis_equals_the_old_one(shop: Any, seed: int) -> None:
    await shop.busy(seed, 120)
    await shop.books.catch_up()
    before, ends = await shop.state(), await shop.ends()
    await shop.empty()

    done = await rebuilding(shop).run(Heard())

    after = await shop.state()
    assert before == after
    ended = await shop.ends()
    assert ends.keys() == ended.keys()
    assert all(abs(ends[key] - ended[key]) < 5_000 for key in ends)
    assert 6 == done.skus
    # the journal goes on from where it was, and a second rebuild would have nothing to do
    await shop.bookkeeper().catch_up()
    with pytest.raises(NotEmpty):
        await rebuilding(shop).run(Heard())


async def test_every_price_of_the_past_is_told_as_before(shop: Any) -> None:
    draw, skus = random.Random(5), ["chair", "table", "desk"]
    edits = [draw.choice(skus) for _ in range(60)] + ["desk"] * (KEPT_PLANS + 5)
    for n, sku in enumerate(edits):
        soon = moment(await shop.now() + draw.randint(1, 30))
        ends = draw.choice((None, soon, soon + timedelta(days=9)))
        prices = [
            PriceEntry(currency="EUR", amount_minor=n),
            PriceEntry(currency="EUR", amount_minor=1, promotion="sale", valid_until=ends),
        ]
        await shop.store.prices.put(sku, prices[draw.randint(0, 1) :])
        await shop.store.prices.turn_due()
        if not n % 7:
            await shop.books.catch_up()
    await shop.books.catch_up()
    plans = [await shop.redis.lrange(shop.store.slots[0].plans(sku), 0, -1) for sku in skus]
    turns = sorted({int(text.partition("|")[0]) for texts in plans for text in texts})
    times = [moment(at + more) for at in (turns[0] - 9_000, *turns) for more in (-1, 0, 1, 15)]
    before = [await shop.store.prices.in_force(skus, at) for at in times]
    await shop.empty()

    done = await rebuilding(shop).run(Heard())

    assert done.plans > KEPT_PLANS == max(map(len, plans))
    assert plans == [await shop.redis.lrange(shop.store.slots[0].plans(sku), 0, -1) for sku in skus]
    for at, prices in zip(times, before, strict=True):
        assert prices == await shop.store.prices.in_force(skus, at)


async def test_what_comes_after_a_rebuild_finds_its_holds_and_rising_versions(shop: Any) -> None:
    order, cart, expiring = uuid4(), uuid4(), uuid4()
    lines = [("chair", 2), ("table", 1)]
    await shop.put("chair", 5)
    await shop.put("table", 5)
    await shop.store.holds.reserve(order, lines, uuid4())
    await shop.store.carts.hold(cart, [("chair", 1)])
    await shop.store.holds.reserve(expiring, [("table", 1)], uuid4())
    await shop.books.catch_up()
    old = await shop.redis.xrange(shop.store.slots[0].outbox)
    await shop.empty()
    await rebuilding(shop).run(Heard())

    assert "committed" == await shop.store.holds.finish("commit", order, lines, uuid4())
    assert "dup" == await shop.store.holds.reserve(order, lines, uuid4())
    await shop.store.carts.release(cart)
    level = await shop.store.quantities.level("chair")
    assert (3, 0, 5) == (level.available, level.reserved, level.version)
    waiting = [build(fields) for _, fields in await shop.redis.xrange(shop.store.slots[0].outbox)]
    assert [fields["id"] for _, fields in old] == [str(e.meta.id) for e in waiting[: len(old)]]
    versions = [
        event.meta.entityversion
        for event in waiting
        if event.meta.subject == "chair" and event.meta.key == "stock.changed.v1"
    ]
    assert [1, 2, 3, 4, 5] == versions
    assert [5, 4, 3, 2, 1] == [each.version for each in await shop.store.quantities.ledger("chair")]
    await shop.bookkeeper().catch_up()
    told = await shop.journal.movements("chair", before=None, limit=9)
    assert told == await shop.store.quantities.ledger("chair")


async def test_an_event_that_moved_units_stays_handled(shop: Any) -> None:
    order, refund = uuid4(), uuid4()
    await shop.put("chair", 5)
    await shop.store.holds.reserve(order, [("chair", 3)], uuid4())
    await shop.store.holds.finish("commit", order, [("chair", 3)], uuid4())
    await shop.store.holds.restock(order, [("chair", 1)], refund)
    await shop.books.catch_up()
    await shop.empty()
    await rebuilding(shop).run(Heard())

    assert "dup" == await shop.store.holds.restock(order, [("chair", 1)], refund)
    assert 3 == (await shop.store.quantities.level("chair")).available


async def test_what_has_left_the_outbox_is_not_told_again(shop: Any) -> None:
    slot = shop.store.slots[0]
    await shop.put("chair", 1)
    await shop.books.catch_up()
    await shop.redis.xtrim(slot.outbox, maxlen=0)
    await shop.put("chair", 2)
    await shop.books.catch_up()
    await shop.empty()

    done = await rebuilding(shop).run(Heard())

    assert 1 == done.untold
    assert ["2"] == [fields["version"] for _, fields in await shop.redis.xrange(slot.outbox)]


async def test_a_rebuild_that_was_broken_off_is_done_again_whole(
    shop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await shop.busy(4)
    await shop.books.catch_up()
    before = await shop.state()
    await shop.empty()

    class Died(Exception):
        pass

    async def die(*_: Any) -> int:
        raise Died

    for where in ("_ledger", "_each", "_tell_anew"):
        with monkeypatch.context() as patch:
            patch.setattr(Rebuild, where, die)
            with pytest.raises(Died):
                await rebuilding(shop).run(Heard())
    await rebuilding(shop).run(Heard())

    assert before == await shop.state()


async def test_what_others_heard_of_lost_changes_is_told_anew_above_their_versions(
    shop: Any, new_broker_url: str
) -> None:
    slot = shop.store.slots[0]
    price = PriceEntry(currency="EUR", amount_minor=5)
    await shop.put("chair", 1)
    await shop.store.prices.put("chair", [price])
    await shop.books.catch_up()
    await shop.put("chair", 2)
    await shop.put("table", 1)
    await shop.store.prices.put("chair", [replace(price, amount_minor=6)])
    async with connected(new_broker_url, "tests") as connection:
        channel = await confirming(connection)
        exchange = await channel.get_exchange("stock.events")
        for _, fields in await shop.redis.xrange(slot.outbox):
            event = build(fields)
            await exchange.publish(
                aio_pika.Message(encode(event), content_type=CONTENT_TYPE), event.meta.key
            )
    await shop.empty()
    rebuilding_ = rebuilding(shop)

    done = await rebuilding_.run(await heard(new_broker_url, await rebuilding_.since()))

    assert 3 == done.told_anew
    waiting = [build(fields) for _, fields in await shop.redis.xrange(slot.outbox)]
    newest = {(event.meta.key, event.meta.subject): event for event in waiting}
    chair, table = (newest["stock.changed.v1", sku] for sku in ("chair", "table"))
    assert (3, 1) == (chair.meta.entityversion, chair.data.available)
    assert (2, 0) == (table.meta.entityversion, table.data.available)
    changed = newest["price.changed.v1", "chair"]
    assert (3, 5) == (changed.meta.entityversion, changed.data.prices[0].amount_minor)
    await shop.put("chair", 4)
    await shop.bookkeeper().catch_up()
    versions = [m.version for m in await shop.journal.movements("chair", before=None, limit=9)]
    assert [4, 3, 1] == versions
    assert 4 == (await shop.store.quantities.level("chair")).version


async def test_a_redis_that_has_anything_is_left_alone(shop: Any) -> None:
    await shop.put("chair", 1)
    await shop.books.catch_up()
    await shop.empty()
    await shop.redis.hset(shop.store.slots[0].quantity("table"), "avail", 1)
    before = await shop.state()

    with pytest.raises(NotEmpty, match="partition 0 is not empty"):
        await rebuilding(shop).run(Heard())

    assert before == await shop.state()


async def test_a_short_ledger_comes_back_short_and_goes_on(shop: Any) -> None:
    for units in (1, 2, 3):
        await shop.put("chair", units)
    await shop.books.catch_up()
    await shop.empty()
    await asyncio.sleep(0.01)

    done = await rebuilding(shop, keep_ms=0).run(Heard())

    assert 0 == done.movements
    await shop.put("chair", 4)
    assert [4] == [each.version for each in await shop.store.quantities.ledger("chair")]
    await shop.bookkeeper().catch_up()
    assert 4 == len(await shop.journal.movements("chair", before=None, limit=9))
