"""The relay as a process of its own: every change reaches the broker, also when it is killed."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import Process

import aio_pika
import pytest
from aio_pika.abc import AbstractIncomingMessage
from redis.asyncio import Redis

from shop_contracts.envelope import decode
from shop_contracts.events.stock import StockChangedV1
from stock.domain import Action, Adjust
from stock.settings import Settings
from stock.store import StockStore

pytestmark = pytest.mark.connected

CHANGES = 1_000
SKUS = 10


async def start(settings: Settings, broker_url: str) -> Process:
    env = os.environ | {
        "STOCK_REDIS_URL": settings.redis_url,
        "STOCK_BROKER_URL": broker_url,
        "STOCK_KEY_PREFIX": settings.key_prefix,
        "STOCK_REDIS_TIMEOUT": "10",
        "STOCK_PROFILE": "test",
    }
    return await asyncio.create_subprocess_exec(sys.executable, "-m", "stock", "relay", env=env)


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

        async def change() -> None:
            for i in range(CHANGES):
                await store.adjust(f"relay-{i % SKUS}", Adjust(stock=1, action=Action.INCREMENT))

        async def take(message: AbstractIncomingMessage) -> None:
            event = decode(message.body)
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
        relay = await start(settings, broker_url)
        changing = asyncio.create_task(change())
        try:
            await until(CHANGES // 5)
            relay.send_signal(signal.SIGKILL)
            await relay.wait()
            relay = await start(settings, broker_url)
            await changing
            await until(CHANGES)
            async with asyncio.timeout(30):
                while await redis.xlen(store.outbox):
                    await asyncio.sleep(0.05)
            relay.terminate()

            assert 0 == await relay.wait()
        finally:
            if relay.returncode is None:
                relay.kill()
                await relay.wait()

    each = CHANGES // SKUS
    assert {sku: list(range(1, each + 1)) for sku in versions} == versions
