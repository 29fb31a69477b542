"""Bad input through the edge: the exact status and problem, and never a 5xx."""

import json
from typing import Any

import pytest

from shop.client import ShopClient

pytestmark = pytest.mark.connected

JSON = {"Content-Type": "application/json"}
DEEP = b'{"a":' * 30 + b"1" + b"}" * 30
ADJUST = "/api/products/BAD-1/stock"
LINE = "/api/carts/00000000-0000-7000-8000-000000000000/lines/BAD-1"
ROWS_ = {"Content-Type": "application/x-ndjson"}
GZIPPED = {"Content-Encoding": "gzip"}
SHORT_KEY = {"Idempotency-Key": "short"}
STOCK_ROW = b'{"sku":"BAD-1","set":1}\n'
PRICE_ROW = b'{"sku":"BAD-1","prices":[]}\n'
NO_RESERVATION = "/api/reservations/00000000-0000-7000-8000-000000000000"
LINES = b'{"lines":[{"sku":"BAD-1","qty":1}]}'
MANY_LINES = json.dumps({"lines": [{"sku": f"BAD-{n}", "qty": 1} for n in range(1_001)]}).encode()
BACK = b'{"sku":"BAD-1","when":"back_in_stock"}'
BELOW = b'{"sku":"BAD-1","when":"price_below","email":"a@b.example"}'
HOOKED = BACK[:-1] + b',"webhook":"00000000-0000-7000-8000-000000000000"}'

ROWS: list[tuple[str, str, bytes | None, dict[str, str], int, str]] = [
    # any
    ("GET", "/api/nothing", None, {}, 404, "not-found"),
    ("GET", "/nothing", None, {}, 404, "not-found"),
    ("GET", "/api/products/00000000-0000-7000-8000-000000000000", None, {}, 404, "not-found"),
    ("GET", "/api/products/NONE-1/stock", None, {}, 404, "not-found"),
    ("GET", "/api/orders/00000000-0000-7000-8000-000000000000", None, {}, 404, "not-found"),
    ("GET", "/api/orders/not-an-id", None, {}, 404, "not-found"),
    ("GET", "/api/carts/not-an-id", None, {}, 404, "not-found"),
    ("GET", "/api/imports/not-an-id", None, {}, 404, "not-found"),
    ("PATCH", ADJUST, b"{}", JSON, 405, "method-not-allowed"),
    # JSON
    ("PUT", ADJUST, b'{"stock":1,"action":"set"}', {}, 415, "unsupported-media-type"),
    (
        "PUT",
        ADJUST,
        b'{"stock":1,"action":"set"}',
        {"Content-Type": "text/plain"},
        415,
        "unsupported-media-type",
    ),
    ("PUT", ADJUST, b"{", JSON, 400, "malformed-json"),
    ("PUT", ADJUST, b"\xff\xfe", JSON, 400, "malformed-json"),
    ("PUT", ADJUST, b'{"stock":1,"stock":2,"action":"set"}', JSON, 400, "malformed-json"),
    ("PUT", ADJUST, b'{"stock":NaN,"action":"set"}', JSON, 400, "malformed-json"),
    ("PUT", ADJUST, DEEP, JSON, 400, "malformed-json"),
    ("PUT", ADJUST, b'{"stock":9007199254740993,"action":"set"}', JSON, 400, "malformed-json"),
    ("PUT", ADJUST, b'{"stock":"' + b"x" * 70_000 + b'"}', JSON, 413, "too-large"),
    ("PUT", ADJUST, b'{"stock":"1","action":"set"}', JSON, 422, "invalid-body"),
    ("PUT", ADJUST, b'{"stock":1.5,"action":"set"}', JSON, 422, "invalid-body"),
    ("PUT", ADJUST, b'{"stock":-1,"action":"set"}', JSON, 422, "invalid-body"),
    ("PUT", ADJUST, b'{"stock":1,"action":"steal"}', JSON, 422, "invalid-body"),
    ("PUT", ADJUST, b'{"stock":1,"action":"set","more":1}', JSON, 422, "invalid-body"),
    ("PUT", ADJUST, b'{"stock":1,"action":"decrement"}', JSON, 409, "insufficient-stock"),
    ("PUT", LINE, b'{"qty":0}', JSON, 422, "invalid-body"),
    ("PUT", LINE, b'{"qty":1000}', JSON, 422, "invalid-body"),
    # query
    ("GET", "/api/search?page_size=101", None, {}, 400, "bad-query"),
    ("GET", "/api/search?page=200&page_size=100", None, {}, 400, "bad-query"),
    ("GET", "/api/search?colour=red", None, {}, 400, "bad-query"),
    ("GET", "/api/search?sort=luck", None, {}, 400, "bad-query"),
    ("GET", "/api/search?q=" + "x" * 257, None, {}, 400, "bad-query"),
    ("GET", "/api/products?page_size=0", None, {}, 400, "bad-query"),
    ("GET", "/api/products?page=two", None, {}, 400, "bad-query"),
    # prices, now and then
    ("GET", "/api/prices", None, {}, 400, "bad-query"),
    ("GET", "/api/prices?sku=../x", None, {}, 400, "bad-query"),
    (
        "GET",
        "/api/prices?" + "&".join(f"sku=S-{n}" for n in range(101)),
        None,
        {},
        400,
        "bad-query",
    ),
    ("GET", "/api/prices?sku=BAD-1&at=yesterday", None, {}, 400, "bad-query"),
    ("GET", "/api/prices?sku=BAD-1&at=2026-01-01", None, {}, 400, "bad-query"),
    ("GET", "/api/prices?sku=BAD-1&at=2026-01-01T00:00:00", None, {}, 400, "bad-query"),
    ("GET", "/api/prices?sku=BAD-1&at=2026-02-30T00:00:00Z", None, {}, 400, "bad-query"),
    ("GET", "/api/prices?sku=BAD-1&at=10000-01-01T00:00:00Z", None, {}, 400, "bad-query"),
    ("GET", "/api/prices?sku=BAD-1&at=99999999999999999", None, {}, 400, "bad-query"),
    ("GET", "/api/prices?sku=BAD-1&at=nan", None, {}, 400, "bad-query"),
    ("GET", "/api/prices?sku=BAD-1&at=1e300", None, {}, 400, "bad-query"),
    ("GET", "/api/prices?sku=BAD-1&at=-1e11", None, {}, 400, "bad-query"),
    ("GET", "/api/prices?sku=BAD-1&at=", None, {}, 400, "bad-query"),
    ("GET", "/api/prices?sku=BAD-1&currency=euro", None, {}, 400, "bad-query"),
    ("GET", "/api/prices?sku=BAD-1&qty=0", None, {}, 400, "bad-query"),
    # many rows at once
    ("POST", "/api/stock/bulk", STOCK_ROW, JSON, 415, "unsupported-media-type"),
    ("POST", "/api/stock/bulk", STOCK_ROW, {}, 415, "unsupported-media-type"),
    ("POST", "/api/stock/bulk", STOCK_ROW, ROWS_ | GZIPPED, 415, "unsupported-media-type"),
    ("POST", "/api/stock/bulk", STOCK_ROW, ROWS_ | SHORT_KEY, 400, "bad-idempotency-key"),
    ("POST", "/api/stock/bulk", b"", ROWS_, 422, "bad-feed"),
    ("PUT", "/api/stock/bulk", STOCK_ROW, ROWS_, 405, "method-not-allowed"),
    ("GET", "/api/stock/bulk/not-an-id", None, {}, 404, "not-found"),
    ("GET", "/api/stock/bulk/not-an-id/results", None, {}, 404, "not-found"),
    ("GET", "/api/stock/bulk/not-an-id/results?limit=0", None, {}, 400, "bad-query"),
    ("GET", "/api/stock/bulk/not-an-id/results?after=-1", None, {}, 400, "bad-query"),
    ("POST", "/api/prices/bulk", PRICE_ROW, JSON, 415, "unsupported-media-type"),
    ("POST", "/api/prices/bulk", PRICE_ROW, ROWS_ | GZIPPED, 415, "unsupported-media-type"),
    ("POST", "/api/prices/bulk", PRICE_ROW, ROWS_ | SHORT_KEY, 400, "bad-idempotency-key"),
    ("POST", "/api/prices/bulk", b"", ROWS_, 422, "bad-feed"),
    ("GET", "/api/prices/bulk/not-an-id", None, {}, 404, "not-found"),
    ("GET", "/api/prices/bulk/not-an-id/results?after=x", None, {}, 400, "bad-query"),
    # reservations
    ("POST", "/api/reservations", b"{", JSON, 400, "malformed-json"),
    ("POST", "/api/reservations", b"{}", JSON, 422, "invalid-body"),
    ("POST", "/api/reservations", b'{"lines":[]}', JSON, 422, "invalid-body"),
    ("POST", "/api/reservations", LINES[:-1] + b',"more":1}', JSON, 422, "invalid-body"),
    ("POST", "/api/reservations", LINES[:-1] + b',"id":"mine"}', JSON, 422, "invalid-body"),
    ("POST", "/api/reservations", LINES[:-1] + b',"hold_seconds":0}', JSON, 422, "invalid-body"),
    ("POST", "/api/reservations", LINES.replace(b"1}", b"0}"), JSON, 422, "invalid-body"),
    ("POST", "/api/reservations", LINES.replace(b"BAD-1", b"/"), JSON, 422, "invalid-body"),
    ("POST", "/api/reservations", MANY_LINES, JSON, 422, "invalid-body"),
    ("POST", "/api/reservations", LINES, JSON, 409, "insufficient-stock"),
    ("GET", NO_RESERVATION, None, {}, 404, "not-found"),
    ("GET", "/api/reservations/not-an-id", None, {}, 404, "not-found"),
    ("PATCH", NO_RESERVATION, b"{}", JSON, 404, "not-found"),
    ("PATCH", NO_RESERVATION, b'{"hold_seconds":"9"}', JSON, 422, "invalid-body"),
    ("DELETE", NO_RESERVATION, None, {}, 404, "not-found"),
    # alerts
    ("POST", "/api/alerts", b"[]", JSON, 422, "invalid-body"),
    ("POST", "/api/alerts", b"{}", JSON, 422, "invalid-body"),
    ("POST", "/api/alerts", BACK, JSON, 422, "invalid-body"),
    ("POST", "/api/alerts", BACK[:-1] + b',"email":"ada"}', JSON, 422, "invalid-body"),
    ("POST", "/api/alerts", BACK[:-1] + b',"webhook":"ada"}', JSON, 422, "invalid-body"),
    (
        "POST",
        "/api/alerts",
        BACK[:-1] + b',"email":"a@b.example","more":1}',
        JSON,
        422,
        "invalid-body",
    ),
    ("POST", "/api/alerts", BELOW, JSON, 422, "invalid-body"),
    (
        "POST",
        "/api/alerts",
        BELOW[:-1] + b',"currency":"EUR","below_minor":0}',
        JSON,
        422,
        "invalid-body",
    ),
    ("POST", "/api/alerts", HOOKED, JSON, 404, "not-found"),
    ("GET", "/api/alerts/not-an-id", None, {}, 404, "not-found"),
    ("DELETE", "/api/alerts/00000000-0000-7000-8000-000000000000", None, {}, 404, "not-found"),
]


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "slug"),
    ROWS,
    ids=[f"{row[4]}-{row[0]}-{row[1][:40]}-{index}" for index, row in enumerate(ROWS)],
)
async def test_bad_input_has_its_exact_answer(
    shop: ShopClient,
    method: str,
    path: str,
    body: bytes | None,
    headers: dict[str, str],
    status: int,
    slug: str,
) -> None:
    async with shop.http.request(
        method,
        shop.edge + path,
        data=body,
        headers=shop.admin | headers,
        skip_auto_headers=["Content-Type"],
    ) as answer:
        problem: dict[str, Any] = json.loads(await answer.read())

    assert status == answer.status, problem
    assert "application/problem+json" == answer.content_type
    assert "no-store" in answer.headers["Cache-Control"]
    assert status == problem["status"]
    if slug:
        assert f"urn:shop:problem:{slug}" == problem["type"]
    if status == 422 and slug != "bad-feed":
        # the pointer to a whole body is empty
        assert problem["errors"][0]["pointer"] or body == b"[]"
    assert "Traceback" not in json.dumps(problem)


async def test_a_write_without_a_key_is_refused(shop: ShopClient) -> None:
    body = {"stock": 1, "action": "set"}
    for headers, status in (
        ({}, 401),
        ({"Authorization": "Bearer k_admin_wrong"}, 401),
        ({"Authorization": "Basic YTpi"}, 401),
    ):
        async with shop.http.put(shop.edge + ADJUST, json=body, headers=headers) as answer:
            assert status == answer.status
            assert "WWW-Authenticate" in answer.headers


async def test_a_changed_product_needs_the_version_that_was_read(shop: ShopClient) -> None:
    sku = await shop.put_product()
    product_id = (await shop.found(sku))[0]["product_id"]
    product = {"name": "Lamp", "variants": [{"sku": sku}]}

    path = f"/api/products/{product_id}"
    await shop.send("PUT", path, product, status=428)
    await shop.send("PUT", path, product, status=412, **{"If-Match": '"99"'})
    await shop.send("PUT", path, product, **{"If-Match": '"1"'})


async def test_a_sku_belongs_to_one_product(shop: ShopClient) -> None:
    sku = await shop.put_product()

    await shop.send(
        "POST", "/api/products", {"name": "Other", "variants": [{"sku": sku}]}, status=409
    )


async def test_an_order_needs_a_key_of_its_own(shop: ShopClient) -> None:
    sku = await shop.put_product()
    cart = (await shop.send("POST", "/api/carts", status=201))["cart_id"]
    await shop.add(cart, sku, 1)
    body = {"email": "ada@example.com", "payment": {"token": "tok_ok"}}

    path = f"/api/carts/{cart}/checkout"
    await shop.send("POST", path, body, status=400)
    await shop.send("POST", path, body, status=400, **{"Idempotency-Key": "short"})
    key = {"Idempotency-Key": "0123456789abcdef"}
    placed = await shop.send("POST", path, body, status=202, **key)
    assert placed == await shop.send("POST", path, body, status=202, **key)
    other = body | {"email": "eve@example.com"}
    await shop.send("POST", path, other, status=422, **key)


async def test_an_empty_cart_cannot_be_ordered(shop: ShopClient) -> None:
    cart = (await shop.send("POST", "/api/carts", status=201))["cart_id"]
    body = {"email": "ada@example.com", "payment": {"token": "tok_ok"}}
    key = {"Idempotency-Key": "0123456789abcdef"}

    await shop.send("POST", f"/api/carts/{cart}/checkout", body, status=422, **key)
