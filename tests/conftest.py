"""The whole shop as its users meet it: every process running, reached through the edge."""

import asyncio
import fcntl
import os
import shutil
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import sqlalchemy as sa
from elasticsearch import AsyncElasticsearch
from playwright.async_api import Browser, async_playwright
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import create_async_engine

from bus.broker import connected
from shop.client import ShopClient
from shop.servers import OWNERS, mariadb_url
from shop.services import prepare
from shop.stack import Stack
from shop_contracts.topology import TOPOLOGY

PROFILE = os.environ.get("SHOP_TEST_PROFILE", "test")
"""The stack to which SHOP_STACK_FILE belongs."""

CHROMIUM = "/usr/bin/chromium"
QUIET = ["--no-sandbox", "--disable-background-networking", "--disable-component-update"]


@pytest.fixture(scope="session")
async def native(stack: Any) -> AsyncIterator[Stack]:
    """The processes of the shop, begun with empty stores and stopped at the end."""
    native = Stack.open(PROFILE)
    # there is one shop per stack: two runs take turns
    with (native.profile.var / "tests.lock").open("w") as turn:
        await asyncio.to_thread(fcntl.flock, turn, fcntl.LOCK_EX)
        ours = [process.name for process in prepare(native.profile, mariadb=native.mariadb)]
        native.stop(*ours)
        await _empty(stack, native)
        native.start()
        yield native
        native.stop(*ours)


@pytest.fixture(scope="session")
async def shop(native: Stack) -> AsyncIterator[ShopClient]:
    async with ShopClient.open(native.profile) as client:
        await client.reachable()
        yield client


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        await browser.close()


async def _drop_tables(native: Stack) -> None:
    if not native.mariadb:
        return
    for owner in OWNERS:
        engine = create_async_engine(mariadb_url(native.profile, owner, owner))
        async with engine.begin() as connection:
            await connection.execute(sa.text("SET FOREIGN_KEY_CHECKS = 0"))
            for (table,) in (await connection.execute(sa.text("SHOW TABLES"))).all():
                await connection.execute(sa.text(f"DROP TABLE `{table}`"))
        await engine.dispose()


async def _empty(stack: Any, native: Stack) -> None:
    for url in (stack.redis_stock_url, stack.redis_carts_url):
        async with Redis.from_url(url) as redis:
            await redis.flushall()
    async with AsyncElasticsearch(stack.elasticsearch_url) as client:
        for pattern in ("catalog-*", "search-*"):
            for index in await client.indices.get(index=pattern):
                await client.indices.delete(index=index)
    kept = ("checkout/checkout.sqlite*", "stock/stock.sqlite*")
    for file in (file for each in kept for file in native.profile.var.glob(each)):
        file.unlink()
    await _drop_tables(native)
    for file in native.profile.folder("payments").glob("journal.ndjson"):
        file.unlink()
    for service in ("catalog", "stock"):
        for job in list(native.profile.folder(service).rglob("job.json")):
            # a job's folder without its job.json would end the worker that looks for the next one
            shutil.rmtree(job.parent)
    await _empty_broker(stack, native)


async def _empty_broker(stack: Any, native: Stack) -> None:
    """Empty every queue; a stream cannot be emptied, so it is made anew."""
    broker_url = urlsplit(stack.amqp_url)._replace(path="/shop").geturl()
    async with connected(broker_url, "tests") as connection:
        channel = await connection.channel()
        for spec in TOPOLOGY.queues:
            if spec.arguments["x-queue-type"] == "stream":
                await channel.queue_delete(spec.name)
        await asyncio.to_thread(native.deploy)
        for spec in TOPOLOGY.queues:
            if spec.arguments["x-queue-type"] == "quorum":
                await (await channel.get_queue(spec.name)).purge()
