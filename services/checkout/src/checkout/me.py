"""HTTP for a customer's programs: signing in, profile, addresses, orders, cart. Knows no driver."""

from typing import Annotated
from uuid import UUID

import msgspec
from aiohttp import web
from msgspec import UNSET, Meta, Struct, UnsetType

from chassis.http import delete, get, patch, post, put, query, read, reply
from chassis.problems import Invalid, NotFound, Unavailable
from checkout import postal, visitor
from checkout.forms import PRIVATE
from checkout.purchase import Entry, Name
from checkout.store.account import Account, Export
from checkout.store.checkout import CartView
from checkout.store.customers import (
    LINK_LASTS,
    CustomerOrders,
    Email,
    Profile,
    SavedAddress,
)
from checkout.store.problems import AddressBookFull, LinkIsOver, SignInNeeded, TooManySignIns


class SignIn(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The mailbox that a link to sign in is to go to."""

    email: Email


class LinkSent(Struct, frozen=True, kw_only=True):
    """If the mailbox exists, it has the link soon. It says the same for everybody."""

    lasts_s: int


class Token(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the link of the mail carries."""

    token: Annotated[str, Meta(max_length=128)]


class Change(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be otherwise; what is left out stays."""

    name: Name | UnsetType | None = UNSET


class Which(Struct, frozen=True, kw_only=True):
    """A page of orders."""

    cursor: UUID | None = None
    limit: Annotated[int, Meta(ge=1, le=100)] = 20


class GuestCart(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A guest's cart that is to go into the customer's."""

    cart_id: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{32}\Z")]


class Merged(Struct, frozen=True, kw_only=True):
    """The customer's cart now; lines `left` stay in the guest's, `cut` ones lost units over 999."""

    cart: CartView
    moved: int
    left: int
    cut: int


class Addresses(Struct, frozen=True, kw_only=True):
    """The customer's addresses, oldest first."""

    addresses: list[SavedAddress]


async def post_sign_in(request: web.Request) -> web.Response:
    """Mail a link that signs in."""
    email = (await read(request, SignIn)).email
    await _account(request).ask(email, visitor.address_of(request))
    sent = LinkSent(lasts_s=int(LINK_LASTS.total_seconds()))
    return reply(sent, status=202, headers=PRIVATE)


async def post_session(request: web.Request) -> web.Response:
    """Sign in with the token of the mail's link."""
    link = (await read(request, Token)).token
    id_, token = await _account(request).enter(link, visitor.session_token(request))
    response = reply(await _account(request).profile(id_), status=201, headers=PRIVATE)
    visitor.welcome(response, token, request.app[visitor.SESSION_MAX_S])
    return response


async def delete_session(request: web.Request) -> web.Response:
    """Sign out; who is not signed in is out already."""
    await visitor.customer(request)
    await _account(request).leave(visitor.session_token(request))
    response = reply(None, status=204, headers=PRIVATE)
    visitor.farewell(response)
    return response


async def patch_me(request: web.Request) -> web.Response:
    """Change the profile."""
    id_ = await visitor.signed_in(request)
    change = await read(request, Change)
    if not isinstance(change.name, UnsetType):
        await _account(request).customers.rename(id_, change.name)
    return reply(await _account(request).profile(id_), headers=PRIVATE)


async def delete_me(request: web.Request) -> web.Response:
    """Erase the customer."""
    await _account(request).erase(await visitor.signed_in(request))
    response = reply(None, status=204, headers=PRIVATE)
    visitor.farewell(response)
    return response


async def get_export(request: web.Request) -> web.Response:
    """Everything that is known of the customer, to keep."""
    export = await _account(request).export(await visitor.signed_in(request))
    named = {"Content-Disposition": 'attachment; filename="shopstream-export.json"'}
    return reply(export, headers=PRIVATE | named)


async def get_addresses(request: web.Request) -> web.Response:
    """The address book."""
    found = await _account(request).customers.addresses(await visitor.signed_in(request))
    return reply(Addresses(addresses=found), headers=PRIVATE)


async def post_address(request: web.Request) -> web.Response:
    """Write an address into the book."""
    id_ = await visitor.signed_in(request)
    entry = postal.checked(await read(request, Entry))
    saved = await _account(request).customers.add_address(id_, entry)
    where = {"Location": f"/me/addresses/{saved.address_id}"}
    return reply(saved, status=201, headers=PRIVATE | where)


async def put_address(request: web.Request) -> web.Response:
    """Write an address anew."""
    id_ = await visitor.signed_in(request)
    entry = postal.checked(await read(request, Entry))
    saved = await _account(request).customers.change_address(id_, address_id(request), entry)
    return reply(saved, headers=PRIVATE)


async def delete_address(request: web.Request) -> web.Response:
    """Take an address out of the book."""
    id_ = await visitor.signed_in(request)
    await _account(request).customers.remove_address(id_, address_id(request))
    return reply(None, status=204, headers=PRIVATE)


async def get_orders(request: web.Request) -> web.Response:
    """The customer's orders, newest first."""
    id_ = await visitor.signed_in(request)
    which = query(request, Which)
    return reply(
        await _account(request).customers.orders(id_, which.cursor, which.limit), headers=PRIVATE
    )


async def get_cart(request: web.Request) -> web.Response:
    """The customer's cart; `/carts/{cart}` changes and orders it."""
    view = await request.app[visitor.CHECKOUT].own_cart(await visitor.signed_in(request))
    return reply(view, headers=PRIVATE | {"ETag": f'"{view.version}"'})


async def merge_cart(request: web.Request) -> web.Response:
    """Put a guest's cart into the customer's; again changes nothing."""
    id_ = await visitor.signed_in(request)
    checkout = request.app[visitor.CHECKOUT]
    merge = await checkout.merge_cart((await read(request, GuestCart)).cart_id, id_)
    view = await checkout.own_cart(id_)
    merged = Merged(cart=view, moved=merge.moved, left=merge.left, cut=merge.cut)
    return reply(merged, headers=PRIVATE | {"ETag": f'"{view.version}"'})


def address_id(request: web.Request) -> UUID:
    """The path's address. Raises NotFound for what can be none."""
    try:
        return msgspec.convert(request.match_info["address"], UUID)
    except msgspec.ValidationError as error:
        raise NotFound("There is no such address.") from error


def _account(request: web.Request) -> Account:
    return request.app[visitor.ACCOUNT]


_MINE = (SignInNeeded, Unavailable)

ROUTES = [
    post(
        "/me/sign-in",
        post_sign_in,
        summary="Have a link that signs in mailed to oneself",
        body=SignIn,
        reply=LinkSent,
        status=202,
        problems=(TooManySignIns, Unavailable),
    ),
    post(
        "/me/session",
        post_session,
        summary="Sign in with the token of the link",
        body=Token,
        reply=Profile,
        status=201,
        problems=(LinkIsOver, Unavailable),
        sends={"Set-Cookie": "the session"},
    ),
    delete("/me/session", delete_session, summary="Sign out", status=204, problems=(Unavailable,)),
    patch(
        "/me", patch_me, summary="Change the profile", body=Change, reply=Profile, problems=_MINE
    ),
    delete(
        "/me",
        delete_me,
        summary="Erase the customer; orders stay without a person",
        status=204,
        problems=_MINE,
    ),
    get(
        "/me/export",
        get_export,
        summary="Everything that is known of the customer",
        reply=Export,
        problems=_MINE,
    ),
    get(
        "/me/addresses",
        get_addresses,
        summary="The address book",
        reply=Addresses,
        problems=_MINE,
    ),
    post(
        "/me/addresses",
        post_address,
        summary="Write an address into the book",
        body=Entry,
        reply=SavedAddress,
        status=201,
        problems=(*_MINE, Invalid, AddressBookFull),
        sends={"Location": "the address"},
    ),
    put(
        "/me/addresses/{address}",
        put_address,
        summary="Write an address anew",
        body=Entry,
        reply=SavedAddress,
        problems=(*_MINE, Invalid, NotFound),
    ),
    delete(
        "/me/addresses/{address}",
        delete_address,
        summary="Take an address out of the book",
        status=204,
        problems=(*_MINE, NotFound),
    ),
    get(
        "/me/orders",
        get_orders,
        summary="The customer's orders, newest first",
        query=Which,
        reply=CustomerOrders,
        problems=_MINE,
    ),
    get(
        "/me/cart",
        get_cart,
        summary="The customer's cart",
        reply=CartView,
        problems=_MINE,
        sends={"ETag": "the cart's version"},
    ),
    post(
        "/me/cart",
        merge_cart,
        summary="Put a guest's cart into the customer's",
        body=GuestCart,
        reply=Merged,
        problems=_MINE,
        sends={"ETag": "the cart's version"},
    ),
]
