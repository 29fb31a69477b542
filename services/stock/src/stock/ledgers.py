"""Hears from the ledger which SKUs moved, as they move. Takes nothing out of it; knows no HTTP.

Every process reads the ledger by itself, so there may be any number of them; whoever changes stock
does nothing more than write the ledger, as always.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from stock.domain import Level, level
from stock.store import StockStore, UnknownSku

BLOCK_MILLISECONDS = 1_000
RETRY_SECONDS = 0.5
PAGE = 1_000
AT_ONCE = 8

_log = structlog.stdlib.get_logger(__name__)


class Ledgers:
    """What moves in the ledgers; `redis` waits longer than `BLOCK_MILLISECONDS` for a reply."""

    def __init__(self, redis: Redis, store: StockStore, keys: Sequence[str]) -> None:
        self._redis: Any = redis
        self._store = store
        self._keys = keys

    async def moved(self) -> AsyncGenerator[set[str] | None]:
        """The SKUs that moved since the last look, often none; None when some may be missed."""
        places: dict[str, str] = {}
        while True:
            try:
                if not places:
                    places = {key: await self._end(key) for key in self._keys}
                    yield None
                yield await self._page(places)
            except (RedisError, OSError) as error:
                _log.warning("the ledger cannot be followed", error=type(error).__name__)
                # it may have been trimmed, or be another one, when it can be read again
                places = {}
                await asyncio.sleep(RETRY_SECONDS)

    async def levels(self, skus: Iterable[str]) -> list[Level]:
        """The units of each SKU now; one of which nothing is known has version 0."""
        turn = asyncio.Semaphore(AT_ONCE)

        async def one(sku: str) -> Level:
            async with turn:
                try:
                    return await self._store.level(sku)
                except UnknownSku:
                    return level(sku, 0, 0, 0)

        return await asyncio.gather(*map(one, skus))

    async def _end(self, key: str) -> str:
        last = await self._redis.xrevrange(key, count=1)
        return last[0][0] if last else "0"

    async def _page(self, places: dict[str, str]) -> set[str]:
        found: set[str] = set()
        wait: int | None = BLOCK_MILLISECONDS
        while streams := await self._redis.xread(places, count=PAGE, block=wait):
            for key, entries in streams:
                places[key] = entries[-1][0]
                found |= {fields["sku"] for _, fields in entries}
            if all(len(entries) < PAGE for _, entries in streams):
                break
            wait = None
        return found
