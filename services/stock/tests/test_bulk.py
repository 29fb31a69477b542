"""Many rows in one request: what a job does, says and survives, on the real Redis."""

import asyncio
import hashlib
import json
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from redis.asyncio import Redis

from chassis.http.server import listening
from feeds import jobs
from stock import bulk
from stock.app import application
from stock.domain import Action, Adjust, build
from stock.prices import MAX_PRICES, PriceEntry
from stock.settings import Settings
from stock.store import StockStore
from stock.worker import carry_imports

pytestmark = [pytest.mark.connected, pytest.mark.one_partition]

WRITE = {"Authorization": "Bearer k_w_write"}
ROWS = {"Content-Type": "application/x-ndjson"}
FIVE = [{"sku": f"s{n}", "set": n} for n in range(5)]
KEY = {"Idempotency-Key": "count-of-2026-11-25"}

Call = Callable[..., Awaitable[tuple[int, Any]]]


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
async def call(settings: Settings, spool: Path, tmp_path: Path) -> AsyncIterator[Call]:
    keys = tmp_path / "keys.json"
    hashed = hashlib.sha256(b"k_w_write").hexdigest()
    keys.write_bytes(msgspec.json.encode({"w": {"sha256": hashed, "scopes": ["stock:write"]}}))
    app = application(msgspec.structs.replace(settings, api_keys_file=str(keys), spool_dir=spool))
    async with (
        listening(app, "127.0.0.1", 0, stop_timeout=1) as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
    ):

        async def send(method: str, path: str, body: Any = None, **headers: str) -> Any:
            sent = WRITE | (ROWS if body is not None else {}) | headers
            async with session.request(method, path, data=body, headers=sent) as answer:
                found = await answer.json(content_type=None)
                return answer.status, found | {"headers": dict(answer.headers)}

        yield send


def lines(*rows: Any) -> bytes:
    return b"".join(
        (row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows
    )


async def done(store: StockStore, call: Call, spool: Path, path: str) -> Any:
    """The job at that path, once the worker has carried it."""
    task = asyncio.create_task(carry_imports(store, spool))
    async with asyncio.timeout(60):
        while (job := (await call("GET", path))[1])["finished"] is None:
            await asyncio.sleep(0.02)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    return job


async def told(redis: Any, store: StockStore) -> Counter[str]:
    entries = await redis.xrange(store.slots[0].outbox)
    return Counter(build(fields).meta.key for _, fields in entries)


async def test_rows_set_and_change_stock_and_each_says_what_became_of_it(
    call: Call, store: StockStore, spool: Path, redis: Redis
) -> None:
    await store.quantities.adjust("chair", Adjust(stock=5, action=Action.SET))
    await store.quantities.adjust("table", Adjust(stock=7, action=Action.SET))
    body = lines(
        {"sku": "chair", "delta": -2, "reason": "broken"},
        {"sku": "table", "set": 7},
        {"sku": "sofa", "set": 1},
        {"sku": "chair", "delta": -9},
        b"",
        {"sku": "chair", "delta": 1},
        {"sku": "chair"},
        b"{",
        {"sku": "no good", "set": 1},
        {"sku": "lamp", "set": 2**31 + 1},
    )

    status, job = await call("POST", "/stock/bulk", body)
    path = job["headers"]["Location"]
    assert (202, "queued", len(body)) == (status, job["state"], job["bytes_total"])
    job = await done(store, call, spool, path)

    assert "done" == job["state"]
    assert {"created": 1, "updated": 2, "unchanged": 1, "failed": 5} == job["counts"]
    assert [4, 7, 8, 9, 10] == [error["line"] for error in job["errors"]]
    status, page = await call("GET", f"{path}/results")
    assert (200, None) == (status, page["next"])
    chair = {"sku": "chair", "on_hand": 3, "available": 3, "version": 2}
    short = {"code": "insufficient-stock", "reason": "There is not enough stock"}
    assert {"line": 1, "result": "updated"} | chair == page["items"][0]
    assert {"line": 4, "result": "failed", "sku": "chair", "available": 3} | short == (
        page["items"][3]
    )
    assert ["updated", "unchanged", "created", "failed", "updated"] + ["failed"] * 4 == [
        item["result"] for item in page["items"]
    ]
    assert ["bad-row", "bad-json", "bad-row", "bad-row"] == [
        item["code"] for item in page["items"][5:]
    ]
    assert {"stock.changed.v1": 5} == await told(redis, store)
    assert "broken" == (await store.quantities.ledger("chair"))[1].reason


async def test_results_are_read_page_by_page(call: Call, store: StockStore, spool: Path) -> None:
    _, job = await call(
        "POST", "/stock/bulk", lines(*({"sku": f"s{n}", "set": n} for n in range(5)))
    )
    path = f"{job['headers']['Location']}/results"
    assert [] == (await call("GET", path))[1]["items"]
    await done(store, call, spool, job["headers"]["Location"])

    found, after = [], 0
    while after is not None:
        page = (await call("GET", f"{path}?limit=2&after={after}"))[1]
        found.append([item["on_hand"] for item in page["items"]])
        after = page["next"]

    assert [[0, 1], [2, 3], [4]] == found
    for bad in ("after=1", "after=999999", "limit=0", "limit=1001", "page=1", "after=x"):
        assert 400 == (await call("GET", f"{path}?{bad}"))[0]


async def test_the_same_rows_under_the_same_key_are_one_job(
    call: Call, store: StockStore, spool: Path, redis: Redis
) -> None:
    body = lines({"sku": "chair", "delta": 3})

    first = (await call("POST", "/stock/bulk", body, **KEY))[1]
    again = (await call("POST", "/stock/bulk", body, **KEY))[1]
    await done(store, call, spool, first["headers"]["Location"])
    late = (await call("POST", "/stock/bulk", body, **KEY))[1]
    other = await call("POST", "/stock/bulk", lines({"sku": "chair", "delta": 4}), **KEY)
    prices = await call("POST", "/prices/bulk", lines({"sku": "chair", "prices": []}), **KEY)

    assert first["id"] == again["id"] == late["id"] != prices[1]["id"]
    assert "Idempotent-Replayed" not in first["headers"]
    assert (
        "true" == again["headers"]["Idempotent-Replayed"] == late["headers"]["Idempotent-Replayed"]
    )
    assert "done" == late["state"]
    assert (422, "urn:shop:problem:idempotency-key-reused") == (other[0], other[1]["type"])
    assert 3 == (await store.quantities.level("chair")).on_hand
    assert not [each for each in spool.iterdir() if each.name.startswith(".")]


async def test_many_at_once_under_one_key_are_one_job(call: Call, spool: Path) -> None:
    body = lines({"sku": "chair", "delta": 3})

    answers = await asyncio.gather(*(call("POST", "/stock/bulk", body, **KEY) for _ in range(8)))

    assert {202} == {status for status, _ in answers}
    assert 1 == len({job["id"] for _, job in answers})
    assert 1 == len(jobs.listing(spool))


async def test_prices_are_merged_and_replaced(
    call: Call, store: StockStore, spool: Path, redis: Redis
) -> None:
    euro = PriceEntry(currency="EUR", amount_minor=100)
    await store.prices.put("chair", [euro])
    await store.prices.put("table", [euro])
    await store.prices.put("lamp", [euro])
    trade = {"currency": "EUR", "amount_minor": 80, "group": "trade", "price_list": "b2b"}
    many = [{"currency": "EUR", "amount_minor": 1, "min_qty": n} for n in range(2, MAX_PRICES + 2)]
    body = lines(
        {"sku": "chair", "prices": [trade]},
        {"sku": "table", "how": "replace", "prices": [trade]},
        {"sku": "chair", "prices": [trade]},
        {"sku": "sofa", "prices": [trade]},
        {"sku": "lamp", "prices": many},
        {"sku": "lamp", "prices": [trade, trade]},
        {"sku": "lamp", "how": "add", "prices": []},
        {"sku": "lamp", "prices": [{"currency": "euro", "amount_minor": 1}]},
    )
    before = await told(redis, store)

    _, job = await call("POST", "/prices/bulk", body)
    job = await done(store, call, spool, job["headers"]["Location"])

    assert {"created": 1, "updated": 2, "unchanged": 1, "failed": 4} == job["counts"]
    assert ["too-many-prices", "bad-row", "bad-row", "bad-row"] == [
        error["code"] for error in job["errors"]
    ]
    assert [100, 80] == [each.amount_minor for each in (await store.prices.plan("chair")).prices]
    assert ["b2b"] == [each.price_list for each in (await store.prices.plan("table")).prices]
    assert [100] == [each.amount_minor for each in (await store.prices.plan("lamp")).prices]
    assert {"price.changed.v1": 3} == await told(redis, store) - before


async def test_jobs_are_told_apart_and_need_a_key(call: Call) -> None:
    _, stock = await call("POST", "/stock/bulk", lines({"sku": "chair", "set": 1}))
    id_ = stock["id"]

    for path in (f"/prices/bulk/{id_}", f"/stock/imports/{id_}", f"/prices/bulk/{id_}/results"):
        assert 404 == (await call("GET", path))[0]
    for path in (f"/stock/bulk/{id_}", f"/stock/bulk/{id_}/results"):
        assert 401 == (await call("GET", path, Authorization="Bearer k_x_x"))[0]


@pytest.mark.parametrize("path", ["/stock/bulk", "/prices/bulk"])
@pytest.mark.parametrize(
    ("body", "headers", "status", "slug"),
    [
        (b"", {}, 422, "bad-feed"),
        (b"{}", {"Content-Type": "application/json"}, 415, "unsupported-media-type"),
        (b"{}", {"Content-Encoding": "gzip"}, 415, "unsupported-media-type"),
        (b"{}", {"Idempotency-Key": "short"}, 400, "bad-idempotency-key"),
        (b"{}", {"Authorization": "Bearer k_x_x"}, 401, "unauthorized"),
    ],
)
async def test_what_is_no_upload_of_rows_is_refused_and_leaves_nothing(
    call: Call, spool: Path, path: str, body: bytes, headers: dict[str, str], status: int, slug: str
) -> None:
    answered, problem = await call("POST", path, body, **headers)

    assert (status, f"urn:shop:problem:{slug}") == (answered, problem["type"])
    assert not spool.exists() or [] == list(spool.iterdir())


ROWS_SENT = 2 * jobs.BATCH + 10
KILLED = """
import asyncio, itertools, os, signal, sys
from pathlib import Path
from stock import bulk
from stock.app import connect
from stock.settings import Settings
from stock.store import StockStore

async def main(url, prefix, job):
    store = StockStore(connect(Settings(redis_url=url)), prefix)
    adjust_many, batches = store.quantities.adjust_many, itertools.count(1)

    async def mortal(*given, **more):
        done = await adjust_many(*given, **more)
        if next(batches) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    store.quantities.adjust_many = mortal
    await bulk.carry(store, Path(job), bulk.STOCK)

asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_worker_killed_behind_a_batch_that_it_could_not_write_down_repeats_no_delta(
    call: Call, store: StockStore, spool: Path, settings: Settings, redis: Redis
) -> None:
    rows = [{"sku": f"s{n % 97}", "delta": 1 + n % 3} for n in range(ROWS_SENT)]
    rows[jobs.BATCH] = {"sku": "s0", "set": 1_000}
    _, job = await call("POST", "/stock/bulk", lines(*rows))
    killed = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", KILLED, settings.redis_url, settings.key_prefix),
        str(spool / job["id"]),
    )
    assert -signal.SIGKILL == await killed.wait()
    stood = (await call("GET", f"/stock/bulk/{job['id']}"))[1]
    assert ("running", jobs.BATCH) == (stood["state"], stood["rows"])
    # meanwhile somebody sells what the batch had set
    await store.quantities.adjust("s0", Adjust(stock=300, action=Action.DECREMENT))

    job = await done(store, call, spool, f"/stock/bulk/{job['id']}")

    wanted: Counter[str] = Counter()
    for row in rows:
        wanted[row["sku"]] = row.get("set") or wanted[row["sku"]] + row["delta"]
    wanted["s0"] -= 300
    assert wanted == {sku: (await store.quantities.level(sku)).on_hand for sku in wanted}
    assert {"created": 97, "updated": ROWS_SENT - 97, "unchanged": 0, "failed": 0} == job["counts"]
    assert {"stock.changed.v1": ROWS_SENT + 1} == await told(redis, store)
    items, after = [], 0
    while after is not None:
        path = f"/stock/bulk/{job['id']}/results?limit=1000&after={after}"
        page = (await call("GET", path))[1]
        items += page["items"]
        after = page["next"]
    assert list(range(1, ROWS_SENT + 1)) == [item["line"] for item in items]


def test_every_kind_of_rows_has_its_route() -> None:
    assert {bulk.STOCK, bulk.PRICES} == set(bulk.KINDS)
