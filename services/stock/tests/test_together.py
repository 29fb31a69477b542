"""Reads that share a pipeline answer as each alone would."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as Unreachable
from redis.exceptions import ResponseError

from stock.together import MOST, Reads

pytestmark = pytest.mark.connected


@pytest.fixture
async def redis(stack: Any, prefix: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(stack.redis_stock_url, decode_responses=True) as redis:
        yield redis
        async for key in redis.scan_iter(f"{prefix}together:*"):
            await redis.delete(key)


async def test_each_gets_its_own_answer(redis: Redis, prefix: str) -> None:
    count = MOST * 2 + 1
    pipe = redis.pipeline()
    for n in range(count):
        pipe.hset(f"{prefix}together:{n}", "a", n)
    await pipe.execute()
    reads = Reads(redis)

    found = await asyncio.gather(
        *(reads.hmget(f"{prefix}together:{n}", ("a", "b")) for n in range(count))
    )

    assert [[str(n), None] for n in range(count)] == found


async def test_an_error_is_told_to_the_one_whose_it_is(redis: Redis, prefix: str) -> None:
    await redis.set(f"{prefix}together:text", "no hash")
    reads = Reads(redis)

    wrong, right = await asyncio.gather(
        reads.hmget(f"{prefix}together:text", ("a",)),
        reads.hmget(f"{prefix}together:none", ("a",)),
        return_exceptions=True,
    )

    assert isinstance(wrong, ResponseError)
    assert [None] == right


async def test_one_who_gives_up_takes_nobody_along(redis: Redis, prefix: str) -> None:
    reads = Reads(redis)
    gone = asyncio.create_task(reads.hmget(f"{prefix}together:1", ("a",)))
    stays = asyncio.create_task(reads.hmget(f"{prefix}together:2", ("a",)))
    await asyncio.sleep(0)
    gone.cancel()

    assert [None] == await stays


async def test_all_are_told_when_redis_is_away_and_the_next_ask_again() -> None:
    async with Redis(port=1) as redis:
        reads = Reads(redis)
        for _ in range(2):
            found = await asyncio.gather(
                *(reads.hmget(f"k{n}", ("a",)) for n in range(3)), return_exceptions=True
            )
            assert [Unreachable] * 3 == [type(error) for error in found]
