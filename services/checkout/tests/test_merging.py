"""A guest's cart meets the customer's: no line is lost, whatever else happens to either."""

import asyncio
import random
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
import uuid_utils.compat as uuids

from chassis.problems import NotFound
from checkout.domain import CancelRequested, Timers
from checkout.store.carts import Carts, own
from checkout.store.merging import Merge
from checkout.store.orders import Orders
from checkout.store.problems import CartFull
from shop_contracts.types import PricedLine

pytestmark = [pytest.mark.connected, pytest.mark.everywhere]

Browsers = Callable[[], Any]


def sold(sku: str, qty: int) -> PricedLine:
    return PricedLine(sku=sku, qty=qty, name=sku, unit_minor=1)


async def filled(carts: Carts, **lines: int) -> str:
    cart = await carts.create()
    for sku, qty in lines.items():
        await carts.put(cart.id, sku, qty)
    return cart.id


async def lines(carts: Carts, cart_id: str) -> dict[str, int]:
    try:
        return (await carts.get(cart_id)).lines
    except NotFound:
        return {}


async def test_units_of_one_product_add_up_and_again_changes_nothing(carts: Carts) -> None:
    ada = uuids.uuid7()
    await carts.ensure(ada)
    await carts.put(own(ada), "A", 2)
    guest = await filled(carts, A=3, B=1)

    first, again = await carts.merge(guest, ada), await carts.merge(guest, ada)

    assert (Merge(moved=2), Merge()) == (first, again)
    assert {"A": 5, "B": 1} == await lines(carts, own(ada))
    with pytest.raises(NotFound):
        await carts.get(guest)


async def test_a_customer_without_a_cart_gets_one(carts: Carts) -> None:
    ada = uuids.uuid7()

    await carts.merge(await filled(carts, A=3), ada)

    cart = await carts.get(own(ada))
    assert (2, {"A": 3}) == (cart.version, cart.lines)


async def test_units_over_the_most_are_cut_and_told(carts: Carts) -> None:
    ada = uuids.uuid7()
    await carts.ensure(ada)
    await carts.put(own(ada), "A", 998)

    merge = await carts.merge(await filled(carts, A=3), ada)

    assert Merge(moved=1, cut=1) == merge
    assert {"A": 999} == await lines(carts, own(ada))


async def test_lines_without_room_stay_with_the_guest_until_there_is_some(carts: Carts) -> None:
    ada = uuids.uuid7()
    await carts.ensure(ada)
    for n in range(99):
        await carts.put(own(ada), f"S-{n}", 1)
    guest = await filled(carts, A=1, B=2, C=3)

    first = await carts.merge(guest, ada)
    left = await lines(carts, guest)
    for n in range(2):
        await carts.remove(own(ada), f"S-{n}")
    second = await carts.merge(guest, ada)

    assert (Merge(moved=1, left=2), Merge(moved=2)) == (first, second)
    assert {"B": 2, "C": 3} == left
    merged = await lines(carts, own(ada))
    assert (100, 1, 2, 3) == (len(merged), merged["A"], merged["B"], merged["C"])
    with pytest.raises(CartFull):
        await carts.put(own(ada), "D", 1)


@pytest.mark.parametrize("seed", range(5))
async def test_no_unit_is_lost_while_tabs_add_devices_sign_in_and_orders_sell(
    carts: Carts, seed: int
) -> None:
    chance, ada = random.Random(seed), uuids.uuid7()
    guests = [(await carts.create()).id for _ in range(3)]
    added: dict[str, int] = {}

    async def add(cart_id: str) -> None:
        sku = f"S-{chance.randrange(6)}"
        try:
            await carts.add(cart_id, sku, 1)
        except NotFound:  # it is the customer's by now, as a page would find out
            await carts.ensure(ada)
            await carts.add(own(ada), sku, 1)
        added[sku] = added.get(sku, 0) + 1

    async def sell() -> None:
        cart_id = chance.choice([*guests, own(ada)])
        had = await lines(carts, cart_id)
        await carts.settle(cart_id, f"order-{chance.random()}", [])
        assert set(had) <= {*await lines(carts, cart_id), *await lines(carts, own(ada))}

    steps = [add(chance.choice([*guests, own(ada)])) for _ in range(60)]
    steps += [carts.merge(guest, ada) for guest in guests * 3]
    steps += [sell() for _ in range(5)]
    chance.shuffle(steps)
    await asyncio.gather(*steps)
    for guest in guests:
        await carts.merge(guest, ada)

    assert added == await lines(carts, own(ada))


async def test_what_an_order_sold_leaves_the_cart_that_its_lines_went_into(carts: Carts) -> None:
    ada = uuids.uuid7()
    guest = await filled(carts, A=3, B=1)
    await carts.merge(guest, ada)

    for _ in range(2):
        await carts.settle(guest, "order-1", [sold("A", 2), sold("B", 1)])

    assert {"A": 1} == await lines(carts, own(ada))


async def test_an_order_is_settled_once_though_the_customers_cart_comes_back(
    carts: Carts,
) -> None:
    ada = uuids.uuid7()
    await carts.ensure(ada)
    await carts.put(own(ada), "A", 2)
    await carts.settle(own(ada), "order-1", [sold("A", 2)])
    await carts.put(own(ada), "A", 5)
    await carts.drop(own(ada))
    await carts.ensure(ada)
    await carts.put(own(ada), "A", 7)

    await carts.settle(own(ada), "order-1", [sold("A", 2)])

    assert {"A": 7} == await lines(carts, own(ada))


# ---- as shoppers meet it ----


async def fill(who: Any, sku: str = "LAMP-1", qty: int = 1) -> None:
    answer = await who.send("POST", "/cart/lines", data={"sku": sku, "qty": str(qty)})
    assert 303 == answer.status, answer.text


async def units(who: Any) -> dict[str, int]:
    view = (await who.send("GET", "/me/cart")).json()
    return {line["sku"]: line["qty"] for line in view["lines"]}


async def test_what_a_browser_chose_before_it_signed_in_is_there_afterwards(
    browsers: Browsers,
) -> None:
    phone, laptop = browsers(), browsers()
    await phone.sign_in()
    await fill(phone, qty=2)
    await fill(laptop, qty=3)
    token = await laptop.link("ada@example.com")

    await laptop.send("POST", "/sign-in/confirm", data={"token": token})

    assert {"__Host-session"} == set(laptop.cookies)
    assert {"LAMP-1": 5} == await units(phone) == await units(laptop)
    assert "Cart (5)" in (await phone.send("GET", "/fragments/cart")).text


async def test_a_line_of_a_tab_that_was_still_a_guests_comes_along(browsers: Browsers) -> None:
    browser, tab = browsers(), browsers()
    await fill(browser)
    tab.cookies = dict(browser.cookies)
    token = await browser.link("ada@example.com")
    await browser.send("POST", "/sign-in/confirm", data={"token": token})

    await fill(tab, "LAMP-2")
    browser.cookies |= tab.cookies
    cart = await browser.send("GET", "/cart")

    assert "LAMP-2" in cart.text
    assert {"__Host-session"} == set(browser.cookies)
    assert {"LAMP-1": 1, "LAMP-2": 1} == await units(browser)


async def test_a_cart_whose_order_is_on_its_way_waits_until_that_has_ended(
    browsers: Browsers, own: Any
) -> None:
    browser = browsers()
    await fill(browser)
    cart = browser.cookies["cart"]
    purchase = {"email": "ada@example.com", "payment": {"token": "tok_ok"}}
    placed = await browser.send(
        "POST",
        f"/carts/{cart}/checkout",
        json=purchase,
        headers={"Idempotency-Key": "k" * 20},
    )
    token = await browser.link("ada@example.com")

    await browser.send("POST", "/sign-in/confirm", data={"token": token})
    page = await browser.send("GET", "/cart")
    before = await units(browser)
    await Orders(own, Timers()).apply(UUID(placed.json()["order_id"]), CancelRequested())
    await browser.send("GET", "/cart")

    assert ({}, cart) == (before, cart)
    assert "wait for room in this cart, or for their order" in page.text
    assert {"LAMP-1": 1} == await units(browser)
    assert "cart" not in browser.cookies


async def test_programs_merge_by_asking(browsers: Browsers) -> None:
    ada = browsers()
    await ada.sign_in()
    cart = (await ada.send("POST", "/carts")).json()["cart_id"]
    await ada.send("PUT", f"/carts/{cart}/lines/LAMP-1", json={"qty": 4})

    merged = (await ada.send("POST", "/me/cart", json={"cart_id": cart})).json()
    again = (await ada.send("POST", "/me/cart", json={"cart_id": cart})).json()

    assert (1, 0, 0, 4) == (
        merged["moved"],
        merged["left"],
        merged["cut"],
        merged["cart"]["lines"][0]["qty"],
    )
    assert (0, merged["cart"]) == (again["moved"], again["cart"])


async def test_nobody_merges_a_customers_cart_into_their_own(browsers: Browsers) -> None:
    ada, bob = browsers(), browsers()
    customer = await ada.sign_in()
    await fill(ada)
    await bob.sign_in("bob@example.com")
    taken = customer["customer_id"].replace("-", "")

    answer = await bob.send("POST", "/me/cart", json={"cart_id": taken})
    bob.cookies["cart"] = taken
    await bob.send("GET", "/cart")

    assert 0 == answer.json()["moved"]
    assert {} == await units(bob)
    assert {"LAMP-1": 1} == await units(ada)
