"""The outbox in Redis: a stream that a Lua script appends to in the step that changes the state.

The script writes flat string fields; the owner's `build` makes the event of them, so that JSON is
written in one place and in one way. A fact that is sent in several majors is one entry: it leaves
the stream when all its events are confirmed.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, cast

from redis.asyncio import Redis

from bus.outbox import Entry
from shop_contracts.envelope import Event
from shop_contracts.events.base import Fact
from shop_contracts.majors import sent_as

BLOCK_MILLISECONDS = 1_000


class RedisOutbox:
    """Entries of the stream `key`. `redis` decodes responses and waits longer than a second."""

    def __init__(
        self, redis: Redis, key: str, build: Callable[[dict[str, str]], Event[Fact]]
    ) -> None:
        self._redis = redis
        self._key = key
        self._build = build

    async def pending(self, limit: int) -> Sequence[Entry]:
        # settled entries are deleted, so the oldest one left is always the next to go
        if not await self._redis.xread({self._key: "0"}, count=1, block=BLOCK_MILLISECONDS):
            return []
        entries = cast(
            "list[tuple[str, dict[str, str]]]", await self._redis.xrange(self._key, count=limit)
        )
        # entries are settled in order, so the last event of a fact carries the fact's entry
        return [
            Entry(id_ if event is events[-1] else None, event)
            for id_, fields in entries
            if (events := sent_as(self._build(fields)))
            for event in events
        ]

    async def settle(self, entries: Sequence[Entry]) -> None:
        done = [entry.ref for entry in entries if entry.ref is not None]
        if done:
            await self._redis.xdel(self._key, *done)

    async def waiting(self) -> tuple[int, datetime | None]:
        depth = int(await self._redis.xlen(self._key))
        oldest = cast("list[tuple[str, Any]]", await self._redis.xrange(self._key, count=1))
        # the id of an entry begins with the millisecond in which it was added
        since = (
            datetime.fromtimestamp(int(oldest[0][0].partition("-")[0]) / 1000, UTC)
            if oldest
            else None
        )
        return depth, since
