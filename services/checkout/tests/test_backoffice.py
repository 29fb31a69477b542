"""Those who run the shop, over HTTP: orders, refunds, parcels, webhooks; the cancel button."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
import uuid_utils.compat as uuids
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from openapi_spec_validator import validate
from standardwebhooks import Webhook

from chassis.database import Database
from checkout import app
from checkout.domain import Approved, CancelRequested, Timers
from checkout.settings import Settings
from checkout.store import tables
from checkout.store.after import After
from checkout.store.orders import Orders
from checkout.store.projections import Projections
from notify.book import Book
from notify.dispatch import dispatch
from notify.mail import mailer
from notify.sender import Sender, public_session

pytestmark = pytest.mark.connected

Client = TestClient[Any, Any]
WRITER, READER = "k_w_write", "k_r_read"
KEY = "key-0123456789abcdef"
UNKNOWN = "0197a1f2-0000-7000-8000-000000000000"
LEASE = timedelta(seconds=30)
PATIENCE_S = 20
WRITES, READS = {"Authorization": f"Bearer {WRITER}"}, {"Authorization": f"Bearer {READER}"}


@pytest.fixture
async def client(settings: Settings, own: Database, tmp_path: Path) -> AsyncIterator[Client]:
    keys = {
        key[2]: {"sha256": hashlib.sha256(key.encode()).hexdigest(), "scopes": [scope]}
        for key, scope in ((WRITER, "orders:write"), (READER, "orders:read"))
    }
    path = tmp_path / "keys.json"
    path.write_text(json.dumps(keys))
    theirs = msgspec.structs.replace(
        settings, api_keys_file=str(path), webhooks_on_loopback=True, mail_dir=tmp_path
    )
    async with TestClient(TestServer(app.application(theirs))) as client:
        yield client


@pytest.fixture
def orders(own: Database) -> Orders:
    return Orders(own, Timers())


@pytest.fixture
async def bought(orders: Orders, make: Any) -> UUID:
    """A confirmed order of three lamps at 10.00."""
    return await buy(orders, make)


async def buy(orders: Orders, make: Any) -> UUID:
    accepted = await orders.place(
        uuids.uuid7().hex, KEY, b"x" * 32, make.a_purchase(), make.a_quote(3, 1_000)
    )
    await make.authorise(orders, str(accepted.order_id))
    await orders.apply(accepted.order_id, make.committed(accepted.order_id))
    for ask in await orders.claim_payments(10, LEASE):
        await orders.answered(ask, Approved("pi_1"))
    return accepted.order_id


async def ask(
    client: Client, path: str, body: Any, key: str | None = KEY, **more: Any
) -> tuple[int, dict[str, str], Any]:
    headers = WRITES | ({"Idempotency-Key": key} if key else {})
    async with client.post(path, json=body, headers=headers, **more) as answer:
        return answer.status, dict(answer.headers), await answer.json()


def lines(qty: int = 1, **more: Any) -> dict[str, Any]:
    return {"lines": [{"sku": "LAMP-1", "qty": qty, **more}]}


async def test_a_refund_is_taken_repeated_and_shown_on_the_order(
    client: Client, bought: UUID
) -> None:
    path, wanted = f"/orders/{bought}/refunds", lines(2, restock=True)

    first = await ask(client, path, wanted)
    again = await ask(client, path, wanted)
    async with client.get(f"/orders/{bought}") as answer:
        view = await answer.json()

    assert (202, "requested", 2_000) == (first[0], first[2]["state"], first[2]["amount_minor"])
    assert f"/orders/{bought}" == first[1]["Location"]
    assert (202, first[2], "true") == (again[0], again[2], again[1]["Idempotent-Replayed"])
    assert [first[2]] == view["refunds"]
    assert ("confirmed", 0, "open") == (
        view["status"],
        view["refunded_minor"],
        view["fulfilment"],
    )


async def test_a_parcel_is_taken_and_shown_with_its_tracking(client: Client, bought: UUID) -> None:
    parcel = {**lines(1), "carrier": "Ship <b>&</b> Co", "tracking": "T 1"}

    status, _, made = await ask(client, f"/orders/{bought}/shipments", parcel)
    async with client.get(f"/orders/{bought}", headers={"Accept": "text/html"}) as answer:
        html = await answer.text()

    path = f"/orders/{bought}/shipments/{made['shipment_id']}/delivery"
    arrived, _, parcel = await ask(client, path, None)
    async with client.get(f"/orders/{bought}", headers={"Accept": "text/html"}) as answer:
        page = await answer.text()

    assert (201, "T 1") == (status, made["tracking"])
    assert (200, True) == (arrived, parcel["delivered_at"] is not None)
    assert 404 == (await ask(client, path.replace(made["shipment_id"], str(bought)), None))[0]
    assert "<small>delivered " in page
    assert "<small>delivered " not in html
    assert "Ship &lt;b&gt;&amp;&lt;/b&gt; Co, tracking T 1" in html
    assert "Sent in part" in html


BAD: list[tuple[str, Any, int, str]] = [
    ("refunds", {}, 422, "nothing"),
    ("refunds", lines(4), 409, "too-many"),
    ("refunds", {"lines": [{"sku": "LAMP-2", "qty": 1}]}, 422, "unknown-sku"),
    ("refunds", {"lines": lines()["lines"] * 2}, 422, "twice"),
    ("refunds", {"amount_minor": 3_001}, 409, "too-much"),
    ("refunds", {"amount_minor": -1}, 422, ""),
    ("refunds", {"amount_minor": 2**63}, 400, ""),
    ("refunds", lines(0), 422, ""),
    ("refunds", lines(1, price=1), 422, ""),
    ("refunds", {"amount_minor": 1, "reason": "because"}, 422, ""),
    ("refunds", [], 422, ""),
    ("shipments", {**lines(4), "carrier": "C"}, 409, "too-many"),
    ("shipments", lines(1), 422, ""),
    ("shipments", {"lines": [], "carrier": "C"}, 422, ""),
    ("shipments", {**lines(1), "carrier": "C" * 101}, 422, ""),
    ("shipments", {**lines(1), "carrier": "C\u0000"}, 422, ""),
]


async def test_what_cannot_be_is_refused_and_changes_nothing(
    client: Client, orders: Orders, bought: UUID
) -> None:
    for what, body, status, code in BAD:
        found, _, problem = await ask(client, f"/orders/{bought}/{what}", body)

        assert status == found == problem["status"], (body, problem)
        assert not code or [code] == [error["code"] for error in problem["errors"]]
    view = await orders.view(bought)
    assert view is not None
    assert ([], [], 5) == (view.refunds, view.shipments, view.version)


async def test_keys_scopes_and_orders_are_asked_for(
    client: Client, orders: Orders, bought: UUID, make: Any
) -> None:
    path = f"/orders/{bought}/refunds"
    placed = await orders.place("c", KEY, b"x" * 32, make.a_purchase(), make.a_quote())

    assert 400 == (await ask(client, path, lines(), key=None))[0]
    assert 400 == (await ask(client, path, lines(), key="short"))[0]
    assert 202 == (await ask(client, path, lines()))[0]
    assert 422 == (await ask(client, path, lines(2)))[0]
    assert 404 == (await ask(client, f"/orders/{UNKNOWN}/refunds", lines()))[0]
    assert 404 == (await ask(client, "/orders/1/refunds", lines()))[0]
    status, _, problem = await ask(client, f"/orders/{placed.order_id}/refunds", lines())
    assert (409, "placed") == (status, problem["order_status"])
    for headers, expected in (({}, 401), (READS, 403)):
        async with client.post(path, json=lines(), headers=headers) as answer:
            assert expected == answer.status
    async with client.get("/orders") as answer:
        assert 401 == answer.status


async def test_orders_are_listed_newest_first_page_by_page(
    client: Client, orders: Orders, make: Any
) -> None:
    ids = [str(await buy(orders, make)) for _ in range(3)]
    placed = await orders.place("c", KEY, b"x" * 32, make.a_purchase(), make.a_quote())
    await orders.apply(placed.order_id, CancelRequested())

    async def page(query: str) -> Any:
        async with client.get(f"/orders?{query}", headers=READS) as answer:
            assert 200 == answer.status
            return await answer.json()

    first = await page("status=confirmed&limit=2")
    second = await page(f"status=confirmed&limit=2&cursor={first['next']}")
    every = await page("limit=100")

    found = [one["order_id"] for one in [*first["items"], *second["items"]]]
    assert (ids[::-1], None) == (found, second["next"])
    assert ("cancelled", "by_customer") == (
        every["items"][0]["status"],
        every["items"][0]["reason"],
    )
    assert 4 == len(every["items"])
    for query in ("status=lost", "cursor=1", "limit=0", "limit=101", "page=2"):
        async with client.get(f"/orders?{query}", headers=READS) as answer:
            assert 400 == answer.status


async def test_receivers_are_told_of_the_end_the_parcel_and_the_refund_signed_and_in_order(
    client: Client, own: Database, orders: Orders, make: Any, tmp_path: Path
) -> None:
    heard: list[tuple[dict[str, str], bytes]] = []

    async def receive(request: web.Request) -> web.Response:
        heard.append((dict(request.headers), await request.read()))
        return web.Response(status=204)

    receiver = web.Application()
    receiver.router.add_post("/hook", receive)
    kinds = ["order.confirmed", "order.cancelled", "order.refunded", "order.shipped"]
    async with TestServer(receiver) as server:
        hook = {"url": str(server.make_url("/hook")), "types": kinds}
        status, _, registered = await ask(client, "/webhooks", hook, key=None)
        assert 200 == status
        bought = await buy(orders, make)
        parcel = {**lines(1), "carrier": "C"}
        assert 201 == (await ask(client, f"/orders/{bought}/shipments", parcel))[0]
        assert 202 == (await ask(client, f"/orders/{bought}/refunds", lines(1)))[0]
        following = After(own)
        (back,) = await following.claim(1, LEASE)
        await following.answered(back, Approved("re_1"))
        lost = await orders.place("c", KEY, b"x" * 32, make.a_purchase(), make.a_quote())
        await orders.apply(lost.order_id, CancelRequested())

        async with public_session() as session:
            sender = Sender(session, mailer("", "shop@localhost", tmp_path), loopback=True)
            sending = asyncio.create_task(
                dispatch(Book(own, tables.notices), sender, poll_seconds=0.05)
            )
            await until(lambda: told(heard, 4))
            sending.cancel()
            await asyncio.wait([sending])

    for headers, body in heard:
        Webhook(registered["secret"]).verify(body, {k.lower(): v for k, v in headers.items()})
    bodies = [msgspec.json.decode(body) for _, body in heard]
    mine = [one["type"] for one in bodies if one["data"]["order_id"] == str(bought)]
    assert ["order.confirmed", "order.shipped", "order.refunded"] == mine
    assert {"order.cancelled"} == {one["type"] for one in bodies} - set(mine)
    assert all("ada@example.com" not in body.decode() for _, body in heard)


async def told(heard: list[Any], count: int) -> bool:
    return len(heard) >= count


async def until(look: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await look():
            await asyncio.sleep(0.05)


async def test_the_routes_are_described(client: Client) -> None:
    async with client.get("/openapi.json") as answer:
        document = msgspec.json.decode(await answer.read())

    validate(document)
    assert {"/orders", "/orders/{order}/refunds", "/orders/{order}/shipments", "/webhooks"} <= set(
        document["paths"]
    )


# ---- the button that cancels ----


async def test_the_button_cancels_while_it_is_shown_and_says_when_it_is_too_late(
    client: Client, own: Database, orders: Orders, make: Any
) -> None:
    await Projections(own).price_changed(make.price("LAMP-1", EUR=1_000))
    placed = await orders.place("c", KEY, b"x" * 32, make.a_purchase(), make.a_quote())
    button = f'action="/orders/{placed.order_id}/cancellation"'
    sold = await buy(orders, make)

    async def shown(id_: UUID) -> str:
        async with client.get(f"/orders/{id_}", headers={"Accept": "text/html"}) as answer:
            return await answer.text()

    assert button in await shown(placed.order_id)
    where = f"/orders/{placed.order_id}/cancellation"
    async with client.post(where, data={"": ""}, headers={"Origin": "https://evil"}) as answer:
        assert 403 == answer.status
    async with client.post(where, data={"": ""}, allow_redirects=False) as answer:
        assert (303, f"/orders/{placed.order_id}") == (answer.status, answer.headers["Location"])
    assert button not in await shown(placed.order_id)
    assert "You took it back." in await shown(placed.order_id)
    async with client.post(f"/orders/{sold}/cancellation", data={"": ""}) as answer:
        assert 409 == answer.status
        assert "The order can no longer be cancelled" in await answer.text()
    assert "cancellation" not in await shown(sold)
