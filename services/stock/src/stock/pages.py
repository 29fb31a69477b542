"""HTML that stock owns: the offer of one SKU, a part of product pages. Knows no driver."""

from aiohttp import web

from chassis.http import get, page
from chassis.pages import templates
from stock.domain import label, shown_price
from stock.store import StockStore

STORE = web.AppKey("pages_store", StockStore)
CURRENCY = web.AppKey("currency", str)
MAX_AGE = 5

_offer = templates("stock").get_template("offer.html")


async def get_offer(request: web.Request) -> web.Response:
    """Price and availability; a SKU nobody stocked yet reads as sold out, so no page breaks."""
    sku = request.match_info["sku"]
    available, prices = await request.app[STORE].offer(sku)
    html = _offer.render(
        price=shown_price(prices, request.app[CURRENCY]),
        label=label(available),
        available=available > 0,
    )
    return page(
        html,
        headers={
            "Surrogate-Control": f"max-age={MAX_AGE}",
            "Cache-Control": "public, max-age=0, must-revalidate",
            "xkey": f"s-{sku}",
        },
    )


ROUTES = [
    get(
        "/fragments/products/{sku:[A-Za-z0-9][A-Za-z0-9._-]{0,63}}/offer",
        get_offer,
        summary="Price and availability of a SKU as an HTML fragment",
        media="text/html",
    ),
]
