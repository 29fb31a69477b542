"""The relay as the process it is, killed as often as it takes."""

import asyncio
import os
import signal
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aio_pika
import pytest
from elasticsearch import AsyncElasticsearch

from bus.documents import ElasticOutbox
from catalog import domain
from catalog.domain import Draft, VariantIn
from catalog.store import CatalogStore
from shop_contracts.envelope import Event, decode
from shop_contracts.events.base import Fact
from shop_contracts.topology import exchange

pytestmark = pytest.mark.connected

PRODUCTS = 600


class Heard(list[Event[Fact]]):
    """All that was published, in the order it came."""

    def ids(self) -> set[object]:
        return {event.meta.id for event in self}


@pytest.fixture
async def heard(broker_url: str) -> AsyncIterator[Heard]:
    events = Heard()

    async def hear(message: aio_pika.abc.AbstractIncomingMessage) -> None:
        events.append(decode(message.body))

    async with await aio_pika.connect(broker_url) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(exclusive=True)
        await queue.bind(exchange("catalog"), "#")
        await queue.consume(hear, no_ack=True)
        yield events


@asynccontextmanager
async def relay(
    stack: Any, broker_url: str, store: CatalogStore, failpoint: str = ""
) -> AsyncIterator[asyncio.subprocess.Process]:
    environment = {
        "CATALOG_ELASTICSEARCH_URL": stack.elasticsearch_url,
        "CATALOG_BROKER_URL": broker_url,
        "CATALOG_INDEX_PREFIX": store.names.prefix,
        "SHOP_PROFILE": "test",
        "FAILPOINT": failpoint,
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "catalog", "relay"),
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.02)


async def fill(store: CatalogStore, word: str) -> None:
    rows = [
        (f"R-{n}", Draft(name=f"{word} {n}", variants=[VariantIn(sku=f"R-{n}")]))
        for n in range(PRODUCTS)
    ]
    for start in range(0, PRODUCTS, 200):
        await store.take(rows[start : start + 200])


def nothing_lost_and_in_order(heard: Heard, versions: int) -> None:
    first_seen: dict[str, list[int]] = defaultdict(list)
    for event in heard:
        if event.meta.entityversion not in first_seen[event.meta.subject]:
            first_seen[event.meta.subject].append(event.meta.entityversion)
    wanted = list(range(1, versions + 1))
    assert {str(domain.imported_id(f"R-{n}")): wanted for n in range(PRODUCTS)} == first_seen
    # a repetition is the same event, not another one about the same change
    assert PRODUCTS * versions == len(heard.ids())


async def test_every_change_is_published_and_nothing_waits_any_more(
    stack: Any, broker_url: str, fresh: CatalogStore, client: AsyncElasticsearch, heard: Heard
) -> None:
    await fill(fresh, "Tent")
    await fill(fresh, "Tarp")

    async with relay(stack, broker_url, fresh) as process:
        await until(lambda: len(heard.ids()) == 2 * PRODUCTS, "not all events came")
        process.send_signal(signal.SIGTERM)
        assert 0 == await process.wait()

    nothing_lost_and_in_order(heard, 2)
    outbox = ElasticOutbox(client, fresh.names.with_events)
    assert [] == await outbox.pending(10)
    # the relay touched the documents, not the products
    assert {2} == {product.version for product in (await fresh.page(1, 100))[0]}


@pytest.mark.parametrize(
    "failpoint",
    [
        "catalog.relay.before_publish:kill:2",
        "catalog.relay.after_confirm:kill",
        "catalog.relay.after_confirm:kill:2",
    ],
)
async def test_a_relay_killed_between_two_steps_loses_nothing(
    stack: Any, broker_url: str, fresh: CatalogStore, heard: Heard, failpoint: str
) -> None:
    await fill(fresh, "Tent")

    async with relay(stack, broker_url, fresh, failpoint) as process:
        assert -signal.SIGKILL == await process.wait()
    async with relay(stack, broker_url, fresh):
        await until(lambda: len(heard.ids()) == PRODUCTS, "not all events came")

    nothing_lost_and_in_order(heard, 1)


async def test_a_relay_killed_anywhere_while_products_change_loses_nothing(
    stack: Any, broker_url: str, fresh: CatalogStore, heard: Heard
) -> None:
    async def killed_again_and_again() -> None:
        for goal in (1, PRODUCTS // 2):
            async with relay(stack, broker_url, fresh):
                await until(lambda goal=goal: len(heard) >= goal, "the relay publishes nothing")

    await asyncio.gather(fill(fresh, "Tent"), killed_again_and_again())
    await fill(fresh, "Tarp")
    async with relay(stack, broker_url, fresh):
        await until(lambda: len(heard.ids()) == 2 * PRODUCTS, "not all events came")

    nothing_lost_and_in_order(heard, 2)
