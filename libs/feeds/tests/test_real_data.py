"""The shipped mappings on product data that others made, against the facts its README states."""

from decimal import Decimal
from pathlib import Path

import pytest

from feeds import mapping as mappings
from feeds.formats import read
from feeds.rows import Bad, File, Row

DATA = Path(__file__).parents[4] / "shared" / "data"

pytestmark = pytest.mark.skipif(
    not DATA.is_dir(), reason="real product data is not beside the checkout"
)

BOOKS = [
    f"oscar-books/books.{each}.csv" for each in ("computers-in-fiction", "essential", "hacking")
]


def rows(name: str, *paths: str) -> tuple[list[Row], list[Bad]]:
    mapping = mappings.named(name)
    files = [File(Path(each).name, DATA / each) for each in paths]
    both = list(read(files, mapping.format, mapping))
    return [each for each in both if isinstance(each, Row)], [
        each for each in both if isinstance(each, Bad)
    ]


def prices(good: list[Row]) -> list[Decimal]:
    return [Decimal(each.offers[0].prices[0].amount_minor) / 100 for each in good]


def test_all_of_eshop_goes_in_without_stock() -> None:
    good, bad = rows("eshop", "eshop/catalog.json")
    found = prices(good)

    assert [] == bad
    assert (101, Decimal("21.99"), Decimal(699)) == (len(good), min(found), max(found))
    assert Decimal("167.2793") == round(sum(found) / 101, 4)
    assert {None} == {each.offers[0].stock for each in good}
    assert {"USD"} == {each.offers[0].prices[0].currency for each in good}
    assert "ESHOP-1" == good[0].product.key


def test_the_four_dirty_books_are_named_and_the_rest_goes_in() -> None:
    good, bad = rows("oscar-books", *BOOKS)
    found = prices(good)

    assert [
        ("books.essential.csv", 2, "markup-in-text"),
        ("books.hacking.csv", 1, "duplicate-sku"),
        ("books.hacking.csv", 13, "duplicate-sku"),
        ("books.hacking.csv", 22, "duplicate-sku"),
    ] == [(each.source, each.line, each.code) for each in bad]
    assert "the SKU 9781416507789 was first seen in books.computers-in-fiction.csv line 60" == (
        bad[1].reason.replace("key", "SKU")
    )
    assert (197, Decimal("0.99"), Decimal("28.99")) == (len(good), min(found), max(found))
    assert 16 == sum(len(each.warnings) for each in good)
    assert ["Books", "Fiction", "Computers in Literature"] == good[0].product.categories[0]
    assert 9381 == sum(each.offers[0].stock or 0 for each in good)


def test_every_book_of_each_file_goes_in_once_the_stock_of_the_refused_is_counted() -> None:
    good, bad = rows("oscar-books", *BOOKS)
    refused = 0
    mean = sum(prices(good))
    for each in bad:
        text = (DATA / "oscar-books" / each.source).read_text("utf-8").splitlines()[each.line - 1]
        refused += int(text.rsplit(",", 1)[1])
        mean += Decimal(text.rsplit(",", 2)[1])

    assert 9596 == refused + sum(each.offers[0].stock or 0 for each in good)
    assert Decimal("14.1144") == round(mean / 201, 4)
    assert [86, 82, 33] == [
        [each.source for each in good].count(name) + [each.source for each in bad].count(name)
        for name in (Path(path).name for path in BOOKS)
    ]


def test_all_of_dummyjson_goes_in() -> None:
    good, bad = rows("dummyjson", "dummyjson/products.json")

    assert [] == bad
    assert 194 == len({each.offers[0].sku for each in good})
    assert 4 == sum(each.offers[0].stock == 0 for each in good)
    assert 92 == sum(each.product.brand is None for each in good)
    assert 24 == len({each.product.categories[0][0] for each in good})
    assert "beauty, mascara" == good[0].product.attributes["tags"]
    assert all(each.product.images for each in good)
