"""HTML of the checkout: where it goes, how it is paid, and to order it. Knows no driver.

The page belongs to one shopper: no reply may be stored by a cache.
"""

import secrets
from collections.abc import Mapping
from typing import Annotated, Any
from uuid import UUID

import msgspec
from aiohttp import web
from msgspec import Meta, Struct
from msgspec.structs import asdict

from chassis.http import get, page, post
from chassis.pages import templates
from chassis.problems import Invalid, NotFound, Problem
from checkout import visitor
from checkout.address_form import by_field, converted, countries, country_name
from checkout.forms import FORM_PROBLEMS, FRAMED, MAX_FORM, go, read_form
from checkout.purchase import Purchase
from checkout.quotes import ANYWHERE, Delivery
from checkout.store.checkout import CartView
from checkout.store.customers import SavedAddress
from checkout.store.problems import (
    AlreadyOrdered,
    CouponRefused,
    EmptyCart,
    PriceChanged,
    UnknownPrice,
)
from checkout.words import sentence
from shop_contracts.types import Currency

ANOTHER = "another"
"""Chosen instead of an address of the book: one that is to be written."""
PLACE = ("street", "city", "area", "postcode")
PAYMENTS = {
    "tok_ok": "Test card that is accepted",
    "tok_decline": "Test card that is declined",
    "tok_slow": "Test card that takes its time",
}

_page = templates("checkout").get_template("checkout.html")


class CheckoutForm(Struct, frozen=True, kw_only=True):
    """What the shopper says, and what the page said to the shopper.

    `address` and `billing` are ids of the customer's book, or not; then what is written counts.
    """

    email: str
    name: str = ""
    street: str = ""
    city: str = ""
    area: str = ""
    postcode: str = ""
    address: str = ""
    save: str = ""
    billing: str = ""
    billing_name: str = ""
    billing_street: str = ""
    billing_city: str = ""
    billing_area: str = ""
    billing_postcode: str = ""
    billing_country: str = ""
    payment: str
    key: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{16,128}\Z")]
    currency: Currency
    country: str = ""
    shipping_method: str = ""
    quoted_total_minor: int


class Shopper(Struct, frozen=True, kw_only=True):
    """What is known of who orders; of a guest nothing."""

    email: str = ""
    name: str = ""
    book: list[SavedAddress] = []
    signed_in: bool = False

    def saved(self, id_: str) -> SavedAddress | None:
        """That address of the book; the first one where nothing is chosen."""
        if not id_:
            return self.book[0] if self.book else None
        return next((one for one in self.book if str(one.address_id) == id_), None)


async def checkout(request: web.Request) -> web.Response:
    """The form that orders the cart; back to the cart while it cannot be ordered."""
    shopper = await _shopper(request)
    address = shopper.saved(request.query.get("address", ""))
    delivery = _delivery(request.query, address)
    view = await visitor.cart(request, delivery)
    if view is not None and view.total_minor is None and delivery.shipping_method:
        # what goes to one country goes to another in another way
        delivery = Delivery(country=delivery.country)
        view = await visitor.cart(request, delivery)
    if view is None or not view.lines or view.breakdown is None:
        return go("/cart")
    order_id = await request.app[visitor.CHECKOUT].living_order(view.cart_id)
    if order_id is not None:
        return go(f"/orders/{order_id}")
    return await _show(request, view, delivery, shopper, address)


async def order_cart(request: web.Request) -> web.Response:
    """Order the cart, once, and go on to the order."""
    form = await read_form(request, CheckoutForm)
    cart_id = await visitor.known_cart(request)
    shopper = await _shopper(request)
    address = shopper.saved(form.address or ANOTHER)
    try:
        purchase = _purchase(form, shopper)
        accepted = await request.app[visitor.CHECKOUT].order_cart(
            cart_id, form.key, purchase, await visitor.customer(request)
        )
    except AlreadyOrdered:
        return await checkout(request)
    except (EmptyCart, UnknownPrice, NotFound):
        return go("/cart")
    except (PriceChanged, CouponRefused, Invalid) as refused:
        delivery = _delivery(asdict(form), address)
        view = await request.app[visitor.CHECKOUT].cart(cart_id, delivery)
        return await _show(request, view, delivery, shopper, address, form, refused)
    return go(f"/orders/{accepted.order_id}")


async def _show(
    request: web.Request,
    view: CartView,
    delivery: Delivery,
    shopper: Shopper,
    address: SavedAddress | None,
    form: CheckoutForm | None = None,
    refused: Problem | None = None,
) -> web.Response:
    typed = asdict(form) if form else {"email": shopper.email, "name": shopper.name}
    shipping = await request.app[visitor.CHECKOUT].shipping(view.cart_id, delivery)
    html = _page.render(
        cart=view,
        delivery=delivery,
        chosen=view.breakdown.shipping.method
        if view.breakdown and view.breakdown.shipping
        else None,
        shopper=shopper,
        address=address,
        another=ANOTHER,
        country_name=country_name,
        countries=countries(shipping.countries),
        everywhere=countries([]),
        shipping=shipping,
        # the same key until this shopper has an answer: asking twice cannot order twice
        key=secrets.token_urlsafe(24) if form is None else form.key,
        typed=typed,
        faults=by_field(refused.errors) if refused else {},
        payments=PAYMENTS,
        notice=_notice(refused),
    )
    return page(html, status=refused.status if refused else 200, headers=FRAMED)


def _notice(refused: Problem | None) -> str:
    if refused is None:
        return ""
    return "Please check what you have written" if refused.errors else sentence(refused)


def _delivery(given: Mapping[str, Any], address: SavedAddress | None) -> Delivery:
    """What is said of where it goes; what makes no sense says nothing."""
    country = address.country if address else given.get("country")
    named = {"country": country or None, "shipping_method": given.get("shipping_method") or None}
    try:
        return msgspec.convert(named, Delivery)
    except msgspec.ValidationError:
        return ANYWHERE


def _purchase(form: CheckoutForm, shopper: Shopper) -> Purchase:
    """What the form means. Raises Invalid."""
    said = {name: value.strip() for name, value in asdict(form).items() if isinstance(value, str)}
    given: dict[str, Any] = {
        "email": said["email"],
        "name": said["name"] or None,
        "shipping_method": said["shipping_method"] or None,
        "currency": form.currency,
        "quoted_total_minor": form.quoted_total_minor,
        "payment": {"token": form.payment},
    }
    if said["address"]:
        given["address_id"] = said["address"]
    else:
        given["name"] = said["name"]
        given["address"] = {name: said[name] for name in (*PLACE, "country")}
        if said["save"] and shopper.signed_in:
            given["save_address"] = True
    bill = {name: said[f"billing_{name}"] for name in ("name", *PLACE, "country")}
    if said["billing"]:
        given["billing_address_id"] = said["billing"]
    elif any(bill[name] for name in ("name", *PLACE)):
        given["billing_address"] = bill
    return converted(given, Purchase)


async def _shopper(request: web.Request) -> Shopper:
    id_: UUID | None = await visitor.customer(request)
    customers = request.app[visitor.ACCOUNT].customers
    found = await customers.profile(id_) if id_ else None
    if id_ is None or found is None:
        return Shopper()
    return Shopper(
        email=found.email,
        name=found.name or "",
        book=await customers.addresses(id_),
        signed_in=True,
    )


ROUTES = [
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
]
