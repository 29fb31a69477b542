"""One part dies, the others answer, and nothing is lost when it comes back."""

import asyncio
import secrets

import pytest

from shop.client import ShopClient, until
from shop.stack import Stack
from shop_contracts.events.stock import StockChangedV1

pytestmark = pytest.mark.connected

ANSWERS = {
    "catalog": "/api/products",
    "stock": "/api/prices?sku=NONE",
    "search": "/api/search?q=lamp",
    "checkout": "/api/checkout/openapi.json",
}
PROCESSES = {
    "catalog": ("catalog-api", "catalog-relay", "catalog-worker"),
    "stock": ("stock-api", "stock-relay", "stock-worker"),
    "search": ("search-api", "search-worker"),
    "checkout": ("checkout-api", "checkout-relay", "checkout-worker"),
}


@pytest.mark.parametrize("stopped", list(PROCESSES))
async def test_with_one_service_stopped_the_other_three_answer(
    stopped: str, shop: ShopClient, native: Stack
) -> None:
    await asyncio.to_thread(native.stop, *PROCESSES[stopped])
    try:
        answers = {name: await shop.status(path) for name, path in ANSWERS.items()}
    finally:
        await asyncio.to_thread(native.start, list(PROCESSES[stopped]))
        await shop.reachable()

    assert 503 == answers.pop(stopped)
    assert {200} == set(answers.values())


async def test_search_catches_up_with_what_happened_while_it_was_away(
    shop: ShopClient, native: Stack
) -> None:
    sku = await shop.put_product(stock=5)
    await asyncio.to_thread(native.stop, *PROCESSES["search"])
    await shop.send("PUT", f"/api/products/{sku}/stock", {"stock": 0, "action": "set"})
    await asyncio.to_thread(native.start, list(PROCESSES["search"]))

    await shop.reachable()
    await until(lambda: shop.found(sku, in_stock="true"), lambda hits: not hits)
    assert await shop.found(sku)


async def test_an_order_waits_for_stock_to_come_back(shop: ShopClient, native: Stack) -> None:
    sku = await shop.put_product(stock=5)
    await asyncio.to_thread(native.stop, *PROCESSES["stock"])
    order_id = await shop.order((sku, 2))
    assert "placed" == (await shop.get(f"/api/orders/{order_id}"))["status"]

    await asyncio.to_thread(native.start, list(PROCESSES["stock"]))

    assert "confirmed" == (await shop.ended(order_id))["status"]


async def test_a_relay_killed_amid_a_thousand_changes_loses_none(
    shop: ShopClient, native: Stack
) -> None:
    skus = [f"K-{secrets.token_hex(4)}" for _ in range(20)]
    since = await shop.end_of("stock")

    async def change(sku: str) -> None:
        for _ in range(50):
            await shop.send(
                "PUT", f"/api/products/{sku}/stock", {"stock": 1, "action": "increment"}
            )

    async def kill() -> None:
        for _ in range(3):
            await asyncio.sleep(0.5)
            await asyncio.to_thread(native.kill, "stock-relay")

    await asyncio.gather(kill(), *(change(sku) for sku in skus))

    async def arrived() -> dict[str, list[int]]:
        found: dict[str, dict[str, int]] = {sku: {} for sku in skus}
        for logged in await shop.events("stock", since):
            event = logged.event
            if isinstance(event.data, StockChangedV1) and event.data.sku in found:
                found[event.data.sku].setdefault(str(event.meta.id), event.meta.entityversion)
        return {sku: list(versions.values()) for sku, versions in found.items()}

    everything = {sku: list(range(1, 51)) for sku in skus}
    assert everything == await until(arrived, lambda seen: seen == everything, within=60)
    for sku in skus:
        assert 50 == (await shop.get(f"/api/products/{sku}/stock"))["available"]
