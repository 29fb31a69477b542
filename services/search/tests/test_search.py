"""Searching over HTTP: words, filters, facets, orders, pages, and what is refused."""

from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from search.app import opened, web_application
from search.settings import Settings

pytestmark = pytest.mark.connected


def slugs(found: Any) -> list[str]:
    return [hit["slug"] for hit in found["hits"]]


def counts(found: Any, facet: str) -> dict[str, int]:
    return {value["value"]: value["count"] for value in found["facets"][facet]}


@pytest.fixture
async def outdoor(shop: Any, say: Any) -> Any:
    """Five products: boots in two sizes, a hat, a helmet, a bag, and socks without a price."""
    await shop.hears(
        say.published("boots", skus=["BOOT-38", "BOOT-45"], name="Summit Hiking Boots", day=1),
        say.published("hat", name="Wool Hat", brand="Gravitator", categories=["Wear"], day=2),
        say.published(
            "helmet",
            name="Bike Helmets",
            brand="Gravitator",
            categories=["Cycling", "Wear"],
            description="Light, for summit and city.",
            day=3,
        ),
        say.published("bag", name="alpine Backpack", brand=None, categories=["Bags"], day=4),
        say.published("socks", name="Socks", categories=["Wear"], day=5),
        say.stock("BOOT-38", 3),
        say.price("BOOT-38", 5000),
        say.stock("BOOT-45", 0),
        say.price("BOOT-45", 9000),
        say.stock("hat", 1),
        say.price("hat", 2000),
        say.price("helmet", 7999),
        say.stock("bag", 8),
        say.price("bag", 12999),
        say.stock("socks", 2),
    )
    return shop


async def test_without_words_everything_is_found_newest_first(outdoor: Any) -> None:
    found = await outdoor.find()

    assert ["socks", "bag", "helmet", "hat", "boots"] == slugs(found)
    assert (5, 1, 24) == (found["total"], found["page"], found["page_size"])


async def test_a_hit_says_what_a_list_shows(outdoor: Any, say: Any) -> None:
    (hit,) = (await outdoor.find(q="hiking boots"))["hits"]

    assert {
        "product_id": str(say.id("boots")),
        "slug": "boots",
        "name": "Summit Hiking Boots",
        "brand": "Daybird",
        "image": {"url": "https://images.example/boots.webp", "alt": "Summit Hiking Boots"},
        "price": 5000,
        "was": None,
        "currency": "EUR",
        "in_stock": True,
        "skus": ["BOOT-38", "BOOT-45"],
    } == hit


@pytest.mark.parametrize(
    ("q", "expected"),
    [
        ("helmet", ["helmet"]),  # one helmet, as the stem says
        ("summit", ["boots", "helmet"]),  # the name weighs more than the description
        ("summit city", ["helmet"]),  # all words
        ("gravitator hat", ["hat"]),  # over several fields
        ("boot45", ["boots"]),  # a SKU as people type it
        ("BOOT-38", ["boots"]),
        ("nothing like it", []),
        ("name:boots OR *", []),  # no query language
        ("the", []),
        ("   ", ["socks", "bag", "helmet", "hat", "boots"]),
    ],
)
async def test_all_words_must_be_found_and_names_count_most(
    outdoor: Any, q: str, expected: list[str]
) -> None:
    assert expected == slugs(await outdoor.find(q=q))


async def test_words_can_be_looked_for_in_names_alone(outdoor: Any) -> None:
    assert ["boots"] == slugs(await outdoor.find(q="summit", in_="name"))


async def test_an_exact_sku_comes_before_all_words(outdoor: Any, say: Any) -> None:
    await outdoor.hears(
        say.published("x", skus=["WOOL"], name="Lamp"),
        say.published("y", name="Wool wool wool"),
    )

    assert "x" == slugs(await outdoor.find(q="wool"))[0]


async def test_values_of_one_filter_are_alternatives_and_filters_hold_together(
    outdoor: Any,
) -> None:
    either = await outdoor.find(category=["bags", "wear"], sort="name")
    both = await outdoor.find(category=["bags", "wear"], brand="Gravitator", sort="name")

    assert ["bag", "helmet", "socks", "hat"] == slugs(either)
    assert ["helmet", "hat"] == slugs(both)


async def test_each_facet_is_counted_without_its_own_filter(outdoor: Any) -> None:
    found = await outdoor.find(category="bags", brand="Gravitator", in_stock="true")

    assert 0 == found["total"]
    assert {"wear": 1, "bags": 0} == counts(found, "categories")
    assert {"Gravitator": 0} == counts(found, "brands")
    assert {"true": 0, "false": 0} == counts(found, "in_stock")

    found = await outdoor.find(category="wear")

    assert {"wear": 3, "bags": 1, "cycling": 1, "footwear": 1} == counts(found, "categories")
    assert {"Gravitator": 2, "Daybird": 1} == counts(found, "brands")
    assert {"true": 2, "false": 1} == counts(found, "in_stock")
    assert {"value": "wear", "name": "Wear", "count": 3} == found["facets"]["categories"][0]


async def test_following_a_facet_gives_as_many_as_it_counted(outdoor: Any) -> None:
    for start in ({}, {"brand": "Gravitator"}, {"price_min": 6000}, {"in_stock": "false"}):
        found = await outdoor.find(**start)
        for facet, name in (("categories", "category"), ("brands", "brand")):
            for value, count in counts(found, facet).items():
                taken = await outdoor.find(**{**start, name: value})

                assert count == taken["total"], (start, value)
        for value, count in counts(found, "in_stock").items():
            taken = await outdoor.find(**{**start, "in_stock": value})

            assert count == taken["total"], (start, value)


async def test_stock_and_price_are_those_of_one_and_the_same_variant(outdoor: Any) -> None:
    large = await outdoor.find(price_min=8500, price_max=9500)
    stocked = await outdoor.find(price_min=8500, price_max=9500, in_stock="true")

    assert ["boots"] == slugs(large)
    assert (9000, False, ["BOOT-45"]) == tuple(
        large["hits"][0][name] for name in ("price", "in_stock", "skus")
    )
    assert [] == slugs(stocked)
    assert {"true": 0, "false": 1} == counts(large, "in_stock")


async def test_prices_are_those_of_the_variants_that_pass(outdoor: Any) -> None:
    everything = (await outdoor.find())["price"]
    stocked = (await outdoor.find(in_stock="true"))["price"]

    assert {"min": 2000, "max": 12999, "avg": 7399.6, "count": 5} == everything
    assert {"min": 2000, "max": 12999, "avg": 6666.333333333333, "count": 3} == stocked


async def test_a_currency_nobody_uses_has_no_prices_and_finds_all_the_same(outdoor: Any) -> None:
    found = await outdoor.find(currency="CHF", sort="price_asc")

    assert (5, {None}) == (found["total"], {hit["price"] for hit in found["hits"]})
    assert {"min": None, "max": None, "avg": None, "count": 0} == found["price"]
    assert 0 == (await outdoor.find(currency="CHF", price_min=0))["total"]


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ("price_asc", ["hat", "boots", "helmet", "bag", "socks"]),
        ("price_desc", ["bag", "helmet", "boots", "hat", "socks"]),
        ("name", ["bag", "helmet", "socks", "boots", "hat"]),
        ("newest", ["socks", "bag", "helmet", "hat", "boots"]),
    ],
)
async def test_hits_come_in_the_order_asked_for(
    outdoor: Any, sort: str, expected: list[str]
) -> None:
    assert expected == slugs(await outdoor.find(sort=sort))


async def test_the_price_that_orders_is_the_price_shown(outdoor: Any) -> None:
    found = await outdoor.find(sort="price_asc", price_min=7000)

    assert [7999, 9000, 12999] == [hit["price"] for hit in found["hits"]]


async def test_pages_neither_repeat_nor_leave_out(outdoor: Any) -> None:
    pages = [await outdoor.find(page=number, page_size=2, sort="name") for number in (1, 2, 3, 4)]

    assert ["bag", "helmet", "socks", "boots", "hat"] == [
        slug for page in pages for slug in slugs(page)
    ]
    assert {5} == {page["total"] for page in pages}


@pytest.mark.parametrize(
    "wrong",
    [
        "colour=red",
        "q=a&q=b",
        "q=" + "a" * 257,
        "q=%00",
        "in=description",
        "sort=random",
        "in_stock=maybe",
        "page=0",
        "page=x",
        "page_size=101",
        "page=101&page_size=100",
        "price_min=-1",
        "price_min=1.5",
        "price_min=9007199254740993",
        "price_min=2&price_max=1",
        "currency=eur",
        "category=",
        "&".join(f"brand=b{number}" for number in range(51)),
    ],
)
async def test_a_query_that_cannot_be_is_refused(shop: Any, wrong: str) -> None:
    async with shop.browser.get(f"/search?{wrong}") as response:
        problem = await response.json()

        assert (400, "urn:shop:problem:bad-query") == (response.status, problem["type"])


async def test_without_elasticsearch_searches_are_put_off_not_failed() -> None:
    settings = Settings(elasticsearch_url="http://127.0.0.1:9")
    async with opened(settings, 1) as store, TestClient(TestServer(web_application(store))) as web:
        for path in ("/search", "/s", "/readyz"):
            async with web.get(path) as response:
                assert 503 == response.status
                assert path == "/readyz" or response.headers["Retry-After"].isdigit()
        async with web.get("/healthz") as response:
            assert 200 == response.status
