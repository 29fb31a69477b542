"""The HTTP API on a real Elasticsearch: its shapes, its conditions, its exact refusals."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from aiohttp import FormData
from aiohttp.test_utils import TestClient

from catalog.domain import Draft
from catalog.settings import Settings
from catalog.store import CatalogStore
from catalog.worker import carry_imports

pytestmark = pytest.mark.connected

Http = TestClient[Any, Any]
Headers = dict[str, str]
Make = Callable[..., Draft]

LINE = '{"key": "%s", "name": "Tarn %s", "variants": [{"sku": "%s"}]}\n'


def body(draft: Draft) -> Any:
    return msgspec.to_builtins(draft)


async def created(http: Http, write: Headers, draft: Draft) -> Any:
    async with http.post("/products", json=body(draft), headers=write) as response:
        assert 201 == response.status, await response.text()
        return await response.json()


async def problem(response: Any, status: int, slug: str) -> Any:
    found = await response.json()

    assert (status, f"urn:shop:problem:{slug}") == (response.status, found.get("type")), found
    assert "application/problem+json" == response.content_type
    assert "no-store" == response.headers["Cache-Control"]
    return found


async def until_listed(http: Http, product_id: str) -> Any:
    """The first page of products, once it holds this one: lists are a second behind."""
    deadline = time.monotonic() + 30
    while True:
        listed = await (await http.get("/products?page_size=5")).json()
        if product_id in [one["id"] for one in listed["products"]]:
            return listed
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def until_in_the_tree(http: Http, slug: str) -> Any:
    """The top category of this slug, with all that one import made: the tree is a second behind."""
    deadline = time.monotonic() + 30
    while True:
        tree = (await (await http.get("/categories")).json())["categories"]
        for root in tree:
            if root["slug"] == slug and root["children"]:
                return root
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def test_a_new_product_says_where_it_is_and_which_version(
    http: Http, write: Headers, draft: Make
) -> None:
    response = await http.post("/products", json=body(draft(brand="Nordhang")), headers=write)
    product = await response.json()

    assert 201 == response.status
    assert f"/products/{product['id']}" == response.headers["Location"]
    assert '"1"' == response.headers["ETag"]
    read = await http.get(response.headers["Location"])
    assert product == await read.json()
    assert '"1"' == read.headers["ETag"]
    assert product == await (await http.get(f"/products/{product['slug']}")).json()


async def test_the_list_has_the_newest_first_and_counts_all(
    http: Http, write: Headers, draft: Make
) -> None:
    product = await created(http, write, draft())

    listed = await until_listed(http, product["id"])

    assert {"products", "page", "page_size", "total"} == listed.keys()
    assert product == listed["products"][0]
    assert (1, 5) == (listed["page"], listed["page_size"])
    assert listed["total"] >= len(listed["products"])


async def test_the_list_of_a_category_has_what_stands_below_it(
    http: Http, write: Headers, draft: Make
) -> None:
    name = f"Boats {draft().name}"
    product = await created(http, write, draft(categories=[[name, "Kayaks"]]))
    await until_listed(http, product["id"])

    above, leaf = (
        product["categories"][0]["slug"].split("--")[0],
        product["categories"][0]["slug"],
    )

    for slug in (above, leaf):
        listed = await (await http.get("/products", params={"category": slug})).json()
        assert [product["id"]] == [one["id"] for one in listed["products"]]
    root = await until_in_the_tree(http, above)
    assert [leaf] == [child["slug"] for child in root["children"]]


async def test_a_change_needs_the_version_it_replaces(
    http: Http, write: Headers, draft: Make
) -> None:
    wanted = draft()
    product = await created(http, write, wanted)
    address, changed = f"/products/{product['id']}", body(wanted) | {"name": "Tarn 3"}

    await problem(
        await http.put(address, json=changed, headers=write), 428, "precondition-required"
    )
    for stale in ('"2"', 'W/"1"', '"x"', "1"):
        response = await http.put(address, json=changed, headers=write | {"If-Match": stale})
        await problem(response, 412, "precondition-failed")
    good = await http.put(address, json=changed, headers=write | {"If-Match": '"7", "1"'})
    assert (200, '"2"') == (good.status, good.headers["ETag"])
    response = await http.put(address, json=changed, headers=write | {"If-Match": '"1"'})
    await problem(response, 412, "precondition-failed")
    any_version = await http.put(address, json=body(wanted), headers=write | {"If-Match": "*"})
    assert (200, '"3"') == (any_version.status, any_version.headers["ETag"])


async def test_a_withdrawn_product_answers_410(http: Http, write: Headers, draft: Make) -> None:
    product = await created(http, write, draft())
    address = f"/products/{product['id']}"

    await problem(await http.delete(address, headers=write), 428, "precondition-required")
    gone = await http.delete(address, headers=write | {"If-Match": '"1"'})

    assert 204 == gone.status
    await problem(await http.get(address), 410, "gone")
    await problem(await http.get(f"/p/{product['slug']}"), 410, "gone")
    await problem(await http.delete(address, headers=write | {"If-Match": "*"}), 410, "gone")


async def test_a_sku_that_another_has_is_refused_with_its_place(
    http: Http, write: Headers, draft: Make
) -> None:
    product = await created(http, write, draft())

    response = await http.post(
        "/products",
        json={"name": "Copy", "variants": [{"sku": product["variants"][0]["sku"]}]},
        headers=write,
    )

    found = await problem(response, 409, "duplicate-sku")
    assert ["/variants/0/sku"] == [fault["pointer"] for fault in found["errors"]]


async def test_writes_need_a_key_with_the_scope(
    http: Http, write: Headers, reader: Headers, draft: Make
) -> None:
    wrong = {"Authorization": write["Authorization"][:-1] + "x"}

    for method, address in (
        ("POST", "/products"),
        ("PUT", "/products/x"),
        ("DELETE", "/products/x"),
        ("POST", "/imports"),
    ):
        for headers in ({}, wrong):
            response = await http.request(method, address, json=body(draft()), headers=headers)
            await problem(response, 401, "unauthorized")
            assert "WWW-Authenticate" in response.headers
        response = await http.request(method, address, json=body(draft()), headers=reader)
        await problem(response, 403, "forbidden")


@pytest.mark.parametrize(
    ("sent", "status", "slug"),
    [
        (b"{", 400, "malformed-json"),
        (b'{"name": "x", "name": "y", "variants": [{"sku": "A"}]}', 400, "malformed-json"),
        (b'{"name": NaN}', 400, "malformed-json"),
        (b"\xff", 400, "malformed-json"),
        (b"[" * 30 + b"]" * 30, 400, "malformed-json"),
        (b"[]", 422, "invalid-body"),
        (b'{"variants": [{"sku": "A"}]}', 422, "invalid-body"),
        (b'{"name": "", "variants": [{"sku": "A"}]}', 422, "invalid-body"),
        (b'{"name": 7, "variants": [{"sku": "A"}]}', 422, "invalid-body"),
        (b'{"name": "x", "variants": []}', 422, "invalid-body"),
        (b'{"name": "x", "variants": [{"sku": "-a"}]}', 422, "invalid-body"),
        (b'{"name": "x", "variants": [{"sku": "a b"}]}', 422, "invalid-body"),
        (b'{"name": "x", "variants": [{"sku": "A"}, {"sku": "A"}]}', 422, "invalid-body"),
        (b'{"name": "x", "variants": [{"sku": "A"}], "price": 1}', 422, "invalid-body"),
        (b'{"name": "x", "variants": [{"sku": "A"}], "slug": "No Slug"}', 422, "invalid-body"),
        (b'{"name": "x", "variants": [{"sku": "A"}], "categories": [[]]}', 422, "invalid-body"),
        (b'{"name": "a\\u0000b", "variants": [{"sku": "A"}]}', 422, "invalid-body"),
        (b'{"name": "\\ud800", "variants": [{"sku": "A"}]}', 422, "invalid-body"),
        (
            b'{"name": "x", "variants": [{"sku": "A"}], "images": [{"url": "http://10.0.0.1/a"}]}',
            422,
            "url-not-allowed",
        ),
        (b'{"name": "' + b"x" * 70_000 + b'"}', 413, "too-large"),
    ],
)
async def test_a_bad_body_gets_its_exact_answer(
    http: Http, write: Headers, sent: bytes, status: int, slug: str
) -> None:
    headers = write | {"Content-Type": "application/json"}

    response = await http.post("/products", data=sent, headers=headers)

    await problem(response, status, slug)


async def test_another_media_type_is_refused(http: Http, write: Headers) -> None:
    for sent in ("text/plain", "application/json; charset=latin-1", "application/xml"):
        response = await http.post("/products", data=b"{}", headers=write | {"Content-Type": sent})
        await problem(response, 415, "unsupported-media-type")


@pytest.mark.parametrize(
    "asked",
    [
        "page=0",
        "page=-1",
        "page=x",
        "page_size=0",
        "page_size=101",
        "page=101&page_size=100",
        "page=99999999999999999999",
        "page=1&page=2",
        "category=No%20Slug",
        "q=tent",
    ],
)
async def test_a_bad_query_is_refused(http: Http, asked: str) -> None:
    await problem(await http.get(f"/products?{asked}"), 400, "bad-query")


async def test_the_last_page_that_can_be_asked_for_is_answered(http: Http) -> None:
    listed = await (await http.get("/products?page=100&page_size=100")).json()

    assert [] == listed["products"]


async def test_what_is_not_there_answers_404(http: Http, write: Headers, draft: Make) -> None:
    for address in ("/products/no-such", "/imports/no-such", "/imports/..%2f..", "/nothing"):
        await problem(await http.get(address), 404, "not-found")
    response = await http.put(
        "/products/no-such", json=body(draft()), headers=write | {"If-Match": "*"}
    )
    await problem(response, 404, "not-found")
    response = await http.patch("/products/no-such")
    await problem(response, 405, "method-not-allowed")
    assert "GET" in response.headers["Allow"]


async def until_ended(http: Http, address: str) -> Any:
    deadline = time.monotonic() + 30
    while True:
        job = await (await http.get(address)).json()
        if job["state"] in {"done", "failed"}:
            return job
        assert time.monotonic() < deadline, job
        await asyncio.sleep(0.05)


@pytest.fixture
async def importing(store: CatalogStore, settings: Settings) -> Any:
    task = asyncio.create_task(carry_imports(store, settings.spool_dir))
    yield
    task.cancel()


@pytest.mark.usefixtures("importing")
async def test_a_bare_feed_is_imported_and_its_bad_rows_reported(
    http: Http, write: Headers
) -> None:
    feed = LINE % ("bare-1", "1", "BARE-1") + "nonsense\n" + LINE % ("bare-2", "2", "BARE-2")

    response = await http.post(
        "/imports", data=feed, headers=write | {"Content-Type": "application/x-ndjson"}
    )
    job = await until_ended(http, response.headers["Location"])

    assert 202 == response.status
    assert {"created": 2, "updated": 0, "unchanged": 0, "failed": 1} == job["counts"]
    assert [(2, "bad-json")] == [(error["line"], error["code"]) for error in job["errors"]]


@pytest.mark.usefixtures("importing")
async def test_a_form_brings_a_mapping_of_its_own_and_several_files(
    http: Http, write: Headers
) -> None:
    form = FormData()
    form.add_field("format", "csv")
    form.add_field(
        "mapping", 'format = "csv"\ncurrency = "EUR"\nsku = "{Code}"\nname = "{Title}"\n'
    )
    for number in (1, 2):
        form.add_field(
            "file", f"Code,Title\nFORM-{number},Tarn {number}\n".encode(), filename=f"{number}.csv"
        )

    response = await http.post("/imports", data=form, headers=write)
    job = await until_ended(http, response.headers["Location"])

    assert 2 == job["counts"]["created"], job
    assert ["1.csv", "2.csv"] == [file["name"] for file in job["files"]]


async def test_a_feed_that_cannot_be_read_is_refused_at_once(http: Http, write: Headers) -> None:
    ndjson = write | {"Content-Type": "application/x-ndjson"}

    for query in ("format=xml", "mapping=no-such", "currency=EUR", "mapping=eshop"):
        response = await http.post(f"/imports?{query}", data="{}", headers=ndjson)
        await problem(response, 422, "bad-feed")
    response = await http.post("/imports", data="", headers=ndjson)
    await problem(response, 422, "bad-feed")
    response = await http.post("/imports?colour=red", data="{}", headers=ndjson)
    await problem(response, 400, "bad-query")
    response = await http.post("/imports", json={}, headers=write)
    await problem(response, 415, "unsupported-media-type")


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"nonsense",
        b"--x\r\n\r\n",
        b'--x\r\nContent-Disposition: form-data; name="format"\r\n\r\nndjson\r\n--x--\r\n',
        b'--x\r\nContent-Disposition: form-data; name="colour"\r\n\r\nred\r\n--x--\r\n',
        b'--x\r\nContent-Disposition: form-data; name="format"\r\n\r\n\xff\r\n--x--\r\n',
        b'--x\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\n{}\r\n--x--\r\n',
    ],
)
async def test_a_broken_form_is_refused(http: Http, write: Headers, sent: bytes) -> None:
    headers = write | {"Content-Type": "multipart/form-data; boundary=x"}

    await problem(await http.post("/imports", data=sent, headers=headers), 422, "bad-feed")


async def test_a_form_without_a_boundary_is_refused(http: Http, write: Headers) -> None:
    headers = write | {"Content-Type": "multipart/form-data"}

    await problem(await http.post("/imports", data=b"x", headers=headers), 422, "bad-feed")


async def test_the_service_is_ready_and_describes_itself(http: Http) -> None:
    assert 200 == (await http.get("/readyz")).status

    paths = (await (await http.get("/openapi.json")).json())["paths"]
    assert {"/products", "/products/{id}", "/categories", "/imports"} <= paths.keys()
