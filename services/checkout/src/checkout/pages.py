"""HTML for shoppers: cart, checkout and order; an order also as JSON. Knows no driver.

Everything here belongs to one shopper: no reply may be stored by a cache. Forms are taken from our
own pages only.
"""

import secrets
from collections.abc import Mapping
from typing import Annotated
from uuid import UUID

import msgspec
from aiohttp import hdrs, web
from babel import Locale
from msgspec import Meta, Struct, structs

from chassis.http import get, page, post, query, reply
from chassis.pages import templates
from chassis.problems import Invalid, NotFound, Problem, Unavailable
from checkout import visitor
from checkout.coupons import Why
from checkout.forms import FORM_PROBLEMS, FRAMED, MAX_FORM, PRIVATE, go, prefers_html, read_form
from checkout.purchase import Purchase
from checkout.quotes import ANYWHERE, MAX_QTY, Delivery, Qty
from checkout.store.carts import Merge, own
from checkout.store.checkout import CartView, Checkout
from checkout.store.problems import (
    AlreadyOrdered,
    CartFull,
    CouponRefused,
    EmptyCart,
    NotCancellable,
    PriceChanged,
    TooManyTries,
    UnknownCoupon,
    UnknownPrice,
)
from checkout.store.rows import OrderView
from shop_contracts.types import Currency, Sku

CHECKOUT = web.AppKey("pages_checkout", Checkout)
CART_TTL_S = web.AppKey("cart_ttl_s", int)

PDF = "application/pdf"
PAYMENTS = {
    "tok_ok": "Test card that is accepted",
    "tok_decline": "Test card that is declined",
    "tok_slow": "Test card that takes its time",
}

BECAUSE = {
    Why.UNKNOWN: "There is no such coupon any more.",
    Why.DISABLED: "The coupon is no longer valid.",
    Why.NOT_YET: "The coupon is not valid yet.",
    Why.EXPIRED: "The coupon has expired.",
    Why.USED_UP: "The coupon has been used up.",
    Why.USED_BY_CUSTOMER: "You have used this coupon already. Take it out of the cart to go on.",
    Why.BELOW_MINIMUM: "The coupon is for a larger purchase.",
    Why.OTHER_CURRENCY: "The coupon is for another currency.",
}
ENGLISH = Locale("en")

_pages = templates("checkout")
_cart_page = _pages.get_template("cart.html")
_checkout_page = _pages.get_template("checkout.html")
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


class CheckoutForm(Struct, frozen=True, kw_only=True):
    """What the shopper says, and what the page said to the shopper."""

    email: str
    name: str = ""
    payment: str
    key: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{16,128}\Z")]
    currency: Currency
    country: str = ""
    shipping_method: str = ""
    quoted_total_minor: int

    @property
    def delivery(self) -> Delivery:
        """Where it goes and how."""
        return _delivery({"country": self.country, "shipping_method": self.shipping_method})


class GuestProof(Struct, frozen=True, kw_only=True):
    """The cart that a guest ordered, which only the guest knows; the cookie does as well."""

    cart: Annotated[str, Meta(max_length=64)] = ""


async def cart(request: web.Request) -> web.Response:
    """The cart."""
    view = await _cart(request)
    return _show_cart(view, _brought(request.get(visitor.MERGED)))


async def add_line(request: web.Request) -> web.Response:
    """Put units into the cart, which begins to exist when it has to."""
    form = await read_form(request, AddForm)
    try:
        cart_id = await _cart_id(request)
        changed = await request.app[CHECKOUT].add_line(cart_id, form.sku, form.qty)
    except (UnknownPrice, CartFull) as refused:
        return _show_cart(await _cart(request), refused.title, refused.status)
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
        cart_id = await _known_cart(request)
        await request.app[CHECKOUT].put_line(cart_id, _sku(request), form.qty, None)
    except (UnknownPrice, CartFull) as refused:
        return _show_cart(await _cart(request), refused.title, refused.status)
    return go("/cart")


async def remove_line(request: web.Request) -> web.Response:
    """Take a line out."""
    await read_form(request, Struct)
    await request.app[CHECKOUT].remove_line(await _known_cart(request), _sku(request), None)
    return go("/cart")


async def use_coupon(request: web.Request) -> web.Response:
    """Let the cart have a coupon."""
    code = (await read_form(request, CouponForm)).code
    who = visitor.address_of(request)
    try:
        await request.app[CHECKOUT].use_coupon(await _known_cart(request), code, None, who)
    except (UnknownCoupon, CouponRefused, TooManyTries) as refused:
        return _show_cart(await _cart(request), _sentence(refused), refused.status)
    return go("/cart")


async def drop_coupon(request: web.Request) -> web.Response:
    """Let the cart have no coupon."""
    await read_form(request, Struct)
    await request.app[CHECKOUT].drop_coupon(await _known_cart(request), None)
    return go("/cart")


async def checkout(request: web.Request) -> web.Response:
    """The form that orders the cart; back to the cart while it cannot be ordered."""
    delivery = _delivery(request.query)
    view = await _cart(request, delivery)
    if view is not None and view.total_minor is None and delivery.shipping_method:
        # what goes to one country goes to another in another way
        delivery = Delivery(country=delivery.country)
        view = await _cart(request, delivery)
    if view is None or not view.lines or view.breakdown is None:
        return go("/cart")
    order_id = await request.app[CHECKOUT].living_order(view.cart_id)
    if order_id is not None:
        return go(f"/orders/{order_id}")
    return await _show_checkout(request, view, delivery)


async def order_cart(request: web.Request) -> web.Response:
    """Order the cart, once, and go on to the order."""
    form = await read_form(request, CheckoutForm)
    try:
        purchase = _purchase(form)
        accepted = await request.app[CHECKOUT].order_cart(
            await _known_cart(request), form.key, purchase, await visitor.customer(request)
        )
    except AlreadyOrdered:
        return await checkout(request)
    except (EmptyCart, UnknownPrice, NotFound):
        return go("/cart")
    except (PriceChanged, CouponRefused, Invalid) as refused:
        view = await request.app[CHECKOUT].cart(await _known_cart(request), form.delivery)
        return await _show_checkout(request, view, form.delivery, form, refused)
    return go(f"/orders/{accepted.order_id}")


async def order(request: web.Request) -> web.Response:
    """The order: JSON, or a page for those who would rather read HTML."""
    view = await request.app[CHECKOUT].order(_order_id(request))
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
        await request.app[CHECKOUT].cancel(id_)
    except NotCancellable as refused:
        view = await request.app[CHECKOUT].order(id_)
        return await _show_order(request, view, refused)
    return go(f"/orders/{id_}")


async def invoice(request: web.Request) -> web.Response:
    """The order's invoice as a PDF."""
    id_ = _order_id(request)
    if not await visitor.ordered(request, id_, query(request, GuestProof).cart):
        raise NotFound("There is no invoice of this order yet.")
    drawn = await request.app[CHECKOUT].invoice(id_)
    name = f'inline; filename="{drawn.number}.pdf"'
    headers = PRIVATE | {"Content-Disposition": name, "X-Content-Type-Options": "nosniff"}
    return web.Response(body=drawn.pdf, content_type=PDF, headers=headers)


async def cart_fragment(request: web.Request) -> web.Response:
    """The link to the cart with the number of units in it."""
    view = await _cart(request)
    units = sum(line.qty for line in view.lines) if view else 0
    return page(_cart_fragment.render(units=units), headers=PRIVATE)


async def _cart(request: web.Request, delivery: Delivery = ANYWHERE) -> CartView | None:
    cart_id = await _cart_id(request)
    if cart_id is None:
        return None
    try:
        return await request.app[CHECKOUT].cart(cart_id, delivery)
    except NotFound:  # it has had its time, or its order is confirmed
        return None


def _show_cart(view: CartView | None, notice: str = "", status: int = 200) -> web.Response:
    html = _cart_page.render(cart=view, notice=notice, because=BECAUSE, max_qty=MAX_QTY)
    return page(html, status=status, headers=FRAMED)


async def _show_checkout(
    request: web.Request,
    view: CartView,
    delivery: Delivery,
    form: CheckoutForm | None = None,
    refused: Problem | None = None,
) -> web.Response:
    email, name = (form.email, form.name) if form else await _whom(request)
    html = _checkout_page.render(
        cart=view,
        delivery=delivery,
        chosen=view.breakdown.shipping.method
        if view.breakdown and view.breakdown.shipping
        else None,
        country_name=_country_name,
        shipping=await request.app[CHECKOUT].shipping(view.cart_id, delivery),
        # the same key until this shopper has an answer: asking twice cannot order twice
        key=secrets.token_urlsafe(24) if form is None else form.key,
        email=email,
        name=name,
        payments=PAYMENTS,
        notice=_sentence(refused) if refused else "",
    )
    return page(html, status=refused.status if refused else 200, headers=FRAMED)


def _sentence(refused: Problem) -> str:
    """What a shopper is told of a refusal."""
    why = refused.extensions.get("reason")
    return BECAUSE[why] if isinstance(why, Why) else refused.title


def _country_name(code: str) -> str:
    return str(ENGLISH.territories.get(code, code))


def _delivery(given: Mapping[str, str]) -> Delivery:
    """What a form says of where it goes; what makes no sense says nothing."""
    named = {name: given.get(name) or None for name in ("country", "shipping_method")}
    try:
        return msgspec.convert(named, Delivery)
    except msgspec.ValidationError:
        return ANYWHERE


def _purchase(form: CheckoutForm) -> Purchase:
    given = structs.asdict(form.delivery) | {
        "email": form.email.strip(),
        "name": form.name.strip() or None,
        "currency": form.currency,
        "quoted_total_minor": form.quoted_total_minor,
        "payment": {"token": form.payment},
    }
    try:
        return msgspec.convert(given, Purchase)
    except msgspec.ValidationError as error:
        raise _Incomplete from error


class _Incomplete(Invalid):
    title = "Please check your e-mail address and your name"


async def _whom(request: web.Request) -> tuple[str, str]:
    """The e-mail address and the name of the customer, as far as there is one."""
    id_ = await visitor.customer(request)
    found = await request.app[visitor.ACCOUNT].customers.profile(id_) if id_ else None
    return (found.email, found.name or "") if found else ("", "")


async def _cart_id(request: web.Request) -> str | None:
    """The customer's own cart; a guest's is the one of the cookie."""
    customer = await visitor.customer(request)
    if customer is None:
        return visitor.guest_cart(request)
    await visitor.bring_cart(request, request.app[CHECKOUT], customer)
    return own(customer)


def _brought(merge: Merge | None) -> str:
    if merge is not None and merge.left:
        return (
            f"{merge.left} more of your products wait for room in this cart, or for their order "
            "to end."
        )
    if merge is not None and merge.cut:
        return f"There is room for {MAX_QTY} units of a product; the rest was left out."
    return ""


async def _known_cart(request: web.Request) -> str:
    cart_id = await _cart_id(request)
    if cart_id is None:
        raise NotFound("There is no cart.")
    return cart_id


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
    get("/checkout", checkout, summary="The checkout page", media="text/html"),
    post(
        "/checkout",
        order_cart,
        summary="Order the cart (form)",
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
