"""What catalog tells is what its contracts say. No store and no broker is here."""

from datetime import UTC, datetime
from uuid import UUID

import pytest

from catalog import domain
from catalog.domain import AttributeIn, Draft, ImageIn, VariantIn
from shop_contracts import envelope
from shop_contracts.envelope import encode
from shop_contracts.events import EVENTS
from shop_contracts.events.base import Fact
from shop_contracts.kit.producer import event_problems
from shop_contracts.majors import sent_as

ID = UUID("01931a2b-7c00-7000-8000-000000000101")
NOW = datetime(2026, 11, 2, 9, 30, tzinfo=UTC)
NOT_YET = {"image.resized.v1"}
"""What nobody makes yet."""

SMALL = Draft(name="T", variants=[VariantIn(sku="T")])
LARGE = Draft(
    name="T" * 500,
    description="d" * 20_000,
    brand="b" * 500,
    categories=[["c" * 200] * 10],
    attributes=[AttributeIn(code="a" * 500, value="v" * 500)],
    variants=[
        VariantIn(
            sku="s" * 64,
            options={"o" * 500: "v" * 500},
            barcode="4" * 500,
            weight_g=10**9,
            tax_class="t" * 32,
        )
    ],
    images=[ImageIn(url="/" + "u" * 1_999, alt="a" * 500)],
)


def facts() -> list[Fact]:
    products = [
        domain.create(draft, product_id=ID, slug=domain.slugify(draft.name), now=NOW)
        for draft in (SMALL, LARGE)
    ]
    categories = [domain.new_category(path, NOW) for path in (["A"], ["ä" * 200] * 10)]
    return [
        *map(domain.published, products),
        *(domain.product_withdrawn(domain.withdraw(product, NOW)) for product in products),
        *map(domain.category_changed, categories),
    ]


@pytest.mark.parametrize("fact", facts(), ids=lambda fact: type(fact).__name__)
def test_what_catalog_tells_is_valid_at_its_smallest_and_largest(fact: Fact) -> None:
    for event in sent_as(envelope.new(fact, id=ID, entityversion=1)):
        assert [] == event_problems(encode(event))


def test_every_event_that_catalog_owns_is_told() -> None:
    told = {
        event.meta.key
        for fact in facts()
        for event in sent_as(envelope.new(fact, id=ID, entityversion=1))
    }

    assert {fact.KEY for fact in EVENTS["catalog"]} == told | NOT_YET
