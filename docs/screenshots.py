"""Takes the README's screenshots of a running, filled shop. Knows pages by what they show.

./shop demo && .venv/bin/python docs/screenshots.py
"""

import re
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

from shop.profiles import profile

IMAGES = Path(__file__).parent / "images"
CHROMIUM = "/usr/bin/chromium"
QUIET = ["--no-sandbox", "--disable-background-networking", "--disable-component-update"]
SIZE = {"width": 1080, "height": 1080}
CONFIRMED_MS = 60_000


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
    page.get_by_role("button", name=re.compile("cart", re.IGNORECASE)).first.click()
    take(page, "cart")
    page.get_by_role("link", name=re.compile("check ?out", re.IGNORECASE)).first.click()
    page.locator('input[name="email"]').fill("ada@example.com")
    if page.locator('input[name="name"]').count():
        page.locator('input[name="name"]').fill("Ada Lovelace")
    page.get_by_role("button", name=re.compile("order|pay|buy", re.IGNORECASE)).first.click()
    expect(page.locator("body")).to_contain_text(
        re.compile("confirmed", re.IGNORECASE), timeout=CONFIRMED_MS
    )
    take(page, "order")


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        context = browser.new_context(base_url=profile().url("edge"), viewport=SIZE)
        walk(context.new_page())
        browser.close()


if __name__ == "__main__":
    main()
