"""The composition root of the purger: the only module that opens connections."""

from collections.abc import Sequence

import aiohttp
from msgspec import Struct

from bus.consumer import consume_batches
from chassis import settings
from chassis.process import run_until_stopped
from purger.cache import Cache
from purger.domain import Shown, keys
from purger.settings import Settings
from shop_contracts.envelope import Event
from shop_contracts.events.base import Fact
from shop_contracts.topology import READS


class Purger(Struct, frozen=True):
    """The cache, and what its pages show."""

    cache: Cache
    shown: Shown


async def purge(purger: Purger, events: Sequence[Event[Fact]]) -> None:
    """Forget the pages that a batch made wrong, each once."""
    await purger.cache.purge(keys(purger.shown, events))


async def worker() -> None:
    """Follow every owner's events for as long as the process lives."""
    config = settings.load(Settings, prefix="PURGER_")
    async with aiohttp.ClientSession() as http:
        context = Purger(Cache(http, config.purge_url), Shown())
        await run_until_stopped(
            *(
                consume_batches(
                    *(config.broker_url, "purger", owner, purge, context),
                    partitions=config.queue_partitions,
                )
                for owner in READS["purger"]
            ),
            health=(config.host, config.worker_port),
        )
