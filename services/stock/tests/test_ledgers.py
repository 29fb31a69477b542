"""Hearing from the ledgers which SKUs moved, on the real Redis."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis

from stock.app import connect
from stock.ledgers import Ledgers
from stock.settings import Settings
from stock.store import StockStore

pytestmark = [pytest.mark.connected, pytest.mark.one_partition]


async def hear(moved: Any, *wanted: str | None) -> None:
    """Return when all of these were told; None is "any of them"."""
    left = set(wanted)
    async with asyncio.timeout(30):
        while left:
            told = await anext(moved)
            left -= {None} if told is None else told


@pytest.mark.parametrize("apart", [False, True])
async def test_every_ledger_is_heard_and_what_stood_before_is_not_told(
    redis: Redis, settings: Settings, store: StockStore, apart: bool
) -> None:
    keys = [f"{settings.key_prefix}{{s{n}}}:ledger" for n in range(3)]
    await redis.xadd(keys[0], {"sku": "old"})
    told: set[str] = set()
    async with (
        connect(settings, patience=1) as client,
        aclosing(Ledgers(client, store, keys, apart=apart).moved()) as moved,
        asyncio.timeout(30),
    ):
        await hear(moved, None)
        for n, key in enumerate(keys):
            while f"new-{n}" not in told:  # its reader may have begun after the first
                await redis.xadd(key, {"sku": f"new-{n}"})
                heard = await anext(moved)
                told |= heard or set()

    assert {"new-0", "new-1", "new-2"} == told


async def test_after_redis_was_away_any_sku_may_have_moved(
    redis_server: Callable[..., Any], settings: Settings
) -> None:
    server = redis_server()
    own = msgspec.structs.replace(settings, redis_url=server.url, redis_timeout=1)
    async with connect(own, patience=1) as client:
        ledgers = Ledgers(client, StockStore(client), ["ledger"])
        async with aclosing(ledgers.moved()) as moved, connect(own) as writer:
            await hear(moved, None)
            server.kill()
            server.start()
            await hear(moved, None)
            await writer.xadd("ledger", {"sku": "chair"})
            await hear(moved, "chair")
