"""What shoppers and operators live through, from the edge to the last store and back."""

import time
from collections.abc import Callable

import pytest

from shop.client import ShopClient, until
from shop_contracts.events.checkout import (
    OrderAuthorisedV1,
    OrderCancelledV1,
    OrderConfirmedV1,
    OrderPlacedV1,
    PaymentAuthorisedV1,
    PaymentCapturedV1,
)
from shop_contracts.events.stock import (
    ReservationCommittedV1,
    ReservationHeldV1,
    ReservationRejectedV1,
    StockChangedV1,
)

pytestmark = pytest.mark.connected


async def test_sold_out_stock_leaves_the_search(
    shop: ShopClient, record_property: Callable[[str, object], None]
) -> None:
    sku = await shop.put_product(stock=5)
    assert await shop.found(sku, in_stock="true")

    begin = time.monotonic()
    await shop.send("PUT", f"/api/products/{sku}/stock", {"stock": 0, "action": "set"})
    await until(lambda: shop.found(sku, in_stock="true"), lambda hits: not hits)
    record_property("seconds", time.monotonic() - begin)

    assert await shop.found(sku)


async def test_an_order_for_two_units_is_confirmed_and_every_record_agrees(
    shop: ShopClient,
) -> None:
    sku = await shop.put_product(price=1_250, stock=5)
    since = {owner: await shop.end_of(owner) for owner in ("stock", "checkout")}

    order = await shop.ended(await shop.order((sku, 2)))

    assert "confirmed" == order["status"]
    assert 2_500 == order["total_minor"]
    level = await shop.get(f"/api/products/{sku}/stock")
    assert (3, 3, 0) == (level["available"], level["on_hand"], level["reserved"])
    ledger = (await shop.get(f"/api/products/{sku}/ledger"))["items"]
    assert 3 == sum(move["available"] for move in ledger)
    assert 2 == sum(move["sold"] for move in ledger)
    about = [
        logged.event.data
        for owner in ("checkout", "stock")
        for logged in await shop.events(owner, since[owner])
        if order["order_id"] in (logged.event.meta.subject, logged.event.meta.correlationid)
    ]
    kinds = [type(data) for data in about]
    for kind in (
        OrderPlacedV1,
        OrderAuthorisedV1,
        OrderConfirmedV1,
        PaymentAuthorisedV1,
        PaymentCapturedV1,
        ReservationHeldV1,
        ReservationCommittedV1,
    ):
        assert 1 == kinds.count(kind), kind
    changes = [data for data in about if isinstance(data, StockChangedV1)]
    assert [(5, 2, 3), (3, 0, 3)] == [(c.on_hand, c.reserved, c.available) for c in changes]


async def test_an_order_for_more_than_there_is_is_cancelled_and_holds_nothing(
    shop: ShopClient,
) -> None:
    short, plenty = await shop.put_product(stock=1), await shop.put_product(stock=9)
    since = {owner: await shop.end_of(owner) for owner in ("stock", "checkout")}

    order = await shop.ended(await shop.order((plenty, 2), (short, 3)))

    assert ("cancelled", "out_of_stock") == (order["status"], order["reason"])
    assert [{"sku": short, "requested": 3, "available": 1}] == order["shortages"]
    for sku, available in ((short, 1), (plenty, 9)):
        level = await shop.get(f"/api/products/{sku}/stock")
        assert (available, 0) == (level["available"], level["reserved"])
    about = [
        type(logged.event.data)
        for owner in ("checkout", "stock")
        for logged in await shop.events(owner, since[owner])
        if order["order_id"] in (logged.event.meta.subject, logged.event.meta.correlationid)
    ]
    assert [OrderPlacedV1, OrderCancelledV1, ReservationRejectedV1] == about


async def test_a_declined_payment_gives_the_units_back(shop: ShopClient) -> None:
    sku = await shop.put_product(stock=4)

    order = await shop.ended(await shop.order((sku, 4), token="tok_decline"))

    assert ("cancelled", "payment_declined") == (order["status"], order["reason"])
    await until(
        lambda: shop.get(f"/api/products/{sku}/stock"),
        lambda level: (level["available"], level["reserved"]) == (4, 0),
    )


async def test_a_withdrawn_product_leaves_the_search(shop: ShopClient) -> None:
    sku = await shop.put_product()
    product_id = (await shop.found(sku))[0]["product_id"]
    product = await shop.get(f"/api/products/{product_id}")

    await shop.send(
        "DELETE",
        f"/api/products/{product_id}",
        status=204,
        **{"If-Match": f'"{product["version"]}"'},
    )

    await until(lambda: shop.found(sku), lambda hits: not hits)


async def test_the_last_unit_is_sold_once(shop: ShopClient) -> None:
    sku = await shop.put_product(stock=1)

    ids = [await shop.order((sku, 1)) for _ in range(4)]
    statuses = [(await shop.ended(order_id))["status"] for order_id in ids]

    assert ["cancelled"] * 3 + ["confirmed"] == sorted(statuses)
    assert 0 == (await shop.get(f"/api/products/{sku}/stock"))["on_hand"]
