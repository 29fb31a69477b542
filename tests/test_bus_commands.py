"""An operator looks at events, parks, replays and rebuilds, by the shop's own commands."""

import asyncio
import json
import secrets
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aio_pika
import pytest
from elasticsearch import AsyncElasticsearch
from prometheus_client.parser import text_string_to_metric_families

from bus.broker import confirming, connected, publish
from shop.account import give
from shop.client import ShopClient, until
from shop.profiles import ROOT
from shop.servers import amqp
from shop.stack import Stack
from shop_contracts.envelope import CONTENT_TYPE

pytestmark = pytest.mark.connected

ALIASES = ("search", "offers")


async def run(native: Stack, *arguments: str) -> str:
    """What `./shop <arguments>` prints."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "shop", *arguments, "--profile", native.profile.name),
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "COLUMNS": "300", "HOME": str(native.profile.var)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output = (await process.communicate())[0].decode()
    assert 0 == process.returncode, output
    return output


def audited(native: Stack) -> list[dict[str, Any]]:
    log = native.profile.folder("log") / "audit.log"
    lines = log.read_text().splitlines() if log.exists() else []
    return [json.loads(line) for line in lines]


async def documents(stack: Any) -> dict[str, Any]:
    async with AsyncElasticsearch(stack.elasticsearch_url) as client:
        found: dict[str, Any] = {}
        for alias in ALIASES:
            await client.indices.refresh(index=alias)
            answer = await client.search(index=alias, size=10_000)
            found |= {f"{alias} {hit['_id']}": hit["_source"] for hit in answer["hits"]["hits"]}
        return found


async def test_poison_is_listed_shown_replayed_and_dropped(shop: ShopClient, native: Stack) -> None:
    poison = f"poison-{secrets.token_hex(4)}"
    before = len(audited(native))

    async def listed(*more: str) -> str:
        return await run(native, "parked", "list", "--consumer", "search", *more)

    async with connected(amqp(native.profile, "admin"), "test") as connection:
        exchange = await (await confirming(connection)).get_exchange("stock.events")
        body = aio_pika.Message(b"{no json", content_type=CONTENT_TYPE, message_id=poison)
        await publish(exchange, body, "stock.changed.v1")

    await until(listed, lambda text: poison in text)
    assert poison not in await listed("--reason", "exhausted")
    assert poison not in await listed("--owner", "catalog")
    shown = await run(native, "parked", "show", poison)
    assert "{no json" in shown
    assert "malformed" in shown

    assert "1 sent back" in await run(native, "parked", "replay", poison, "--consumer", "search")
    # nothing has healed it, so it comes to lie there again
    await until(listed, lambda text: poison in text)
    assert "1 dropped" in await run(native, "parked", "drop", poison, "--consumer", "search")
    assert poison not in await listed()
    deeds = [(line["deed"], line["id"]) for line in audited(native)[before:]]
    assert [("parked replay", poison), ("parked drop", poison)] == deeds
    # who sold and searched meanwhile did not notice
    sku = await shop.put_product()
    assert "confirmed" == (await shop.ended(await shop.order((sku, 1))))["status"]


async def test_nothing_is_dropped_unless_it_is_said_what(native: Stack) -> None:
    with pytest.raises(AssertionError, match="say which"):
        await run(native, "parked", "drop")


async def test_events_are_sent_again_to_one_consumer(
    shop: ShopClient, native: Stack, stack: Any
) -> None:
    sku = await shop.put_product(stock=7)
    before = await documents(stack)
    ends = {owner: await shop.end_of(owner) for owner in ("catalog", "stock", "checkout")}
    arguments = ("--owner", "stock", "--to", "search", "--type", "stock.changed.*")
    told = await run(native, "events", "replay", *arguments, "--from", "first")

    assert int(told.split(" events sent")[0].split()[-1]) > 0
    assert "events replay" == audited(native)[-1]["deed"]
    await until(lambda: ready(native, "search.stock"), lambda count: count == 0)
    assert before == await documents(stack)
    assert (await shop.found(sku))[0]["in_stock"]
    # nobody else heard of it
    assert ends == {owner: await shop.end_of(owner) for owner in ends}


async def ready(native: Stack, queue: str) -> int:
    async with connected(amqp(native.profile, "admin"), "test") as connection:
        declared = await (await connection.channel()).declare_queue(queue, passive=True)
        return declared.declaration_result.message_count or 0


async def test_a_search_index_that_was_deleted_is_rebuilt_as_it_was(
    shop: ShopClient, native: Stack, stack: Any
) -> None:
    skus = [await shop.put_product(name="Rebuilt", stock=n) for n in range(3)]
    await shop.ended(await shop.order((skus[2], 1)))
    await until(lambda: documents(stack), lambda seen: seen[f"offers {skus[2]}"]["available"] == 1)
    before = await documents(stack)
    async with AsyncElasticsearch(stack.elasticsearch_url) as client:
        for alias in ALIASES:
            for index in await client.indices.get_alias(name=alias):
                await client.indices.delete(index=index)

    told = await run(native, "rebuild", "search")

    assert "rebuilt" in told
    assert before == await documents(stack)
    assert {"rebuild search"} == {audited(native)[-1]["deed"]}
    # and the worker goes on with it
    await shop.send("PUT", f"/api/products/{skus[1]}/stock", {"stock": 0, "action": "set"})
    await until(lambda: shop.found(skus[1], in_stock="true"), lambda hits: not hits)


@asynccontextmanager
async def traced(shop: ShopClient, native: Stack, *names: str) -> AsyncIterator[Path]:
    """These processes write their spans into the file, until they are started again."""
    folder = native.profile.folder("traces")
    file = folder / f"{secrets.token_hex(4)}.jsonl"
    file.touch()
    give(folder)
    await asyncio.to_thread(native.stop, *names)
    await asyncio.to_thread(native.start, list(names), env={"SHOP_TRACE_FILE": str(file)})
    try:
        await shop.reachable()
        yield file
    finally:
        await asyncio.to_thread(native.stop, *names)
        await asyncio.to_thread(native.start, list(names))
        file.unlink()
        await shop.reachable()


def spans(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


async def test_one_trace_runs_from_the_request_to_the_last_consumer(
    shop: ShopClient, native: Stack
) -> None:
    sku = await shop.put_product(stock=5)
    names = [
        *("checkout-api", "checkout-relay", "checkout-worker"),
        *("stock-relay", "stock-worker", "search-worker"),
    ]
    async with traced(shop, native, *names) as file:
        order = await shop.order((sku, 1))
        await shop.ended(order)

        async def whole() -> list[dict[str, Any]]:
            found = spans(file)
            (request,) = (
                span
                for span in found
                if span["service"] == "checkout.api"
                and span["kind"] == "server"
                and "checkout" in span["attributes"].get("http.route", "")
                and span["attributes"].get("http.request.method") == "POST"
            )
            return [span for span in found if span["trace_id"] == request["trace_id"]]

        def arrived(trace: list[dict[str, Any]]) -> bool:
            seen = {(span["service"], span["name"]) for span in trace}
            return seen >= {
                ("stock.worker", "process order.placed.v1"),
                ("checkout.worker", "process reservation.held.v1"),
                ("stock.worker", "process order.authorised.v1"),
                ("checkout.worker", "process reservation.committed.v1"),
                # the last one: what shoppers find hears that one unit is gone
                ("search.worker", "process stock.changed.v1"),
            }

        trace = await until(whole, arrived)
        # each step hangs on the one that caused it, up to the request
        ids = {span["span_id"] for span in trace}
        roots = [span for span in trace if span["parent_id"] not in ids]
        assert {"checkout.api"} == {span["service"] for span in roots}
        # the relays' spans carry many events: they are linked, and nobody's child
        linked = {
            (span["service"], span["parent_id"])
            for span in spans(file)
            if span["trace_id"] != trace[0]["trace_id"]
            and any(link["trace_id"] == trace[0]["trace_id"] for link in span["links"])
        }
        assert {("checkout.relay", ""), ("stock.relay", "")} <= linked

        # said again, it begins a trace of its own, with a link to the old one
        await run(native, "events", "replay", "--owner", "stock", "--from", "first", "--to",
                  "checkout", "--type", "reservation.held.v1")  # fmt: skip

        async def again() -> list[dict[str, Any]]:
            return [
                span
                for span in spans(file)
                if span["name"] == "process reservation.held.v1"
                and span["trace_id"] != trace[0]["trace_id"]
                and trace[0]["trace_id"] in {link["trace_id"] for link in span["links"]}
            ]

        (replayed, *_) = await until(again, bool)
        assert "" == replayed["parent_id"]


async def test_relays_and_workers_tell_how_far_they_are(shop: ShopClient, native: Stack) -> None:
    sku = await shop.put_product()
    await shop.ended(await shop.order((sku, 1)))

    async def told(process: str) -> dict[str, set[str]]:
        async with shop.http.get(native.profile.url(process, path="/metrics")) as answer:
            families = text_string_to_metric_families(await answer.text())
        return {
            family.name: {
                sample.labels.get("queue") or sample.labels.get("owner", "")
                for sample in family.samples
            }
            for family in families
        }

    async def relay() -> dict[str, set[str]]:
        return await told("stock-relay")

    async def worker() -> dict[str, set[str]]:
        return await told("checkout-worker")

    def has(names: set[str], label: str) -> Any:
        return lambda seen: all(label in seen.get(name, set()) for name in names)

    waits = {"shop_outbox_depth", "shop_outbox_age_seconds", "shop_event_publish_seconds"}
    works = {"shop_events_consumed", "shop_event_process_seconds", "shop_event_lag_seconds"}
    await until(relay, has(waits, "stock"))
    await until(worker, has(works, "checkout.stock"))
    # asked of the broker, every quarter of a minute
    await until(worker, has({"shop_queue_ready", "shop_queue_parked"}, "checkout.stock"))
