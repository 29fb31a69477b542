"""The composition root: the only module that opens connections, and closes them again."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import msgspec
import structlog
from aiohttp import web
from elasticsearch import AsyncElasticsearch

from bus.consumer import consume_batches
from chassis import settings
from chassis.http import application
from chassis.problems import Unavailable
from chassis.process import run_until_stopped, serve
from search import api as http
from search import pages
from search.settings import Settings
from search.store import STORE, SearchStore
from search.worker import HANDLERS
from search.worker import rebuild as rebuild_

log = logging.getLogger(__name__)

ASK_SECONDS = 5.0
WRITE_SECONDS = 30.0
PREPARE_AGAIN_SECONDS = 1.0


@asynccontextmanager
async def opened(config: Settings, seconds: float) -> AsyncIterator[SearchStore]:
    """The store, with a client that waits `seconds` for each answer and leaves retries to us."""
    # one line per call tells nothing that our own spans and metrics do not
    logging.getLogger("elastic_transport").setLevel(logging.WARNING)
    client = AsyncElasticsearch(
        config.elasticsearch_url.split(","), request_timeout=seconds, max_retries=0
    )
    try:
        yield SearchStore(client, config.index_prefix, config.currency)
    finally:
        await client.close()


def web_application(store: SearchStore) -> web.Application:
    """The API and the pages on an open store."""
    app = application(
        name="search",
        routes=[*http.ROUTES, *pages.ROUTES],
        checks=[("elasticsearch", store.ready)],
    )
    app[STORE] = store
    return app


async def api() -> None:
    """Answer searches; without an index that is 503."""
    config = settings.load(Settings, prefix="SEARCH_")
    async with opened(config, ASK_SECONDS) as store, asyncio.TaskGroup() as group:
        preparing = group.create_task(prepared(store))
        await serve(web_application(store), config.host, config.port)
        preparing.cancel()


async def worker() -> None:
    """Follow the events of the owners."""
    config = settings.load(Settings, prefix="SEARCH_")
    async with opened(config, WRITE_SECONDS) as store:
        await run_until_stopped(
            follow(config.broker_url, store, config.queue_partitions),
            health=(config.host, config.worker_port),
            checks=[("elasticsearch", store.ready)],
        )


async def rebuild() -> None:
    """Make the read model again, and say what came of it."""
    config = settings.load(Settings, prefix="SEARCH_")
    name = f"{datetime.now(UTC):%Y%m%dt%H%M%S}"
    async with opened(config, WRITE_SECONDS) as store:
        rebuilt = await rebuild_(config.broker_url, store, name)
    structlog.stdlib.get_logger(__name__).info("rebuilt", **msgspec.structs.asdict(rebuilt))


async def prepared(store: SearchStore) -> None:
    """Return when the indices stand. Whoever comes first makes them."""
    while True:
        try:
            return await store.prepare()
        except Unavailable:
            log.warning("waiting for Elasticsearch")
            await asyncio.sleep(PREPARE_AGAIN_SECONDS)


async def follow(broker_url: str, store: SearchStore, partitions: int = 0) -> None:
    """Project what arrives, for as long as the task lives."""
    await prepared(store)
    async with asyncio.TaskGroup() as group:
        for owner, handler in HANDLERS.items():
            group.create_task(
                consume_batches(broker_url, "search", owner, handler, store, partitions=partitions)
            )
