"""Redis Cluster behind the interface of one Redis, for commands that have a key. Knows none.

An address of a cluster is `redis+cluster://user:password@host:port,host:port`. Short commands go
over one line to each node, so that one node that is away holds up nobody who asks another; all
others, and those whose slot has moved, go redis-py's way.
"""

import asyncio
from contextlib import suppress
from typing import Any, Self
from urllib.parse import unquote

from redis.asyncio import RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AskError, RedisClusterException, RedisError, TryAgainError
from redis.exceptions import ConnectionError as Unreachable
from redis.exceptions import TimeoutError as TooSlow

from chassis.line import IGNORED, SHORT, Line, Read

SCHEME = "redis+cluster://"
WAY_OUT = 10
"""How many times its turns a client may have connections to one node: pipelines need no turn."""
LOOK_SECONDS = 1.0
"""So often at most a client looks who has which slot, because somebody could not be reached."""


class Cluster(RedisCluster):
    """A client that runs each command at most once, and waits for a free connection."""

    def __init__(self, *, turns: int, patience: float, way: dict[str, Any], **options: Any) -> None:
        super().__init__(
            max_connections=turns * WAY_OUT,
            # a slot that has moved is noted by itself, and all are looked at soon
            reinitialize_steps=0,
            **way,
            **options,
        )
        self._turns = asyncio.Semaphore(turns)
        self._patience = patience
        self._way = way
        self._lines: dict[str, Line] = {}
        self._read: dict[str, Read | None] = {
            name: self.response_callbacks.get(name) for name in SHORT
        }
        self._looking: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Connect when first asked, as to one Redis: a cluster that is away is no error yet."""
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking], timeout=1)
        for line in list(self._lines.values()):
            await line.aclose()
        await super().aclose()

    async def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        """As RedisCluster.execute_command, with the same errors."""
        if args[0] in self._read and kwargs.keys() <= IGNORED and (key := _key(args)) is not None:
            if not self.nodes_manager.slots_cache:
                _ = await self.initialize()
            node = self.nodes_manager.get_node_from_slot(self.keyslot(key))
            try:
                return await self._line(node).ask(args, self._read[args[0]])
            except (AskError, TryAgainError):  # the node did not run it
                self._look_soon()
            except (Unreachable, TooSlow):
                self._look_soon()
                raise
        return await self._by_turn(*args, **kwargs)

    async def ping(self, **kwargs: Any) -> bool:
        """Whether the cluster is there: one of its nodes, for others may be away."""
        return bool(await self.execute_command("PING", target_nodes="default-node", **kwargs))

    async def _by_turn(self, *args: Any, **kwargs: Any) -> Any:
        try:
            async with asyncio.timeout(self._patience):
                await self._turns.acquire()
        except TimeoutError as error:
            raise TooSlow("no connection is free") from error
        try:
            return await super().execute_command(*args, **kwargs)
        finally:
            self._turns.release()

    def _line(self, node: ClusterNode) -> Line:
        line = self._lines.get(node.name)
        if line is None:
            pool = ConnectionPool(host=node.host, port=node.port, **self._way)
            line = self._lines[node.name] = Line(pool)
        return line

    def _look_soon(self) -> None:
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())

    async def _look(self) -> None:
        """Learn who has which slot; a replica may have taken over."""
        with suppress(RedisError, RedisClusterException, OSError):
            await self.nodes_manager.initialize()
        await asyncio.sleep(LOOK_SECONDS)


def _key(args: tuple[Any, ...]) -> Any:
    """The key by which a short command finds its node; None where it has none."""
    if args[0] == "EVALSHA":
        return args[3] if int(args[2]) else None
    return args[1] if len(args) > 1 else None


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
    way = {
        "username": unquote(user) or None,
        "password": unquote(password) or None,
        "socket_timeout": timeout + patience,
        "socket_connect_timeout": timeout,
        # redis-py would run a script again whose reply was lost; where a slot has moved it
        # still asks once more, for the first node did not run it
        "retry": Retry(NoBackoff(), 0),
        "decode_responses": True,
    }
    return Cluster(turns=connections, patience=timeout, way=way, startup_nodes=nodes)
