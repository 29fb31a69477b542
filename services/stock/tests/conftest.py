"""A store of this session's own keys on the real Redis, emptied for each test."""

import secrets
from collections.abc import AsyncIterator
from typing import Protocol

import pytest
from redis.asyncio import Redis

from stock.app import connect
from stock.settings import Settings
from stock.store import StockStore


class Stack(Protocol):
    redis_stock_url: str


@pytest.fixture
def settings(stack: Stack, prefix: str) -> Settings:
    """Each test has keys of its own."""
    return Settings(
        redis_url=stack.redis_stock_url,
        key_prefix=f"{prefix}{secrets.token_hex(3)}:",
        redis_timeout=10,
    )


@pytest.fixture
async def redis(settings: Settings) -> AsyncIterator[Redis]:
    client = connect(settings)
    yield client
    keys = [key async for key in client.scan_iter(f"{settings.key_prefix}*", count=1000)]
    if keys:
        await client.unlink(*keys)
    await client.aclose()


@pytest.fixture
def store(redis: Redis, settings: Settings) -> StockStore:
    return StockStore(redis, settings.key_prefix)
