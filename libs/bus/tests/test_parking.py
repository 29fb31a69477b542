"""What cannot be worked is put aside with its reason, and goes back to its own consumer only."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import uuid4

import aio_pika
import pytest

from bus import parking
from bus.broker import confirming, connected
from bus.consumer import Permanent, consume, consume_batches
from bus.parking import Parked
from bus.subscription import ATTEMPT_HEADER
from shop_contracts import topology
from shop_contracts.envelope import CONTENT_TYPE, Event, encode, new
from shop_contracts.events.base import Fact
from shop_contracts.events.stock import PriceChangedV1, StockChangedV1
from shop_contracts.events.stock.stock_changed_v1 import Cause

pytestmark = pytest.mark.connected

DEADLINE = 30
QUEUE = "search.stock"
GOOD, BAD = 400, 40


def change(sku: str) -> Event[StockChangedV1]:
    data = StockChangedV1(sku=sku, on_hand=1, reserved=0, available=1, cause=Cause.ADJUSTED)
    return new(data, id=uuid4(), entityversion=1)


def message(event: Event[Fact], **headers: Any) -> aio_pika.Message:
    return aio_pika.Message(
        encode(event),
        content_type=CONTENT_TYPE,
        message_id=str(event.meta.id),
        type=event.meta.type,
        timestamp=event.meta.time,
        headers=headers,
    )


async def publish(
    broker_url: str, *messages: aio_pika.Message, key: str = "stock.changed.v1"
) -> None:
    async with connected(broker_url, "test") as connection:
        exchange = await (await confirming(connection)).get_exchange("stock.events")
        await asyncio.gather(*(exchange.publish(one, routing_key=key) for one in messages))


async def until(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not holds():
            await asyncio.sleep(0.02)


async def parked(broker_url: str, count: int, queue: str = QUEUE) -> list[Parked]:
    """What is parked, once there are so many."""
    async with asyncio.timeout(DEADLINE):
        while True:
            async with parking.opened(broker_url, queue, 1_000) as held:
                if len(held) >= count:
                    return [one.parked for one in held]
            await asyncio.sleep(0.1)


async def ready(broker_url: str, queue: str) -> int:
    async with connected(broker_url, "test") as connection:
        declared = await (await connection.channel()).declare_queue(queue, passive=True)
        return declared.declaration_result.message_count or 0


@asynccontextmanager
async def running(coroutine: Any) -> AsyncIterator[None]:
    task = asyncio.create_task(coroutine)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.fixture(autouse=True)
async def _empty_queues(broker_url: str) -> AsyncIterator[None]:
    async def purge() -> None:
        async with connected(broker_url, "test") as connection:
            channel = await connection.channel()
            for spec in topology.TOPOLOGY.queues:
                if spec.arguments["x-queue-type"] == "quorum":
                    await (await channel.get_queue(spec.name)).purge()

    await purge()
    yield
    await purge()


async def test_each_is_parked_with_its_reason(broker_url: str) -> None:
    async def handler(_: None, event: Event[StockChangedV1]) -> None:
        if event.meta.subject == "REFUSED":
            raise Permanent("stock and checkout disagree")
        raise ConnectionError("the store is away")

    sent = [
        message(change("REFUSED")),
        message(change("TIRED"), **{ATTEMPT_HEADER: len(topology.RETRY_DELAYS)}),
        aio_pika.Message(b"{no json", content_type=CONTENT_TYPE, message_id="m"),
        aio_pika.Message(
            encode(change("A")).replace(b"stock.changed.v1", b"stock.changed.v9"),
            content_type=CONTENT_TYPE,
            message_id="u",
        ),
    ]
    await publish(broker_url, *sent)
    async with running(consume(broker_url, "search", "stock", {StockChangedV1: handler}, None)):
        found = {one.id: one for one in await parked(broker_url, 4)}

    assert {
        str(sent[0].message_id): "permanent",
        str(sent[1].message_id): "exhausted",
        "m": "malformed",
        "u": "unknown-type",
    } == {id_: one.reason for id_, one in found.items()}
    assert "stock and checkout disagree" in found[str(sent[0].message_id)].error
    assert "the store is away" in found[str(sent[1].message_id)].error
    assert sent[0].body == found[str(sent[0].message_id)].body


async def test_looking_takes_nothing_out(broker_url: str) -> None:
    async def handler(_: None, event: Event[StockChangedV1]) -> None:
        raise Permanent("no")

    await publish(broker_url, *(message(change(f"A{n}")) for n in range(5)))
    async with running(consume(broker_url, "search", "stock", {StockChangedV1: handler}, None)):
        first = await parked(broker_url, 5)

    assert first == await parked(broker_url, 5)


async def test_what_kills_its_consumer_each_time_is_parked_by_the_broker(broker_url: str) -> None:
    sent = message(change("KILLER"))
    await publish(broker_url, sent)
    async with asyncio.timeout(DEADLINE):
        while not await ready(broker_url, topology.parking(QUEUE)):
            async with connected(broker_url, "test") as connection:
                queue = await (await connection.channel()).get_queue(QUEUE)
                await queue.get(fail=False)

    (found,) = await parked(broker_url, 1)
    assert (sent.message_id, parking.DELIVERED_TOO_OFTEN) == (found.id, found.reason)


async def one_by_one(broker_url: str, handle: Callable[[str], None]) -> None:
    async def handler(_: None, event: Event[StockChangedV1]) -> None:
        handle(event.meta.subject)

    await consume(broker_url, "search", "stock", {StockChangedV1: handler}, None)


async def in_batches(broker_url: str, handle: Callable[[str], None]) -> None:
    async def handler(_: None, events: Sequence[Event[Fact]]) -> None:
        for event in events:
            handle(event.meta.subject)

    await consume_batches(broker_url, "search", "stock", handler, None)


@pytest.mark.parametrize("way", [one_by_one, in_batches])
async def test_poison_never_holds_up_its_neighbours(way: Any, broker_url: str) -> None:
    done: set[str] = set()

    def handle(subject: str) -> None:
        if subject.startswith("BAD"):
            raise Permanent("poison")
        done.add(subject)

    every = GOOD // BAD
    sent = [
        message(change(f"BAD-{n}" if n % every == 0 else f"GOOD-{n}")) for n in range(GOOD + BAD)
    ]
    garbage = aio_pika.Message(b"\xff", content_type=CONTENT_TYPE)
    good = {f"GOOD-{n}" for n in range(GOOD + BAD) if n % every}
    await publish(broker_url, garbage, *sent, garbage)
    async with running(way(broker_url, handle)):
        await until(lambda: done == good)
        found = await parked(broker_url, GOOD + BAD - len(good) + 2)

    assert {"permanent", "malformed"} == {one.reason for one in found}
    assert 0 == await ready(broker_url, QUEUE)


async def test_what_is_sent_back_reaches_its_own_consumer_and_no_other(broker_url: str) -> None:
    price = new(PriceChangedV1(sku="A", prices=[]), id=uuid4(), entityversion=1)
    healed = False
    done: list[str] = []

    async def handler(_: None, event: Event[PriceChangedV1]) -> None:
        if not healed:
            raise Permanent("not yet")
        done.append(str(event.meta.id))

    await publish(broker_url, message(price), key="price.changed.v1")
    async with running(consume(broker_url, "search", "stock", {PriceChangedV1: handler}, None)):
        await parked(broker_url, 1)
        others = await ready(broker_url, "checkout.stock")
        healed = True
        async with parking.opened(broker_url, QUEUE, 10) as held:
            for one in held:
                await one.send_back()
        await until(lambda: done)

    assert [str(price.meta.id)] == done
    assert 1 == others
    assert others == await ready(broker_url, "checkout.stock")
    assert 0 == await ready(broker_url, topology.parking(QUEUE))


async def test_what_is_dropped_is_gone_and_the_rest_stays(broker_url: str) -> None:
    async def handler(_: None, event: Event[StockChangedV1]) -> None:
        raise Permanent("no")

    sent = [message(change(f"A{n}")) for n in range(3)]
    await publish(broker_url, *sent)
    async with running(consume(broker_url, "search", "stock", {StockChangedV1: handler}, None)):
        await parked(broker_url, 3)
    async with parking.opened(broker_url, QUEUE, 10) as held:
        await next(one for one in held if one.parked.id == sent[1].message_id).drop()

    left = {one.id for one in await parked(broker_url, 2)}
    assert {sent[0].message_id, sent[2].message_id} == left
