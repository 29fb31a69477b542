"""The HTTP API as a client meets it: a listening server in front of the real Redis."""

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

import aiohttp
import msgspec
import pytest
from redis.asyncio import Redis

from chassis.http.server import listening
from stock import pages
from stock.app import application
from stock.settings import Settings
from stock.slots import Slots
from stock.store import StockStore

pytestmark = pytest.mark.connected

WRITE = {"Authorization": "Bearer k_w_write"}
READ = {"Authorization": "Bearer k_r_read"}
JSON = {"Content-Type": "application/json"}
KEY = {"Idempotency-Key": "0123456789abcdef"}
SET_5 = {"stock": 5, "action": "set"}
ROW = (
    b'{"key": "chair", "name": "Chair", "variants": '
    b'[{"sku": "chair", "stock": 7, "prices": [{"currency": "EUR", "amount": "19.99"}]}]}\n'
)


@pytest.fixture
async def client(
    settings: Settings, redis: Redis, tmp_path: Path
) -> AsyncIterator[aiohttp.ClientSession]:
    keys = tmp_path / "keys.json"
    keys.write_bytes(
        msgspec.json.encode(
            {
                "w": {
                    "sha256": _hash("k_w_write"),
                    "scopes": ["stock:write", "reservations:write"],
                },
                "s": {"sha256": _hash("k_s_stock"), "scopes": ["stock:write"]},
                "c": {"sha256": _hash("k_c_carts"), "scopes": ["reservations:write"]},
                "r": {"sha256": _hash("k_r_read"), "scopes": ["orders:read"]},
            }
        )
    )
    app = application(
        msgspec.structs.replace(settings, api_keys_file=str(keys), spool_dir=tmp_path / "spool")
    )
    async with (
        listening(app, "127.0.0.1", 0, stop_timeout=1) as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
    ):
        yield session


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


async def put_stock(
    client: aiohttp.ClientSession,
    sku: str,
    stock: int,
    action: str = "set",
    headers: Mapping[str, str] = {},
) -> tuple[int, Any]:
    body = {"stock": stock, "action": action}
    async with client.put(
        f"/products/{sku}/stock", json=body, headers={**WRITE, **headers}
    ) as response:
        return response.status, await response.json(content_type=None)


async def get(client: aiohttp.ClientSession, path: str) -> tuple[int, Any]:
    async with client.get(path) as response:
        return response.status, await response.json(content_type=None)


def is_problem(response: aiohttp.ClientResponse, body: Any, status: int, slug: str) -> bool:
    return (status, f"urn:shop:problem:{slug}", status, "application/problem+json", "no-store") == (
        response.status,
        body["type"],
        body["status"],
        response.headers["Content-Type"],
        response.headers["Cache-Control"],
    )


async def test_stock_is_written_and_read_in_the_shape_of_the_talk(
    client: aiohttp.ClientSession,
) -> None:
    written = await put_stock(client, "chair", 5)
    await put_stock(client, "chair", 3, "increment")
    await put_stock(client, "chair", 1, "decrement")

    assert 200 == written[0]
    assert (
        200,
        {
            "sku": "chair",
            "stock": 7,
            "on_hand": 7,
            "reserved": 0,
            "available": 7,
            "version": 3,
        },
    ) == await get(client, "/products/chair/stock")


async def test_what_nobody_stocked_is_not_found(client: aiohttp.ClientSession) -> None:
    for path in ("stock", "ledger", "prices"):
        async with client.get(f"/products/chair/{path}") as response:
            assert is_problem(response, await response.json(content_type=None), 404, "not-found")


async def test_a_decrement_below_zero_says_what_there_is(client: aiohttp.ClientSession) -> None:
    await put_stock(client, "chair", 2)

    status, problem = await put_stock(client, "chair", 3, "decrement")

    assert 409 == status
    assert "urn:shop:problem:insufficient-stock" == problem["type"]
    assert 2 == problem["available"]


async def test_a_repeated_command_is_answered_from_memory(client: aiohttp.ClientSession) -> None:
    first = await put_stock(client, "chair", 2, "increment", KEY)
    async with client.put(
        "/products/chair/stock",
        json={"stock": 2, "action": "increment"},
        headers={**WRITE, "Idempotency-Key": '"0123456789abcdef"'},
    ) as response:
        second = response.status, await response.json()
        replayed = response.headers.get("Idempotent-Replayed")
    status, problem = await put_stock(client, "chair", 9, "increment", KEY)

    assert first == second
    assert "true" == replayed
    assert (422, "urn:shop:problem:idempotency-key-reused") == (status, problem["type"])
    assert 2 == (await get(client, "/products/chair/stock"))[1]["stock"]


async def test_of_500_parallel_decrements_of_50_units_exactly_50_succeed(
    client: aiohttp.ClientSession,
) -> None:
    await put_stock(client, "chair", 50)

    answers = await asyncio.gather(
        *(put_stock(client, "chair", 1, "decrement") for _ in range(500))
    )

    assert {200: 50, 409: 450} == Counter(status for status, _ in answers)
    assert 0 == (await get(client, "/products/chair/stock"))[1]["available"]


async def test_the_ledger_is_paged_newest_first(client: aiohttp.ClientSession) -> None:
    for _ in range(3):
        await put_stock(client, "chair", 1, "increment")

    _, first = await get(client, "/products/chair/ledger?limit=2")
    _, second = await get(client, f"/products/chair/ledger?limit=2&after={first['next']}")

    assert [3, 2] == [item["version"] for item in first["items"]]
    assert [1] == [item["version"] for item in second["items"]]
    assert second["next"] is None
    assert {
        "op": "adjust",
        "available": 1,
        "reserved": 0,
        "sold": 0,
        "received": 1,
        "order_id": None,
        "cause": None,
    }.items() <= first["items"][0].items()


async def test_prices_are_replaced_and_read_together(client: aiohttp.ClientSession) -> None:
    prices = [
        {"currency": "EUR", "amount_minor": 1999, "list_minor": 2499},
        {"currency": "EUR", "amount_minor": 1500, "group": "trade", "min_qty": 12},
    ]
    for sku in ("chair", "table"):
        async with client.put(
            f"/products/{sku}/prices", json={"prices": prices}, headers=WRITE
        ) as response:
            assert 200 == response.status

    _, one = await get(client, "/products/chair/prices")
    _, many = await get(client, "/prices?sku=table&sku=chair&sku=sofa&sku=chair")

    assert ("chair", 1, [1999, 1500]) == (
        one["sku"],
        one["version"],
        [price["amount_minor"] for price in one["prices"]],
    )
    assert ["table", "chair"] == [item["sku"] for item in many["items"]]


async def test_prices_are_asked_for_by_buyer_and_by_time(client: aiohttp.ClientSession) -> None:
    begin, end = "2100-01-01T12:00:00Z", "2100-01-02T12:00:00Z"
    prices = [
        {"currency": "EUR", "amount_minor": 2000},
        {"currency": "EUR", "amount_minor": 1500, "group": "trade", "min_qty": 12},
        {
            "currency": "EUR",
            "amount_minor": 1000,
            "promotion": "new-year",
            "valid_from": begin,
            "valid_until": end,
        },
    ]
    async with client.put("/products/chair/prices", json={"prices": prices}, headers=WRITE) as done:
        assert 200 == done.status

    async def asked(**query: str) -> list[Any]:
        _, found = await get(client, "/prices?" + urlencode({"sku": "chair", **query}))
        (item,) = found["items"]
        amounts = [(price["amount_minor"], price["list_minor"]) for price in item["prices"]]
        return [amounts, item["valid_until"]]

    assert [[(2000, None), (1500, None)], begin] == await asked()
    assert [[(2000, None)], begin] == await asked(group="trade", qty="11")
    assert [[(1500, None)], begin] == await asked(group="trade", qty="12", currency="EUR")
    assert [[], begin] == await asked(currency="JPY")
    assert [[(1000, 2000), (1500, None)], end] == await asked(at=begin)
    assert [[(2000, None), (1500, None)], None] == await asked(at=end)


async def test_a_price_that_ends_before_it_begins_is_pointed_at(
    client: aiohttp.ClientSession,
) -> None:
    price = {
        "currency": "EUR",
        "amount_minor": 1,
        "valid_from": "2100-01-01T00:00:00Z",
        "valid_until": "2099-01-01T00:00:00Z",
    }
    async with client.put("/products/chair/prices", json={"prices": [price]}, headers=WRITE) as no:
        problem = await no.json(content_type=None)

    assert 422 == no.status
    assert "/prices/0" == problem["errors"][0]["pointer"]


async def test_a_threshold_is_set_read_and_taken_away(client: aiohttp.ClientSession) -> None:
    await put_stock(client, "chair", 9)
    replies = []
    for threshold in (3, None):
        async with client.put(
            "/products/chair/stock/threshold", json={"threshold": threshold}, headers=WRITE
        ) as answer:
            replies.append((answer.status, (await answer.json()).get("low_stock_threshold")))
        _, level = await get(client, "/products/chair/stock")
        assert threshold == level.get("low_stock_threshold")

    assert [(200, 3), (200, None)] == replies


async def test_a_reservation_is_made_replaced_extended_and_released(
    client: aiohttp.ClientSession,
) -> None:
    await put_stock(client, "chair", 5)

    async def ask(method: str, path: str, body: Any = None) -> tuple[int, Any]:
        async with client.request(method, path, json=body, headers=WRITE) as answer:
            return answer.status, await answer.json(content_type=None)

    status, held = await ask(
        "POST", "/reservations", {"lines": [{"sku": "chair", "qty": 4}], "hold_seconds": 30}
    )
    assert (201, "held") == (status, held["state"])
    path = f"/reservations/{held['id']}"
    assert (200, held) == await ask("GET", path)

    status, short = await ask("POST", "/reservations", {"lines": [{"sku": "chair", "qty": 2}]})
    assert (409, "urn:shop:problem:insufficient-stock") == (status, short["type"])
    assert [{"sku": "chair", "requested": 2, "available": 1}] == short["lines"]

    status, more = await ask(
        "POST", "/reservations", {"id": held["id"], "lines": [{"sku": "chair", "qty": 5}]}
    )
    assert (201, held["id"]) == (status, more["id"])
    assert more["expires_at"] > held["expires_at"]

    status, longer = await ask("PATCH", path, {"hold_seconds": 3600})
    assert (200, 3) == (status, longer["version"])
    assert longer["expires_at"] > more["expires_at"]

    assert [204, 204] == [(await ask("DELETE", path))[0] for _ in range(2)]
    assert (410, "urn:shop:problem:reservation-over") == (
        (late := await ask("PATCH", path, {}))[0],
        late[1]["type"],
    )
    assert 404 == (await ask("PATCH", f"/reservations/{uuid4()}", {}))[0]
    assert (200, 5) == ((level := await get(client, "/products/chair/stock"))[0], level[1]["stock"])


async def test_a_reservation_that_is_over_is_gone(
    client: aiohttp.ClientSession, redis: Any, settings: Settings
) -> None:
    slots = Slots.of(settings.key_prefix, settings.partitions)
    await put_stock(client, "chair", 5)
    body = {"lines": [{"sku": "chair", "qty": 4}]}
    async with client.post("/reservations", json=body, headers=WRITE) as answer:
        id_ = (await answer.json())["id"]
    name = f"cart:{id_}"
    await redis.hset(slots.home(name).hold(name), "exp", "1")

    for method in ("PATCH", "DELETE"):
        async with client.request(method, f"/reservations/{id_}", json={}, headers=WRITE) as late:
            assert 410 == late.status


async def test_a_price_for_the_same_buyers_twice_is_pointed_at(
    client: aiohttp.ClientSession,
) -> None:
    price = {"currency": "EUR", "amount_minor": 1}
    async with client.put(
        "/products/chair/prices", json={"prices": [price, price]}, headers=WRITE
    ) as response:
        problem = await response.json(content_type=None)

        assert is_problem(response, problem, 422, "invalid-body")
    assert ["/prices/1"] == [error["pointer"] for error in problem["errors"]]


@pytest.mark.parametrize("path", ["/products/chair/stock", "/products/chair/prices"])
async def test_a_write_needs_a_key_with_its_scope(client: aiohttp.ClientSession, path: str) -> None:
    async with client.put(path, json=SET_5) as response:
        assert 401 == response.status
        assert "WWW-Authenticate" in response.headers
    async with client.put(path, json=SET_5, headers=READ) as response:
        assert 403 == response.status
    async with client.post("/stock/imports", data=b"") as response:
        assert 401 == response.status


async def test_a_key_for_reservations_holds_and_does_nothing_else(
    client: aiohttp.ClientSession,
) -> None:
    await put_stock(client, "chair", 5)
    body = {"lines": [{"sku": "chair", "qty": 1}]}
    carts = {"Authorization": "Bearer k_c_carts"}
    async with client.post("/reservations", json=body, headers=carts) as response:
        path = response.headers["Location"]
        assert 201 == response.status
    async with client.put("/products/chair/stock", json=SET_5, headers=carts) as response:
        assert 403 == response.status
    for key in ({"Authorization": "Bearer k_s_stock"}, READ):
        async with client.post("/reservations", json=body, headers=key) as response:
            assert 403 == response.status
        async with client.delete(path, headers=key) as response:
            assert 403 == response.status


BAD_BODIES: list[tuple[str, bytes, dict[str, str], int, str]] = [
    ("no type", b"{}", {"Content-Type": "text/plain"}, 415, "unsupported-media-type"),
    ("encoded", b"{}", {**JSON, "Content-Encoding": "gzip"}, 415, "unsupported-media-type"),
    ("charset", b"{}", {"Content-Type": "application/json; charset=latin-1"}, 415, "unsuppo"),
    ("too large", b" " * 70_000, JSON, 413, "too-large"),
    ("empty", b"", JSON, 400, "malformed-json"),
    ("utf-8", b'{"stock": 5, "action": "set", "reason": "\xff"}', JSON, 400, "malformed-json"),
    ("cut", b'{"stock": 5', JSON, 400, "malformed-json"),
    ("twice", b'{"stock": 5, "stock": 6, "action": "set"}', JSON, 400, "malformed-json"),
    ("nan", b'{"stock": NaN, "action": "set"}', JSON, 400, "malformed-json"),
    ("deep", b'{"stock": ' + b"[" * 30 + b"]" * 30 + b"}", JSON, 400, "malformed-json"),
    ("huge", b'{"stock": 99999999999999999999, "action": "set"}', JSON, 400, "malformed-json"),
    ("negative", b'{"stock": -1, "action": "set"}', JSON, 422, "invalid-body"),
    ("too many", b'{"stock": 2147483649, "action": "set"}', JSON, 422, "invalid-body"),
    ("float", b'{"stock": 1.5, "action": "set"}', JSON, 422, "invalid-body"),
    ("text", b'{"stock": "5", "action": "set"}', JSON, 422, "invalid-body"),
    ("null", b'{"stock": null, "action": "set"}', JSON, 422, "invalid-body"),
    ("action", b'{"stock": 5, "action": "incr"}', JSON, 422, "invalid-body"),
    ("no action", b'{"stock": 5}', JSON, 422, "invalid-body"),
    ("unknown", b'{"stock": 5, "action": "set", "x": 1}', JSON, 422, "invalid-body"),
    ("control", b'{"stock": 5, "action": "set", "reason": "a\\u0000"}', JSON, 422, "invalid-body"),
    ("surrogate", b'{"stock": 5, "action": "set", "reason": "\\ud800"}', JSON, 422, "invalid-"),
    ("long", b'{"stock": 5, "action": "set", "reason": "%s"}' % (b"x" * 201), JSON, 422, "inv"),
    ("list", b"[]", JSON, 422, "invalid-body"),
]


@pytest.mark.parametrize(
    ("body", "headers", "status", "slug"),
    [row[1:] for row in BAD_BODIES],
    ids=[row[0] for row in BAD_BODIES],
)
async def test_a_bad_body_has_one_answer_and_changes_nothing(
    client: aiohttp.ClientSession, body: bytes, headers: dict[str, str], status: int, slug: str
) -> None:
    async with client.put(
        "/products/chair/stock", data=body, headers={**WRITE, **headers}
    ) as response:
        problem = await response.json(content_type=None)

        assert status == response.status
    assert problem["type"].startswith(f"urn:shop:problem:{slug}")
    assert 404 == (await get(client, "/products/chair/stock"))[0]


@pytest.mark.parametrize(
    "price",
    [
        {"currency": "eur", "amount_minor": 1},
        {"currency": "EUR", "amount_minor": 19.99},
        {"currency": "EUR", "amount_minor": -1},
        {"currency": "EUR", "amount_minor": 1, "group": "a:b"},
        {"currency": "EUR", "amount_minor": 1, "min_qty": 0},
        {"currency": "EUR", "amount_minor": 1, "tax": 2},
        {"amount_minor": 1},
    ],
)
async def test_a_bad_price_is_pointed_at(
    client: aiohttp.ClientSession, price: dict[str, Any]
) -> None:
    async with client.put(
        "/products/chair/prices", json={"prices": [price]}, headers=WRITE
    ) as response:
        problem = await response.json(content_type=None)

        assert is_problem(response, problem, 422, "invalid-body")
    assert problem["errors"][0]["pointer"].startswith("/prices/0")


@pytest.mark.parametrize("key", ["short", "x" * 129, "0123456789 abcdef", '"0123456789abcdef'])
async def test_a_malformed_idempotency_key_is_refused(
    client: aiohttp.ClientSession, key: str
) -> None:
    status, problem = await put_stock(client, "chair", 5, headers={"Idempotency-Key": key})

    assert (400, "urn:shop:problem:bad-idempotency-key") == (status, problem["type"])


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/products/-chair/stock", 404),
        ("GET", "/products/cha%20ir/stock", 404),
        ("GET", f"/products/{'x' * 65}/stock", 404),
        ("GET", "/products/chair/stocks", 404),
        ("POST", "/products/chair/stock", 405),
        ("DELETE", "/products/chair/prices", 405),
        ("GET", "/stock/imports/../../etc", 404),
        ("GET", "/stock/imports/00", 404),
        ("GET", "/products/chair/ledger?limit=101", 400),
        ("GET", "/products/chair/ledger?limit=0", 400),
        ("GET", "/products/chair/ledger?after=x", 400),
        ("GET", "/products/chair/ledger?before=1", 400),
        ("GET", "/prices", 400),
        ("GET", "/prices?sku=a%20b", 400),
        ("GET", "/prices?sku=a&colour=red", 400),
        ("GET", "/prices?sku=a&at=noon", 400),
        ("GET", "/reservations/1", 404),
        ("GET", "/stock/bulk", 405),
        ("PUT", "/prices/bulk", 405),
        ("GET", "/stock/bulk/00", 404),
        ("GET", f"/prices/bulk/{'0' * 24}", 404),
        ("GET", f"/stock/bulk/{'0' * 24}/results", 404),
        ("GET", f"/stock/bulk/{'0' * 24}/results?after=-1", 400),
        ("GET", "/prices?" + "&".join(f"sku=s{i}" for i in range(101)), 400),
    ],
)
async def test_a_bad_address_has_one_answer(
    client: aiohttp.ClientSession, method: str, path: str, status: int
) -> None:
    async with client.request(method, path, headers=WRITE) as response:
        problem = await response.json(content_type=None)

        assert (status, status) == (response.status, problem["status"])
        assert (status == 405) == ("Allow" in response.headers)


async def test_a_feed_is_queued_and_its_job_can_be_followed(
    client: aiohttp.ClientSession,
) -> None:
    form = aiohttp.FormData()
    form.add_field("format", "ndjson")
    form.add_field("file", ROW, filename="feed.ndjson")
    async with client.post("/stock/imports", data=form, headers=WRITE) as response:
        job = await response.json()
        location = response.headers["Location"]

        assert 202 == response.status
    assert (200, job) == await get(client, location)
    assert ("queued", len(ROW)) == (job["state"], job["bytes_total"])


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ([("format", "ndjson")], 422, "bad-upload"),
        ([("format", "xml"), ("file", ROW)], 422, "unknown-format"),
        ([("file", ROW)], 422, "unknown-format"),
        ([("format", "csv"), ("file", ROW)], 422, "bad-mapping"),
        ([("format", "csv"), ("mapping", "nonsense"), ("file", ROW)], 422, "bad-mapping"),
        ([("colour", "red"), ("file", ROW)], 422, "bad-upload"),
        ([("file", ROW), ("format", "ndjson")], 422, "unknown-format"),
        ([("format", "x" * 70_000), ("file", ROW)], 413, None),
    ],
)
async def test_a_feed_that_cannot_be_read_is_refused_at_once(
    client: aiohttp.ClientSession, fields: list[tuple[str, Any]], status: int, code: str | None
) -> None:
    form = aiohttp.FormData(default_to_multipart=True)
    for name, value in fields:
        form.add_field(name, value, filename="feed" if name == "file" else None)
    async with client.post("/stock/imports", data=form, headers=WRITE) as response:
        problem = await response.json(content_type=None)

        assert status == response.status
    assert code == problem.get("code")


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("application/json", b"{}", 415),
        ("multipart/form-data", b"x", 400),
        ("multipart/form-data; boundary=b", b"nothing of the kind", 400),
        ("multipart/form-data; boundary=b", b"--b\r\nbroken", 400),
    ],
)
async def test_an_upload_that_is_no_form_is_refused(
    client: aiohttp.ClientSession, kind: str, body: bytes, status: int
) -> None:
    async with client.post(
        "/stock/imports", data=body, headers={**WRITE, "Content-Type": kind}
    ) as response:
        problem = await response.json(content_type=None)

        assert (status, status) == (response.status, problem["status"])


async def test_the_offer_shows_price_and_availability(
    client: aiohttp.ClientSession, store: StockStore
) -> None:
    async with client.put(
        "/products/chair/prices",
        json={"prices": [{"currency": "EUR", "amount_minor": 1999, "list_minor": 2499}]},
        headers=WRITE,
    ):
        pass
    await put_stock(client, "chair", 4)
    await store.holds.reserve(uuid4(), [("chair", 1)], uuid4())

    async with client.get("/fragments/products/chair/offer") as response:
        html = await response.text()

        assert 200 == response.status
        assert "s-chair" == response.headers["xkey"]
        assert "max-age=5" == response.headers["Surrogate-Control"]
    assert "€19.99" in html
    assert "€24.99" in html
    assert "Only 3 left" in html


async def test_an_offer_that_shows_the_same_costs_no_body(
    client: aiohttp.ClientSession, store: StockStore
) -> None:
    async def asked(tag: str) -> tuple[int, str, str]:
        known = {"If-None-Match": tag} if tag else {}
        async with client.get("/fragments/products/chair/offer", headers=known) as response:
            assert "s-chair" == response.headers["xkey"]
            assert "max-age=5" == response.headers["Surrogate-Control"]
            return response.status, response.headers["ETag"], await response.text()

    await put_stock(client, "chair", 50)
    status, many, html = await asked("")

    assert 200 == status
    assert 'data-sku="chair"' in html

    await put_stock(client, "chair", 40)  # still "In stock"

    assert (304, many, "") == await asked(many)
    assert (304, many, "") == await asked(f"W/{many}")  # as a cache that compresses names it

    await put_stock(client, "chair", 2)
    status, few, html = await asked(many)

    assert 200 == status
    assert many != few
    assert "Only 2 left" in html


async def test_an_offer_is_rendered_only_when_what_it_shows_changes(
    client: aiohttp.ClientSession,
) -> None:
    pages._rendered.cache_clear()
    rendered = []
    for stock in (50, 40, 30, 2, 2):
        await put_stock(client, "lamp", stock)
        async with client.get("/fragments/products/lamp/offer") as response:
            assert 200 == response.status
        rendered.append(pages._rendered.cache_info().misses)

    assert [1, 1, 1, 2, 2] == rendered


async def test_the_offer_of_what_nobody_stocked_breaks_no_page(
    client: aiohttp.ClientSession,
) -> None:
    async with client.get("/fragments/products/sofa/offer") as response:
        assert 200 == response.status
        assert "Sold out" in await response.text()


async def test_the_process_says_how_it_fares_and_what_it_answers(
    client: aiohttp.ClientSession,
) -> None:
    assert 200 == (await get(client, "/readyz"))[0]
    status, document = await get(client, "/openapi.json")

    assert 200 == status
    assert {"get", "put"} == document["paths"]["/products/{sku}/stock"].keys()


async def test_without_its_redis_the_service_answers_503(settings: Settings) -> None:
    app = application(
        msgspec.structs.replace(settings, redis_url="redis://127.0.0.1:1/0", redis_timeout=1)
    )
    async with (
        listening(app, "127.0.0.1", 0, stop_timeout=1) as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client,
    ):
        for path in ("/products/chair/stock", "/prices?sku=a", "/readyz"):
            async with client.get(path) as response:
                assert 503 == response.status
                assert "Retry-After" in response.headers
