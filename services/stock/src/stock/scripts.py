"""The Lua scripts: each is one atomic step, in a Redis that was filled. Knows no rule of stock."""

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from redis.asyncio import Redis, RedisCluster
from redis.exceptions import NoScriptError

import chassis.redis
from chassis.problems import Unavailable
from stock.slots import installed

Call = tuple[Sequence[str], Sequence[Any]]
"""The keys of a call, all of one hash slot, and its arguments."""


class StoreIsEmpty(Unavailable):
    """Redis has lost a partition: whoever asks waits until it was filled again."""

    slug = "stock-is-empty"

    def __init__(self) -> None:
        super().__init__("Stock's Redis is empty: run ./shop rebuild stock.")


def script_text(name: str) -> str:
    """The script with what all share in front of it; only the first line may be the shebang."""
    shared, own = ((files("stock") / f"{part}.lua").read_text() for part in ("step", name))
    return shared + own.removeprefix("#!lua")


def guarded(text: str) -> str:
    """The script, which does nothing where the last of its keys is missing."""
    first, rest = text.split("\n", 1)
    return f"{first}\n{(files('stock') / 'guard.lua').read_text()}{rest}"


class Script:
    """One script on a Redis, or on a cluster of them.

    It raises StoreIsEmpty in a partition that was not installed, unless it may run `anywhere`.
    """

    def __init__(self, redis: Redis, name: str, *, anywhere: bool = False) -> None:
        self._redis: Any = redis
        text = script_text(name)
        self._script: Any = chassis.redis.Script(redis, text if anywhere else guarded(text))
        self._anywhere = anywhere
        self._loaded = False

    async def __call__(self, keys: Sequence[str], args: Sequence[Any]) -> list[Any]:
        return self._checked(await self._script(keys=self._keys(keys), args=args))

    async def many(self, calls: Sequence[Call]) -> list[list[Any]]:
        """The replies of all calls; those of one hash slot run in order. One round trip a node."""
        replies = await self._many([(self._keys(keys), args) for keys, args in calls])
        return [self._checked(reply) for reply in replies]

    def _keys(self, keys: Sequence[str]) -> Sequence[str]:
        return keys if self._anywhere else [*keys, installed(keys[0])]

    def _checked(self, reply: list[Any]) -> list[Any]:
        if reply == ["empty"]:
            raise StoreIsEmpty
        return reply

    async def _many(self, calls: Sequence[Call]) -> list[list[Any]]:
        if isinstance(self._redis, RedisCluster):
            return await self._on_cluster(calls)
        # Left without `async with`, a pipeline of scripts keeps its connection when it fails.
        async with self._redis.pipeline(transaction=False) as pipe:
            for keys, args in calls:
                await self._script(keys=keys, args=args, client=pipe)
            replies: list[list[Any]] = await pipe.execute()
        return replies

    async def _on_cluster(self, calls: Sequence[Call]) -> list[list[Any]]:
        if not self._loaded:
            await self._load()
        replies = await self._piped(calls)
        # a node that was added, or restarted, has none of its scripts: it ran none of these
        missed = [at for at, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if missed:
            await self._load()
            again = await self._piped([calls[at] for at in missed])
            for at, reply in zip(missed, again, strict=True):
                replies[at] = reply
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies

    async def _load(self) -> None:
        await self._redis.script_load(self._script.script)
        self._loaded = True

    async def _piped(self, calls: Sequence[Call]) -> list[Any]:
        async with self._redis.pipeline(transaction=False) as pipe:
            for keys, args in calls:
                # a cluster's pipeline has no method for scripts
                pipe.execute_command("EVALSHA", self._script.sha, len(keys), *keys, *args)
            replies: list[Any] = await pipe.execute(raise_on_error=False)
        return replies
