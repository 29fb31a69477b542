"""Takes the README's screenshots of a running, filled shop. Knows pages by what they show.

./shop demo && .venv/bin/python docs/screenshots.py
"""

import re
import time
from email import message_from_bytes, policy
from pathlib import Path

from playwright.sync_api import Locator, Page, expect, sync_playwright

from shop.profiles import profile

IMAGES = Path(__file__).parent / "images"
CHROMIUM = "/usr/bin/chromium"
QUIET = ["--no-sandbox", "--disable-background-networking", "--disable-component-update"]
SIZE = {"width": 1200, "height": 1080}
CONFIRMED_MS = 60_000
MAILED_S = 60
MAIL = f"ada-{int(time.time())}@example.com"
ADA = {
    "name": "Ada Lovelace",
    "street": "Domstraße 1",
    "postcode": "50667",
    "city": "Köln",
}


def take(page: Page, name: str) -> None:
    """One picture of what a visitor sees first."""
    page.wait_for_load_state("networkidle")
    page.screenshot(path=IMAGES / f"{name}.png")


def walk(page: Page) -> None:
    """From the home page to a confirmed order, a picture of each."""
    page.goto("/")
    take(page, "home")
    page.locator('input[name="q"]').fill("backpack")
    page.locator('input[name="q"]').press("Enter")
    take(page, "search")
    page.goto("/s?q=headlamp")
    page.get_by_role("link", name=re.compile("Trail Headlamp")).first.click()
    take(page, "product")
    page.get_by_role("button", name="Add to cart").first.click()
    take(page, "cart")
    sign_in(page)
    page.locator('form[action="/me/name"] input').fill(ADA["name"])
    page.get_by_role("button", name="Save").click()
    write(page.locator('form[action="/me/address"]'), ADA)
    page.locator('select[name="country"]').select_option("DE")
    page.get_by_role("button", name="Add the address").click()
    page.goto("/checkout")
    take(page, "checkout")
    page.get_by_role("button", name=re.compile("Order and pay")).click()
    expect(page.locator("h1 + p")).to_have_text("confirmed", timeout=CONFIRMED_MS)
    expect(page.get_by_role("link", name=re.compile("Invoice"))).to_be_visible(timeout=CONFIRMED_MS)
    take(page, "order")
    page.goto("/me")
    take(page, "account")


def sign_in(page: Page) -> None:
    """By the link that the shop mails."""
    page.goto("/sign-in")
    page.locator('input[name="email"]').fill(MAIL)
    page.get_by_role("button", name="Mail me a link").click()
    page.goto(mailed_link())
    page.get_by_role("button", name="Sign in now").click()


def mailed_link() -> str:
    """The newest link to sign in that was mailed to her."""
    end = time.monotonic() + MAILED_S
    while time.monotonic() < end:
        folder = profile().folder("mails", "checkout")
        for path in sorted(folder.glob("*.eml"), key=lambda path: -path.stat().st_mtime):
            mail = message_from_bytes(path.read_bytes(), policy=policy.default)
            if mail["To"] != MAIL:
                continue
            link = re.search(r"/sign-in/confirm\?token=\S+", str(mail.get_content()))
            if link is not None:
                return link[0]
        time.sleep(0.2)
    raise SystemExit("no mail came")


def write(form: Locator, fields: dict[str, str]) -> None:
    """Fill in the form."""
    for name, value in fields.items():
        form.locator(f'input[name="{name}"]').fill(value)


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        context = browser.new_context(base_url=profile().url("edge"), viewport=SIZE)
        walk(context.new_page())
        browser.close()


if __name__ == "__main__":
    main()
