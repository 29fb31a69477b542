"""The pages as a browser without scripts meets them, and what other sites cannot do with them."""

import re
from typing import Any
from uuid import UUID

import pytest
from aiohttp.test_utils import TestClient

from chassis.database import Database
from checkout.domain import CancelRequested, Timers
from checkout.store.orders import Orders
from checkout.store.projections import Projections

pytestmark = pytest.mark.connected

Client = TestClient[Any, Any]
ADA = {
    "email": "ada@example.com",
    "payment": "tok_ok",
    "name": "Ada Lovelace",
    "street": "Domstraße 1",
    "postcode": "50667",
    "city": "Köln",
    "country": "DE",
}
HTML = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


async def shown(client: Client, path: str, status: int = 200, **headers: str) -> str:
    async with client.get(path, headers=HTML | headers) as answer:
        assert status == answer.status
        assert "private, no-store" == answer.headers["Cache-Control"]
        return await answer.text()


async def sent(client: Client, path: str, **form: str) -> tuple[int, str]:
    async with client.post(path, data=form, allow_redirects=False) as answer:
        return answer.status, answer.headers.get("Location", await answer.text())


def fields(html: str) -> dict[str, str]:
    return dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', html))


async def ordered(client: Client, **changes: str) -> tuple[int, str]:
    form = fields(await shown(client, "/checkout")) | ADA | changes
    return await sent(client, "/checkout", **form)


async def test_a_shopper_fills_a_cart_orders_it_and_sees_the_order(client: Client) -> None:
    async with client.post(
        "/cart/lines", data={"sku": "LAMP-1", "qty": "2"}, allow_redirects=False
    ) as answer:
        cookie = answer.headers["Set-Cookie"]
        assert (303, "/cart") == (answer.status, answer.headers["Location"])
    cart = await shown(client, "/cart")
    status, where = await ordered(client)
    order = await shown(client, where)

    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert "Lamp &lt;b&gt;one&lt;/b&gt;" in cart
    assert "€25.00" in cart
    assert 303 == status
    assert 'http-equiv="refresh" content="1"' in order
    assert "€25.00" in order


async def test_an_order_that_has_ended_is_not_asked_for_again(
    client: Client, own: Database
) -> None:
    await sent(client, "/cart/lines", sku="LAMP-1")
    _, where = await ordered(client)
    order_id = UUID(where.removeprefix("/orders/"))
    await Orders(own, Timers()).apply(order_id, CancelRequested())

    order = await shown(client, where)

    assert "http-equiv" not in order
    assert "You took it back." in order


async def test_units_are_added_changed_and_taken_out(client: Client) -> None:
    for qty in ("2", "3"):
        assert (303, "/cart") == await sent(client, "/cart/lines", sku="LAMP-1", qty=qty)
    assert "Cart (5)" in await shown(client, "/fragments/cart")

    assert (303, "/cart") == await sent(client, "/cart/lines/LAMP-1", qty="7")
    assert "Cart (7)" in await shown(client, "/fragments/cart")

    assert (303, "/cart") == await sent(client, "/cart/lines/LAMP-1/remove")
    assert "Cart<" in await shown(client, "/fragments/cart")
    assert "nothing in it" in await shown(client, "/cart")


async def test_without_a_cart_the_pages_lead_to_one(client: Client) -> None:
    assert "nothing in it" in await shown(client, "/cart")
    assert "nothing in it" in await shown(client, "/cart", Cookie="cart=" + "x" * 32)
    async with client.get("/checkout", allow_redirects=False) as answer:
        assert (303, "/cart") == (answer.status, answer.headers["Location"])


async def test_a_product_that_nobody_sells_is_refused_on_the_page(client: Client) -> None:
    status, html = await sent(client, "/cart/lines", sku="NO-1")

    assert 422 == status
    assert 'role="alert"' in html


async def test_the_new_price_is_shown_before_it_is_paid(
    client: Client, own: Database, make: Any
) -> None:
    await sent(client, "/cart/lines", sku="LAMP-1")
    old = fields(await shown(client, "/checkout"))
    await Projections(own).price_changed(make.price("LAMP-1", 2, EUR=9_900))

    status, html = await ordered(client, **old)
    now = fields(html)
    again, where = await ordered(client, **now)

    assert 409 == status
    assert "€99.00" in html
    assert old["key"] == now["key"]
    assert (303, True) == (again, where.startswith("/orders/"))


async def test_a_second_tab_comes_to_the_same_order(client: Client) -> None:
    await sent(client, "/cart/lines", sku="LAMP-1")
    tab = fields(await shown(client, "/checkout"))

    _, first = await ordered(client)
    second = await sent(client, "/checkout", **tab, **ADA)

    assert (303, first) == second
    async with client.get("/checkout", allow_redirects=False) as answer:
        assert first == answer.headers["Location"]


async def test_an_address_that_is_none_is_asked_for_again_and_shown_harmless(
    client: Client,
) -> None:
    await sent(client, "/cart/lines", sku="LAMP-1")

    status, html = await ordered(client, email='"><script>alert(1)</script>')

    assert 422 == status
    assert "<script>" not in html
    assert "&lt;script&gt;" in html


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"postcode": "5066"}, "postcode"),
        ({"street": ""}, "street"),
        ({"name": ""}, "name"),
        ({"country": ""}, "country"),
        ({"email": "ada"}, "email"),
        (
            {"billing_name": "Ada", "billing_street": "Ring 2", "billing_city": "Bonn"},
            "billing_country",
        ),
        (
            {f"billing_{name}": said for name, said in ADA.items()} | {"billing_postcode": "1"},
            "billing_postcode",
        ),
    ],
)
async def test_the_field_that_is_wrong_says_so_and_what_was_written_stays(
    client: Client, wrong: dict[str, str], field: str
) -> None:
    await sent(client, "/cart/lines", sku="LAMP-1")

    status, html = await ordered(client, **wrong)

    assert 422 == status
    assert [field] == re.findall(r'id="fault-(\w+)"', html)
    assert f'aria-describedby="fault-{field}"' in html
    assert ("Domstraße 1" in html) == (field != "street")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://anything"}, 303),
        ({"Origin": "http://shop.example", "Host": "shop.example"}, 303),
        ({"Origin": "http://shop.example", "X-Forwarded-Host": "shop.example"}, 303),
        ({}, 303),
    ],
)
async def test_forms_are_taken_from_our_own_pages_only(
    client: Client, headers: dict[str, str], status: int
) -> None:
    async with client.post(
        "/cart/lines", data={"sku": "LAMP-1"}, headers=headers, allow_redirects=False
    ) as answer:
        assert status == answer.status


@pytest.mark.parametrize(
    ("body", "media", "status"),
    [
        ("sku=LAMP-1&qty=0", "application/x-www-form-urlencoded", 422),
        ("sku=LAMP-1&qty=1000", "application/x-www-form-urlencoded", 422),
        ("sku=LAMP-1&qty=x", "application/x-www-form-urlencoded", 422),
        ("sku=%00", "application/x-www-form-urlencoded", 422),
        ("qty=1", "application/x-www-form-urlencoded", 422),
        (b"\xff=1", "application/x-www-form-urlencoded", 400),
        ("&".join(f"f{n}=1" for n in range(30)), "application/x-www-form-urlencoded", 400),
        ("sku=LAMP-1", "text/plain", 415),
        ("{}", "application/json", 415),
        ("sku=" + "A" * 70_000, "application/x-www-form-urlencoded", 413),
    ],
)
async def test_a_form_that_is_none_is_refused(
    client: Client, body: str | bytes, media: str, status: int
) -> None:
    headers = {"Content-Type": media}

    async with client.post("/cart/lines", data=body, headers=headers) as answer:
        assert status == answer.status
        assert "application/problem+json" == answer.content_type
