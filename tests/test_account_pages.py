"""Signing in as a browser does it, without a script: the cookie stays, the forms are ours."""

import asyncio
import re
import secrets
from email import message_from_bytes, policy

import pytest
from playwright.async_api import Browser, Page, expect

from shop.client import ShopClient, until
from shop.stack import Stack

pytestmark = [
    pytest.mark.connected,
    # Playwright's own transport closes its pipes after the loop has looked at them
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture
async def page(browser: Browser, shop: ShopClient) -> Page:
    context = await browser.new_context(base_url=shop.edge, java_script_enabled=False)
    return await context.new_page()


async def mailed_link(native: Stack, address: str) -> str:
    folder = native.profile.folder("mails", "checkout")

    async def look() -> list[str]:
        mails = [await asyncio.to_thread(path.read_bytes) for path in folder.glob("*.eml")]
        parsed = [message_from_bytes(mail, policy=policy.default) for mail in mails]
        return [str(mail.get_content()) for mail in parsed if address == str(mail["To"])]

    (text,) = await until(look, bool)
    link = re.search(r"http\S+/sign-in/confirm\S+", text)
    assert link is not None
    return link[0]


async def test_a_shopper_signs_in_finds_the_order_and_signs_out_without_a_script(
    native: Stack, shop: ShopClient, page: Page
) -> None:
    address = f"a{secrets.token_hex(4)}@example.com"
    sku = await shop.put_product(stock=3)
    cart = (await shop.send("POST", "/api/carts", status=201))["cart_id"]
    await shop.add(cart, sku, 2)
    await page.context.add_cookies([{"name": "cart", "value": cart, "url": shop.edge}])

    await page.goto("/me")
    await page.get_by_label("E-mail").fill(address)
    await page.get_by_role("button", name="Mail me a link").click()
    await expect(page.get_by_role("heading", name="Look into your mailbox")).to_be_visible()
    await page.goto(await mailed_link(native, address))
    await page.get_by_role("button", name="Sign in now").click()
    await expect(page.get_by_role("heading", name="Your account")).to_be_visible()
    cookies = {cookie["name"]: cookie for cookie in await page.context.cookies()}
    await page.goto("/cart")
    await expect(page.get_by_label(re.compile("^Quantity of"))).to_have_value("2")
    await page.get_by_role("link", name="Check out").click()
    home = {"name": "Ada", "street": "Domstraße 1", "postcode": "50667", "city": "Köln"}
    for name, text in home.items():
        await page.locator(f'input[name="{name}"]').fill(text)
    await page.locator('select[name="country"]').select_option("DE")
    await page.get_by_label("Keep it among my addresses").check()
    await page.get_by_role("button", name=re.compile("Order and pay")).click()
    await expect(page.locator(".status.confirmed")).to_be_visible(timeout=30_000)
    order = page.url.rpartition("/")[2]
    await page.goto("/me")
    await expect(page.get_by_role("link", name=order)).to_be_visible()
    await expect(page.get_by_text("Ada, Domstraße 1, 50667 Köln, Germany")).to_be_visible()
    await page.get_by_role("button", name="Sign out").click()
    gone = await page.goto(f"/orders/{order}")

    session = cookies["__Host-session"]
    assert (True, True, "Lax", "/") == tuple(
        session[name] for name in ("secure", "httpOnly", "sameSite", "path")
    )
    assert "cart" not in cookies
    assert gone is not None
    assert 404 == gone.status
    assert "__Host-session" not in {cookie["name"] for cookie in await page.context.cookies()}
