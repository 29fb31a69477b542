"""A shopper in a browser without JavaScript: home, search, product, cart, checkout, order."""

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
    context = await browser.new_context(java_script_enabled=False, base_url=shop.edge)
    # pictures of imported products stand elsewhere: a test asks nobody but the shop
    await context.route(lambda url: not url.startswith(shop.edge), lambda route: route.abort())
    page = await context.new_page()
    failed: list[str] = []
    page.on("response", lambda answer: failed.append(answer.url) if answer.status >= 400 else None)
    yield page
    assert [] == failed


async def test_a_shopper_finds_orders_and_sees_the_order_confirmed(
    shop: ShopClient, page: Page
) -> None:
    sku = await shop.put_product(name="Brass lantern", price=4_950, stock=7)

    await page.goto("/")
    await page.locator('input[name="q"]').fill(sku)
    await page.locator('input[name="q"]').press("Enter")
    await page.get_by_role("link", name=re.compile(sku)).first.click()
    await expect(page.locator("h1")).to_contain_text("Brass lantern")
    await expect(page.locator("body")).to_contain_text("49.50")

    await page.get_by_role("button", name=re.compile("cart|basket", re.IGNORECASE)).first.click()
    await expect(page).to_have_url(re.compile("/cart$"))
    await expect(page.locator("body")).to_contain_text("Brass lantern")

    await page.get_by_role("link", name=re.compile("check ?out", re.IGNORECASE)).first.click()
    await page.locator('input[name="email"]').fill("ada@example.com")
    home = {"name": "Ada Lövelace", "street": "Ring 1", "postcode": "1010", "city": "Wien"}
    for name, text in home.items():
        await page.locator(f'input[name="{name}"]').fill(text)
    await page.locator('select[name="country"]').select_option("AT")
    await page.get_by_role("button", name=re.compile("order|pay|buy", re.IGNORECASE)).first.click()

    await expect(page).to_have_url(re.compile("/orders/"))
    await expect(page.locator("body")).to_contain_text(
        re.compile("confirmed", re.IGNORECASE), timeout=20_000
    )
    level = await shop.get(f"/api/products/{sku}/stock")
    assert 6 == level["available"]


async def test_a_cached_page_shows_a_new_price_within_seconds(shop: ShopClient, page: Page) -> None:
    sku = await shop.put_product(price=1_000, stock=3)
    slug = (await shop.found(sku))[0]["slug"]
    await page.goto(f"/p/{slug}")
    await expect(page.locator("body")).to_contain_text("10.00")

    prices = {"prices": [{"currency": "EUR", "amount_minor": 1_234}]}
    await shop.send("PUT", f"/api/products/{sku}/prices", prices)

    async with shop.http.get(f"{shop.edge}/p/{slug}") as answer:
        assert "hit" == answer.headers["X-Cache"]
    for _ in range(40):
        await page.reload()
        if "12.34" in await page.locator("body").inner_text():
            return
        await page.wait_for_timeout(250)
    pytest.fail("the new price did not reach the page")
