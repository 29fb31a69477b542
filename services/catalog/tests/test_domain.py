"""The rules of the catalogue, without any server."""

from datetime import UTC, datetime
from uuid import uuid4

import msgspec
import pytest

from catalog import domain
from catalog.domain import Draft, ImageIn, VariantIn
from shop_contracts.events.catalog.product_published_v1 import Category

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def draft(**fields: object) -> Draft:
    given = {"name": "Tarn 2", "variants": [{"sku": "TENT-1"}]} | fields
    return msgspec.convert(given, Draft)


@pytest.mark.parametrize(
    ("text", "slug"),
    [
        ("Wanderer Black Hiking Boots", "wanderer-black-hiking-boots"),
        ("The Cuckoo's Egg", "the-cuckoos-egg"),
        ("Café & Crème", "cafe-and-creme"),
        ("C++", "c-plus-plus"),
        ("C#", "c-sharp"),
        ("Палатка", "palatka"),
        ("***", "item"),
        ("x" * 300, "x" * 100),
    ],
)
def test_a_slug_is_fit_for_an_address(text: str, slug: str) -> None:
    assert slug == domain.slugify(text)


def test_two_category_paths_never_share_a_slug() -> None:
    paths = [["A B", "C"], ["A", "B C"], ["A", "B", "C"], ["A B C"], ["C++"], ["C"]]

    assert len(paths) == len({domain.category_slug(path) for path in paths})


def test_a_product_stands_in_its_categories_and_in_all_above() -> None:
    product = domain.create(
        draft(categories=[["Books", "Hacking"]]), product_id=uuid4(), slug="x", now=NOW
    )

    assert [Category(slug="books--hacking", path=["Books", "Hacking"])] == product.categories
    assert ["books", "books--hacking"] == product.within


def test_categories_form_a_tree_whatever_order_they_come_in() -> None:
    nodes = [
        domain.new_category(path, NOW)
        for path in (["B", "Z"], ["B", "Y"], ["A"], ["B"], ["C", "X"])
    ]

    roots = domain.tree(nodes)

    # C is not there, so its child stands for itself
    assert ["A", "B", "X"] == [root.name for root in roots]
    assert ["Y", "Z"] == [child.name for child in roots[1].children]


def test_a_draft_that_says_the_same_asks_for_nothing() -> None:
    wanted = draft(categories=[["Tents"]], images=[{"url": "/static/tent.svg"}])
    product = domain.create(wanted, product_id=uuid4(), slug="tarn-2", now=NOW)

    assert domain.says(product, wanted)
    assert not domain.says(product, draft())
    assert not domain.says(domain.withdraw(product, NOW), wanted)
    assert not domain.says(product, msgspec.structs.replace(wanted, slug="other"))


def test_a_draft_cannot_have_one_sku_twice() -> None:
    with pytest.raises(msgspec.ValidationError, match="two variants have one SKU"):
        draft(variants=[{"sku": "A"}, {"sku": "A"}])


def test_a_withdrawn_product_sells_nothing() -> None:
    product = domain.create(draft(), product_id=uuid4(), slug="tarn-2", now=NOW)

    assert ["TENT-1"] == product.skus
    assert [] == domain.withdraw(product, NOW).skus


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://cdn.example.com/a.webp", True),
        ("/static/images/a.svg", True),
        ("https://8.8.8.8/a.png", True),
        ("//evil.example/a.png", False),
        ("/\\evil.example/a.png", False),
        ("http://localhost/a.png", False),
        ("http://127.0.0.1/a.png", False),
        ("http://127.1/a.png", False),
        ("http://2130706433/a.png", False),
        ("http://0x7f.1/a.png", False),
        ("http://[::1]/a.png", False),
        ("http://169.254.169.254/latest/meta-data", False),
        ("http://10.0.0.8/a.png", False),
        ("http://printer.local/a.png", False),
        ("http://user:secret@cdn.example.com/a.png", False),
        ("http://cdn.example.com:99999/a.png", False),
        ("file:///etc/passwd", False),
        ("javascript:alert(1)", False),
        ("ftp://cdn.example.com/a.png", False),
    ],
)
def test_an_image_stands_where_the_public_can_see_it(url: str, *, allowed: bool) -> None:
    wanted = Draft(name="x", variants=[VariantIn(sku="A")], images=[ImageIn(url=url)])

    assert ([] if allowed else [0]) == domain.hidden_images(wanted)
