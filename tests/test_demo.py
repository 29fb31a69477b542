"""The walk that `./shop demo` takes, on the shop under test."""

from io import StringIO

import pytest
from rich.console import Console

from shop import demo
from shop.client import ShopClient
from shop.stack import Stack

pytestmark = pytest.mark.connected


async def walked(native: Stack) -> list[str]:
    paper = StringIO()
    await demo.run(native.profile, Console(file=paper, width=200))
    return [" ".join(line.split()) for line in paper.getvalue().splitlines()]


async def test_the_demo_shows_requests_events_and_the_new_stock(
    native: Stack, shop: ShopClient
) -> None:
    lines = await walked(native)

    level = await shop.get(f"/api/products/{demo.SKU}/stock")
    told = [line.split()[2] for line in lines if line.startswith("event ")]
    assert [] == [
        kind
        for kind in (
            "order.placed.v1",
            "reservation.held.v1",
            "stock.changed.v1",
            "order.confirmed.v1",
            "reservation.rejected.v1",
            "order.cancelled.v1",
        )
        if kind not in told
    ]
    sold = f"available {level['available']}, reserved 0, on hand {level['on_hand']}"
    assert f"{demo.SKU}: {sold}" in lines
    assert "order cancelled: out_of_stock" in lines


async def test_a_second_demo_changes_only_what_the_first_one_sold(
    native: Stack, shop: ShopClient
) -> None:
    await walked(native)

    lines = await walked(native)

    products = len(demo.SAMPLE.read_text().splitlines())
    assert f"catalog 0 created, 0 updated, {products} unchanged" in lines
    assert f"stock 0 created, 1 updated, {products - 1} unchanged" in lines
