"""The pages and fragments, as the edge gets them."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp.test_utils import TestClient

from catalog.domain import Draft, ImageIn, VariantIn
from catalog.store import CatalogStore

pytestmark = pytest.mark.connected

Http = TestClient[Any, Any]
Make = Callable[..., Draft]


async def until(http: Http, address: str, text: str) -> str:
    """The page, once it holds the text: lists are a second behind."""
    deadline = time.monotonic() + 30
    while text not in (html := await (await http.get(address)).text()):
        assert time.monotonic() < deadline, html
        await asyncio.sleep(0.05)
    return html


async def test_a_product_page_leaves_offers_to_stock_and_orders_without_a_script(
    http: Http, store: CatalogStore, draft: Make
) -> None:
    product = await store.add(
        draft(
            skus=2,
            description="Light.\nDry.",
            brand="Nordhang",
            categories=[["Outdoor", "Tents"]],
            images=[ImageIn(url="/static/images/tents.svg", alt="A tent")],
        )
    )

    response = await http.get(f"/p/{product.slug}")
    html = await response.text()

    for sku in product.skus:
        assert f'<esi:include src="/fragments/products/{sku}/offer"/>' in html
        assert f'<input type="hidden" name="sku" value="{sku}">' in html
    assert '<form action="/cart/lines" method="post">' in html
    assert "<p>Light.</p>" in html
    assert '<a href="/c/outdoor--tents">Tents</a>' in html
    assert 'max-age=3600, content="ESI/1.0"' == response.headers["Surrogate-Control"]
    assert "public, max-age=0, must-revalidate" == response.headers["Cache-Control"]
    assert f"p-{product.id} c-outdoor c-outdoor--tents" == response.headers["xkey"]


async def test_nothing_that_a_merchant_writes_becomes_markup(
    http: Http, store: CatalogStore, draft: Make
) -> None:
    evil = '<script>alert(1)</script><esi:include src="/x"/>'
    sku = draft().skus[0]
    product = await store.add(
        draft(
            name=evil,
            description=evil,
            brand=evil,
            categories=[[evil]],
            variants=[VariantIn(sku=sku, options={evil: evil})],
            images=[ImageIn(url="/a.svg", alt=f'"{evil}')],
        )
    )

    for address in (f"/p/{product.slug}", f"/c/{product.within[0]}", "/", "/fragments/nav"):
        html = await until(http, address, "&lt;script&gt;")
        assert "<script>" not in html
        assert '<esi:include src="/x"/>' not in html


async def test_a_product_page_asked_for_by_id_leads_to_its_slug(
    http: Http, store: CatalogStore, draft: Make
) -> None:
    product = await store.add(draft())

    response = await http.get(f"/p/{product.id}", allow_redirects=False)

    assert (301, f"/p/{product.slug}") == (response.status, response.headers["Location"])


async def test_a_category_page_is_paged(http: Http, store: CatalogStore, draft: Make) -> None:
    name = f"Boats {draft().name}"
    products = [await store.add(draft(categories=[[name]])) for _ in range(25)]
    slug = products[0].within[0]

    first = await until(http, f"/c/{slug}", "<strong>25</strong>")
    second = await (await http.get(f"/c/{slug}?page=2")).text()

    assert f'href="/c/{slug}?page=2"' in first
    assert products[-1].name in first
    assert products[0].name in second
    assert 404 == (await http.get(f"/c/{slug}?page=3")).status
    assert 400 == (await http.get(f"/c/{slug}?page=0")).status
    assert 404 == (await http.get("/c/no-such")).status
    assert f"c-{slug}" == (await http.get(f"/c/{slug}")).headers["xkey"]


async def test_the_home_page_shows_what_is_new_and_the_menu_every_category(
    http: Http, store: CatalogStore, draft: Make
) -> None:
    product = await store.add(draft(categories=[["Outdoor", "Stoves"]]))

    home = await until(http, "/", product.name)
    menu = await until(http, "/fragments/nav", "Stoves")

    assert f"/fragments/products/{product.skus[0]}/offer" in home
    assert '<esi:include src="/fragments/nav"/>' in home
    assert '<a href="/c/outdoor--stoves">Stoves</a>' in menu


@pytest.mark.parametrize("name", ["nav", "jumbotron", "footer"])
async def test_fragments_are_kept_for_a_day(http: Http, name: str) -> None:
    response = await http.get(f"/fragments/{name}")

    assert 200 == response.status
    assert response.headers["Surrogate-Control"].startswith("max-age=86400")
    assert "<html" not in await response.text()
