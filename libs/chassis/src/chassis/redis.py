"""Redis for services: a command runs at most once, and short ones of a moment leave together.

Most of what a small command costs redis-py is its way: a connection from the pool, a write, a read
and a time-out for it alone. Here all that is asked for in one turn of the loop leaves in one write,
on one connection, whose replies come in the order of the commands. What waits inside Redis, may
bring much or needs a connection to itself (a blocking read, a pipeline) goes redis-py's own way.
Knows no key.
"""

from typing import Any, cast

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.commands.core import AsyncScript
from redis.exceptions import NoScriptError, RedisClusterException, RedisError

from chassis import telemetry
from chassis.cluster import cluster, is_cluster
from chassis.line import IGNORED, SHORT, Line, Read

FAILED = (RedisError, RedisClusterException, OSError)
"""Errors of a Redis, or of a cluster of them, that did not do what was asked."""


def connect(url: str, *, connections: int, timeout: float, patience: float = 0) -> Redis:
    """A client that decodes replies and runs each command at most once.

    Connecting, a free connection and a reply may each take `timeout` seconds, a reply `patience`
    seconds more: what blocks inside Redis needs them. Where the address is a cluster's, so is the
    client: it does the same commands, as long as all keys of one are in one hash slot.
    """
    if is_cluster(url):
        client = cast(
            "Redis", cluster(url, connections=connections, timeout=timeout, patience=patience)
        )
        telemetry.instrument_redis(client)
        return client
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=connections,
        timeout=timeout,
        socket_timeout=timeout + patience,
        socket_connect_timeout=timeout,
        # redis-py would run a script again whose reply was lost.
        retry=Retry(NoBackoff(), 0),
        decode_responses=True,
    )
    client = Together.from_pool(pool)
    telemetry.instrument_redis(client)
    return client


class Together(Redis):
    """A `redis.asyncio.Redis` whose short commands share a connection; made by `connect`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._line = Line(self.connection_pool)
        self._read: dict[str, Read | None] = {
            name: self.response_callbacks.get(name) for name in SHORT
        }

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """As Redis.execute_command, with the same errors."""
        if args[0] in self._read and options.keys() <= IGNORED:
            return await self._line.ask(args, self._read[args[0]])
        return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]

    async def aclose(self, close_connection_pool: bool | None = None) -> None:  # noqa: FBT001 -- as redis-py has it
        await self._line.aclose()
        await super().aclose(close_connection_pool)


class Script(AsyncScript):
    """A Lua script, sent by its digest, and whole to a Redis that does not know it."""

    async def __call__(self, keys: Any = None, args: Any = None, client: Any = None) -> Any:
        """As AsyncScript, with the same errors."""
        if client is not None:
            return await super().__call__(keys, args, client)
        redis: Any = self.registered_client
        keys, args = keys or (), args or ()
        try:
            return await redis.execute_command("EVALSHA", self.sha, len(keys), *keys, *args)
        except NoScriptError:
            # loaded first and then run, it could meet a Redis that has restarted in between
            return await redis.eval(self.script, len(keys), *keys, *args)
