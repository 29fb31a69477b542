"""Whoever waits for a SKU is told when it is back, through the whole shop: edge, events, mail."""

import email
import re
from email.message import EmailMessage
from email.policy import default as policy

import pytest

from shop.client import ShopClient, until
from shop.stack import Stack

pytestmark = pytest.mark.connected


async def test_a_shopper_is_told_that_a_product_is_back_and_can_stop_by_the_link(
    native: Stack, shop: ShopClient
) -> None:
    sku = await shop.put_product(stock=0)
    for address in ("ada@people.example", "ben@people.example"):
        wish = {"sku": sku, "when": "back_in_stock", "email": address}
        await shop.send("POST", "/api/alerts", wish, status=202)

    async def mails() -> list[EmailMessage]:
        folder = native.profile.folder("mails", "stock")
        found = [
            email.message_from_bytes(path.read_bytes(), policy=policy)
            for path in folder.glob("*.eml")
        ]
        return [mail for mail in found if sku in str(mail["Subject"])]

    await until(mails, lambda found: len(found) == 2)
    await shop.send("PUT", f"/api/products/{sku}/stock", {"stock": 1, "action": "set"})
    found = await until(mails, lambda found: len(found) == 3)
    (back,) = (mail for mail in found if "is back" in str(mail["Subject"]))

    assert "ada@people.example" == back["To"]

    (ben,) = (mail for mail in found if mail["To"] == "ben@people.example")
    link = re.search(r"/alerts/[0-9a-f-]{36}", ben.get_content())
    assert link is not None
    async with shop.http.get(shop.edge + link[0]) as page:
        assert 200 == page.status
        assert "private, no-store" == page.headers["Cache-Control"]
        assert '<form method="post">' in await page.text()
    async with shop.http.post(shop.edge + link[0], data={"List-Unsubscribe": "One-Click"}) as page:
        assert "no more alerts" in await page.text()
    await shop.send("PUT", f"/api/products/{sku}/stock", {"stock": 9, "action": "set"})
    status = {"sku": sku, "when": "back_in_stock", "email": "cleo@people.example"}

    assert "already-so" in str(await shop.send("POST", "/api/alerts", status, status=409))
    assert 3 == len(await mails())  # ben had stopped
