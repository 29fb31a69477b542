"""The laws of every amount, for whatever cart, coupon and rules; and figures worked out by hand."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from checkout.rules import Method, Rules, Tariff
from checkout.totals import (
    Breakdown,
    Discount,
    Item,
    allocate,
    breakdown,
    disagreements,
    of_units,
    shipping_offers,
)

TAXES = {
    "DE": {"standard": 1900, "reduced": 700},
    "CH": {"standard": 810, "reduced": 260},
    "FR": {"standard": 2000, "reduced": 550},
}
POST = Method(
    id="post",
    name="Post",
    tariffs=[
        Tariff(countries=["DE"], up_to_g=2_000, price_minor={"EUR": 490}),
        Tariff(countries=["DE"], price_minor={"EUR": 990}, free_from_minor={"EUR": 5_000}),
        Tariff(price_minor={"EUR": 1_500}),
    ],
)
EXPRESS = Method(
    id="express", name="Express", tariffs=[Tariff(countries=["DE"], price_minor={"EUR": 1_900})]
)
GROSS = Rules(country="DE", prices="gross", taxes=TAXES, untaxed=["NO"], shipping=[EXPRESS, POST])
NET = structs.replace(GROSS, prices="net")

amounts = st.one_of(st.integers(0, 10_000), st.integers(0, 2**53 - 1))
items = st.lists(
    st.builds(
        Item,
        sku=st.just("A"),
        qty=st.integers(1, 999),
        unit_minor=amounts,
        tax_class=st.sampled_from([None, "standard", "reduced", "unheard-of"]),
        weight_g=st.integers(0, 5_000),
    ),
    min_size=1,
    max_size=12,
)
discounts = st.one_of(
    st.none(),
    st.builds(
        Discount,
        code=st.just("SUMMER"),
        kind=st.sampled_from(["percent", "amount", "free_shipping"]),
        value=st.integers(0, 10_000),
    ),
)
chosen: Any = st.fixed_dictionaries(
    {
        "items": items,
        "rules": st.sampled_from([GROSS, NET, Rules()]),
        "currency": st.just("EUR"),
        "country": st.sampled_from([None, "DE", "CH", "FR", "NO", "US"]),
        "method": st.sampled_from([None, "post", "express", "unheard-of"]),
        "discount": discounts,
    }
)


@given(chosen)
def test_every_total_is_the_sum_of_its_parts(given: dict[str, Any]) -> None:
    found = breakdown(**given)

    assert [] == disagreements(found)
    assert found.total_minor == sum(tax.gross_minor for tax in found.taxes)


@given(chosen)
def test_no_discount_exceeds_its_goods_and_nothing_is_negative(given: dict[str, Any]) -> None:
    found = breakdown(**given)

    for line in found.lines:
        assert 0 <= line.discount_minor <= line.goods_minor
        assert min(line.net_minor, line.tax_minor, line.gross_minor) >= 0
    assert 0 <= found.discount_minor <= found.subtotal_minor
    assert min(found.tax_minor, found.shipping_minor, found.total_minor) >= 0


@given(st.lists(amounts, max_size=20), st.data())
def test_an_allocation_loses_no_cent_and_stays_within_its_weights(
    weights: list[int], data: st.DataObject
) -> None:
    amount = data.draw(st.integers(0, sum(weights)))

    shares = allocate(amount, weights)

    assert (amount, len(weights)) == (sum(shares), len(shares))
    assert all(0 <= share <= weight for share, weight in zip(shares, weights, strict=True))


@given(chosen)
def test_a_gross_price_costs_the_same_wherever_it_goes(given: dict[str, Any]) -> None:
    here = breakdown(**{**given, "rules": GROSS, "country": "DE"})
    there = breakdown(**{**given, "rules": GROSS, "country": "FR"})

    paid = [[line.gross_minor for line in found.lines] for found in (here, there)]
    assert paid[0] == paid[1]


@given(items, st.sampled_from(["DE", "CH", "FR"]))
def test_a_net_price_and_the_gross_price_it_makes_differ_by_one_unit_of_tax_at_most(
    bought: list[Item], country: str
) -> None:
    net = breakdown(bought, NET, currency="EUR", country=country)
    as_gross = [
        structs.replace(item, qty=1, unit_minor=line.gross_minor)
        for item, line in zip(bought, net.lines, strict=True)
    ]

    gross = breakdown(as_gross, GROSS, currency="EUR", country=country)

    for one, other in zip(net.lines, gross.lines, strict=True):
        assert one.gross_minor == other.gross_minor
        assert abs(one.tax_minor - other.tax_minor) <= 1


@given(amounts, st.lists(st.integers(1, 50), min_size=1, max_size=10))
def test_units_taken_in_any_steps_have_exactly_their_lines_amount(
    amount: int, steps: list[int]
) -> None:
    qty = sum(steps)
    parts = [of_units(amount, qty, sum(steps[:n]), units) for n, units in enumerate(steps)]

    assert amount == sum(parts)
    assert min(parts) >= 0


def bought(unit: int = 1_000, qty: int = 1, tax_class: str | None = None, weight: int = 0) -> Item:
    return Item(sku="A", qty=qty, unit_minor=unit, tax_class=tax_class, weight_g=weight)


def test_gross_prices_contain_their_tax() -> None:
    found = breakdown([bought(11_900)], GROSS, currency="EUR", country="DE", method="express")

    assert (10_000, 1_900) == (found.lines[0].net_minor, found.lines[0].tax_minor)
    # 19.00 contains 3.03 at 19 %
    assert (11_900 + 1_900, 1_900 + 303) == (found.total_minor, found.tax_minor)


def test_net_prices_have_their_tax_on_top() -> None:
    found = breakdown([bought(10_000)], NET, currency="EUR", country="CH")

    assert (10_000, 810, 10_810) == (
        found.lines[0].net_minor,
        found.lines[0].tax_minor,
        found.lines[0].gross_minor,
    )
    # 15.00 for shipping, 8.1 % of it are 1.215
    assert (11_500, 810 + 122, 12_432) == (found.net_minor, found.tax_minor, found.total_minor)


def test_tax_is_rounded_for_each_line_and_half_of_a_unit_goes_up() -> None:
    rules = Rules(country="DE", prices="net", taxes={"DE": {"standard": 1_000}})

    found = breakdown([bought(5), bought(5), bought(4)], rules, currency="EUR", country="DE")

    assert [1, 1, 0] == [line.tax_minor for line in found.lines]
    assert 16 == found.total_minor


def test_a_discount_is_shared_by_what_lines_cost_and_lessens_each_ones_tax() -> None:
    ten = Discount(code="TEN", kind="amount", value=1_000)

    found = breakdown(
        [bought(2_000), bought(1_000, tax_class="reduced")],
        GROSS,
        currency="EUR",
        country="DE",
        discount=ten,
    )

    assert [667, 333] == [line.discount_minor for line in found.lines]
    assert [(1_900, 213 + 78), (700, 44)] == [(t.rate_bp, t.tax_minor) for t in found.taxes]
    assert (3_000, 1_000, 490, 2_490) == (
        found.subtotal_minor,
        found.discount_minor,
        found.shipping_minor,
        found.total_minor,
    )


@pytest.mark.parametrize(
    ("kind", "value", "discount"),
    [("percent", 1_250, 125), ("percent", 10_000, 1_000), ("amount", 5_000, 1_000)],
)
def test_a_coupon_takes_off_its_part_and_never_more_than_the_goods(
    kind: Any, value: int, discount: int
) -> None:
    code = Discount(code="X", kind=kind, value=value)

    found = breakdown([bought()], GROSS, currency="EUR", country="DE", discount=code)

    assert (discount, 490) == (found.discount_minor, found.shipping_minor)
    assert "X" == found.coupon


def test_free_shipping_takes_the_shipping_off_and_leaves_the_goods() -> None:
    code = Discount(code="FREE", kind="free_shipping")

    found = breakdown([bought()], GROSS, currency="EUR", country="DE", discount=code)

    assert found.shipping is not None
    assert (490, 490, 0) == (
        found.shipping.price_minor,
        found.shipping.discount_minor,
        found.shipping.gross_minor,
    )
    assert (1_000, 0, 0) == (found.total_minor, found.discount_minor, found.shipping_minor)


@pytest.mark.parametrize(
    ("country", "weight", "unit", "expected"),
    [
        ("DE", 2_000, 1_000, [("post", 490), ("express", 1_900)]),
        ("DE", 2_001, 1_000, [("post", 990), ("express", 1_900)]),
        ("DE", 2_001, 5_000, [("post", 0), ("express", 1_900)]),
        ("FR", 2_001, 5_000, [("post", 1_500)]),
    ],
)
def test_shipping_is_offered_by_country_weight_and_worth_the_cheapest_first(
    country: str, weight: int, unit: int, expected: list[tuple[str, int]]
) -> None:
    offers = shipping_offers([bought(unit, weight=weight)], GROSS, currency="EUR", country=country)

    assert expected == [(offer.id, offer.price_minor) for offer in offers]


def test_what_nobody_sends_there_has_no_shipping() -> None:
    found = breakdown([bought()], GROSS, currency="CHF", country="CH")

    assert found.shipping is None


def test_a_country_without_tax_is_charged_none() -> None:
    found = breakdown([bought()], GROSS, currency="EUR", country="NO")

    assert (0, 2_500) == (found.tax_minor, found.total_minor)


def test_without_rules_a_cart_costs_what_its_goods_cost() -> None:
    found = breakdown([bought(qty=3)], Rules(), currency="JPY")

    assert (3_000, 0, 0, None) == (
        found.total_minor,
        found.tax_minor,
        found.exponent,
        found.shipping,
    )


@pytest.mark.parametrize(
    "field", ["subtotal_minor", "discount_minor", "net_minor", "tax_minor", "total_minor"]
)
def test_an_amount_that_was_changed_disagrees(field: str) -> None:
    found: Breakdown = breakdown([bought()], GROSS, currency="EUR", country="DE")

    changed = structs.replace(found, **{field: getattr(found, field) + 1})

    assert disagreements(changed)
