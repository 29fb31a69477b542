"""The worker on a real broker: what the owners publish is soon found."""

import asyncio
from contextlib import suppress
from typing import Any

import aio_pika
import pytest

from bus.broker import confirming, connected, publish
from search.app import follow
from shop_contracts import topology
from shop_contracts.envelope import CONTENT_TYPE, encode

pytestmark = pytest.mark.connected

DEADLINE_SECONDS = 30


async def send(broker_url: str, *events: Any) -> None:
    async with connected(broker_url, "test") as connection:
        channel = await confirming(connection)
        for event in events:
            owner = event.meta.source.removeprefix("/")
            exchange = await channel.get_exchange(topology.exchange(owner))
            message = aio_pika.Message(encode(event), content_type=CONTENT_TYPE)
            await publish(exchange, message, event.meta.key)


async def until_found(shop: Any, total: int, **query: Any) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while total != (await shop.find(**query))["total"]:
            await asyncio.sleep(0.02)


async def test_events_of_both_owners_are_found_without_a_refresh_of_ours(
    shop: Any, say: Any, broker_url: str
) -> None:
    names = [f"boots{number}" for number in range(250)]
    task = asyncio.create_task(follow(broker_url, shop.store))
    try:
        await send(broker_url, *(say.stock(name, 1) for name in names))
        await send(broker_url, *(say.published(name) for name in names))
        await until_found(shop, 250, in_stock="true")
        await send(broker_url, say.stock(names[0], 0, version=2), say.withdrawn(names[1], 2))
        await until_found(shop, 248, in_stock="true")
        await until_found(shop, 1, in_stock="false")
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_what_was_published_while_nobody_listened_is_found_later(
    shop: Any, say: Any, broker_url: str
) -> None:
    await send(broker_url, say.published("late"), say.price("late", 700))
    task = asyncio.create_task(follow(broker_url, shop.store))
    try:
        await until_found(shop, 1, price_max=700)
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
