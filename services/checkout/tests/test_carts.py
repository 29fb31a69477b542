"""Carts on the real Redis: no line is lost, and no change lands on a cart that was not seen."""

import asyncio
from uuid import uuid4

import pytest

from chassis.problems import NotFound, PreconditionFailed
from checkout.store.carts import Carts, own
from checkout.store.problems import CartFull
from shop_contracts.types import PricedLine

pytestmark = [pytest.mark.connected, pytest.mark.everywhere]


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


async def test_a_line_keeps_the_price_at_which_it_was_chosen(carts: Carts) -> None:
    cart = await carts.create()

    await carts.put(cart.id, "A", 2, seen={"EUR": 1_290, "CHF": 1_400})
    await carts.put(cart.id, "B", 1)
    await carts.settle(cart.id, "an order", [sold("A", 1), sold("B", 1)])

    left = await carts.get(cart.id)
    assert ({"A": 1}, {"A": {"EUR": 1_290, "CHF": 1_400}}) == (left.lines, left.seen)
    again = await carts.add(cart.id, "A", 1, seen={"EUR": 990})
    assert ({"A": 2}, {"A": {"EUR": 990}}) == (again.lines, again.seen)
    assert {} == (await carts.remove(cart.id, "A")).seen


async def test_a_merged_line_keeps_the_price_that_the_customer_saw(carts: Carts) -> None:
    guest, customer = (await carts.create()).id, uuid4()
    for sku in ("A", "B"):
        await carts.put(guest, sku, 1, seen={"EUR": 1_000})
    await carts.ensure(customer)
    await carts.put(own(customer), "A", 1, seen={"EUR": 2_000})

    await carts.merge(guest, customer)

    cart = await carts.get(own(customer))
    assert {"A": 2, "B": 1} == cart.lines
    assert {"A": {"EUR": 2_000}, "B": {"EUR": 1_000}} == cart.seen
