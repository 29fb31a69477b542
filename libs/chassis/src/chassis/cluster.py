"""Redis Cluster behind the interface of one Redis, for commands that have a key. Knows none.

An address of a cluster is `redis+cluster://user:password@host:port,host:port`.
"""

import asyncio
from typing import Any, Self
from urllib.parse import unquote

from redis.asyncio import RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import TimeoutError as TooSlow

SCHEME = "redis+cluster://"
WAY_OUT = 10
"""How many times its turns a client may have connections to one node: pipelines need no turn."""


class Cluster(RedisCluster):
    """A client that runs each command at most once, and waits for a free connection."""

    def __init__(self, *, turns: int, patience: float, **options: Any) -> None:
        super().__init__(
            max_connections=turns * WAY_OUT,
            # redis-py would run a script again whose reply was lost; where a slot has moved it
            # still asks once more, for the first node did not run it
            retry=Retry(NoBackoff(), 0),
            decode_responses=True,
            **options,
        )
        self._turns = asyncio.Semaphore(turns)
        self._patience = patience

    async def __aenter__(self) -> Self:
        """Connect when first asked, as to one Redis: a cluster that is away is no error yet."""
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        """As RedisCluster.execute_command, but for its turn."""
        try:
            async with asyncio.timeout(self._patience):
                await self._turns.acquire()
        except TimeoutError as error:
            raise TooSlow("no connection is free") from error
        try:
            return await super().execute_command(*args, **kwargs)
        finally:
            self._turns.release()

    async def ping(self, **kwargs: Any) -> bool:
        """Whether the cluster is there: one of its nodes, for others may be away."""
        return bool(await self.execute_command("PING", target_nodes="default-node", **kwargs))


def is_cluster(url: str) -> bool:
    """Whether the address is one of a cluster."""
    return url.startswith(SCHEME)


def cluster(url: str, *, connections: int, timeout: float, patience: float) -> Cluster:
    """A client of the cluster; a reply may take `timeout` + `patience` seconds."""
    login, _, hosts = url.removeprefix(SCHEME).partition("/")[0].rpartition("@")
    user, _, password = login.partition(":")
    nodes = []
    for place in hosts.split(","):
        host, _, port = place.rpartition(":")
        nodes.append(ClusterNode(host.strip("[]"), int(port)))
    return Cluster(
        turns=connections,
        patience=timeout,
        startup_nodes=nodes,
        username=unquote(user) or None,
        password=unquote(password) or None,
        socket_timeout=timeout + patience,
        socket_connect_timeout=timeout,
    )
