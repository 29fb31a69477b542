"""A consumer's events dealt out to partitions: each subject has one, and each has one consumer."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import uuid4

import aio_pika
import pytest

from bus import parking, subscription
from bus.broker import confirming, connected
from bus.consumer import Permanent, consume, consume_batches
from bus.partitions import Busy
from bus.share import Share
from bus.topology import apply, partitions_in
from shop_contracts import topology
from shop_contracts.envelope import CONTENT_TYPE, Event, encode, new
from shop_contracts.events.base import Fact
from shop_contracts.events.stock import StockChangedV1
from shop_contracts.events.stock.stock_changed_v1 import Cause

DEADLINE = 60
WORK = topology.queue("search", "stock")
SKUS = [f"P-{n}" for n in range(40)]
Seen = list[tuple[str, int]]


def change(sku: str, version: int) -> Event[StockChangedV1]:
    data = StockChangedV1(
        sku=sku, on_hand=version, reserved=0, available=version, cause=Cause.ADJUSTED
    )
    return new(data, id=uuid4(), entityversion=version)


async def publish(url: str, versions: Sequence[int], skus: Sequence[str] = SKUS) -> None:
    """Each of these versions of each SKU, as the owner does."""
    async with connected(url, "test") as connection:
        exchange = await (await confirming(connection)).get_exchange(topology.exchange("stock"))
        for version in versions:
            await asyncio.gather(*(exchange.publish(*_sent(sku, version)) for sku in skus))


def _sent(sku: str, version: int) -> tuple[aio_pika.Message, str]:
    event = change(sku, version)
    headers: Any = {"partitionkey": sku}
    sent = aio_pika.Message(
        encode(event),
        content_type=CONTENT_TYPE,
        message_id=str(event.meta.id),
        headers=headers,
    )
    return sent, event.meta.key


async def ready(url: str, *names: str) -> list[int]:
    """How many messages wait in each of these queues."""
    async with connected(url, "test") as connection:
        channel = await connection.channel()
        found = [await channel.declare_queue(name, passive=True) for name in names]
        return [queue.declaration_result.message_count or 0 for queue in found]


def partitions(count: int) -> list[str]:
    return [topology.partition(WORK, number) for number in range(count)]


def a_process(url: str, seen: Seen, count: int, pace: float = 0.0) -> Any:
    """A consumer of all partitions, as one process has it."""

    async def handler(seen: Seen, event: Event[StockChangedV1]) -> None:
        await asyncio.sleep(pace)
        seen.append((event.meta.subject, event.meta.entityversion))

    handlers = {StockChangedV1: handler}
    return consume(url, "search", "stock", handlers, seen, partitions=count)


@asynccontextmanager
async def running(coroutine: Any) -> AsyncIterator[None]:
    task = asyncio.create_task(coroutine)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not holds():
            await asyncio.sleep(0.02)


def in_order(seen: Seen, last: int) -> bool:
    """Whether each SKU has all its versions, each for the first time in its place."""
    versions: dict[str, list[int]] = defaultdict(list)
    for sku, version in seen:
        if version not in versions[sku]:
            versions[sku].append(version)
    return versions == {sku: list(range(1, last + 1)) for sku in SKUS}


@pytest.mark.connected
async def test_a_subject_has_one_partition_and_all_partitions_have_subjects(
    new_broker_url: str,
) -> None:
    await apply(new_broker_url, partitions={"search": 3})
    await publish(new_broker_url, [1, 2])

    waiting = await ready(new_broker_url, WORK, *partitions(3))
    assert 0 == waiting[0]
    assert 2 * len(SKUS) == sum(waiting)
    # both versions of a SKU are in one, so each holds an even number
    assert all(count and count % 2 == 0 for count in waiting[1:])


@pytest.mark.connected
async def test_a_single_active_consumer_works_alone_until_another_takes_over_in_order(
    new_broker_url: str,
) -> None:
    await apply(new_broker_url, partitions={"search": 1})
    first: Seen = []
    second: Seen = []
    async with running(a_process(new_broker_url, first, 1)):
        await publish(new_broker_url, [1])
        await until(lambda: len(first) == len(SKUS))
        async with running(a_process(new_broker_url, second, 1)):
            await publish(new_broker_url, [2, 3])
            await until(lambda: len(first) == 3 * len(SKUS))
            assert [] == second
    async with running(a_process(new_broker_url, second, 1)):
        await publish(new_broker_url, [4])
        await until(lambda: len(second) == len(SKUS))

    assert in_order(first + second, 4)


@pytest.mark.connected
async def test_a_process_leaves_what_is_beyond_its_share_to_the_next_in_order(
    new_broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscription, "WATCH_SECONDS", 0.3)
    await apply(new_broker_url, partitions={"search": 4})
    seen: Seen = []
    by_second: Seen = []

    class Both(list[tuple[str, int]]):
        def append(self, one: tuple[str, int]) -> None:
            seen.append(one)
            by_second.append(one)

    version = 1
    async with running(a_process(new_broker_url, seen, 4, pace=0.01)):
        await publish(new_broker_url, [version])
        await until(lambda: len(seen) == len(SKUS))
        async with (
            running(a_process(new_broker_url, Both(), 4, pace=0.01)),
            asyncio.timeout(DEADLINE),
        ):
            # all go on meanwhile; half of the partitions are enough
            while len({_ for _, at in by_second if at > version - 3}) < len(SKUS) // 4:
                version += 1
                await publish(new_broker_url, [version])
            await until(lambda: len(set(seen)) == version * len(SKUS))
        # and all of it comes back when the second one ends
        await publish(new_broker_url, [version + 1])
        await until(lambda: len(set(seen)) == (version + 1) * len(SKUS))

    assert in_order(seen, version + 1)


def test_a_share_is_what_all_processes_have_rounded_up() -> None:
    share = Share("work", 5)
    for queue in ("work", *"abcde"):
        share.works(queue)

    assert not share.too_many("a", consumers=1)
    assert not share.too_many("work", consumers=2)
    assert [True, True] == [share.too_many(queue, consumers=1) for queue in "ab"]
    share.left("a")
    share.left("b")
    assert [False, False, False] == [share.too_many(queue, consumers=1) for queue in "cde"]
    # who only stands by leaves nothing
    assert not share.too_many("a", consumers=1)


@pytest.mark.connected
async def test_what_lies_in_old_queues_goes_into_the_new_ones_in_order(
    new_broker_url: str,
) -> None:
    url, last = new_broker_url, 0
    for count, stands in ((2, 0), (5, 2), (3, 5), (0, 3), (4, 0)):
        await publish(url, [last + 1, last + 2])
        last += 2
        before = await ready(url, *([WORK] if not stands else partitions(stands)))
        assert last * len(SKUS) == sum(before)
        await apply(url, partitions={"search": count})
        after = await ready(url, *([WORK] if not count else partitions(count)))
        assert last * len(SKUS) == sum(after)
        # what is not one of them is gone, and a second time changes nothing
        await apply(url, partitions={"search": count})
        assert after == await ready(url, *([WORK] if not count else partitions(count)))
        with pytest.raises(aio_pika.exceptions.ChannelNotFoundEntity):
            await ready(url, topology.partition(WORK, count))

    seen: Seen = []
    async with running(a_process(url, seen, 4)):
        await until(lambda: len(seen) == last * len(SKUS))
    assert in_order(seen, last)


@pytest.mark.connected
async def test_partitions_do_not_change_under_those_who_work(new_broker_url: str) -> None:
    await publish(new_broker_url, [1])
    seen: Seen = []
    async with running(a_process(new_broker_url, seen, 0)):
        await until(lambda: len(seen) == len(SKUS))
        with pytest.raises(Busy, match="consumes"):
            await apply(new_broker_url, partitions={"search": 2})
    async with connected(new_broker_url, "test") as connection:
        channel = await connection.channel()
        await channel.declare_queue(topology.relay_lease("stock"), exclusive=True)
        with pytest.raises(Busy, match="relay of stock"):
            await apply(new_broker_url, partitions={"search": 2})
    await publish(new_broker_url, [2])

    assert [len(SKUS)] == await ready(new_broker_url, WORK)


@pytest.mark.connected
async def test_a_move_that_broke_off_is_ended_the_next_time(
    new_broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await apply(new_broker_url, partitions={"search": 2})
    await publish(new_broker_url, [1, 2, 3])

    with monkeypatch.context() as patch:
        calls = 0

        async def breaks(*arguments: Any) -> None:
            nonlocal calls
            calls += 1
            if calls == 3:
                raise ConnectionError("the broker is gone")
            await moves(*arguments)

        moves = apply.__globals__["arrange"].__globals__["_move"]
        patch.setattr("bus.partitions._move", breaks)
        with pytest.raises(ConnectionError):
            await apply(new_broker_url, partitions={"search": 5})
    await apply(new_broker_url, partitions={"search": 5})

    seen: Seen = []
    async with running(a_process(new_broker_url, seen, 5)):
        await until(lambda: len(seen) == 3 * len(SKUS))
    assert in_order(seen, 3)


@pytest.mark.connected
async def test_what_fails_in_a_partition_waits_and_is_parked_as_ever(new_broker_url: str) -> None:
    await apply(new_broker_url, partitions={"search": 2})
    await publish(new_broker_url, [1], ["BAD", "LATE", "GOOD"])
    done: list[str] = []
    tried: set[str] = set()

    async def handler(_: None, events: Sequence[Event[Fact]]) -> None:
        for event in events:
            subject = event.meta.subject
            if subject == "BAD":
                raise Permanent("this can never work")
            if subject == "LATE" and subject not in tried:
                tried.add(subject)
                raise ConnectionError("not now")
            if subject not in done:
                done.append(subject)

    async with running(
        consume_batches(new_broker_url, "search", "stock", handler, None, partitions=2)
    ):
        await until(lambda: {"GOOD", "LATE"} == set(done))
        async with asyncio.timeout(DEADLINE):
            while not (await ready(new_broker_url, topology.parking(WORK)))[0]:
                await asyncio.sleep(0.05)
    async with parking.opened(new_broker_url, WORK, 10) as held:
        assert ["permanent"] == [one.parked.reason for one in held]
        await held[0].send_back()

    # back where its consumer takes it from, whatever its partition
    assert [1] == await ready(new_broker_url, WORK)


def test_how_many_partitions_is_said_in_the_environment() -> None:
    assert {"stock": 0, "search": 4, "checkout": 0, "purger": 0} == partitions_in(
        {"SEARCH_QUEUE_PARTITIONS": "4", "CHECKOUT_QUEUE_PARTITIONS": ""}
    )
    for wrong in ("-1", "many", "65"):
        with pytest.raises(ValueError, match="SEARCH_QUEUE_PARTITIONS must be a number"):
            partitions_in({"SEARCH_QUEUE_PARTITIONS": wrong})
