"""An event whose handler needs what is away waits for it, however long that takes."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from uuid import uuid4

import pytest
from aio_pika import Message
from aio_pika.abc import AbstractChannel

from bus.broker import confirming, connected
from bus.consumer import consume, consume_batches
from bus.subscription import ATTEMPT_HEADER
from chassis.problems import Unavailable
from shop_contracts import topology
from shop_contracts.envelope import CONTENT_TYPE, Event, encode, new
from shop_contracts.events.base import Fact
from shop_contracts.events.stock import StockChangedV1
from shop_contracts.events.stock.stock_changed_v1 import Cause

pytestmark = pytest.mark.connected

QUEUE = topology.queue("search", "stock")
LAST = list(topology.RETRY_DELAYS)[-1]
DEADLINE = 30


@pytest.fixture(autouse=True)
async def _nothing_waits(broker_url: str) -> AsyncIterator[None]:
    async with connected(broker_url, "test") as connection:
        waiting = await (await connection.channel()).get_queue(topology.retry(QUEUE, LAST))
        await waiting.purge()
        yield
        await waiting.purge()


async def test_an_event_whose_store_is_away_waits_the_last_delay_again(broker_url: str) -> None:
    async def handle(_: None, __: Event[StockChangedV1]) -> None:
        raise Unavailable("The store does not answer.")

    async with connected(broker_url, "test") as connection:
        channel = await confirming(connection)
        await _publish(channel, 1)
        task = asyncio.create_task(
            consume(broker_url, "search", "stock", {StockChangedV1: handle}, None)
        )
        waiting = await _waiting(channel, 1)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    assert 1 == waiting


async def test_a_batch_whose_store_is_away_waits_without_a_try_of_each_event(
    broker_url: str,
) -> None:
    tried: list[int] = []

    async def handle(_: None, events: Sequence[Event[Fact]]) -> None:
        tried.append(len(events))
        raise Unavailable("The store does not answer.")

    async with connected(broker_url, "test") as connection:
        channel = await confirming(connection)
        await _publish(channel, 20)
        task = asyncio.create_task(consume_batches(broker_url, "search", "stock", handle, None))
        waiting = await _waiting(channel, 20)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    assert 20 == waiting
    assert 20 == sum(tried)


async def _publish(channel: AbstractChannel, count: int) -> None:
    """Events that have waited each delay already."""
    for version in range(1, count + 1):
        data = StockChangedV1(sku="AWAY", on_hand=1, reserved=0, available=1, cause=Cause.ADJUSTED)
        event = new(data, id=uuid4(), entityversion=version)
        sent = Message(
            encode(event),
            content_type=CONTENT_TYPE,
            message_id=str(event.meta.id),
            headers={ATTEMPT_HEADER: len(topology.RETRY_DELAYS)},
        )
        await channel.default_exchange.publish(sent, QUEUE)


async def _waiting(channel: AbstractChannel, least: int) -> int:
    """How many events wait the last delay, as soon as so many do."""
    async with asyncio.timeout(DEADLINE):
        while True:
            name = topology.retry(QUEUE, LAST)
            queue = await channel.declare_queue(name, passive=True)
            count = queue.declaration_result.message_count or 0
            if count >= least:
                return count
            await asyncio.sleep(0.05)
