"""An event whose handler needs what is away waits for it, however long that takes."""

import asyncio
from contextlib import suppress

import pytest
from aio_pika import Message
from aio_pika.abc import AbstractChannel

from bus.broker import confirming, connected
from bus.consumer import consume
from bus.subscription import ATTEMPT_HEADER
from chassis.problems import Unavailable
from shop_contracts import topology
from shop_contracts.envelope import CONTENT_TYPE, Event, derived_id, encode, new
from shop_contracts.events.stock import StockChangedV1
from shop_contracts.events.stock.stock_changed_v1 import Cause

pytestmark = pytest.mark.connected

QUEUE = topology.queue("search", "stock")
LAST = list(topology.RETRY_DELAYS)[-1]
DEADLINE = 30


async def test_an_event_whose_store_is_away_waits_the_last_delay_again(broker_url: str) -> None:
    data = StockChangedV1(sku="AWAY", on_hand=1, reserved=0, available=1, cause=Cause.ADJUSTED)
    event = new(data, id=derived_id("away", "1"), entityversion=1)

    async def handle(_: None, __: Event[StockChangedV1]) -> None:
        raise Unavailable("The store does not answer.")

    async with connected(broker_url, "test") as connection:
        channel = await confirming(connection)
        sent = Message(
            encode(event),
            content_type=CONTENT_TYPE,
            message_id=str(event.meta.id),
            headers={ATTEMPT_HEADER: len(topology.RETRY_DELAYS)},
        )
        await channel.default_exchange.publish(sent, QUEUE)
        task = asyncio.create_task(
            consume(broker_url, "search", "stock", {StockChangedV1: handle}, None)
        )
        waiting = await _waiting(channel)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    assert 1 == waiting


async def _waiting(channel: AbstractChannel) -> int:
    """How many events wait the last delay, as soon as one does."""
    async with asyncio.timeout(DEADLINE):
        while True:
            name = topology.retry(QUEUE, LAST)
            queue = await channel.declare_queue(name, passive=True)
            if count := queue.declaration_result.message_count:
                return count
            await asyncio.sleep(0.05)
