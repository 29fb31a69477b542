"""HTTP for programs: carts, checkout, cancelling. `pages` answers for orders. Knows no driver."""

import re
import time
from typing import Annotated
from uuid import UUID

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from chassis.http import delete, get, post, put, query, read, reply
from chassis.problems import (
    Invalid,
    NotFound,
    PreconditionFailed,
    Unavailable,
)
from chassis.process import stopping
from checkout import visitor
from checkout.provider import BadWebhook
from checkout.provider.stripe import read_webhook
from checkout.purchase import Purchase
from checkout.quotes import Delivery, Qty
from checkout.rules import Country
from checkout.store.checkout import CartView, ShippingView
from checkout.store.placing import Acceptance, Accepted
from checkout.store.problems import (
    AlreadyOrdered,
    BadSignature,
    CartFull,
    CouponRefused,
    EmptyCart,
    IdempotencyKeyRequired,
    IdempotencyKeyReused,
    NotCancellable,
    NotDelivered,
    PriceChanged,
    QueueFull,
    TooManyTries,
    UnknownCoupon,
    UnknownPrice,
)
from checkout.store.rows import OrderView
from shop_contracts.types import Sku

WEBHOOK_SECRET = web.AppKey("webhook_secret", str)

PRIVATE = {"Cache-Control": "private, no-store"}
STREAM = PRIVATE | {
    "Content-Type": "text/event-stream",
    # nginx is not to gather what is meant for now
    "X-Accel-Buffering": "no",
}
STREAM_SECONDS = 600
BEAT_SECONDS = 2.0
MAX_WAIT_S = 10
_WAIT = re.compile(r"(?:^|[,;\s])wait=(\d{1,6})(?:$|[,;\s])")
_CART_ID = re.compile(r"[A-Za-z0-9_-]{32}")
_ETAG = re.compile(r'"(\d{1,15})"')


class LineBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many units of the line's SKU the cart is to hold."""

    qty: Qty


class CouponBody(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The code of a coupon; small letters do."""

    code: Annotated[str, Meta(min_length=1, max_length=64)]


class Destination(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The country that it is to go to; the shop's own without it."""

    country: Country | None = None


class Received(Struct, frozen=True, kw_only=True):
    """The webhook is taken; the same one again changes nothing."""

    received: bool


async def create_cart(request: web.Request) -> web.Response:
    """Start an empty cart."""
    view = await request.app[visitor.CHECKOUT].create_cart()
    return _cart(view, status=201, headers={"Location": f"/carts/{view.cart_id}"})


async def get_cart(request: web.Request) -> web.Response:
    """The cart with names, prices and the total, when it is sent as the query says."""
    delivery = query(request, Delivery)
    return _cart(await request.app[visitor.CHECKOUT].cart(cart_id(request), delivery))


async def get_shipping_methods(request: web.Request) -> web.Response:
    """The ways to send the cart to a country."""
    delivery = Delivery(country=query(request, Destination).country)
    view = await request.app[visitor.CHECKOUT].shipping(cart_id(request), delivery)
    return reply(view, headers=PRIVATE)


async def put_line(request: web.Request) -> web.Response:
    """Set the units of one line; repeating the call changes nothing."""
    qty = (await read(request, LineBody)).qty
    checkout = request.app[visitor.CHECKOUT]
    return _cart(await checkout.put_line(cart_id(request), _sku(request), qty, _version(request)))


async def delete_line(request: web.Request) -> web.Response:
    """Take one line out."""
    checkout = request.app[visitor.CHECKOUT]
    return _cart(await checkout.remove_line(cart_id(request), _sku(request), _version(request)))


async def put_coupon(request: web.Request) -> web.Response:
    """Let the cart have a coupon; the one before is out of it."""
    code = (await read(request, CouponBody)).code
    checkout, who = request.app[visitor.CHECKOUT], visitor.address_of(request)
    view = await checkout.use_coupon(cart_id(request), code, _version(request), who)
    return _cart(view)


async def delete_coupon(request: web.Request) -> web.Response:
    """Let the cart have no coupon."""
    return _cart(
        await request.app[visitor.CHECKOUT].drop_coupon(cart_id(request), _version(request))
    )


async def delete_cart(request: web.Request) -> web.Response:
    """Forget the cart."""
    await request.app[visitor.CHECKOUT].drop_cart(cart_id(request), _version(request))
    return reply(None, status=204)


async def order_cart(request: web.Request) -> web.Response:
    """Order the cart, once per Idempotency-Key and once per cart."""
    checkout = request.app[visitor.CHECKOUT]
    purchase = await read(request, Purchase)
    key = request.headers.get("Idempotency-Key")
    customer = await visitor.customer(request)
    accepted = await checkout.order_cart(cart_id(request), key, purchase, customer)
    wait = _wait(request)
    outcome = await checkout.outcome(accepted.order_id, wait) if wait else None
    return _accepted(accepted, outcome, wait)


async def cancel(request: web.Request) -> web.Response:
    """Take the order back, as long as stock is not selling it."""
    return reply(await request.app[visitor.CHECKOUT].cancel(order_id(request)), headers=PRIVATE)


async def order_events(request: web.Request) -> web.StreamResponse:
    """What becomes of the order, as it happens, until its end."""
    checkout, id_ = request.app[visitor.CHECKOUT], order_id(request)
    await checkout.order(id_)
    version = _last_event(request)
    response = web.StreamResponse(headers=STREAM)
    await response.prepare(request)
    await response.write(b"retry: 2000\n\n")
    end, told = time.monotonic() + STREAM_SECONDS, b""
    while time.monotonic() < end and not stopping().is_set():
        standing, place = await checkout.progress(id_, version, BEAT_SECONDS)
        if standing is not None:
            version = standing.version
            await response.write(_sent("status", standing, version))
            if standing.status.terminal:
                break
        queue = _sent("queue", place) if place else b""
        # a proxy ends what has been silent for too long
        await response.write(queue if queue not in {b"", told} else b": still here\n\n")
        told = queue
    return response


def _sent(event: str, data: Struct, id_: int | None = None) -> bytes:
    line = f"id: {id_}\n" if id_ is not None else ""
    return f"event: {event}\n{line}data: ".encode() + msgspec.json.encode(data) + b"\n\n"


def _last_event(request: web.Request) -> int:
    given = request.headers.get("Last-Event-ID", "")
    return int(given) if re.fullmatch(r"[0-9]{1,9}", given, re.ASCII) else 0


async def payment_webhook(request: web.Request) -> web.Response:
    """The provider says that something happened: ask it what."""
    secret = request.app[WEBHOOK_SECRET]
    if not secret:
        raise NotFound
    header = request.headers.get("Stripe-Signature", "")
    try:
        notice = read_webhook(await request.read(), header, secret, time.time())
    except BadWebhook as error:
        raise BadSignature(f"The webhook is refused: {error}.") from error
    await request.app[visitor.CHECKOUT].notice(notice.id, notice.key)
    return reply(Received(received=True))


def cart_id(request: web.Request) -> str:
    """The path's cart. Raises NotFound for what can be none."""
    id_ = request.match_info["cart"]
    if _CART_ID.fullmatch(id_) is None:
        raise NotFound("There is no such cart.")
    return id_


def order_id(request: web.Request) -> UUID:
    """The path's order. Raises NotFound for what can be none."""
    try:
        return msgspec.convert(request.match_info["order"], UUID)
    except msgspec.ValidationError as error:
        raise NotFound("There is no such order.") from error


def _sku(request: web.Request) -> str:
    try:
        return msgspec.convert(request.match_info["sku"], Sku)
    except msgspec.ValidationError as error:
        detail = "A SKU is 1 to 64 letters, digits, dots, dashes and underscores."
        raise Invalid(
            errors=[{"pointer": "/sku", "code": "wrong-form", "detail": detail}]
        ) from error


def _version(request: web.Request) -> int | None:
    given = request.headers.get("If-Match")
    if given is None or given.strip() == "*":
        return None
    tag = _ETAG.fullmatch(given.strip())
    if tag is None:
        raise PreconditionFailed
    return int(tag[1])


def _wait(request: web.Request) -> int:
    found = _WAIT.search(request.headers.get("Prefer", ""))
    return min(int(found[1]), MAX_WAIT_S) if found else 0


def _cart(
    view: CartView, *, status: int = 200, headers: dict[str, str] | None = None
) -> web.Response:
    sent = {"ETag": f'"{view.version}"', **PRIVATE, **(headers or {})}
    return reply(view, status=status, headers=sent)


def _accepted(accepted: Accepted, outcome: OrderView | None, wait: int) -> web.Response:
    headers = {"Location": f"/orders/{accepted.order_id}", **PRIVATE}
    if accepted.replayed:
        headers["Idempotent-Replayed"] = "true"
    if outcome is not None:
        return reply(outcome, headers=headers | {"Preference-Applied": f"wait={wait}"})
    return reply(msgspec.Raw(accepted.body), status=202, headers=headers | {"Retry-After": "1"})


_CART_PROBLEMS = (NotFound, Unavailable)
_CHANGE_PROBLEMS = (*_CART_PROBLEMS, PreconditionFailed)
_IF_MATCH = {"If-Match": "the ETag of the cart that you mean to change"}
_ETAG_SENT = {"ETag": "the cart's version"}

ROUTES = [
    post(
        "/carts",
        create_cart,
        summary="Start a cart",
        reply=CartView,
        status=201,
        problems=(Unavailable,),
        sends={"Location": "the cart", **_ETAG_SENT},
    ),
    get(
        "/carts/{cart}",
        get_cart,
        summary="A cart with its prices, its shipping and its taxes",
        query=Delivery,
        reply=CartView,
        problems=_CART_PROBLEMS,
        sends=_ETAG_SENT,
    ),
    get(
        "/carts/{cart}/shipping-methods",
        get_shipping_methods,
        summary="The ways to send a cart, the cheapest first",
        query=Destination,
        reply=ShippingView,
        problems=_CART_PROBLEMS,
    ),
    put(
        "/carts/{cart}/lines/{sku}",
        put_line,
        summary="Set the units of a line",
        body=LineBody,
        reply=CartView,
        problems=(*_CHANGE_PROBLEMS, Invalid, CartFull, UnknownPrice),
        headers=_IF_MATCH,
        sends=_ETAG_SENT,
    ),
    delete(
        "/carts/{cart}/lines/{sku}",
        delete_line,
        summary="Take a line out",
        reply=CartView,
        problems=(*_CHANGE_PROBLEMS, Invalid),
        headers=_IF_MATCH,
        sends=_ETAG_SENT,
    ),
    put(
        "/carts/{cart}/coupon",
        put_coupon,
        summary="Let the cart have a coupon",
        body=CouponBody,
        reply=CartView,
        problems=(*_CHANGE_PROBLEMS, UnknownCoupon, CouponRefused, TooManyTries),
        headers=_IF_MATCH,
        sends=_ETAG_SENT,
    ),
    delete(
        "/carts/{cart}/coupon",
        delete_coupon,
        summary="Let the cart have no coupon",
        reply=CartView,
        problems=_CHANGE_PROBLEMS,
        headers=_IF_MATCH,
        sends=_ETAG_SENT,
    ),
    delete(
        "/carts/{cart}",
        delete_cart,
        summary="Forget a cart",
        status=204,
        problems=_CHANGE_PROBLEMS,
        headers=_IF_MATCH,
    ),
    post(
        "/carts/{cart}/checkout",
        order_cart,
        summary="Order the cart: 202 says the order is durable, not that it is confirmed",
        body=Purchase,
        reply=Acceptance,
        status=202,
        problems=(
            *_CART_PROBLEMS,
            IdempotencyKeyRequired,
            IdempotencyKeyReused,
            EmptyCart,
            UnknownPrice,
            NotDelivered,
            CouponRefused,
            PriceChanged,
            AlreadyOrdered,
            Invalid,
            QueueFull,
        ),
        headers={
            "Idempotency-Key": "16 to 128 of A-Z a-z 0-9 _ -, new for each order you mean",
            "Prefer": "wait=N, at most 10: answer 200 with the outcome if it comes in N seconds",
        },
        sends={
            "Location": "the order",
            "Retry-After": "seconds until it is worth looking",
            "Idempotent-Replayed": "true where this key has had this answer before",
        },
    ),
    get(
        "/orders/{order}/events",
        order_events,
        summary="The order's status, and in a rush its place in the queue, as they change",
        problems=(NotFound, Unavailable),
        headers={"Last-Event-ID": "the version that was seen last"},
        media="text/event-stream",
        timeout=None,
    ),
    post(
        "/payments/webhook",
        payment_webhook,
        summary="For the payment provider: a signed hint that a payment has moved",
        reply=Received,
        problems=(NotFound, BadSignature, Unavailable),
        headers={"Stripe-Signature": "t=<seconds>,v1=<HMAC-SHA256 of '<t>.<body>'>"},
    ),
    post(
        "/orders/{order}/cancel",
        cancel,
        summary="Cancel an order that stock is not selling yet",
        reply=OrderView,
        problems=(NotFound, NotCancellable, Unavailable),
    ),
]
