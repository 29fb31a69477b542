"""The page of results, as a browser without scripts uses it."""

import re
from html import unescape
from typing import Any

import pytest

pytestmark = pytest.mark.connected


async def page(shop: Any, address: str, status: int = 200) -> str:
    async with shop.browser.get(address) as response:
        assert status == response.status, await response.text()
        return unescape(await response.text())


@pytest.fixture
async def outdoor(shop: Any, say: Any) -> Any:
    await shop.hears(
        *(say.published(f"boots{n}", name=f"Boots {n}", brand=f"B{n % 2}") for n in range(30)),
        *(say.price(f"boots{n}", 1000 + 100 * n) for n in range(30)),
        *(say.stock(f"boots{n}", n % 2) for n in range(30)),
    )
    return shop


def link(html: str, text: str) -> str:
    found = re.search(rf'<a href="([^"]+)"[^>]*>\s*(?:✓ )?{re.escape(text)}\s*</a>', html)
    assert found, text
    return found[1]


async def test_facets_sorting_and_pages_are_links(outdoor: Any) -> None:
    html = await page(outdoor, "/s?q=boots")

    assert "30</strong> products" in html
    assert "€10.00 to €39.00" in html
    assert "Page 1 of 2" in html

    cheap = await page(outdoor, link(html, "Cheapest first"))

    assert cheap.index("Boots 0") < cheap.index("Boots 1\n") < cheap.index("Boots 2\n")

    second = await page(outdoor, link(cheap, "Next"))

    assert "Boots 29" in second
    assert "Page 2 of 2" in second

    branded = await page(outdoor, link(html, "B1"))

    assert "15</strong> products" in branded
    assert "30</strong> products" in await page(outdoor, link(branded, "B1"))

    stocked = await page(outdoor, link(branded, "Out of stock"))

    assert "Nothing was found" in stocked


async def test_the_form_takes_amounts_as_people_write_them(outdoor: Any) -> None:
    html = await page(outdoor, "/s?q=&price_from=10.50&price_to=12&sort=price_asc&in_stock=")

    assert "2</strong> products" in html


async def test_what_was_typed_comes_back_as_text(shop: Any) -> None:
    async with shop.browser.get('/s?q="><script>alert(1)</script>') as response:
        assert "<script>" not in (await response.text()).replace("<script src=", "")


async def test_the_page_may_be_kept_for_moments_only(shop: Any) -> None:
    async with shop.browser.get("/s") as response:
        assert "max-age=1" in response.headers["Surrogate-Control"]
        assert "must-revalidate" in response.headers["Cache-Control"]


@pytest.mark.parametrize("wrong", ["price_from=2&price_to=1", "page=9999", "page=x", "colour=red"])
async def test_a_form_that_cannot_be_is_refused(shop: Any, wrong: str) -> None:
    await page(shop, f"/s?{wrong}", 400)
