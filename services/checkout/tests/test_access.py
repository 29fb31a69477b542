"""Whose is what: each route of the table, asked by somebody else, answers as if nothing were there.

A new route is asked, too. Where its path names a thing of a new kind, this test wants to be told
whose it is.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import RFC_4122

import msgspec
import pytest
import uuid_utils.compat as uuids
from aiohttp import ClientSession
from aiohttp.test_utils import TestClient

from chassis.http import Route
from checkout import app
from checkout.store.carts import own
from checkout.store.placing import new_id

pytestmark = pytest.mark.connected

Browsers = Callable[[], Any]

HOME = {
    "name": "Ada",
    "street": "Domstr. 1",
    "city": "Bonn",
    "postcode": "53111",
    "country": "DE",
}
THINGS = re.compile(r"\{(\w+)(?::(?:[^{}]|\{[^{}]*\})*)?\}")
OWNED = {"order", "cart", "address"}
"""Names in paths that mean a thing of one customer's."""
SENT = {
    "address": "the one to write, not an id",
    "address_id": "test_destinations: of the customer's own book",
    "billing_address_id": "test_destinations: of the customer's own book",
    "cart_id": "test_merging: another customer's is no guest's",
    "cart": "the proof of a guest, compared and never looked up",
    "cursor": "a place in the customer's own list",
    "older_than": "a place in the customer's own list",
    "reservation_id": "taken over by stock, for whoever knows it",
}
"""Where it is tried, or why it need not be, that an id in a body or a query opens nothing."""
PUBLIC = {"sku"}
"""Names in paths that mean the same to everybody."""

OBJECT_ROUTES = [route for route in app.ROUTES if OWNED & set(THINGS.findall(route.path))]
ASKED = [route for route in OBJECT_ROUTES if route.scope is None]


def named(route: Route) -> str:
    return f"{route.method} {route.path}"


def path_of(route: Route, **things: str) -> str:
    """The route's path with these things, and with any other that its path may name."""
    other = {"sku": "LAMP-1"}
    return THINGS.sub(
        lambda match: things.get(match[1]) or other.get(match[1]) or str(uuids.uuid7()), route.path
    )


def test_every_name_in_a_path_is_somebodys_or_everybodys() -> None:
    for route in app.ROUTES:
        names = set(THINGS.findall(route.path))
        assert route.scope is not None or names & OWNED or names <= PUBLIC, named(route)
    assert {
        "/orders/{order}",
        "/orders/{order}/events",
        "/orders/{order}/invoice.pdf",
        "/carts/{cart}",
        "/me/addresses/{address}",
    } <= {route.path for route in ASKED}


def ids_in(shape: Any) -> set[str]:
    """The fields of a body or a query, however deep, that may hold the id of something."""
    match msgspec.inspect.type_info(shape) if isinstance(shape, type) else shape:
        case msgspec.inspect.StructType(fields=fields):
            deeper = [ids_in(field.type) for field in fields]
            named = {f.name for f in fields if f.name.endswith("_id") or f.name in OWNED}
            uuids_ = {f.name for f in fields if "UUIDType" in repr(f.type)}
            return named.union(uuids_, *deeper)
        case msgspec.inspect.UnionType(types=types):
            return set[str]().union(*(ids_in(one) for one in types))
        case msgspec.inspect.ListType(item_type=item):
            return ids_in(item)
    return set()


def test_every_id_that_is_sent_is_known_to_be_ones_own_or_to_lead_to_nothing() -> None:
    sent = {
        name
        for route in app.ROUTES
        if route.scope is None
        for shape in (route.body, route.query)
        if shape is not None
        for name in ids_in(shape)
    }

    assert set(SENT) == sent


@pytest.fixture
async def things(browsers: Browsers) -> dict[str, str]:
    """An order, a cart and an address of Ada's, and Ada's session."""
    ada = browsers()
    customer = await ada.sign_in("ada@example.com")
    order = await ada.order()
    saved = await ada.send("POST", "/me/addresses", json=HOME)
    cart = customer["customer_id"].replace("-", "")
    return {"order": order, "cart": cart, "address": saved.json()["address_id"]} | ada.cookies


async def test_what_is_anothers_answers_like_what_is_not(
    things: dict[str, str], browsers: Browsers
) -> None:
    bob, guest = browsers(), browsers()
    await bob.sign_in("bob@example.com")
    for route in ASKED:
        await refused(route, things, bob, guest)


async def refused(route: Route, things: dict[str, str], bob: Any, guest: Any) -> None:
    path = path_of(route, **things)
    missing = path_of(
        route, order=str(uuids.uuid7()), cart=own(uuids.uuid7()), address=str(uuids.uuid7())
    )
    sent: dict[str, Any] = {}
    if route.method != "GET":
        page = route.media == "text/html"
        sent = {"data": {"qty": "1"}} if page else {"json": HOME}

    answers = [await who.send(route.method, path, **sent) for who in (bob, guest)]
    empty = await bob.send(route.method, missing, **sent)

    # a guest has no address book, so nothing is told by asking for a sign-in
    allowed = {401, 303} if route.path.startswith("/me/") else {404}
    assert 404 == answers[0].status, named(route)
    assert answers[1].status in allowed, named(route)
    # nothing in the answer tells one from the other
    assert 404 == empty.status
    for problem in (answers[0], empty):
        assert "urn:shop:problem:not-found" == problem.json()["type"]
    assert answers[0].json()["detail"] == empty.json()["detail"]


async def test_an_operators_route_is_none_of_a_customers(
    things: dict[str, str], browsers: Browsers
) -> None:
    ada = browsers()
    await ada.sign_in("ada@example.com")

    for route in app.ROUTES:
        if route.scope is not None:
            answer = await ada.send(route.method, path_of(route, **things))
            assert 401 == answer.status, named(route)


async def test_the_owner_reaches_all_of_it(
    things: dict[str, str], browsers: Browsers, client: TestClient[Any, Any]
) -> None:
    ada = browsers()
    ada.cookies = {"__Host-session": things["__Host-session"]}

    for path in (
        f"/orders/{things['order']}",
        f"/carts/{things['cart']}",
        "/me/addresses",
        "/me/orders",
    ):
        answer = await ada.send("GET", path)
        assert 200 == answer.status, path
    async with (
        ClientSession() as session,
        session.get(
            client.make_url(f"/orders/{things['order']}/events"),
            headers={"Cookie": f"__Host-session={things['__Host-session']}"},
        ) as stream,
    ):
        assert 200 == stream.status
        assert b"retry" in await stream.content.readline()
    assert 200 == (await ada.send("POST", f"/orders/{things['order']}/cancel")).status


async def test_a_guests_order_is_anybodys_who_knows_its_id(browsers: Browsers) -> None:
    guest, bob = browsers(), browsers()
    await bob.sign_in("bob@example.com")
    order = await guest.order()

    for who in (guest, bob, browsers()):
        assert 200 == (await who.send("GET", f"/orders/{order}")).status


async def test_an_order_stays_its_customers_after_signing_out(browsers: Browsers) -> None:
    ada = browsers()
    await ada.sign_in("ada@example.com")
    order = await ada.order()
    await ada.send("DELETE", "/me/session")

    assert 404 == (await ada.send("GET", f"/orders/{order}")).status
    await ada.sign_in("ada@example.com")
    assert 200 == (await ada.send("GET", f"/orders/{order}")).status


def test_who_knows_an_orders_id_guesses_no_other() -> None:
    now = datetime.now(UTC)

    ids = [new_id(now) for _ in range(2_000)]

    assert 2_000 == len(set(ids))
    assert {(7, RFC_4122)} == {(id_.version, id_.variant) for id_ in ids}
    assert {int(now.timestamp() * 1000)} == {id_.int >> 80 for id_ in ids}
    # every one of the 74 bits is now this, now that; a counter would leave some alone
    chance = [((id_.int >> 64) & 0xFFF) << 62 | id_.int & (1 << 62) - 1 for id_ in ids]
    for bit in range(74):
        assert 700 < sum(number >> bit & 1 for number in chance) < 1_300
