"""The read model is made again out of the streams, and nobody who asks notices."""

import asyncio
from contextlib import suppress
from typing import Any

import aio_pika
import pytest
from elasticsearch import NotFoundError

from bus.broker import confirming, connected, publish
from search.app import follow
from search.worker import rebuild
from shop_contracts import topology
from shop_contracts.envelope import CONTENT_TYPE, encode

pytestmark = pytest.mark.connected

PRODUCTS = 60
DEADLINE = 60


def history(say: Any) -> list[Any]:
    """Products that change, go and come back, with stock and prices that move."""
    told: list[Any] = []
    for n in range(PRODUCTS):
        told += [
            say.published(f"p{n}", 1, skus=[f"A{n}", f"B{n}"]),
            say.stock(f"A{n}", n, 1),
            say.price(f"A{n}", 100 + n, 1),
            say.stock(f"B{n}", 1, 1),
            say.stock(f"A{n}", n + 1, 2),
        ]
        if n % 3 == 0:
            told.append(say.published(f"p{n}", 2, skus=[f"A{n}"]))
        if n % 5 == 0:
            told.append(say.withdrawn(f"p{n}", 3))
    return told


async def send(broker_url: str, *events: Any) -> None:
    async with connected(broker_url, "test") as connection:
        channel = await confirming(connection)
        exchanges = {
            owner: await channel.get_exchange(topology.exchange(owner))
            for owner in ("catalog", "stock")
        }
        for event in events:
            exchange = exchanges[event.meta.source.removeprefix("/")]
            message = aio_pika.Message(encode(event), content_type=CONTENT_TYPE)
            await publish(exchange, message, event.meta.key)


async def remove(shop: Any) -> None:
    """Delete the indices, by whatever names they stand behind the aliases."""
    for alias in ("search", "offers"):
        with suppress(NotFoundError):
            for index in await shop.elastic.indices.get_alias(name=f"{shop.prefix}{alias}"):
                await shop.elastic.indices.delete(index=index)


@pytest.fixture(autouse=True)
async def _as_it_was(shop: Any) -> Any:
    """The fixture `shop` deletes the first indices by their names: they stand again at the end."""
    yield
    await remove(shop)
    await shop.store.prepare()


async def test_after_the_index_is_deleted_the_rebuilt_documents_are_the_live_ones(
    shop: Any, say: Any, new_broker_url: str
) -> None:
    told = history(say)
    await send(new_broker_url, *told)
    await shop.hears(*told)
    live, _ = await shop.store.contents()
    await remove(shop)

    rebuilt = await rebuild(new_broker_url, shop.store, "again")

    assert live == (await shop.store.contents())[0]
    assert (PRODUCTS, 2 * PRODUCTS, 0) == (rebuilt.products, rebuilt.offers, rebuilt.carried)
    assert live.checksum == rebuilt.checksum
    assert PRODUCTS - PRODUCTS // 5 == (await shop.find())["total"]


async def test_a_rebuild_of_a_quiet_shop_ends_with_what_was_there(
    shop: Any, say: Any, new_broker_url: str
) -> None:
    told = history(say)
    await send(new_broker_url, *told)
    await shop.hears(*told)
    live, _ = await shop.store.contents()

    rebuilt = await rebuild(new_broker_url, shop.store, "once")
    again = await rebuild(new_broker_url, shop.store, "twice")

    assert (True, True) == (rebuilt.as_before, again.as_before)
    assert live == (await shop.store.contents())[0]
    # what was asked before is gone
    indices = set(await shop.elastic.indices.get(index=f"{shop.prefix}*"))
    assert {f"{shop.prefix}search-{one}-twice" for one in ("offers", "products")} == indices


async def test_while_it_is_rebuilt_events_go_on_and_hits_never_drop(
    shop: Any, say: Any, new_broker_url: str
) -> None:
    told = [say.published(f"p{n}", 1) for n in range(PRODUCTS)]
    totals: list[int] = []
    over = False

    async def ask() -> None:
        while not over:
            totals.append((await shop.find())["total"])
            await asyncio.sleep(0.01)

    async def go_on() -> int:
        version = 0
        while not over:
            version += 1
            await send(
                new_broker_url,
                *(say.stock(f"p{n}", version, version) for n in range(PRODUCTS)),
                say.published(f"more{version}", 1),
            )
        return version

    await send(new_broker_url, *told)
    await shop.hears(*told)
    worker = asyncio.create_task(follow(new_broker_url, shop.store))
    asking, going_on = asyncio.create_task(ask()), asyncio.create_task(go_on())
    try:
        for turn in range(3):
            await rebuild(new_broker_url, shop.store, f"turn{turn}")
        over = True
        version = await going_on
        await asking
        async with asyncio.timeout(DEADLINE):
            # the newest of all that was said is known, to the rebuilt one
            while True:
                contents, _ = await shop.store.contents()
                told_last = [contents.offers[f"p{n}"].stock_version for n in range(PRODUCTS)]
                if {version} == set(told_last) and len(contents.products) == PRODUCTS + version:
                    break
                await asyncio.sleep(0.1)
    finally:
        over = True
        worker.cancel()
        with suppress(asyncio.CancelledError):
            await worker

    assert totals == sorted(totals)
    assert PRODUCTS <= totals[0]
    products = contents.products.values()
    known = {v.sku: v.stock_version for product in products for v in product.variants}
    assert {version} == {known[f"p{n}"] for n in range(PRODUCTS)}


async def test_what_the_streams_do_not_keep_any_more_is_carried_over(
    shop: Any, say: Any, new_broker_url: str
) -> None:
    forgotten = [say.published("old", 1, skus=["O"]), say.stock("O", 3, 1), say.price("O", 5, 1)]
    told = [say.published("new", 1, skus=["N"]), say.stock("N", 1, 1)]
    await send(new_broker_url, *told)
    await shop.hears(*forgotten, *told)
    live, _ = await shop.store.contents()

    rebuilt = await rebuild(new_broker_url, shop.store, "again")

    assert live == (await shop.store.contents())[0]
    assert 2 == rebuilt.carried


async def test_what_a_broken_rebuild_left_is_removed_by_the_next(
    shop: Any, say: Any, new_broker_url: str
) -> None:
    await send(new_broker_url, say.published("p", 1))
    await shop.store.beside("broken")

    await rebuild(new_broker_url, shop.store, "whole")

    indices = set(await shop.elastic.indices.get(index=f"{shop.prefix}*"))
    assert {f"{shop.prefix}search-{one}-whole" for one in ("offers", "products")} == indices


async def test_whoever_starts_after_a_rebuild_makes_no_second_index(
    shop: Any, say: Any, new_broker_url: str
) -> None:
    await rebuild(new_broker_url, shop.store, "whole")
    await shop.store.prepare()

    assert 2 == len(await shop.elastic.indices.get(index=f"{shop.prefix}*"))
