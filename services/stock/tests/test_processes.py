"""Worker and relay as processes of their own, between the real Redis and the real broker."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import Process
from datetime import UTC, datetime

import aio_pika
import pytest
from aio_pika.abc import AbstractIncomingMessage
from redis.asyncio import Redis
from uuid_utils.compat import uuid7

from shop_contracts import envelope
from shop_contracts.events.checkout import OrderPlacedV1
from shop_contracts.events.stock import StockChangedV1
from shop_contracts.types import PricedLine
from stock.domain import Action, Adjust
from stock.settings import Settings
from stock.store import StockStore

pytestmark = pytest.mark.connected

CHANGES = 1_000
SKUS = 10


async def start(process: str, settings: Settings, broker_url: str) -> Process:
    env = os.environ | {
        "STOCK_REDIS_URL": settings.redis_url,
        "STOCK_BROKER_URL": broker_url,
        "STOCK_KEY_PREFIX": settings.key_prefix,
        "STOCK_PARTITIONS": str(settings.partitions),
        "STOCK_REDIS_TIMEOUT": "10",
        "STOCK_PROFILE": "test",
    }
    return await asyncio.create_subprocess_exec(sys.executable, "-m", "stock", process, env=env)


async def test_a_killed_relay_loses_no_event_of_1000_changes(
    store: StockStore, redis: Redis, settings: Settings, broker_url: str
) -> None:
    versions: dict[str, list[int]] = {f"relay-{i}": [] for i in range(SKUS)}
    seen: set[str] = set()
    connection = await aio_pika.connect(broker_url)
    async with connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(exclusive=True)
        await queue.bind(await channel.get_exchange("stock.events"), "stock.changed.v1")

        async def change(numbers: range) -> None:
            for i in numbers:
                await store.quantities.adjust(
                    f"relay-{i % SKUS}", Adjust(stock=1, action=Action.INCREMENT)
                )

        async def take(message: AbstractIncomingMessage) -> None:
            event = envelope.decode(message.body)
            if message.message_id in seen or event.meta.subject not in versions:
                return  # a repeated event counts once
            assert isinstance(event.data, StockChangedV1)
            assert event.data.on_hand == event.meta.entityversion
            seen.add(str(event.meta.id))
            versions[event.meta.subject].append(event.meta.entityversion)

        async def until(count: int) -> None:
            async with asyncio.timeout(60):
                while len(seen) < count:
                    await asyncio.sleep(0.02)

        await queue.consume(take, no_ack=True)
        relay = await start("relay", settings, broker_url)
        changing = asyncio.create_task(change(range(CHANGES // 2)))
        try:
            await until(CHANGES // 5)
            relay.send_signal(signal.SIGKILL)
            await relay.wait()
            relay = await start("relay", settings, broker_url)
            await changing
            await change(range(CHANGES // 2, CHANGES))
            await until(CHANGES)
            async with asyncio.timeout(90):
                for slot in store.slots:
                    while await redis.xlen(slot.outbox):
                        await asyncio.sleep(0.05)
            relay.terminate()

            assert 0 == await relay.wait()
        finally:
            if relay.returncode is None:
                relay.kill()
                await relay.wait()

    each = CHANGES // SKUS
    assert {sku: list(range(1, each + 1)) for sku in versions} == versions


async def test_the_worker_holds_an_order_that_was_placed_and_stops_when_asked(
    store: StockStore, settings: Settings, broker_url: str
) -> None:
    await store.quantities.adjust("chair", Adjust(stock=5, action=Action.SET))
    order = OrderPlacedV1(
        order_id=uuid7(),
        lines=[PricedLine(sku="chair", qty=2, name="Chair", unit_minor=1999)],
        total_minor=3998,
        currency="EUR",
        placed_at=datetime.now(UTC),
    )
    event = envelope.new(order, id=uuid7(), entityversion=1)
    worker = await start("worker", settings, broker_url)
    try:
        async with await aio_pika.connect(broker_url) as connection:
            exchange = await (await connection.channel()).get_exchange("checkout.events")
            for _ in range(2):
                message = aio_pika.Message(
                    envelope.encode(event), content_type=envelope.CONTENT_TYPE
                )
                await exchange.publish(message, routing_key=event.meta.key)
        async with asyncio.timeout(90):
            while (await store.quantities.level("chair")).reserved != 2:
                await asyncio.sleep(0.05)
        worker.terminate()

        assert 0 == await worker.wait()
    finally:
        if worker.returncode is None:
            worker.kill()
            await worker.wait()
    assert 2 == (await store.quantities.level("chair")).version
