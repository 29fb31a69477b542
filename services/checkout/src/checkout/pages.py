"""HTML for shoppers: cart and order; an order also as JSON. Knows no driver.

Everything here belongs to one shopper: no reply may be stored by a cache. Forms are taken from our
own pages only.
"""

from typing import Annotated
from uuid import UUID

import msgspec
from aiohttp import hdrs, web
from msgspec import Meta, Struct

from chassis.http import get, page, post, prefers_html, query, reply
from chassis.pages import templates
from chassis.problems import NotFound, Unavailable
from checkout import visitor
from checkout.forms import FORM_PROBLEMS, FRAMED, MAX_FORM, PRIVATE, go, read_form
from checkout.quotes import MAX_QTY, Qty
from checkout.store.checkout import CartView
from checkout.store.merging import Merge
from checkout.store.problems import (
    CartFull,
    CouponRefused,
    NotCancellable,
    TooManyTries,
    UnknownCoupon,
    UnknownPrice,
)
from checkout.store.rows import OrderView
from checkout.words import BECAUSE, sentence
from shop_contracts.types import Sku

CART_TTL_S = web.AppKey("cart_ttl_s", int)

PDF = "application/pdf"

_pages = templates("checkout")
_cart_page = _pages.get_template("cart.html")
_order_page = _pages.get_template("order.html")
_cart_fragment = _pages.get_template("cart_fragment.html")


class AddForm(Struct, frozen=True, kw_only=True):
    """Units of one SKU for the cart."""

    sku: Sku
    qty: Qty = 1


class QtyForm(Struct, frozen=True, kw_only=True):
    """The units that a line is to have."""

    qty: Qty


class CouponForm(Struct, frozen=True, kw_only=True):
    """The code of a coupon."""

    code: Annotated[str, Meta(max_length=64)]


class GuestProof(Struct, frozen=True, kw_only=True):
    """The cart that a guest ordered, which only the guest knows; the cookie does as well."""

    cart: Annotated[str, Meta(max_length=64)] = ""


async def cart(request: web.Request) -> web.Response:
    """The cart."""
    view = await visitor.cart(request)
    return _show_cart(view, _brought(request.get(visitor.MERGED)))


async def add_line(request: web.Request) -> web.Response:
    """Put units into the cart, which begins to exist when it has to."""
    form = await read_form(request, AddForm)
    try:
        cart_id = await visitor.cart_id(request)
        changed = await request.app[visitor.CHECKOUT].add_line(cart_id, form.sku, form.qty)
    except (UnknownPrice, CartFull) as refused:
        return _show_cart(await visitor.cart(request), refused.title, refused.status)
    response = go("/cart")
    if await visitor.customer(request) is not None:
        return response
    response.set_cookie(
        visitor.CART_COOKIE,
        changed.id,
        max_age=request.app[CART_TTL_S],
        httponly=True,
        samesite="Lax",
        secure=request.headers.get("X-Forwarded-Proto") == "https",
    )
    return response


async def change_line(request: web.Request) -> web.Response:
    """Set the units of a line."""
    form = await read_form(request, QtyForm)
    try:
        cart_id = await visitor.known_cart(request)
        await request.app[visitor.CHECKOUT].put_line(cart_id, _sku(request), form.qty, None)
    except (UnknownPrice, CartFull) as refused:
        return _show_cart(await visitor.cart(request), refused.title, refused.status)
    return go("/cart")


async def remove_line(request: web.Request) -> web.Response:
    """Take a line out."""
    await read_form(request, Struct)
    await request.app[visitor.CHECKOUT].remove_line(
        await visitor.known_cart(request), _sku(request), None
    )
    return go("/cart")


async def use_coupon(request: web.Request) -> web.Response:
    """Let the cart have a coupon."""
    code = (await read_form(request, CouponForm)).code
    who = visitor.address_of(request)
    try:
        await request.app[visitor.CHECKOUT].use_coupon(
            await visitor.known_cart(request), code, None, who
        )
    except (UnknownCoupon, CouponRefused, TooManyTries) as refused:
        return _show_cart(await visitor.cart(request), sentence(refused), refused.status)
    return go("/cart")


async def drop_coupon(request: web.Request) -> web.Response:
    """Let the cart have no coupon."""
    await read_form(request, Struct)
    await request.app[visitor.CHECKOUT].drop_coupon(await visitor.known_cart(request), None)
    return go("/cart")


async def order(request: web.Request) -> web.Response:
    """The order: JSON, or a page for those who would rather read HTML."""
    view = await request.app[visitor.CHECKOUT].order(_order_id(request))
    vary = {"Vary": "Accept"}
    if not prefers_html(request.headers.get(hdrs.ACCEPT, "")):
        return reply(view, headers=PRIVATE | vary)
    return await _show_order(request, view)


async def _show_order(
    request: web.Request, view: OrderView, refused: NotCancellable | None = None
) -> web.Response:
    mine = await visitor.ordered(request, view.order_id)
    html = _order_page.render(order=view, notice=refused.title if refused else "", mine=mine)
    status = refused.status if refused else 200
    return page(html, status=status, headers=FRAMED | {"Vary": "Accept"})


async def cancel_order(request: web.Request) -> web.Response:
    """Take the order back, as long as stock is not selling it; the page says if it was too late."""
    await read_form(request, Struct)
    id_ = _order_id(request)
    try:
        await request.app[visitor.CHECKOUT].cancel(id_)
    except NotCancellable as refused:
        view = await request.app[visitor.CHECKOUT].order(id_)
        return await _show_order(request, view, refused)
    return go(f"/orders/{id_}")


async def invoice(request: web.Request) -> web.Response:
    """The order's invoice as a PDF."""
    id_ = _order_id(request)
    if not await visitor.ordered(request, id_, query(request, GuestProof).cart):
        raise NotFound("There is no invoice of this order yet.")
    drawn = await request.app[visitor.CHECKOUT].invoice(id_)
    name = f'inline; filename="{drawn.number}.pdf"'
    headers = PRIVATE | {"Content-Disposition": name, "X-Content-Type-Options": "nosniff"}
    return web.Response(body=drawn.pdf, content_type=PDF, headers=headers)


async def cart_fragment(request: web.Request) -> web.Response:
    """The link to the cart with the number of units in it."""
    id_ = await visitor.cart_id(request)
    units = await request.app[visitor.CHECKOUT].units(id_) if id_ else 0
    return page(_cart_fragment.render(units=units), headers=PRIVATE)


def _show_cart(view: CartView | None, notice: str = "", status: int = 200) -> web.Response:
    html = _cart_page.render(cart=view, notice=notice, because=BECAUSE, max_qty=MAX_QTY)
    return page(html, status=status, headers=FRAMED)


def _brought(merge: Merge | None) -> str:
    if merge is not None and merge.left:
        return (
            f"{merge.left} more of your products wait for room in this cart, or for their order "
            "to end."
        )
    if merge is not None and merge.cut:
        return f"There is room for {MAX_QTY} units of a product; the rest was left out."
    return ""


def _sku(request: web.Request) -> str:
    try:
        return msgspec.convert(request.match_info["sku"], Sku)
    except msgspec.ValidationError as error:
        raise NotFound from error


def _order_id(request: web.Request) -> UUID:
    try:
        return msgspec.convert(request.match_info["order"], UUID)
    except msgspec.ValidationError as error:
        raise NotFound("There is no such order.") from error


ROUTES = [
    get("/cart", cart, summary="The cart page", media="text/html"),
    post(
        "/cart/lines",
        add_line,
        summary="Put units into the cart (form)",
        status=303,
        media="text/html",
        max_body=MAX_FORM,
        problems=FORM_PROBLEMS,
    ),
    post(
        "/cart/lines/{sku}",
        change_line,
        summary="Set the units of a line (form)",
        status=303,
        media="text/html",
        max_body=MAX_FORM,
        problems=FORM_PROBLEMS,
    ),
    post(
        "/cart/lines/{sku}/remove",
        remove_line,
        summary="Take a line out (form)",
        status=303,
        media="text/html",
        max_body=MAX_FORM,
        problems=FORM_PROBLEMS,
    ),
    post(
        "/cart/coupon",
        use_coupon,
        summary="Let the cart have a coupon (form)",
        status=303,
        media="text/html",
        max_body=MAX_FORM,
        problems=FORM_PROBLEMS,
    ),
    post(
        "/cart/coupon/remove",
        drop_coupon,
        summary="Let the cart have no coupon (form)",
        status=303,
        media="text/html",
        max_body=MAX_FORM,
        problems=FORM_PROBLEMS,
    ),
    get(
        "/orders/{order}",
        order,
        summary="An order and its way so far; HTML for those who prefer it",
        reply=OrderView,
        problems=(NotFound, Unavailable),
    ),
    post(
        "/orders/{order}/cancellation",
        cancel_order,
        summary="Take the order back (form)",
        status=303,
        media="text/html",
        max_body=MAX_FORM,
        problems=(*FORM_PROBLEMS, NotCancellable),
    ),
    get(
        "/orders/{order}/invoice.pdf",
        invoice,
        summary="The order's invoice, to who ordered",
        query=GuestProof,
        media=PDF,
        problems=(NotFound, Unavailable),
    ),
    get("/fragments/cart", cart_fragment, summary="The link to the cart", media="text/html"),
]
