"""Who asks, and that they reach what is theirs only. Knows no store but by its questions.

A session is a cookie that scripts do not see and that no other site's page sends along. What
belongs to somebody else answers as if it were not there.
"""

import re
import secrets
from collections.abc import Iterable
from functools import wraps
from typing import cast
from uuid import UUID

import msgspec
from aiohttp import web
from msgspec import structs

from chassis.http import Route
from chassis.http.routes import Handler
from chassis.problems import NotFound
from checkout.forms import refuse_foreign
from checkout.quotes import ANYWHERE, Delivery
from checkout.store.account import Account
from checkout.store.carts import is_a_customers, own
from checkout.store.checkout import CartView, Checkout
from checkout.store.merging import Merge
from checkout.store.problems import SignInNeeded

ACCOUNT = web.AppKey("account", Account)
CHECKOUT = web.AppKey("checkout", Checkout)
SESSION_MAX_S = web.AppKey("session_max_s", int)

# The prefix lets a browser take it from this host alone, for every path, and over https: of plain
# http only this machine's own name will do.
COOKIE = "__Host-session"
CART_COOKIE = "cart"
MERGED = web.RequestKey("merged", Merge)
_CART_ID = re.compile(r"[A-Za-z0-9_-]{32}")
_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")
_CUSTOMER = web.RequestKey("customer", object)
_NAMES_A_THING = re.compile(r"\{(order|cart)[:}]")
_SAFE = frozenset({"GET", "HEAD"})


async def customer(request: web.Request) -> UUID | None:
    """The customer whose session the request brings. Raises Forbidden for another site's form."""
    if _CUSTOMER in request:
        return cast("UUID | None", request[_CUSTOMER])
    token = session_token(request)
    found = None
    if token is not None:
        if request.method not in _SAFE:
            refuse_foreign(request)
        found = await request.app[ACCOUNT].sessions.customer(token)
    request[_CUSTOMER] = found
    return found


async def signed_in(request: web.Request) -> UUID:
    """The customer. Raises SignInNeeded."""
    found = await customer(request)
    if found is None:
        raise SignInNeeded
    return found


def session_token(request: web.Request) -> str | None:
    """The token that the browser has, whatever it may still be good for."""
    given = request.cookies.get(COOKIE, "")
    return given if _TOKEN.fullmatch(given) else None


def welcome(response: web.Response, token: str, lasts_s: int) -> None:
    """Give the browser its session; when it ends, the server decides."""
    response.set_cookie(
        COOKIE, token, max_age=lasts_s, path="/", secure=True, httponly=True, samesite="Lax"
    )


def farewell(response: web.Response) -> None:
    """Take the session from the browser."""
    response.del_cookie(COOKIE, path="/", secure=True, httponly=True, samesite="Lax")


def guest_cart(request: web.Request) -> str | None:
    """The cart that the browser filled before it had a session."""
    found = request.cookies.get(CART_COOKIE, "")
    return found if _CART_ID.fullmatch(found) and not is_a_customers(found) else None


async def bring_cart(request: web.Request, id_: UUID) -> None:
    """Put what the browser chose as a guest into the customer's cart, whenever it shows up.

    Another tab may put a line into a guest's cart while this one signs in.
    """
    guest = guest_cart(request)
    if guest is not None:
        request[MERGED] = await request.app[CHECKOUT].merge_cart(guest, id_)


async def cart_id(request: web.Request) -> str | None:
    """The customer's own cart; a guest's is the one of the cookie."""
    id_ = await customer(request)
    if id_ is None:
        return guest_cart(request)
    await bring_cart(request, id_)
    return own(id_)


async def known_cart(request: web.Request) -> str:
    """The same where there must be one. Raises NotFound."""
    found = await cart_id(request)
    if found is None:
        raise NotFound("There is no cart.")
    return found


async def cart(request: web.Request, delivery: Delivery = ANYWHERE) -> CartView | None:
    """What is in it, when it is sent so; None where there is none."""
    id_ = await cart_id(request)
    if id_ is None:
        return None
    try:
        return await request.app[CHECKOUT].cart(id_, delivery)
    except NotFound:  # it has had its time, or its order is confirmed
        return None


async def drop_brought_cart(request: web.Request, response: web.StreamResponse) -> None:
    """Take the guest's cart from the browser once there is nothing left in it."""
    merge = request.get(MERGED)
    if merge is not None and not merge.left:
        # its cookies are already headers at this point
        gone = f"{CART_COOKIE}=; Max-Age=0; Path=/; HttpOnly; SameSite=Lax"
        response.headers.add("Set-Cookie", gone)


async def ordered(request: web.Request, order_id: UUID, cart_id: str = "") -> bool:
    """Whether it was the visitor who ordered, so that a name and an address may be shown.

    A guest's order is found by its id, which others may have read; the guest also knows the cart,
    by `cart_id` or by the cookie. Of a customer's order `guarded` has seen the session.
    """
    cart = await request.app[ACCOUNT].customers.cart_of(order_id)
    known = cart_id or request.cookies.get(CART_COOKIE, "")
    return cart is None or secrets.compare_digest(known.encode(), cart.encode())


def address_of(request: web.Request) -> str:
    """Where the request comes from, by the edge's word: one household of IPv6 is one address."""
    told = request.headers.get("X-Forwarded-For", "").rpartition(",")[2].strip()
    found = told or request.remote or ""
    return ":".join(found.split(":")[:4]) if ":" in found else found


def guarded(routes: Iterable[Route]) -> list[Route]:
    """The routes, each of which answers 404 where its order or cart is another customer's.

    Routes that ask for an API key are the operator's.
    """
    return [
        structs.replace(route, handler=_guarded(route.handler))
        if route.scope is None and _NAMES_A_THING.search(route.path)
        else route
        for route in routes
    ]


def _guarded(handler: Handler) -> Handler:
    @wraps(handler)
    async def handle(request: web.Request) -> web.StreamResponse:
        cart, order = (request.match_info.get(name) for name in ("cart", "order"))
        if cart is not None:
            await _refuse_strangers_cart(request, cart)
        if order is not None:
            await _refuse_strangers_order(request, order)
        return await handler(request)

    return handle


async def _refuse_strangers_cart(request: web.Request, cart_id: str) -> None:
    if is_a_customers(cart_id):
        visitor = await customer(request)
        if visitor is None or own(visitor) != cart_id:
            raise NotFound("There is no such cart.")


async def _refuse_strangers_order(request: web.Request, given: str) -> None:
    try:
        order_id = msgspec.convert(given, UUID)
    except msgspec.ValidationError as error:
        raise NotFound("There is no such order.") from error
    owner = await request.app[ACCOUNT].customers.owner(order_id)
    if owner is not None and await customer(request) != owner:
        raise NotFound("There is no such order.")
