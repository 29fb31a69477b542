"""Relay, consumer, retries, parking and replay on a real RabbitMQ."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import UUID, uuid4

import aio_pika
import msgspec
import pytest
from aio_pika.exceptions import AMQPConnectionError

from bus import replay
from bus.broker import confirming, connected
from bus.consumer import Permanent, consume, consume_batches
from bus.outbox import Entry
from bus.relay import relay
from bus.subscription import ATTEMPT_HEADER
from bus.topology import apply
from shop_contracts import topology
from shop_contracts.envelope import CONTENT_TYPE, Event, encode, new
from shop_contracts.events.base import Fact
from shop_contracts.events.stock import ReservationReleasedV1, StockChangedV1
from shop_contracts.events.stock.stock_changed_v1 import Cause

pytestmark = pytest.mark.connected

DEADLINE = 60


def change(sku: str, version: int) -> Event[StockChangedV1]:
    data = StockChangedV1(
        sku=sku, on_hand=version, reserved=0, available=version, cause=Cause.ADJUSTED
    )
    return new(data, id=uuid4(), entityversion=version)


class ListOutbox:
    """An outbox in memory, so that relay and broker alone are under test."""

    def __init__(self, events: Sequence[Event[Fact]]) -> None:
        self.left = [Entry.of(index, event) for index, event in enumerate(events)]

    async def pending(self, limit: int, behind: Sequence[Entry] = ()) -> Sequence[Entry]:
        if not self.left:
            await asyncio.sleep(0.05)
        return self.left[len(behind) :][:limit]

    async def settle(self, entries: Sequence[Entry]) -> None:
        gone = {entry.ref for entry in entries}
        self.left = [entry for entry in self.left if entry.ref not in gone]

    async def waiting(self) -> tuple[int, None]:
        return len(self.left), None


@asynccontextmanager
async def running(*coroutines: Any) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not holds():
            await asyncio.sleep(0.02)


async def publish(broker_url: str, owner: str, *messages: tuple[str, aio_pika.Message]) -> None:
    async with connected(broker_url, "test") as connection:
        channel = await confirming(connection)
        exchange = await channel.get_exchange(topology.exchange(owner))
        for key, message in messages:
            await exchange.publish(message, routing_key=key)


def message(event: Event[Fact]) -> tuple[str, aio_pika.Message]:
    return event.meta.key, aio_pika.Message(encode(event), content_type=CONTENT_TYPE)


async def parked(broker_url: str, work: str) -> list[aio_pika.abc.AbstractIncomingMessage]:
    """The messages in parking, taken out of it."""
    found = []
    async with connected(broker_url, "test") as connection:
        channel = await connection.channel()
        queue = await channel.get_queue(topology.parking(work))
        async with asyncio.timeout(DEADLINE):
            while not found:
                one = await queue.get(fail=False)
                if one is None:
                    await asyncio.sleep(0.05)
                    continue
                await one.ack()
                found.append(one)
        while (one := await queue.get(fail=False)) is not None:
            await one.ack()
            found.append(one)
    return found


@pytest.fixture(autouse=True)
async def _empty_queues(broker_url: str) -> None:
    async with connected(broker_url, "test") as connection:
        channel = await connection.channel()
        for spec in topology.TOPOLOGY.queues:
            if spec.arguments["x-queue-type"] == "quorum":
                await (await channel.get_queue(spec.name)).purge()


async def test_what_is_in_the_outbox_arrives_once_and_in_order(broker_url: str) -> None:
    sent = [change("A", version) for version in range(1, 1_201)]
    outbox = ListOutbox(sent)
    got: list[int] = []

    async def handler(_: None, event: Event[StockChangedV1]) -> None:
        got.append(event.meta.entityversion)

    async with running(
        relay(broker_url, "stock", outbox),
        consume(broker_url, "search", "stock", {StockChangedV1: handler}, None),
    ):
        await until(lambda: len(got) >= len(sent) and not outbox.left)

    assert [event.meta.entityversion for event in sent] == got


async def test_only_one_relay_of_an_owner_publishes(broker_url: str) -> None:
    first, second = ListOutbox([change("A", 1)]), ListOutbox([change("B", 1)])

    async with running(relay(broker_url, "stock", first)):
        await until(lambda: not first.left)
        async with running(relay(broker_url, "stock", second)):
            await asyncio.sleep(2)
            assert 1 == len(second.left)

    async with running(relay(broker_url, "stock", second)):
        await until(lambda: not second.left)


async def test_what_stands_behind_an_unconfirmed_event_stays_though_it_was_sent(
    new_broker_url: str,
) -> None:
    outbox = ListOutbox([change("A", version) for version in range(1, 1_801)])
    lost = outbox.left[700]
    meta = msgspec.structs.replace(lost.meta, type="shop.nobody.cares.v1")
    outbox.left[700] = msgspec.structs.replace(lost, meta=meta)

    async with connected(new_broker_url, "test") as connection:
        channel = await connection.channel()
        log = await channel.get_queue(topology.log("stock"))
        await log.unbind(topology.exchange("stock"), "#")
        async with running(relay(new_broker_url, "stock", outbox)):
            await until(lambda: len(outbox.left) <= 1_100)
            # it goes on trying
            await asyncio.sleep(2)

    assert list(range(700, 1_800)) == [entry.ref for entry in outbox.left]


async def test_an_event_that_cannot_be_sent_repeats_none_of_those_before_it(
    broker_url: str,
) -> None:
    outbox = ListOutbox([change("A", version) for version in range(1, 602)])
    bad = outbox.left[600]
    meta = msgspec.structs.replace(bad.meta, correlationid="too long " * 100)
    outbox.left[600] = msgspec.structs.replace(bad, meta=meta)
    got: list[int] = []

    async def handler(_: None, event: Event[StockChangedV1]) -> None:
        got.append(event.meta.entityversion)

    async with running(
        relay(broker_url, "stock", outbox),
        consume(broker_url, "search", "stock", {StockChangedV1: handler}, None),
    ):
        await until(lambda: len(got) >= 500 and len(outbox.left) <= 101)
        # it goes on trying
        await asyncio.sleep(2)

    assert list(range(1, 501)) == got
    assert list(range(500, 601)) == [entry.ref for entry in outbox.left]


async def test_what_is_on_its_way_when_a_relay_stops_is_still_settled(broker_url: str) -> None:
    outbox = ListOutbox([change("A", version) for version in range(1, 101)])
    original, begun, stopped = outbox.settle, asyncio.Event(), asyncio.Event()

    async def settle(entries: Sequence[Entry]) -> None:
        begun.set()
        await stopped.wait()
        await original(entries)

    outbox.settle = settle  # type: ignore[method-assign]  # when it settles is under test
    task = asyncio.create_task(relay(broker_url, "stock", outbox))
    await begun.wait()
    task.cancel()
    asyncio.get_running_loop().call_soon(stopped.set)
    await asyncio.wait([task])

    assert task.cancelled()
    assert [] == outbox.left


async def test_a_node_of_the_broker_that_is_down_is_passed_over(broker_url: str) -> None:
    nobody = "amqp://guest:guest@127.0.0.1:1/shop"
    for addresses in (f"{nobody},{broker_url}", f"{broker_url},{nobody}"):
        for _ in range(4):
            async with connected(addresses, "test") as connection:
                assert not connection.is_closed
    with pytest.raises(AMQPConnectionError):
        async with connected(f"{nobody},{nobody}", "test"):
            pass


class DeafOutbox(ListOutbox):
    """Its driver swallows a cancellation, as `wait_for` of Python 3.11 does at times."""

    async def pending(self, limit: int, behind: Sequence[Entry] = ()) -> Sequence[Entry]:
        del limit, behind
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0.05)
        return []


async def test_a_relay_stops_though_its_driver_swallows_the_cancellation(broker_url: str) -> None:
    task = asyncio.create_task(relay(broker_url, "stock", DeafOutbox([])))
    await asyncio.sleep(1)
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=DEADLINE)

    assert {task} == done


async def test_a_relay_whose_connection_is_cut_goes_on_from_the_first_unconfirmed(
    broker_url: str,
) -> None:
    sent = [change("A", version) for version in range(1, 3_001)]
    outbox = ListOutbox(sent)
    settled = 0
    original = outbox.settle

    async def settle(entries: Sequence[Entry]) -> None:
        nonlocal settled
        await original(entries)
        settled += len(entries)
        if settled == len(entries):
            raise ConnectionError("cut")

    outbox.settle = settle  # type: ignore[method-assign]  # the cut is what is under test
    seen: set[UUID] = set()

    async def handler(_: None, event: Event[StockChangedV1]) -> None:
        seen.add(event.meta.id)

    async with running(
        relay(broker_url, "stock", outbox),
        consume(broker_url, "search", "stock", {StockChangedV1: handler}, None),
    ):
        await until(lambda: len(seen) == len(sent))

    assert {event.meta.id for event in sent} == seen


async def test_a_subject_is_handled_in_order_while_others_go_on(broker_url: str) -> None:
    release = asyncio.Event()
    got: list[tuple[str, int]] = []

    async def handler(_: None, event: Event[StockChangedV1]) -> None:
        if event.meta.subject == "SLOW":
            await release.wait()
        got.append((event.meta.subject, event.meta.entityversion))

    await publish(
        broker_url,
        "stock",
        *(message(change(sku, version)) for version in (1, 2, 3) for sku in ("SLOW", "QUICK")),
    )
    async with running(consume(broker_url, "search", "stock", {StockChangedV1: handler}, None)):
        await until(lambda: len(got) == 3)
        assert [("QUICK", 1), ("QUICK", 2), ("QUICK", 3)] == got
        release.set()
        await until(lambda: len(got) == 6)

    assert [("SLOW", 1), ("SLOW", 2), ("SLOW", 3)] == got[3:]


async def test_a_failed_event_waits_and_comes_back(broker_url: str) -> None:
    attempts: list[UUID] = []

    async def handler(_: None, event: Event[StockChangedV1]) -> None:
        attempts.append(event.meta.id)
        if len(attempts) == 1:
            raise ConnectionError("the store is away")

    sent = change("A", 1)
    await publish(broker_url, "stock", message(sent))
    async with running(consume(broker_url, "search", "stock", {StockChangedV1: handler}, None)):
        await until(lambda: len(attempts) == 2)

    assert [sent.meta.id, sent.meta.id] == attempts


async def test_after_the_last_attempt_an_event_is_parked(broker_url: str) -> None:
    async def handler(_: None, event: Event[StockChangedV1]) -> None:
        raise ConnectionError("the store is away")

    key, sent = message(change("A", 1))
    sent.headers[ATTEMPT_HEADER] = len(topology.RETRY_DELAYS)
    await publish(broker_url, "stock", (key, sent))
    async with running(consume(broker_url, "search", "stock", {StockChangedV1: handler}, None)):
        found = await parked(broker_url, "search.stock")

    assert [sent.body] == [one.body for one in found]


async def test_poison_is_parked_at_once_and_holds_nobody_up(broker_url: str) -> None:
    got: list[str] = []

    async def handler(_: None, event: Event[StockChangedV1]) -> None:
        if event.meta.subject == "BAD":
            raise Permanent("this can never work")
        got.append(event.meta.subject)

    await publish(
        broker_url,
        "stock",
        ("stock.changed.v1", aio_pika.Message(b"{not json", content_type=CONTENT_TYPE)),
        message(change("BAD", 1)),
        message(change("GOOD", 1)),
    )
    async with running(consume(broker_url, "search", "stock", {StockChangedV1: handler}, None)):
        await until(lambda: got == ["GOOD"])
        found: list[Any] = []
        while len(found) < 2:
            found += await parked(broker_url, "search.stock")

    assert 2 == len(found)


async def test_a_type_without_a_handler_is_acked(broker_url: str) -> None:
    got: list[str] = []

    async def handler(_: None, event: Event[StockChangedV1]) -> None:
        got.append(event.meta.subject)

    released = new(ReservationReleasedV1(order_id=uuid4(), lines=[]), id=uuid4(), entityversion=1)
    await publish(broker_url, "stock", message(released), message(change("A", 1)))
    async with running(consume(broker_url, "checkout", "stock", {}, None)):
        pass
    async with running(consume(broker_url, "search", "stock", {StockChangedV1: handler}, None)):
        await until(lambda: got == ["A"])


async def test_a_batch_is_acked_together(broker_url: str) -> None:
    sizes: list[int] = []

    async def handler(_: None, events: Sequence[Event[Fact]]) -> None:
        sizes.append(len(events))

    await publish(broker_url, "stock", *(message(change("A", version)) for version in range(300)))
    async with running(consume_batches(broker_url, "search", "stock", handler, None, size=100)):
        await until(lambda: sum(sizes) == 300)

    assert max(sizes) > 1
    async with connected(broker_url, "test") as connection:
        queue = await (await connection.channel()).get_queue("search.stock")
        state = await queue.channel.declare_queue(queue.name, passive=True)

        assert 0 == state.declaration_result.message_count


async def test_in_a_failing_batch_only_the_culprit_waits(broker_url: str) -> None:
    good: list[str] = []

    async def handler(_: None, events: Sequence[Event[Fact]]) -> None:
        if any(event.meta.subject == "BAD" for event in events):
            raise Permanent("this can never work")
        good.extend(event.meta.subject for event in events)

    await publish(broker_url, "stock", *(message(change(sku, 1)) for sku in ("A", "BAD", "B", "C")))
    async with running(consume_batches(broker_url, "search", "stock", handler, None)):
        await until(lambda: len(good) == 3)
        found = await parked(broker_url, "search.stock")

    assert ["A", "B", "C"] == sorted(good)
    assert 1 == len(found)


async def test_the_handler_in_hand_ends_before_the_consumer_does(broker_url: str) -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    async def handler(_: None, event: Event[StockChangedV1]) -> None:
        started.set()
        await asyncio.sleep(0.5)
        ended.set()

    await publish(broker_url, "stock", message(change("A", 1)))
    async with running(consume(broker_url, "search", "stock", {StockChangedV1: handler}, None)):
        await started.wait()

    assert ended.is_set()


async def test_the_stream_keeps_every_event_for_whoever_comes_later(broker_url: str) -> None:
    sku = f"LOG-{uuid4()}"
    await publish(broker_url, "stock", *(message(change(sku, version)) for version in (1, 2, 3)))

    seen: list[replay.Logged] = []
    async with asyncio.timeout(DEADLINE):
        async for logged in replay.follow(broker_url, "stock"):
            if logged.event.meta.subject == sku:
                seen.append(logged)
            if len(seen) == 3:
                break
        async for logged in replay.follow(broker_url, "stock", seen[1].offset):
            again = logged
            break

    assert [1, 2, 3] == [logged.event.meta.entityversion for logged in seen]
    assert seen[1] == again


async def test_applying_the_topology_twice_changes_nothing(broker_url: str) -> None:
    await apply(broker_url)
