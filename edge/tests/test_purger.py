"""What an event changed is forgotten by the cache, and nothing else is."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime

import aio_pika
import aiohttp
import pytest
from aiohttp import web

from bus.broker import confirming, connected
from bus.consumer import consume_batches
from purger.app import Purger, purge
from purger.cache import HEADER_KEYS, Cache, PurgeFailed
from purger.domain import PLENTY, Shown, keys
from shop_contracts import topology
from shop_contracts.envelope import CONTENT_TYPE, Event, encode, new
from shop_contracts.events.base import Fact
from shop_contracts.events.catalog import CategoryChangedV2, ProductPublishedV1
from shop_contracts.events.catalog.category_changed_v2 import Step
from shop_contracts.events.catalog.product_published_v1 import Category, Variant
from shop_contracts.events.stock import PriceChangedV1, StockChangedV1
from shop_contracts.events.stock.stock_changed_v1 import Cause


def event(data: Fact) -> Event[Fact]:
    return new(data, id=uuid.uuid4(), entityversion=1)


def stock(available: int, sku: str = "A") -> Event[Fact]:
    return event(
        StockChangedV1(
            sku=sku, on_hand=available, reserved=0, available=available, cause=Cause.ADJUSTED
        )
    )


def test_stock_is_purged_only_when_a_page_would_show_something_else() -> None:
    shown = Shown()

    assert {"s-A"} == keys(shown, [stock(PLENTY + 5)])
    assert set() == keys(shown, [stock(PLENTY + 4)])
    assert {"s-A"} == keys(shown, [stock(3)])
    assert set() == keys(shown, [stock(3)])
    assert {"s-A"} == keys(shown, [stock(0)])


def test_a_burst_about_one_sku_purges_it_once() -> None:
    assert {"s-A"} == keys(Shown(), [stock(left) for left in range(9, 0, -1)])


def test_a_price_purges_its_offer() -> None:
    assert {"s-A"} == keys(Shown(), [event(PriceChangedV1(sku="A", prices=[]))])


def test_a_category_purges_its_page_and_those_of_the_categories_above_it() -> None:
    changed = CategoryChangedV2(
        slug="kitchen--cups",
        name="Cups",
        path=[Step(slug="kitchen", name="Kitchen"), Step(slug="kitchen--cups", name="Cups")],
        position=1,
    )

    assert {"c-kitchen--cups", "c-kitchen", "nav", "home"} == keys(Shown(), [event(changed)])


def test_a_product_purges_its_page_and_every_list_above_it() -> None:
    product_id = uuid.uuid4()
    product = ProductPublishedV1(
        product_id=product_id,
        slug="mug",
        name="Mug",
        categories=[Category(slug="kitchen--cups--mugs", path=["Kitchen", "Cups", "Mugs"])],
        variants=[Variant(sku="A")],
        published_at=datetime.now(UTC),
    )

    assert {
        f"p-{product_id}",
        "home",
        "c-kitchen",
        "c-kitchen--cups",
        "c-kitchen--cups--mugs",
    } == keys(Shown(), [event(product)])


@pytest.fixture
async def varnish() -> AsyncIterator[tuple[str, list[set[str]], list[int]]]:
    """A listener in the place of Varnish: what it was told to forget, and what it answers."""
    purged: list[set[str]] = []
    answers: list[int] = []

    async def forget(request: web.Request) -> web.Response:
        status = answers.pop(0) if answers else 200
        if status == 200:
            purged.append(set(request.headers["xkey-purge"].split()))
        return web.Response(status=status)

    app = web.Application()
    app.router.add_route("PURGE", "/", forget)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    yield f"http://{host}:{port}/", purged, answers
    await runner.cleanup()


async def test_many_keys_go_in_headers_that_varnish_takes(
    varnish: tuple[str, list[set[str]], list[int]],
) -> None:
    url, purged, _ = varnish
    wanted = {f"s-{n}" for n in range(HEADER_KEYS * 2 + 1)}
    async with aiohttp.ClientSession() as http:
        await Cache(http, url).purge(wanted)

    assert wanted == set().union(*purged)
    assert 3 == len(purged)


async def test_a_refused_purge_is_an_error(
    varnish: tuple[str, list[set[str]], list[int]],
) -> None:
    url, _, answers = varnish
    answers.append(405)
    async with aiohttp.ClientSession() as http:
        with pytest.raises(PurgeFailed):
            await Cache(http, url).purge({"nav"})


@pytest.mark.connected
async def test_a_purge_that_failed_is_made_good(
    broker_url: str, varnish: tuple[str, list[set[str]], list[int]]
) -> None:
    url, purged, answers = varnish
    answers.extend([503, 503])
    async with aiohttp.ClientSession() as http:
        context = Purger(Cache(http, url), Shown())
        task = asyncio.create_task(consume_batches(broker_url, "purger", "stock", purge, context))
        async with connected(broker_url, "test") as connection:
            exchange = await (await confirming(connection)).get_exchange(topology.exchange("stock"))
            price = event(PriceChangedV1(sku="A", prices=[]))
            message = aio_pika.Message(encode(price), content_type=CONTENT_TYPE)
            await exchange.publish(message, routing_key=price.meta.key)
        async with asyncio.timeout(30):
            while {"s-A"} not in purged:
                await asyncio.sleep(0.05)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
