"""A price that begins by itself is everywhere at once, and nobody has to ask for it."""

import asyncio
import re
from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta

import pytest

from shop.client import ShopClient, until
from shop_contracts.events.stock import PriceChangedV1

pytestmark = pytest.mark.connected

SOON = timedelta(seconds=5)


async def test_a_promotion_is_in_search_page_and_cart_once_it_begins(shop: ShopClient) -> None:
    """Prints how long each of them took: `PYTEST_ADDOPTS=-rP ./shop test` this file."""
    sku = await shop.put_product(price=2_000, stock=5)
    cart = (await shop.send("POST", "/api/carts", status=201))["cart_id"]
    await shop.add(cart, sku, 1)
    path = f"/p/{(await shop.found(sku))[0]['slug']}"
    since = await shop.end_of("stock")

    async def search() -> tuple[int, int | None]:
        (hit,) = await shop.found(sku)
        return hit["price"], hit["was"]

    async def shows(path: str) -> bool:
        """Whether a page, through the cache, has the new price and the old one struck out."""
        async with shop.http.get(shop.edge + path) as answer:
            html = await answer.text()
        old = re.search(r'<s class="list-price">([^<]*)</s>', html)
        return "12.50" in html and old is not None and "20.00" in old[1]

    async def total() -> int:
        return int((await shop.get(f"/api/carts/{cart}"))["total_minor"])

    begin = datetime.now(UTC) + SOON
    await shop.send(
        "PUT",
        f"/api/products/{sku}/prices",
        {
            "prices": [
                {"currency": "EUR", "amount_minor": 2_000},
                {
                    "currency": "EUR",
                    "amount_minor": 1_250,
                    "promotion": "noon",
                    "valid_from": begin.isoformat(),
                },
            ]
        },
    )
    pages = (path, f"/s?q={sku}")
    assert ((2_000, None), 2_000) == (await search(), await total())
    assert [False, False] == [await shows(page) for page in pages]

    # Nobody asks for anything until it has begun.
    left = (begin - datetime.now(UTC)).total_seconds()
    await asyncio.sleep(left)
    took: dict[str, float] = {}

    async def seen(where: str, showing: Awaitable[object]) -> None:
        await showing
        took[where] = (datetime.now(UTC) - begin).total_seconds()

    await asyncio.gather(
        seen("search", until(search, lambda prices: prices == (1_250, 2_000))),
        *(seen(page, until(lambda page=page: shows(page), bool)) for page in pages),
        seen("cart", until(total, lambda sum_: sum_ == 1_250)),
    )
    print({where: f"{seconds:.2f} s" for where, seconds in took.items()})  # noqa: T201 -- the figures

    told = [
        logged.event.data
        for logged in await shop.events("stock", since)
        if logged.event.meta.subject == sku and isinstance(logged.event.data, PriceChangedV1)
    ]
    assert [(2_000, None), (1_250, 2_000)] == [
        (price.amount_minor, price.list_minor) for data in told for price in data.prices
    ]
    assert [True, False] == [data.valid_until is not None for data in told]
