"""The processes of catalog and their connections: nothing else opens one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NoReturn

import structlog
from aiohttp import web
from elasticsearch import AsyncElasticsearch

import bus.relay
from bus.documents import ElasticOutbox
from catalog import api as api_
from catalog import pages
from catalog import worker as worker_
from catalog.settings import PREFIX, Settings
from catalog.store import STORE, CatalogStore
from chassis import http
from chassis.problems import Unavailable
from chassis.process import run_until_stopped, serve
from chassis.settings import load

ANSWER_SECONDS = 5.0
WORK_SECONDS = 30.0
PREPARE_AGAIN_SECONDS = 1.0

_log = structlog.stdlib.get_logger(__name__)


@asynccontextmanager
async def connected(settings: Settings, seconds: float) -> AsyncIterator[AsyncElasticsearch]:
    """A client that sends each request once and waits `seconds` for its answer."""
    client = AsyncElasticsearch(
        settings.elasticsearch_url.split(","), request_timeout=seconds, max_retries=0
    )
    try:
        yield client
    finally:
        await client.close()


def application(settings: Settings) -> web.Application:
    """The HTTP side: the API and the pages. It creates the indices as soon as it can."""

    async def elasticsearch() -> None:
        await app[STORE].check()

    async def store(app: web.Application) -> AsyncIterator[None]:
        async with connected(settings, ANSWER_SECONDS) as client:
            app[STORE] = CatalogStore(client, settings.index_prefix)
            preparing = asyncio.create_task(prepared(app[STORE]))
            yield
            preparing.cancel()

    app = http.application(
        name="catalog",
        routes=[*api_.ROUTES, *pages.ROUTES],
        api_keys_file=settings.api_keys_file,
        checks=[("elasticsearch", elasticsearch)],
        description="Products, variants and categories.",
    )
    app[api_.SPOOL] = settings.spool_dir
    app.middlewares.append(api_.feed_problems)
    app.cleanup_ctx.append(store)
    return app


async def prepared(store: CatalogStore) -> None:
    """Create the indices, however long it takes until Elasticsearch answers."""
    while True:
        try:
            return await store.prepare()
        except Unavailable:
            _log.warning("the indices are not there yet, and Elasticsearch does not answer")
            await asyncio.sleep(PREPARE_AGAIN_SECONDS)


async def api() -> None:
    settings = load(Settings, PREFIX)
    await serve(application(settings), settings.host, settings.port)


async def worker() -> None:
    settings = load(Settings, PREFIX)
    async with connected(settings, WORK_SECONDS) as client:
        store = CatalogStore(client, settings.index_prefix)
        await run_until_stopped(
            imports(store, settings),
            health=(settings.host, settings.worker_port),
            checks=[("elasticsearch", store.check)],
        )


async def imports(store: CatalogStore, settings: Settings) -> NoReturn:
    await prepared(store)
    await worker_.carry_imports(store, settings.spool_dir)


async def relay() -> None:
    settings = load(Settings, PREFIX)
    async with connected(settings, WORK_SECONDS) as client:
        store = CatalogStore(client, settings.index_prefix)
        await run_until_stopped(
            publishing(store, client, settings),
            health=(settings.host, settings.relay_port),
            checks=[("elasticsearch", store.check)],
        )


async def publishing(
    store: CatalogStore, client: AsyncElasticsearch, settings: Settings
) -> NoReturn:
    await prepared(store)
    outbox = ElasticOutbox(client, store.names.with_events)
    await bus.relay.relay(settings.broker_url, "catalog", outbox)
