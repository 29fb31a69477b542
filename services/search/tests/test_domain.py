"""The pure rules of search."""

from datetime import UTC, datetime
from functools import reduce
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search import domain
from search.domain import Counted, Offer, Product, Query, Variant
from shop_contracts import envelope
from shop_contracts.events.stock import PriceChangedV1
from shop_contracts.events.stock.price_changed_v1 import Price

# what a version says is a function of the version: an event never has two contents
offers = st.builds(
    lambda stock, price, products: Offer(
        sku="BOOTS",
        products=sorted(products),
        stock_version=stock,
        available=stock % 3,
        price_version=price,
        price={"EUR": price} if price else {},
        was={"EUR": 2 * price} if price else {},
    ),
    st.integers(0, 9),
    st.integers(0, 9),
    st.sets(st.sampled_from("abc")),
)


@given(offers, offers, offers)
def test_offers_join_to_the_same_in_any_order_and_however_often(
    a: Offer, b: Offer, c: Offer
) -> None:
    join = domain.join_offers

    assert join(a, b) == join(b, a)
    assert join(join(a, b), c) == join(a, join(b, c))
    assert a == join(a, a)


@given(st.permutations([1, 2, 2, 3, 4]))
def test_the_newest_body_of_a_product_stays(versions: list[int]) -> None:
    bodies = [
        Product(product_id="p", catalog_version=version, withdrawn=version == 4, slug=f"v{version}")
        for version in versions
    ]

    assert "v4" == reduce(domain.join_products, bodies).slug


def test_a_variant_takes_the_newer_of_stock_and_of_price_apart() -> None:
    variant = Variant(
        sku="A", sku_normalised="a", stock_version=5, available=2, price_version=1, price={"EUR": 1}
    )
    product = Product(
        product_id="p", catalog_version=1, withdrawn=False, slug="p", variants=[variant]
    )
    offer = Offer(
        sku="A", stock_version=4, available=9, price_version=2, price={"EUR": 7}, was={"EUR": 9}
    )
    (shown,) = domain.with_offers(product, {"A": offer}).variants

    assert (2, {"EUR": 7}, {"EUR": 9}) == (shown.available, shown.price, shown.was)


def test_the_price_shown_is_everybodys_price_for_one_unit() -> None:
    event = envelope.new(
        PriceChangedV1(
            sku="A",
            prices=[
                Price(currency="EUR", amount_minor=900, list_minor=950, group="trade"),
                Price(currency="EUR", amount_minor=800, min_qty=10),
                Price(currency="EUR", amount_minor=1000, list_minor=1250),
                Price(currency="USD", amount_minor=1100),
                Price(currency="CHF", amount_minor=1200, list_minor=1200),
            ],
        ),
        id=uuid4(),
        entityversion=1,
    )
    (offer,) = domain.offers_in(event)

    assert {"EUR": 1000, "USD": 1100, "CHF": 1200} == offer.price
    assert {"EUR": 1250} == offer.was


@pytest.mark.parametrize("typed", ["ab-12.X", "AB12X", "ab 12 x", "A.B-1_2x"])
def test_a_sku_is_the_same_however_it_is_typed(typed: str) -> None:
    assert "ab12x" == domain.normalised(typed)


def test_a_renamed_category_is_one_value_and_a_chosen_one_is_always_there() -> None:
    counts = [(domain.facet_term("bags", "Bags"), 3), (domain.facet_term("bags", "Sacks"), 1)]

    assert [
        Counted(value="bags", name="Bags", count=4),
        Counted(value="gone", name="gone", count=0),
    ] == domain.facet_values(counts, {"gone": 0})


@pytest.mark.parametrize(
    "wrong", [{"page": 101, "page_size": 100}, {"price_min": 2, "price_max": 1}]
)
def test_a_query_outside_the_window_or_with_an_empty_range_cannot_be_made(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"beyond|above"):
        Query(**wrong)


def test_a_hit_shows_the_price_of_the_variants_that_pass() -> None:
    product = Product(
        product_id=str(uuid4()),
        catalog_version=1,
        withdrawn=False,
        slug="boots",
        name="Boots",
        published_at=datetime.now(UTC),
        variants=[
            Variant(sku="A", sku_normalised="a", price={"EUR": 500}, was={"EUR": 700}),
            Variant(sku="B", sku_normalised="b", price={"EUR": 900}, in_stock=True),
            Variant(sku="C", sku_normalised="c", in_stock=True),
        ],
    )
    everything = domain.hit(product, Query(), "EUR")
    stocked = domain.hit(product, Query(in_stock=True), "EUR")
    elsewhere = domain.hit(product, Query(), "USD")

    assert (500, True, ["A", "B", "C"]) == (everything.price, everything.in_stock, everything.skus)
    assert (900, ["B", "C"]) == (stocked.price, stocked.skus)
    assert (700, None) == (everything.was, stocked.was)
    assert (None, None) == (elsewhere.price, elsewhere.was)
