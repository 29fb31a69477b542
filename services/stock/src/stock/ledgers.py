"""Hears from the ledger which SKUs moved, as they move. Takes nothing out of it; knows no HTTP.

Every process reads the ledger by itself, so there may be any number of them; whoever changes stock
does nothing more than write the ledger, as always.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import suppress
from typing import Any, NoReturn

import structlog
from redis.asyncio import Redis

from chassis.redis import FAILED
from stock.domain import Level, level
from stock.store import StockStore
from stock.store.problems import UnknownSku

BLOCK_MILLISECONDS = 1_000
RETRY_SECONDS = 0.5
PAGE = 1_000
AT_ONCE = 8

_log = structlog.stdlib.get_logger(__name__)


class Ledgers:
    """What moves in the ledgers; `redis` waits longer than `BLOCK_MILLISECONDS` for a reply.

    With `apart`, each ledger is read by itself: no command of a cluster reads from two slots.
    """

    def __init__(
        self, redis: Redis, store: StockStore, keys: Sequence[str], *, apart: bool = False
    ) -> None:
        self._redis: Any = redis
        self._store = store
        self._groups = [[key] for key in keys] if apart else [list(keys)]

    async def moved(self) -> AsyncGenerator[set[str] | None]:
        """The SKUs that moved since the last look, often none; None when some may be missed."""
        news = _News()
        readers = [asyncio.create_task(self._read(group, news)) for group in self._groups]
        try:
            while True:
                yield await news.take()
                for reader in readers:
                    if reader.done():
                        reader.result()
        finally:
            # a client of Redis that is just connecting may swallow a cancellation
            while left := [reader for reader in readers if not reader.done()]:
                for reader in left:
                    reader.cancel()
                await asyncio.wait(left, timeout=1)

    async def _read(self, keys: Sequence[str], news: "_News") -> NoReturn:
        places: dict[str, str] = {}
        while True:
            try:
                if not places:
                    places = {key: await self._end(key) for key in keys}
                    news.tell(None)
                news.tell(await self._page(places))
            except FAILED as error:
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
                    return await self._store.quantities.level(sku)
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
                found |= {fields["sku"] for _, fields in entries if "sku" in fields}
            if all(len(entries) < PAGE for _, entries in streams):
                break
            wait = None
        return found


class _News:
    """What readers found and nobody has taken yet."""

    def __init__(self) -> None:
        self._moved: set[str] | None = set()
        self._some = asyncio.Event()

    def tell(self, moved: set[str] | None) -> None:
        self._moved = None if moved is None or self._moved is None else self._moved | moved
        if moved is None or moved:
            self._some.set()

    async def take(self) -> set[str] | None:
        """What there is, after a wait for something that ends in any case."""
        with suppress(TimeoutError):
            async with asyncio.timeout(BLOCK_MILLISECONDS / 1000):
                await self._some.wait()
        self._some.clear()
        moved, self._moved = self._moved, set()
        return moved
