"""HTML that stock owns: the offer of one SKU, a part of product pages. Knows no driver."""

import hashlib
from datetime import UTC, datetime
from functools import lru_cache

from aiohttp import web

from chassis.http import get, page
from chassis.pages import templates
from stock.domain import label
from stock.prices import Priced, PriceEntry, shown_price
from stock.store import StockStore

STORE = web.AppKey("pages_store", StockStore)
CURRENCY = web.AppKey("currency", str)
MAX_AGE = 5
KEPT = 10_000

_offer = templates("stock").get_template("offer.html")


async def get_offer(request: web.Request) -> web.Response:
    """Price and availability; a SKU nobody stocked yet reads as sold out, so no page breaks.

    The ETag changes only when what is shown does: a cache that asks again pays for no body.
    """
    sku = request.match_info["sku"]
    available, priced = await request.app[STORE].offers.get(sku)
    price = shown_price(priced.prices, request.app[CURRENCY])
    html, tag = _rendered(sku, price, label(available), available=available > 0)
    headers = {
        "Surrogate-Control": f"max-age={_max_age(priced)}",
        "Cache-Control": "public, max-age=0, must-revalidate",
        "ETag": f'"{tag}"',
        "xkey": f"s-{sku}",
    }
    if any(known.value == tag for known in request.if_none_match or ()):
        return web.Response(status=304, headers=headers)
    return page(html, headers=headers)


def _max_age(priced: Priced) -> int:
    """Whole seconds in which nothing that is shown here ends by itself."""
    if priced.valid_until is None:
        return MAX_AGE
    left = (priced.valid_until - datetime.now(UTC)).total_seconds()
    return min(MAX_AGE, max(0, int(left)))


@lru_cache(KEPT)
def _rendered(
    sku: str, price: PriceEntry | None, label: str, *, available: bool
) -> tuple[str, str]:
    """The fragment that shows this, and its tag; rendered once as long as it is remembered."""
    html = _offer.render(sku=sku, price=price, label=label, available=available)
    return html, hashlib.sha256(html.encode()).hexdigest()[:32]


ROUTES = [
    get(
        "/fragments/products/{sku:[A-Za-z0-9][A-Za-z0-9._-]{0,63}}/offer",
        get_offer,
        summary="Price and availability of a SKU as an HTML fragment",
        media="text/html",
    ),
]
