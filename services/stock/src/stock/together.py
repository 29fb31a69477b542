"""Reads that are asked for while others are on their way leave together. Knows no key.

redis-py spends most of a small read on the command's own way: a connection, a write, a reply. Here
one pipeline is under way at a time, and what is asked for meanwhile shares the next one.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis

MOST = 500
"""Reads in one pipeline: the loop must not be held by the parsing of its replies."""


class Reads:
    """Reads hashes of one Redis."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._asked: list[tuple[str, Sequence[str], asyncio.Future[Any]]] = []
        self._task: asyncio.Task[None] | None = None

    async def hmget(self, key: str, fields: Sequence[str]) -> list[Any]:
        """As Redis.hmget, with the same errors."""
        reply = asyncio.get_running_loop().create_future()
        self._asked.append((key, fields, reply))
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        found: list[Any] = await reply
        return found

    async def _run(self) -> None:
        try:
            while self._asked:
                asked, self._asked = self._asked[:MOST], self._asked[MOST:]
                await self._ask(asked)
        finally:
            self._task = None
            # a task that is cancelled answers nobody: they are told now
            for _, _, reply in self._asked:
                reply.cancel()
            self._asked.clear()

    async def _ask(self, asked: list[tuple[str, Sequence[str], asyncio.Future[Any]]]) -> None:
        waiting = [reply for _, _, reply in asked]
        pipe: Any = self._redis.pipeline(transaction=False)  # its calls answer the pipe itself
        for key, fields, _ in asked:
            pipe.hmget(key, list(fields))
        try:
            found = await pipe.execute(raise_on_error=False)
        except asyncio.CancelledError:
            for reply in waiting:
                reply.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - it belongs to those who asked
            found = [error] * len(waiting)
        for reply, value in zip(waiting, found, strict=True):
            if reply.done():
                continue  # who asked has gone
            if isinstance(value, Exception):
                reply.set_exception(value)
            else:
                reply.set_result(value)
