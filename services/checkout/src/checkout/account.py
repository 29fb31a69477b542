"""HTML for customers: signing in by a mailed link, the account with its orders and addresses.

A customer is also JSON. Everything here is one customer's: no reply may be stored. Knows no driver.
"""

from typing import Annotated
from uuid import UUID

import msgspec
from aiohttp import hdrs, web
from msgspec import Meta, Struct
from msgspec.structs import asdict

from chassis.http import Route, get, page, post, prefers_html, query, reply
from chassis.http.routes import Handler
from chassis.pages import templates
from chassis.problems import Invalid, NotFound, Unavailable
from checkout import postal, visitor
from checkout.address_form import by_field, converted, countries, country_name
from checkout.forms import FORM_PROBLEMS, FRAMED, MAX_FORM, PRIVATE, go, read_form
from checkout.purchase import Entry
from checkout.store.account import Account
from checkout.store.customers import CustomerOrders, Email, Profile, SavedAddress
from checkout.store.problems import AddressBookFull, LinkIsOver, SignInNeeded, TooManySignIns

ORDERS_SHOWN = 20
# The address of these pages gives the right to sign in. With `no-referrer` a browser would not even
# tell its own site whose form it is.
SECRET = FRAMED | {"Referrer-Policy": "strict-origin"}

_pages = templates("checkout")
_sign_in = _pages.get_template("sign_in.html")
_account_page = _pages.get_template("account.html")


class MailForm(Struct, frozen=True, kw_only=True):
    """Who wants to sign in."""

    email: str


class TokenForm(Struct, frozen=True, kw_only=True):
    """What the link of the mail carried."""

    token: Annotated[str, Meta(max_length=128)]


class NameForm(Struct, frozen=True, kw_only=True):
    """How the customer is called; nothing takes the name away."""

    name: Annotated[str, Meta(max_length=200)]


class AddressForm(Struct, frozen=True, kw_only=True):
    """An address as it was typed."""

    name: str
    street: str
    city: str
    area: str = ""
    postcode: str = ""
    country: str


class SureForm(Struct, frozen=True, kw_only=True):
    """That the customer means it."""

    sure: str = ""


class Link(Struct, frozen=True, kw_only=True):
    """The query of a mailed link."""

    token: Annotated[str, Meta(max_length=128)] = ""


class Shown(Struct, frozen=True, kw_only=True):
    """The query of the account page: which orders."""

    older_than: UUID | None = None


async def sign_in(request: web.Request) -> web.Response:
    """The form that has a link mailed."""
    if await visitor.customer(request) is not None:
        return go("/me")
    return _show_sign_in("ask")


async def ask(request: web.Request) -> web.Response:
    """Mail a link; the page says the same whoever asks."""
    form = await read_form(request, MailForm)
    try:
        email = msgspec.convert(form.email.strip(), Email)
        await request.app[visitor.ACCOUNT].ask(email, visitor.address_of(request))
    except msgspec.ValidationError:
        return _show_sign_in(
            "ask", email=form.email, notice="Please check your e-mail address", status=422
        )
    except TooManySignIns as refused:
        response = _show_sign_in("ask", email=form.email, notice=refused.title, status=429)
        response.headers.update(refused.headers)
        return response
    return _show_sign_in("sent")


async def confirm(request: web.Request) -> web.Response:
    """Where a mail's link leads. Looking at it changes nothing: mail scanners look, too."""
    return _show_sign_in("confirm", token=query(request, Link).token)


async def enter(request: web.Request) -> web.Response:
    """Sign in, with what the browser chose as a guest."""
    form = await read_form(request, TokenForm)
    account = request.app[visitor.ACCOUNT]
    try:
        id_, token = await account.enter(form.token, visitor.session_token(request))
    except LinkIsOver as refused:
        return _show_sign_in("ask", notice=refused.title, status=refused.status)
    response = go("/me")
    visitor.welcome(response, token, request.app[visitor.SESSION_MAX_S])
    await visitor.bring_cart(request, id_)
    return response


async def leave(request: web.Request) -> web.Response:
    """Sign out."""
    await read_form(request, Struct)
    await request.app[visitor.ACCOUNT].leave(visitor.session_token(request))
    response = go("/")
    visitor.farewell(response)
    return response


async def me(request: web.Request) -> web.Response:
    """The customer: JSON, or the account page for those who would rather read HTML."""
    vary = {"Vary": "Accept"}
    html = prefers_html(request.headers.get(hdrs.ACCEPT, ""))
    id_ = await visitor.customer(request)
    shown = query(request, Shown)
    if id_ is None:
        if html:
            return go("/sign-in")
        raise SignInNeeded
    if not html:
        return reply(await _account(request).profile(id_), headers=PRIVATE | vary)
    return await _show_account(request, id_, older_than=shown.older_than)


async def rename(request: web.Request) -> web.Response:
    """Change the name."""
    form = await read_form(request, NameForm)
    id_ = await visitor.customer(request)
    if id_ is None:
        return go("/sign-in")
    await _account(request).customers.rename(id_, form.name.strip() or None)
    return go("/me")


async def add_address(request: web.Request) -> web.Response:
    """Write an address into the book."""
    form = await read_form(request, AddressForm)
    id_ = await visitor.customer(request)
    if id_ is None:
        return go("/sign-in")
    try:
        await _account(request).customers.add_address(id_, _entry(form))
    except (Invalid, AddressBookFull) as refused:
        return await _show_account(request, id_, form=form, refused=refused)
    return go("/me")


async def remove_address(request: web.Request) -> web.Response:
    """Take an address out of the book."""
    await read_form(request, Struct)
    id_ = await visitor.customer(request)
    if id_ is None:
        return go("/sign-in")
    try:
        address_id = msgspec.convert(request.match_info["address"], UUID)
    except msgspec.ValidationError as error:
        raise NotFound("There is no such address.") from error
    await _account(request).customers.remove_address(id_, address_id)
    return go("/me")


async def erase(request: web.Request) -> web.Response:
    """Erase the customer who says so twice."""
    form = await read_form(request, SureForm)
    id_ = await visitor.customer(request)
    if id_ is None:
        return go("/sign-in")
    if form.sure != "yes":
        return go("/me")
    await _account(request).erase(id_)
    response = go("/")
    visitor.farewell(response)
    return response


def _show_sign_in(
    step: str, *, email: str = "", token: str = "", notice: str = "", status: int = 200
) -> web.Response:
    html = _sign_in.render(step=step, email=email, token=token, notice=notice)
    return page(html, status=status, headers=SECRET)


async def _show_account(
    request: web.Request,
    id_: UUID,
    *,
    older_than: UUID | None = None,
    form: AddressForm | None = None,
    refused: Invalid | AddressBookFull | None = None,
) -> web.Response:
    customers = _account(request).customers
    profile: Profile | None = await customers.profile(id_)
    if profile is None:
        return go("/sign-in")
    addresses: list[SavedAddress] = await customers.addresses(id_)
    orders: CustomerOrders = await customers.orders(id_, older_than, ORDERS_SHOWN)
    html = _account_page.render(
        profile=profile,
        addresses=addresses,
        orders=orders,
        countries=countries([]),
        country_name=country_name,
        typed=asdict(form) if form else {"name": profile.name or ""},
        notice=_sentence(refused),
        faults=by_field(refused.errors) if refused else {},
    )
    status = refused.status if refused else 200
    return page(html, status=status, headers=FRAMED | {"Vary": "Accept"})


def _sentence(refused: Invalid | AddressBookFull | None) -> str:
    if isinstance(refused, Invalid):
        return "Please check the address"
    return refused.title if refused else ""


def _entry(form: AddressForm) -> Entry:
    given = {name: value.strip() for name, value in asdict(form).items()}
    return postal.checked(converted(given, Entry))


def _account(request: web.Request) -> Account:
    return request.app[visitor.ACCOUNT]


def _form(path: str, handler: Handler, summary: str) -> Route:
    return post(
        path,
        handler,
        summary=summary,
        status=303,
        media="text/html",
        max_body=MAX_FORM,
        problems=FORM_PROBLEMS,
    )


ROUTES = [
    get("/sign-in", sign_in, summary="The page that has a link mailed", media="text/html"),
    _form("/sign-in", ask, "Have a link that signs in mailed to oneself (form)"),
    get(
        "/sign-in/confirm",
        confirm,
        summary="Where a mailed link leads: a button that signs in",
        media="text/html",
        query=Link,
    ),
    _form("/sign-in/confirm", enter, "Sign in with a mailed link (form)"),
    _form("/sign-out", leave, "Sign out (form)"),
    get(
        "/me",
        me,
        summary="The customer; for those who prefer HTML the account page",
        reply=Profile,
        query=Shown,
        problems=(SignInNeeded, Unavailable),
    ),
    _form("/me/name", rename, "Change the name (form)"),
    _form("/me/address", add_address, "Write an address into the book (form)"),
    _form("/me/address/{address}/remove", remove_address, "Take an address out of the book (form)"),
    _form("/me/erase", erase, "Erase the customer (form)"),
]
