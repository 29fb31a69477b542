"""A shop with taxes and shipping: what a cart shows is what is ordered, kept and shown again."""

import re
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import msgspec
import pytest
from aiohttp.test_utils import TestClient, TestServer
from msgspec import structs

from chassis.database import Database
from checkout import app
from checkout.domain import Timers
from checkout.rules import SAMPLE
from checkout.settings import Settings
from checkout.store.orders import Orders
from checkout.store.projections import Projections
from checkout.totals import Breakdown, disagreements

pytestmark = pytest.mark.connected

Client = TestClient[Any, Any]
KEY = "key-0123456789abcdef"
BODY = {"email": "ada@example.com", "payment": {"token": "tok_ok"}}
HTML = {"Accept": "text/html"}
LEASE = timedelta(seconds=30)


@pytest.fixture
async def shop(settings: Settings, own: Database, make: Any) -> AsyncIterator[Client]:
    """The sample's rules; LAMP-1 costs 11.90 EUR, LAMP-2 is twice as much."""
    projections = Projections(own)
    await projections.price_changed(make.price("LAMP-1", EUR=1_190))
    await projections.price_changed(make.price("LAMP-2", EUR=2_380))
    taxed = structs.replace(settings, rules=SAMPLE)
    async with TestClient(TestServer(app.application(taxed))) as client:
        yield client


async def a_cart(client: Client) -> str:
    async with client.post("/carts") as answer:
        cart = str((await answer.json())["cart_id"])
    async with client.put(f"/carts/{cart}/lines/LAMP-1", json={"qty": 1}) as answer:
        assert 200 == answer.status
    return cart


async def seen(client: Client, path: str, status: int = 200, **query: str) -> dict[str, Any]:
    async with client.get(path, params=query) as answer:
        found: dict[str, Any] = await answer.json()
        assert status == answer.status, found
        return found


async def order(client: Client, cart: str, **more: Any) -> tuple[int, dict[str, Any]]:
    async with client.post(
        f"/carts/{cart}/checkout", json=BODY | more, headers={"Idempotency-Key": KEY}
    ) as answer:
        return answer.status, await answer.json()


async def test_a_cart_shows_its_shipping_and_its_tax(shop: Client) -> None:
    view = await seen(shop, f"/carts/{await a_cart(shop)}")
    found = msgspec.convert(view["breakdown"], Breakdown)

    assert [] == disagreements(found)
    assert ("DE", 1_190, 490, 190 + 78, 1_680) == (
        found.country,
        found.subtotal_minor,
        found.shipping_minor,
        found.tax_minor,
        view["total_minor"],
    )


async def test_a_cart_can_be_seen_as_it_is_sent_elsewhere(shop: Client) -> None:
    cart = await a_cart(shop)

    view = await seen(shop, f"/carts/{cart}", country="AT", shipping_method="express")

    found = msgspec.convert(view["breakdown"], Breakdown)
    assert ("AT", 1_490, 2_000) == (found.country, found.shipping_minor, found.taxes[0].rate_bp)
    assert 2_680 == view["total_minor"]


async def test_the_ways_to_send_a_cart_are_told_by_country(shop: Client) -> None:
    cart = await a_cart(shop)

    home = await seen(shop, f"/carts/{cart}/shipping-methods")
    abroad = await seen(shop, f"/carts/{cart}/shipping-methods", country="FR")
    nowhere = await seen(shop, f"/carts/{cart}/shipping-methods", country="US")

    assert ("DE", "gross", "EUR") == (home["country"], home["prices"], home["currency"])
    assert ["parcel", "express", "freight"] == [method["id"] for method in home["methods"]]
    assert [1_490] == [method["price_minor"] for method in abroad["methods"]]
    assert "CH" in home["countries"]
    assert "US" not in nowhere["countries"]


@pytest.mark.parametrize("query", [{"country": "de"}, {"country": "DEU"}, {"weight": "1"}])
async def test_a_country_that_is_none_is_refused(shop: Client, query: dict[str, str]) -> None:
    cart = await a_cart(shop)

    for path in (f"/carts/{cart}", f"/carts/{cart}/shipping-methods"):
        problem = await seen(shop, path, 400, **query)
        assert "urn:shop:problem:bad-query" == problem["type"]


async def test_what_a_product_says_of_weight_and_tax_is_charged(
    shop: Client, own: Database, make: Any
) -> None:
    cart = await a_cart(shop)
    projections = Projections(own)
    told = make.product("Book", "LAMP-1", weight_g=40_000, tax_class="reduced")
    await projections.product_published(told)

    heavy = await seen(shop, f"/carts/{cart}")
    later = make.product("Book", "LAMP-1", version=2, product_id=told.data.product_id)
    await projections.product_published(later)
    light = await seen(shop, f"/carts/{cart}")

    found = msgspec.convert(heavy["breakdown"], Breakdown)
    assert found.shipping is not None
    assert ("freight", "reduced", 700) == (
        found.shipping.method,
        found.lines[0].tax_class,
        found.lines[0].rate_bp,
    )
    assert "parcel" == light["breakdown"]["shipping"]["method"]
    assert 1_900 == light["breakdown"]["lines"][0]["rate_bp"]


async def test_an_order_keeps_what_the_cart_showed(shop: Client, own: Database, make: Any) -> None:
    cart = await a_cart(shop)
    shown = await seen(shop, f"/carts/{cart}", country="CH")

    status, accepted = await order(
        shop, cart, country="CH", quoted_total_minor=shown["total_minor"]
    )
    # what the shop charges today changes nothing in what was agreed
    await Projections(own).price_changed(make.price("LAMP-1", 2, EUR=9_900))
    kept = await seen(shop, f"/orders/{accepted['order_id']}")

    assert 202 == status
    assert shown["breakdown"] == kept["breakdown"]
    assert shown["total_minor"] == kept["total_minor"]


async def test_the_country_of_the_address_counts(shop: Client) -> None:
    address = {"street": "Ring 1", "city": "Wien", "postcode": "1010", "country": "AT"}

    _, accepted = await order(shop, await a_cart(shop), country="DE", address=address)

    kept = await seen(shop, f"/orders/{accepted['order_id']}")
    assert "AT" == kept["breakdown"]["country"]


async def test_another_way_of_sending_it_is_another_total(shop: Client) -> None:
    cart = await a_cart(shop)

    status, problem = await order(shop, cart, shipping_method="express", quoted_total_minor=1_680)

    assert (409, "urn:shop:problem:price-changed") == (status, problem["type"])
    assert 1_190 + 1_490 == problem["total_minor"] == problem["breakdown"]["total_minor"]


@pytest.mark.parametrize(
    ("how", "methods"),
    [
        ({"country": "US"}, ["parcel"]),
        ({"country": "FR", "shipping_method": "express"}, ["parcel"]),
        ({"shipping_method": "drone"}, ["parcel", "express", "freight"]),
    ],
)
async def test_what_cannot_be_delivered_is_not_ordered(
    shop: Client, how: dict[str, str], methods: list[str]
) -> None:
    cart = await a_cart(shop)

    status, problem = await order(shop, cart, **how)
    view = await seen(shop, f"/carts/{cart}", **how)

    assert (422, "urn:shop:problem:not-delivered") == (status, problem["type"])
    assert methods == [method["id"] for method in problem["methods"]]
    assert view["total_minor"] is None


async def test_what_is_authorised_is_the_grand_total(
    shop: Client, own: Database, make: Any
) -> None:
    _, accepted = await order(shop, await a_cart(shop))
    orders = Orders(own, Timers())
    order_id = UUID(accepted["order_id"])

    await orders.apply(order_id, make.held(order_id))

    placed = await orders.order(order_id)
    assert placed is not None
    assert 1_680 == placed.total_minor
    assert [1_680] == [ask.amount_minor for ask in await orders.claim_payments(9, LEASE)]


async def test_a_shopper_without_scripts_chooses_country_and_shipping(shop: Client) -> None:
    async with shop.post("/cart/lines", data={"sku": "LAMP-1"}, allow_redirects=False) as answer:
        assert 303 == answer.status
    home = await page(shop, "/checkout")
    abroad = await page(shop, "/checkout?country=AT&shipping_method=express")
    form = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', abroad))
    async with shop.post(
        "/checkout",
        data=form
        | {"email": "ada@example.com", "payment": "tok_ok", "name": "Ada"}
        | {"street": "Ring 1", "city": "Wien", "postcode": "1010"},
        allow_redirects=False,
    ) as answer:
        where = answer.headers["Location"]
    ordered = await page(shop, where)

    assert '<option value="DE" selected>Germany</option>' in home
    assert "€16.80" in home
    assert "of which tax 19 %" in home
    assert '<option value="express" selected>' in abroad
    for html in (abroad, ordered):
        assert "Shipping: Express, next working day" in html
        assert "of which tax 20 %" in html
        assert "€26.80" in html


async def test_a_way_that_leads_elsewhere_only_gives_way_to_the_cheapest(shop: Client) -> None:
    async with shop.post("/cart/lines", data={"sku": "LAMP-1"}, allow_redirects=False) as answer:
        assert 303 == answer.status

    html = await page(shop, "/checkout?country=FR&shipping_method=express")
    wild = await page(shop, "/checkout?country=%3Cb%3E&shipping_method=%22")
    nowhere = await page(shop, "/checkout?country=US")

    assert "Shipping: Parcel" in html
    assert "of which tax 20 %" in html
    assert "<b>" not in wild
    assert "We cannot deliver this there" in nowhere
    assert 'method="post"' not in nowhere.split("<main", 1)[-1]


async def page(client: Client, path: str) -> str:
    async with client.get(path, headers=HTML, allow_redirects=False) as answer:
        assert 200 == answer.status
        return await answer.text()
