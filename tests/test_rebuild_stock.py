"""A shop whose stock has lost its Redis sells on from what the journal knows."""

import asyncio
from typing import Any

import pytest
import sqlalchemy as sa
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import create_async_engine

from shop import rebuild
from shop.client import ShopClient, until
from shop.services import database_url
from shop.stack import Stack
from stock import tables

pytestmark = [pytest.mark.connected, pytest.mark.long]


async def state(redis: Any) -> dict[str, Any]:
    """Units, prices, holds and their indices."""
    found: dict[str, Any] = {}
    async for key in redis.scan_iter("{s*}:*", count=1000):
        kind = await redis.type(key)
        if kind == "hash":
            found[key] = await redis.hgetall(key)
        elif kind == "zset":
            found[key] = await redis.zrange(key, 0, -1, withscores=True)
    return found


async def journalled(redis: Any, native: Stack) -> bool:
    engine = create_async_engine(database_url(native.profile, "stock", mariadb=native.mariadb))
    try:
        async with engine.connect() as connection:
            cursors = (await connection.execute(sa.select(tables.cursors))).all()
    finally:
        await engine.dispose()
    for row in cursors:
        last = await redis.xrevrange(f"{{s{row.slot}}}:ledger", count=1)
        if last[0][0] != row.ledger or await redis.xlen(f"{{s{row.slot}}}:outbox"):
            return False
    return bool(cursors)


async def test_an_emptied_redis_is_filled_again_and_the_shop_sells_on(
    native: Stack, shop: ShopClient, stack: Any
) -> None:
    sku = await shop.put_product(stock=5)
    assert "confirmed" == (await shop.ended(await shop.order((sku, 2))))["status"]
    async with Redis.from_url(stack.redis_stock_url, decode_responses=True) as redis:
        await until(lambda: journalled(redis, native), bool)
        # what ends by time would change what is compared
        native.stop("stock-worker")
        before = await state(redis)
        await redis.flushall()
        told: list[dict[str, Any]] = []
        await asyncio.to_thread(rebuild.run, native, "stock", told.append)

        assert before == await state(redis)
        assert "rebuilt" in [line["event"] for line in told]
    await asyncio.to_thread(native.start, ["stock-worker"])
    assert "confirmed" == (await shop.ended(await shop.order((sku, 3))))["status"]
    level = await shop.get(f"/api/products/{sku}/stock")
    assert (0, 0) == (level["available"], level["reserved"])
