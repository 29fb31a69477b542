"""Live stock on a page in a browser: the label changes by itself, and nothing needs it."""

import re
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser, Page, expect

from shop.client import ShopClient

pytestmark = [
    pytest.mark.connected,
    # Playwright's own transport closes its pipes after the loop has looked at them
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture
async def page(browser: Browser, shop: ShopClient) -> AsyncIterator[Page]:
    page = await (await browser.new_context(base_url=shop.edge)).new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    yield page
    # such as a script, style or socket that the page's policy forbids
    assert [] == said


async def test_the_stock_on_a_page_changes_without_a_reload(shop: ShopClient, page: Page) -> None:
    sku = await shop.put_product(stock=7)
    slug = (await shop.found(sku))[0]["slug"]
    async with page.expect_websocket(lambda socket: sku in socket.url):
        await page.goto(f"/p/{slug}")
    label = page.locator(f'[data-sku="{sku}"] .availability')
    await expect(label).to_have_text("In stock")

    await shop.send("PUT", f"/api/products/{sku}/stock", {"stock": 2, "action": "set"})
    await expect(label).to_have_text("Only 2 left")
    await expect(label).to_have_class(re.compile(r"\bavailable\b"))

    await shop.send("PUT", f"/api/products/{sku}/stock", {"stock": 0, "action": "set"})
    await expect(label).to_have_text("Sold out")
    await expect(label).to_have_class(re.compile(r"\bsold-out\b"))
