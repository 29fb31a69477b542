"""Carts on the real Redis: no line is lost, and no change lands on a cart that was not seen."""

import asyncio

import pytest

from chassis.problems import NotFound, PreconditionFailed
from checkout.store.carts import Carts
from checkout.store.problems import CartFull
from shop_contracts.types import PricedLine

pytestmark = pytest.mark.connected


def sold(sku: str, qty: int) -> PricedLine:
    return PricedLine(sku=sku, qty=qty, name=sku, unit_minor=1)


async def test_setting_a_line_again_changes_nothing(carts: Carts) -> None:
    cart = await carts.create()

    first = await carts.put(cart.id, "A", 2)
    again = await carts.put(cart.id, "A", 2)

    assert (2, {"A": 2}) == (first.version, first.lines)
    assert first == again == await carts.get(cart.id)


async def test_no_unit_is_lost_when_many_tabs_add(carts: Carts) -> None:
    cart = await carts.create()

    await asyncio.gather(*(carts.add(cart.id, f"S-{n % 5}", 1) for n in range(50)))

    found = await carts.get(cart.id)
    assert dict.fromkeys((f"S-{n}" for n in range(5)), 10) == found.lines
    assert 51 == found.version


async def test_only_one_change_of_a_version_is_taken(carts: Carts) -> None:
    cart = await carts.create()

    outcomes = await asyncio.gather(
        *(carts.put(cart.id, f"S-{n}", 1, cart.version) for n in range(8)), return_exceptions=True
    )

    assert 7 == sum(isinstance(outcome, PreconditionFailed) for outcome in outcomes)
    with pytest.raises(PreconditionFailed):
        await carts.drop(cart.id, 1)


async def test_a_cart_holds_a_hundred_lines_of_at_most_999(carts: Carts) -> None:
    cart = await carts.create()
    for n in range(100):
        await carts.put(cart.id, f"S-{n}", 1)

    with pytest.raises(CartFull):
        await carts.put(cart.id, "S-100", 1)
    await carts.put(cart.id, "S-7", 999)
    with pytest.raises(CartFull):
        await carts.add(cart.id, "S-7", 1)

    assert 100 == len((await carts.get(cart.id)).lines)


async def test_what_an_order_sold_leaves_its_cart_once_and_the_rest_stays(carts: Carts) -> None:
    cart = await carts.create()
    await carts.put(cart.id, "A", 2)
    await carts.put(cart.id, "B", 5)

    for _ in range(2):
        await carts.settle(cart.id, "order-1", [sold("A", 2), sold("B", 3)])

    assert {"B": 2} == (await carts.get(cart.id)).lines


async def test_a_cart_that_is_sold_out_is_gone(carts: Carts) -> None:
    cart = await carts.create()
    await carts.put(cart.id, "A", 2)

    for _ in range(2):
        await carts.settle(cart.id, "order-1", [sold("A", 2)])

    with pytest.raises(NotFound):
        await carts.get(cart.id)


async def test_a_cart_that_is_dropped_answers_like_one_that_never_was(carts: Carts) -> None:
    cart = await carts.create()
    await carts.drop(cart.id)

    for change in (carts.put(cart.id, "A", 1), carts.remove(cart.id, "A"), carts.drop(cart.id)):
        with pytest.raises(NotFound):
            await change
