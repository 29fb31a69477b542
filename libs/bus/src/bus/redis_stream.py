"""The outbox in Redis: streams that Lua scripts append to in the step that changes the state.

The script writes flat string fields; the owner's `build` makes the event of them, so that JSON is
written in one place and in one way. A fact that is sent in several majors is one entry: it leaves
the stream when all its events are confirmed.

There is one stream for each partition of the owner's keys. Whatever must stay in order, all events
of one subject, stands in one of them.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from redis.asyncio import Redis

from bus.outbox import Entry
from shop_contracts.envelope import Event
from shop_contracts.events.base import Fact
from shop_contracts.majors import sent_as

BLOCK_MILLISECONDS = 1_000


class RedisOutbox:
    """Entries of the streams `keys`. `redis` decodes responses and waits longer than a second.

    With `apart`, each stream is waited for by itself: no command of a cluster reads two slots.
    """

    def __init__(
        self,
        redis: Redis,
        *keys: str,
        build: Callable[[dict[str, str]], Event[Fact]],
        apart: bool = False,
    ) -> None:
        self._redis: Any = redis  # its type is that of every reply, sync and async at once
        self._keys = keys
        self._build = build
        self._groups = [[key] for key in keys] if apart else [list(keys)]
        self._waiting: list[asyncio.Task[bool]] = []
        self._flowing = False

    async def pending(self, limit: int, behind: Sequence[Entry] = ()) -> Sequence[Entry]:
        found: Sequence[Entry] = ()
        # while events keep coming, they are read without a wait before
        if behind or self._flowing:
            found = await self._oldest(limit, behind)
        if not found and not behind and await self._some():
            found = await self._oldest(limit)
        self._flowing = bool(found)
        return found

    async def _oldest(self, limit: int, behind: Sequence[Entry] = ()) -> Sequence[Entry]:
        most = max(1, limit // len(self._keys))
        # the last one of each stream stays
        last = dict(entry.ref for entry in behind if entry.ref is not None)
        found = await asyncio.gather(
            *(
                self._redis.xrange(key, min=_next(last[key]) if key in last else "-", count=most)
                for key in self._keys
            )
        )
        # entries are settled in order, so the last event of a fact carries the fact's entry
        return [
            Entry.of((key, id_) if event is events[-1] else None, event)
            for key, entries in zip(self._keys, found, strict=True)
            for id_, fields in entries
            if (events := sent_as(self._build(fields)))
            for event in events
        ]

    async def settle(self, entries: Sequence[Entry]) -> None:
        done: dict[str, list[str]] = {}
        for key, id_ in (entry.ref for entry in entries if entry.ref is not None):
            done.setdefault(key, []).append(id_)
        await asyncio.gather(*(self._redis.xdel(key, *ids) for key, ids in done.items()))

    async def waiting(self) -> tuple[int, datetime | None]:
        depths = await asyncio.gather(*(self._redis.xlen(key) for key in self._keys))
        firsts = await asyncio.gather(*(self._redis.xrange(key, count=1) for key in self._keys))
        # the id of an entry begins with the millisecond in which it was added
        times = [int(first[0][0].partition("-")[0]) for first in firsts if first]
        since = datetime.fromtimestamp(min(times) / 1000, UTC) if times else None
        return sum(depths), since

    async def _some(self) -> bool:
        """Whether there are entries, after a wait for some that ends in any case."""
        if len(self._groups) == 1:
            return await self._in(self._groups[0])
        if not self._waiting:
            self._waiting = [self._wait(group) for group in self._groups]
        # A read that blocks is left to end by itself: to cancel it costs a connection.
        try:
            await asyncio.wait(self._waiting, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            for task in self._waiting:
                task.cancel()
            await asyncio.gather(*self._waiting, return_exceptions=True)
            raise
        done = [task for task in self._waiting if task.done()]
        self._waiting = [
            self._wait(group) if task.done() else task
            for task, group in zip(self._waiting, self._groups, strict=True)
        ]
        found = [task.result() for task in done]  # of each: an error of one is not to be missed
        return any(found)

    def _wait(self, group: list[str]) -> asyncio.Task[bool]:
        waiting = asyncio.create_task(self._in(group))
        # at the end of the process nobody asks what became of it
        waiting.add_done_callback(lambda task: task.cancelled() or task.exception())
        return waiting

    async def _in(self, group: list[str]) -> bool:
        # settled entries are deleted, so the oldest one left is always the next to go
        ends = dict.fromkeys(group, "0")
        return bool(await self._redis.xread(ends, count=1, block=BLOCK_MILLISECONDS))


def _next(id_: str) -> str:
    """The lowest id that an entry behind this one may have."""
    millisecond, _, number = id_.partition("-")
    return f"{millisecond}-{int(number) + 1}"
