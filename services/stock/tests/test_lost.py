"""A Redis that comes back empty is not taken for a shop that has nothing to sell."""

import asyncio
import os
import shutil
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import aio_pika
import aiohttp
import pytest
from redis.asyncio import Redis
from uuid_utils.compat import uuid7

from bus.broker import confirming, connected
from chassis.database import database
from chassis.http.server import listening
from chassis.problems import Unavailable
from shop_contracts import envelope
from shop_contracts.events.checkout import OrderPlacedV1
from shop_contracts.types import PricedLine
from stock.app import FILLED, application, connect
from stock.auditor import Auditor, Bounds
from stock.bookkeeping import Bookkeeper
from stock.domain import Action, Adjust
from stock.journal import Journal
from stock.prices import PriceEntry
from stock.rebuild import Heard, Rebuild
from stock.scripts import StoreIsEmpty
from stock.settings import Settings
from stock.slots import PART
from stock.store import StockStore
from stock.store.offers import Offer

pytestmark = pytest.mark.connected

CART, ORDER = uuid4(), uuid4()
LINES = [("chair", 1), ("table", 1), ("desk", 1)]
FIVE = Adjust(stock=5, action=Action.SET)
WEEK_MS = 7 * 86_400_000
PRICE = PriceEntry(currency="EUR", amount_minor=5)

DEEDS: dict[str, Callable[[StockStore], Awaitable[Any]]] = {
    "adjust": lambda store: store.quantities.adjust("chair", FIVE),
    "adjust with a key": lambda store: store.quantities.adjust("chair", FIVE, key="a-key"),
    "adjust many": lambda store: store.quantities.adjust_many(
        [("chair", FIVE, None), ("desk", FIVE, None)]
    ),
    "put offers": lambda store: store.offers.put([Offer(sku="chair", prices=[PRICE])]),
    "threshold": lambda store: store.quantities.set_threshold("chair", 3),
    "prices": lambda store: store.prices.put("chair", [PRICE]),
    "reserve": lambda store: store.holds.reserve(ORDER, LINES, uuid4()),
    "reserve with a cart": lambda store: store.holds.reserve(ORDER, LINES, uuid4(), taking=CART),
    "commit": lambda store: store.holds.finish("commit", ORDER, LINES, uuid4()),
    "release": lambda store: store.holds.finish("release", ORDER, LINES, uuid4()),
    "return": lambda store: store.holds.finish("return", ORDER, LINES, uuid4()),
    "restock": lambda store: store.holds.restock(ORDER, LINES, uuid4()),
    "hold": lambda store: store.carts.hold(CART, LINES),
    "extend": lambda store: store.carts.extend(CART),
    "give back": lambda store: store.carts.release(CART),
    "what a cart holds": lambda store: store.carts.reservation(CART),
    "level": lambda store: store.quantities.level("chair"),
    "offer": lambda store: store.offers.get("chair"),
    "plan": lambda store: store.prices.plan("chair"),
    "prices in force": lambda store: store.prices.in_force(["chair"]),
    "ledger": lambda store: store.quantities.ledger("chair"),
}


async def keys(redis: Redis, settings: Settings) -> list[str]:
    return [key async for key in redis.scan_iter(f"{settings.key_prefix}*", count=1000)]


@pytest.mark.everywhere
async def test_whatever_is_asked_of_an_empty_redis_waits_and_writes_nothing(
    store: StockStore, redis: Redis, settings: Settings
) -> None:
    for key in await keys(redis, settings):
        await redis.unlink(key)

    refused = []
    for name, deed in DEEDS.items():
        with suppress(StoreIsEmpty):
            await deed(store)
            continue
        refused.append(name)
    await store.holds.expire_due()
    await store.prices.turn_due()

    assert [*DEEDS] == refused
    assert [] == await keys(redis, settings)


@pytest.mark.several
async def test_parts_of_an_order_whose_home_was_lost_are_kept(
    store: StockStore, redis: Redis, settings: Settings
) -> None:
    for sku, _ in LINES:
        await store.quantities.adjust(sku, FIVE)
    order = uuid4()
    while store.slots.home(order) in {store.slots.at(sku) for sku, _ in LINES}:
        order = uuid4()
    await store.holds.reserve(order, LINES, uuid4())
    home = store.slots.home(order).partitions.removesuffix("partitions")
    for key in await keys(redis, settings):
        if key.startswith(home):
            await redis.unlink(key)
    for slot in store.slots:
        for name in await redis.zrange(slot.exp, 0, -1):
            assert name == f"{PART}{order}"
            await redis.zadd(slot.exp, {name: 1})

    with pytest.raises(StoreIsEmpty):
        await store.holds.expire_due()

    assert [(4, 1)] * 3 == [
        (level.available, level.reserved)
        for level in [await store.quantities.level(sku) for sku, _ in LINES]
    ]
    assert [] == [key for key in await keys(redis, settings) if key.startswith(home)]


async def audited(shop: Any) -> dict[Any, Any]:
    audit = Auditor(shop.redis, shop.store.slots, shop.journal, Bounds(units=0, repairs=0))
    async for _ in audit.round():
        pass
    return audit.drifts


@pytest.mark.several
@pytest.mark.parametrize("lost", [range(5), (1, 3)])
async def test_partitions_that_were_lost_are_filled_and_no_others(shop: Any, lost: Any) -> None:
    slots = [shop.store.slots[number] for number in lost]
    await shop.busy(7, 120)
    await shop.books.catch_up()
    assert {} == await audited(shop)
    before = await shop.state()
    for key in await shop.keys():
        if any(key.startswith(slot.partitions.removesuffix("partitions")) for slot in slots):
            await shop.redis.unlink(key)

    await Rebuild(shop.redis, shop.store.slots, shop.journal, keep_ms=WEEK_MS).run(Heard())

    assert before == await shop.state()
    assert len({key.partition(":")[0] for key in before}) > 2
    await shop.store.install.check()
    await shop.bookkeeper().catch_up()
    assert {} == await audited(shop)


class Shop:
    """Stock's processes on a Redis of their own."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    async def start(self, verb: str) -> Process:
        env = os.environ | {
            "STOCK_REDIS_URL": self.settings.redis_url,
            "STOCK_BROKER_URL": self.settings.broker_url,
            "STOCK_DATABASE_URL": self.settings.database_url,
            "STOCK_PROFILE": "test",
        }
        return await asyncio.create_subprocess_exec(sys.executable, "-m", "stock", verb, env=env)

    async def run(self, verb: str) -> None:
        assert 0 == await (await self.start(verb)).wait()

    @asynccontextmanager
    async def running(self, verb: str) -> AsyncIterator[None]:
        process = await self.start(verb)
        try:
            yield
        finally:
            process.terminate()
            await process.wait()

    async def place(self, order: UUID) -> None:
        """Tell stock of an order of one chair."""
        placed = OrderPlacedV1(
            order_id=order,
            lines=[PricedLine(sku="chair", qty=1, name="Chair", unit_minor=1999)],
            total_minor=1999,
            currency="EUR",
            placed_at=datetime.now(UTC),
        )
        event = envelope.new(placed, id=uuid7(), entityversion=1)
        async with connected(self.settings.broker_url, "tests") as connection:
            exchange = await (await confirming(connection)).get_exchange("checkout.events")
            message = aio_pika.Message(envelope.encode(event), content_type=envelope.CONTENT_TYPE)
            await exchange.publish(message, event.meta.key)


async def until(looks: Callable[[], Awaitable[Any]], wanted: Any) -> None:
    seen: Any = None
    try:
        async with asyncio.timeout(120):
            while seen != wanted:
                await asyncio.sleep(0.05)
                with suppress(Unavailable):
                    seen = await looks()
    except TimeoutError:
        assert wanted == seen


async def test_orders_wait_until_an_emptied_redis_was_filled(
    redis_server: Callable[..., Any], new_broker_url: str, tmp_path: Path
) -> None:
    server = redis_server()
    settings = Settings(
        redis_url=server.url,
        redis_timeout=5,
        broker_url=new_broker_url,
        database_url=f"sqlite+aiosqlite:///{tmp_path / 'stock.sqlite'}",
        spool_dir=tmp_path / "spool",
    )
    shop = Shop(settings)
    await shop.run("migrate")
    app = application(settings)
    async with (
        shop.running("worker"),
        listening(app, "127.0.0.1", 0, stop_timeout=1) as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http,
        connect(settings) as redis,
        database(settings.database_url) as sql,
    ):
        store = StockStore(redis)

        async def ready() -> int:
            async with http.get("/readyz") as answer:
                return answer.status

        async def reserved() -> int:
            return (await store.quantities.level("chair")).reserved

        await store.quantities.adjust("chair", FIVE)
        await shop.place(uuid4())
        await until(reserved, 1)
        await until(ready, 200)
        await Bookkeeper(redis, store.slots, Journal(sql), keep_ms=1_000_000).catch_up()
        server.kill()
        shutil.rmtree(server.folder / "appendonlydir")
        server.start()
        await until(ready, 503)
        await shop.place(uuid4())
        async with http.get("/readyz") as answer:
            assert [FILLED] == (await answer.json())["failing"]
        async with http.get("/products/chair/stock") as answer:
            assert 503 == answer.status
            assert "./shop rebuild stock" in (await answer.json())["detail"]
        # nor is it taken for a new one by whoever starts now
        await shop.run("migrate")
        async with shop.running("worker"):
            assert "0" == server.ask("DBSIZE").strip()
            await shop.run("rebuild")
            await until(reserved, 2)
        await until(ready, 200)
        # the connections of `redis` broke with the old server
        async with connect(settings) as again:
            told = [fields["type"] for _, fields in await again.xrange(store.slots[0].outbox)]
    assert 2 == told.count("reservation.held.v1")
    assert 0 == told.count("reservation.rejected.v1")
