"""The HTTP API as programs meet it, on the real Redis and an SQLite file."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
import uuid_utils.compat as uuids
from aiohttp.test_utils import TestClient, TestServer
from msgspec import structs
from openapi_spec_validator import validate

from chassis.database import Database
from checkout import app
from checkout.domain import CancelRequested, Timers
from checkout.purchase import Purchase
from checkout.settings import Settings
from checkout.store.orders import Orders
from checkout.store.projections import Projections
from checkout.store.watch import Watch
from checkout.totals import Breakdown, disagreements
from shop_contracts.envelope import Event
from shop_contracts.events.base import Fact
from shop_contracts.events.checkout import OrderPlacedV1

pytestmark = pytest.mark.connected

Client = TestClient[Any, Any]
Sent = Callable[[Database], Awaitable[list[Event[Fact]]]]
KEY = "key-0123456789abcdef"
BODY = {"email": "ada@example.com", "payment": {"token": "tok_ok"}}
NOWHERE = "A" * 32
UNKNOWN = "0197a1f2-0000-7000-8000-000000000000"


async def a_cart(client: Client, **lines: int) -> str:
    async with client.post("/carts") as answer:
        cart: str = (await answer.json())["cart_id"]
    for sku, qty in lines.items():
        path = f"/carts/{cart}/lines/{sku.replace('_', '-')}"
        async with client.put(path, json={"qty": qty}) as answer:
            assert 200 == answer.status, await answer.text()
    return cart


async def order(
    client: Client, cart: str, body: Any = BODY, key: str | None = KEY, **headers: str
) -> tuple[int, dict[str, Any], Any]:
    sent = headers | ({"Idempotency-Key": key} if key is not None else {})
    async with client.post(f"/carts/{cart}/checkout", json=body, headers=sent) as answer:
        return answer.status, dict(answer.headers), await answer.json()


async def test_a_cart_shows_names_prices_and_its_total(client: Client) -> None:
    cart = await a_cart(client, LAMP_1=2)

    async with client.get(f"/carts/{cart}") as answer:
        view = await answer.json()
    found = msgspec.convert(view.pop("breakdown"), Breakdown)

    assert [] == disagreements(found)
    assert (2_500, "EUR", 2) == (found.total_minor, found.currency, found.exponent)
    assert '"2"' == answer.headers["ETag"]
    assert "private, no-store" == answer.headers["Cache-Control"]
    assert {
        "cart_id": cart,
        "version": 2,
        "currency": "EUR",
        "lines": [
            {
                "sku": "LAMP-1",
                "name": "Lamp <b>one</b>",
                "qty": 2,
                "unit_minor": 1_250,
                "total_minor": 2_500,
                "seen_minor": 1_250,
            }
        ],
        "coupon": None,
        "total_minor": 2_500,
    } == view


async def test_a_new_cart_says_where_it_is(client: Client) -> None:
    async with client.post("/carts") as answer:
        cart = (await answer.json())["cart_id"]

    assert (201, f"/carts/{cart}") == (answer.status, answer.headers["Location"])


async def test_a_line_is_taken_out_and_a_cart_forgotten(client: Client) -> None:
    cart = await a_cart(client, LAMP_1=2, LAMP_2=1)

    async with client.delete(f"/carts/{cart}/lines/LAMP-1") as answer:
        assert ["LAMP-2"] == [line["sku"] for line in (await answer.json())["lines"]]
    async with client.delete(f"/carts/{cart}") as answer:
        assert 204 == answer.status
    async with client.get(f"/carts/{cart}") as answer:
        assert 404 == answer.status


async def test_a_change_of_a_cart_that_has_changed_is_refused(client: Client) -> None:
    cart = await a_cart(client, LAMP_1=2)
    path, stale = f"/carts/{cart}/lines/LAMP-1", {"If-Match": '"1"'}

    answers = [
        client.put(path, json={"qty": 5}, headers=stale),
        client.delete(path, headers=stale),
        client.delete(f"/carts/{cart}", headers=stale),
        client.put(path, json={"qty": 5}, headers={"If-Match": "no-tag"}),
    ]

    for answer in answers:
        async with answer as refused:
            assert 412 == refused.status
    async with client.put(path, json={"qty": 5}, headers={"If-Match": '"2"'}) as answer:
        assert 200 == answer.status


async def test_an_order_is_accepted_then_replayed_byte_for_byte(
    client: Client, own: Database, sent: Sent
) -> None:
    cart = await a_cart(client, LAMP_1=2)

    status, headers, body = await order(client, cart)
    again, repeated, same = await order(client, cart, dict(reversed(BODY.items())), f'"{KEY}"')

    assert (202, 202) == (status, again)
    assert {"order_id": body["order_id"], "status": "placed"} == body == same
    assert f"/orders/{body['order_id']}" == headers["Location"] == repeated["Location"]
    assert "1" == headers["Retry-After"]
    assert (None, "true") == tuple(h.get("Idempotent-Replayed") for h in (headers, repeated))
    (event,) = await sent(own)
    assert isinstance(event.data, OrderPlacedV1)
    assert 2_500 == event.data.total_minor


async def test_fifty_posts_with_one_key_make_one_order(
    client: Client, own: Database, sent: Sent
) -> None:
    cart = await a_cart(client, LAMP_1=1)

    answers = await asyncio.gather(*(order(client, cart) for _ in range(50)))

    assert {202} == {status for status, _, _ in answers}
    assert 1 == len({body["order_id"] for _, _, body in answers})
    assert 1 == len(await sent(own))


async def test_two_tabs_with_one_cart_get_one_order(client: Client) -> None:
    cart = await a_cart(client, LAMP_1=1)

    answers = await asyncio.gather(*(order(client, cart, BODY, f"{KEY}-{n}") for n in range(4)))

    assert [202, 409, 409, 409] == sorted(status for status, _, _ in answers)
    assert 1 == len({body["order_id"] for _, _, body in answers})
    assert 1 == len({headers["Location"] for _, headers, _ in answers})


async def test_an_order_tells_its_way_and_not_whose_it_is(client: Client) -> None:
    cart = await a_cart(client, LAMP_1=2)
    _, _, placed = await order(client, cart, BODY | {"name": "Ada Lovelace"})

    async with client.get(f"/orders/{placed['order_id']}") as answer:
        text, view = await answer.text(), await answer.json()

    assert ("placed", 2_500, "EUR", 1) == tuple(
        view[name] for name in ("status", "total_minor", "currency", "version")
    )
    assert [("placed", "checkout")] == [(m["status"], m["cause"]) for m in view["history"]]
    assert "Ada" not in text
    assert "ada@" not in text


async def test_an_order_is_cancelled_once_and_its_cart_is_whole(client: Client) -> None:
    cart = await a_cart(client, LAMP_1=2)
    _, _, placed = await order(client, cart)
    path = f"/orders/{placed['order_id']}/cancel"

    async with client.post(path) as answer:
        assert (200, "by_customer") == (answer.status, (await answer.json())["reason"])
    async with client.post(path) as answer:
        problem = await answer.json()
        assert (409, "cancelled") == (answer.status, problem["order_status"])
        assert "urn:shop:problem:not-cancellable" == problem["type"]
    async with client.get(f"/carts/{cart}") as answer:
        assert 2_500 == (await answer.json())["total_minor"]
    assert 202 == (await order(client, cart, BODY, f"{KEY}-2"))[0]


async def test_who_prefers_to_wait_gets_the_outcome_when_it_comes_in_time(
    client: Client,
) -> None:
    cart = await a_cart(client, LAMP_1=2)
    _, _, placed = await order(client, cart)

    waiting = asyncio.create_task(order(client, cart, Prefer="respond-async, wait=9"))
    async with client.post(f"/orders/{placed['order_id']}/cancel") as answer:
        assert 200 == answer.status
    status, headers, body = await waiting

    assert (200, "cancelled") == (status, body["status"])
    assert "wait=9" == headers["Preference-Applied"]


async def test_who_waits_in_vain_gets_the_acceptance(client: Client) -> None:
    cart = await a_cart(client, LAMP_1=2)

    status, headers, body = await order(client, cart, Prefer="wait=1")

    assert (202, "placed") == (status, body["status"])
    assert "Preference-Applied" not in headers


async def test_a_price_that_changed_is_told_with_the_new_total(
    client: Client, own: Database, make: Any
) -> None:
    cart = await a_cart(client, LAMP_1=2)
    await Projections(own).price_changed(make.price("LAMP-1", 2, EUR=1_300))

    status, _, problem = await order(client, cart, BODY | {"quoted_total_minor": 2_500})

    assert (409, "urn:shop:problem:price-changed") == (status, problem["type"])
    assert (2_600, "EUR") == (problem["total_minor"], problem["currency"])
    assert [1_300] == [line["unit_minor"] for line in problem["lines"]]
    assert [1_250] == [line["seen_minor"] for line in problem["lines"]]
    # a refusal is not remembered under the key
    assert 202 == (await order(client, cart, BODY | {"quoted_total_minor": 2_600}))[0]


async def test_a_withdrawn_product_keeps_its_line_but_is_not_sold(
    client: Client, own: Database, make: Any
) -> None:
    cart = await a_cart(client, OLD_1=1)
    product_id = uuid4()
    projections = Projections(own)
    await projections.product_published(make.product("Old", "OLD-1", product_id=product_id))
    withdrawn = make.product("Old", "NEW-1", version=2, product_id=product_id)
    await projections.product_published(withdrawn)

    async with client.get(f"/carts/{cart}") as answer:
        view = await answer.json()
    status, _, problem = await order(client, cart)

    assert (None, None) == (view["total_minor"], view["lines"][0]["unit_minor"])
    assert (422, "/lines/OLD-1") == (status, problem["errors"][0]["pointer"])


async def test_an_order_names_the_reservation_whose_units_it_takes_over(
    client: Client, own: Database, sent: Sent
) -> None:
    cart, held = await a_cart(client, LAMP_1=1), uuid4()

    status, _, _ = await order(client, cart, BODY | {"reservation_id": str(held)})
    plain = await order(client, await a_cart(client, LAMP_1=1))

    assert (202, 202) == (status, plain[0])
    told: list[Any] = [event.data for event in await sent(own)]
    assert [held, None] == [placed.reservation_id for placed in told]


def test_what_a_purchase_may_leave_out_since_is_no_part_of_its_fingerprint() -> None:
    purchase = msgspec.convert(BODY, Purchase)

    assert b"reservation_id" not in msgspec.json.encode(purchase)


REFUSED = [
    ("no reservation", {"LAMP_1": 1}, BODY | {"reservation_id": "x"}, KEY, 422, "invalid-body"),
    ("null", {"LAMP_1": 1}, BODY | {"reservation_id": None}, KEY, 422, "invalid-body"),
    ("empty cart", {}, BODY, KEY, 422, "empty-cart"),
    ("mixed currency", {"LAMP_1": 1, "LAMP_2": 1}, BODY, KEY, 422, "unknown-price"),
    ("other currency", {"LAMP_1": 1}, BODY | {"currency": "SEK"}, KEY, 422, "unknown-price"),
    ("no key", {"LAMP_1": 1}, BODY, None, 400, "idempotency-key-required"),
    ("short key", {"LAMP_1": 1}, BODY, "k" * 15, 400, "idempotency-key-required"),
    ("long key", {"LAMP_1": 1}, BODY, "k" * 129, 400, "idempotency-key-required"),
    ("odd key", {"LAMP_1": 1}, BODY, "k" * 16 + "!", 400, "idempotency-key-required"),
    ("no e-mail", {"LAMP_1": 1}, {"payment": {"token": "tok_ok"}}, KEY, 422, "invalid-body"),
    ("bad e-mail", {"LAMP_1": 1}, BODY | {"email": "ada"}, KEY, 422, "invalid-body"),
    ("no payment", {"LAMP_1": 1}, {"email": "a@b"}, KEY, 422, "invalid-body"),
    ("unknown field", {"LAMP_1": 1}, BODY | {"discount": 1}, KEY, 422, "invalid-body"),
    ("float total", {"LAMP_1": 1}, BODY | {"quoted_total_minor": 12.5}, KEY, 422, "invalid-body"),
    ("less than 0", {"LAMP_1": 1}, BODY | {"quoted_total_minor": -1}, KEY, 422, "invalid-body"),
    ("control char", {"LAMP_1": 1}, BODY | {"name": "A\u0007"}, KEY, 422, "invalid-body"),
    ("bad country", {"LAMP_1": 1}, BODY | {"address": {"country": 1}}, KEY, 422, "invalid-body"),
    ("other total", {"LAMP_1": 1}, BODY | {"quoted_total_minor": 1}, KEY, 409, "price-changed"),
]


@pytest.mark.parametrize(
    ("lines", "body", "key", "status", "slug"),
    [row[1:] for row in REFUSED],
    ids=[row[0] for row in REFUSED],
)
async def test_a_checkout_that_cannot_be_is_refused_and_leaves_nothing(
    client: Client,
    own: Database,
    sent: Sent,
    lines: dict[str, int],
    body: Any,
    key: str | None,
    status: int,
    slug: str,
) -> None:
    cart = await a_cart(client, **lines)

    answered, headers, problem = await order(client, cart, body, key)

    assert (status, f"urn:shop:problem:{slug}") == (answered, problem["type"])
    assert "no-store" == headers["Cache-Control"]
    assert [] == await sent(own)


async def test_a_key_with_another_body_is_refused(client: Client) -> None:
    cart = await a_cart(client, LAMP_1=1)
    await order(client, cart)

    status, _, problem = await order(client, cart, BODY | {"name": "Ada"})

    assert (422, "urn:shop:problem:idempotency-key-reused") == (status, problem["type"])


BAD_LINES = [
    ("no quantity", "LAMP-1", "{}", 422),
    ("none", "LAMP-1", '{"qty": 0}', 422),
    ("fewer than none", "LAMP-1", '{"qty": -1}', 422),
    ("too many", "LAMP-1", '{"qty": 1000}', 422),
    ("a text", "LAMP-1", '{"qty": "1"}', 422),
    ("half a unit", "LAMP-1", '{"qty": 1.5}', 422),
    ("twice", "LAMP-1", '{"qty": 1, "qty": 2}', 400),
    ("no JSON", "LAMP-1", "{", 400),
    ("beyond 2^53", "LAMP-1", '{"qty": 99999999999999999999}', 400),
    ("no such SKU", "NO-1", '{"qty": 1}', 422),
    ("no SKU at all", "-", '{"qty": 1}', 422),
    ("a SKU too long", "A" * 65, '{"qty": 1}', 422),
]


@pytest.mark.parametrize(
    ("sku", "body", "status"), [row[1:] for row in BAD_LINES], ids=[row[0] for row in BAD_LINES]
)
async def test_a_bad_line_is_refused(client: Client, sku: str, body: str, status: int) -> None:
    cart = await a_cart(client)
    json = {"Content-Type": "application/json"}

    async with client.put(f"/carts/{cart}/lines/{sku}", data=body, headers=json) as answer:
        problem = await answer.json()

    assert status == answer.status == problem["status"]
    assert "application/problem+json" == answer.content_type


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", f"/carts/{NOWHERE}", 404),
        ("GET", "/carts/x", 404),
        ("DELETE", f"/carts/{NOWHERE}", 404),
        ("DELETE", f"/carts/{NOWHERE}/lines/LAMP-1", 404),
        ("PUT", f"/carts/{NOWHERE}", 405),
        ("GET", f"/orders/{UNKNOWN}", 404),
        ("GET", "/orders/1", 404),
        ("POST", f"/orders/{UNKNOWN}/cancel", 404),
        ("POST", "/orders/1/cancel", 404),
        ("GET", f"/orders/{UNKNOWN}/cancel", 405),
        ("GET", "/nothing", 404),
    ],
)
async def test_what_is_not_there_is_not_found(
    client: Client, method: str, path: str, status: int
) -> None:
    async with client.request(method, path) as answer:
        assert status == answer.status
        assert "application/problem+json" == answer.content_type


async def test_a_checkout_of_a_cart_that_is_not_there_is_not_found(client: Client) -> None:
    assert 404 == (await order(client, NOWHERE))[0]


async def test_the_api_is_described_and_the_service_ready(client: Client) -> None:
    async with client.get("/openapi.json") as answer:
        document = msgspec.json.decode(await answer.read())
    async with client.get("/readyz") as answer:
        ready = answer.status

    validate(document)
    assert 200 == ready
    assert "/carts/{cart}/checkout" in document["paths"]


async def test_an_order_can_no_longer_be_cancelled_when_stock_is_selling_it(
    client: Client, own: Database, make: Any
) -> None:
    orders = Orders(own, Timers())
    cart = await a_cart(client, LAMP_1=2)
    _, _, placed = await order(client, cart)
    await make.authorise(orders, placed["order_id"])

    async with client.post(f"/orders/{placed['order_id']}/cancel") as answer:
        problem = await answer.json()

    assert (409, "authorised") == (answer.status, problem["order_status"])


# ---- the order as it happens, and a queue that is full ----


async def placed(client: Client) -> str:
    status, _, body = await order(client, await a_cart(client, LAMP_1=1), key=uuids.uuid7().hex)
    assert 202 == status
    return str(body["order_id"])


async def streamed(
    client: Client, order_id: str, found: list[tuple[str, Any]], **headers: str
) -> list[tuple[str, Any]]:
    """The events of the order's stream until it ends, each in `found` as it comes."""
    event = ""
    async with client.get(f"/orders/{order_id}/events", headers=headers) as answer:
        assert (200, "text/event-stream") == (answer.status, answer.content_type)
        assert "private, no-store" == answer.headers["Cache-Control"]
        async for raw in answer.content:
            line = raw.decode().strip()
            if line.startswith("event: "):
                event = line.removeprefix("event: ")
            if line.startswith("data: "):
                found.append((event, json.loads(line.removeprefix("data: "))))
    return found


async def test_an_order_is_followed_to_its_end(client: Client, own: Database, make: Any) -> None:
    order_id = await placed(client)
    orders = Orders(own, Timers())

    events: list[tuple[str, Any]] = []

    async def until(kind: str, count: int = 1) -> None:
        async with asyncio.timeout(30):
            while count > sum(event == kind for event, _ in events):
                await asyncio.sleep(0.02)

    follow = asyncio.create_task(streamed(client, order_id, events))
    await until("queue")
    await orders.apply(UUID(order_id), make.held(UUID(order_id)))
    await until("status", 2)
    await orders.apply(UUID(order_id), CancelRequested())
    await asyncio.wait_for(follow, 20)

    statuses = [data["status"] for event, data in events if event == "status"]
    assert ["placed", "reserved", "cancelled"] == statuses
    assert "by_customer" == events[-1][1]["reason"]
    assert 0 == next(data["position"] for event, data in events if event == "queue")


async def test_a_stream_goes_on_where_it_was_left(client: Client, own: Database) -> None:
    order_id = await placed(client)
    await Orders(own, Timers()).apply(UUID(order_id), CancelRequested())

    events = await asyncio.wait_for(streamed(client, order_id, [], **{"Last-Event-ID": "1"}), 20)

    assert [("status", "cancelled")] == [(event, data["status"]) for event, data in events]


async def test_nobody_follows_an_order_that_is_not(client: Client) -> None:
    async with client.get(f"/orders/{uuids.uuid7()}/events") as answer:
        assert 404 == answer.status


async def test_a_full_queue_says_when_to_come_again_and_still_answers_for_old_keys(
    settings: Settings, own: Database, client: Client
) -> None:
    await placed(client)
    full = structs.replace(settings, queue_limit=1)
    async with TestClient(TestServer(app.application(full))) as busy:
        async with busy.post("/carts") as answer:
            cart = (await answer.json())["cart_id"]
        async with busy.put(f"/carts/{cart}/lines/LAMP-1", json={"qty": 1}) as answer:
            assert 200 == answer.status
        order = {"email": "ada@example.com", "payment": {"token": "tok_ok"}}
        key = {"Idempotency-Key": uuids.uuid7().hex}

        async with busy.post(f"/carts/{cart}/checkout", json=order, headers=key) as answer:
            refused = answer.status, (await answer.json())["type"]
            wait = int(answer.headers["Retry-After"])
        async with client.post(f"/carts/{cart}/checkout", json=order, headers=key) as answer:
            accepted = await answer.read()
        async with busy.post(f"/carts/{cart}/checkout", json=order, headers=key) as answer:
            replayed = answer.status, await answer.read()

    assert (503, "urn:shop:problem:queue-full") == refused
    assert 1 <= wait <= 60
    assert (202, accepted) == replayed


async def test_a_hundred_who_wait_for_outcomes_are_served_by_one_look(
    client: Client, own: Database
) -> None:
    order_id = await placed(client)
    watch = Watch(own)

    waiting = [asyncio.create_task(watch.newer(UUID(order_id), 1, 20)) for _ in range(100)]
    await asyncio.sleep(0.1)
    await Orders(own, Timers()).apply(UUID(order_id), CancelRequested())
    seen = await asyncio.gather(*waiting)

    assert {"cancelled"} == {standing.status for standing in seen if standing}
    assert 100 == sum(standing is not None for standing in seen)
    assert await watch.newer(UUID(order_id), 2, 0.2) is None
