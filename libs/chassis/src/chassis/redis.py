"""Redis for services: a command runs at most once, and short ones of a moment leave together.

Most of what a small command costs redis-py is its way: a connection from the pool, a write, a read
and a time-out for it alone. Here all that is asked for in one turn of the loop leaves in one write,
on one connection, whose replies come in the order of the commands. What waits inside Redis, may
bring much or needs a connection to itself (a blocking read, a pipeline) goes redis-py's own way.
Knows no key.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, cast

import hiredis
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.commands.core import AsyncScript
from redis.exceptions import ConnectionError as Unreachable
from redis.exceptions import (
    DataError,
    InvalidResponse,
    NoScriptError,
    RedisClusterException,
    RedisError,
)
from redis.exceptions import TimeoutError as TooSlow

from chassis import telemetry
from chassis.cluster import cluster, is_cluster

MOST = 10_000
"""Commands that may wait for their replies; one more is refused, as by a pool that is used up."""
FAILED = (RedisError, RedisClusterException, OSError)
"""Errors of a Redis, or of a cluster of them, that did not do what was asked."""
READ_BYTES = 256 * 1024
UNSENT_BYTES = 1024 * 1024
"""What may wait in the socket's buffer before commands are kept back."""

Read = Callable[[Any], Any]

_NOTHING = object()


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
        self._line = _Line(self.connection_pool)
        self._read: dict[str, Read | None] = {
            name: self.response_callbacks.get(name) for name in SHORT
        }

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """As Redis.execute_command, with the same errors."""
        if args[0] in self._read and options.keys() <= _IGNORED:
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


class _Line:
    """One connection at a time, from the first command that needs it to its end."""

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool
        self._seconds: float = pool.connection_kwargs["socket_timeout"]
        self._asked: list[tuple[bytes, asyncio.Future[Any], Read | None]] = []
        self._sent: deque[tuple[float, asyncio.Future[Any], Read | None]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._late = False

    def ask(self, command: tuple[Any, ...], read: Read | None) -> asyncio.Future[Any]:
        """The reply to come, as `read` makes it, or the error that Redis or the way there had."""
        if len(self._asked) + len(self._sent) >= MOST:
            raise Unreachable("Too many commands wait for Redis.")
        try:
            packed = hiredis.pack_command(command)
        except TypeError as error:
            raise DataError(str(error)) from error
        if self._task is None:
            self._loop = asyncio.get_running_loop()
            self._task = self._loop.create_task(self._run())
        elif not self._asked and self._writer is not None:
            self._loop.call_soon(self._flush)
        reply = self._loop.create_future()
        self._asked.append((packed, reply, read))
        return reply

    async def aclose(self) -> None:
        # redis-py may swallow a cancellation while it connects
        while (task := self._task) is not None and not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=1)

    async def _run(self) -> None:
        ended: Exception = Unreachable("The connection to Redis was closed.")
        try:
            while self._asked:
                await self._serve()
        except Exception as error:  # noqa: BLE001 -- it belongs to those who asked
            ended = error
        finally:
            self._task = None
            _fail((reply for _, reply, _ in self._asked), ended)
            self._asked.clear()

    async def _serve(self) -> None:
        """Connect, and answer until the connection ends; raises when there is none to be had."""
        connection: AbstractConnection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        ended: Exception = Unreachable("Redis closed the connection.")
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
            # redis-py has no public way to write on while replies are awaited
            stream, self._writer = connection._reader, connection._writer  # noqa: SLF001
            assert stream is not None  # noqa: S101 -- it is connected
            try:
                self._flush()
                await self._answer(stream, connection._parser.parse_error)  # noqa: SLF001
            except Exception as error:  # noqa: BLE001 -- it belongs to those who asked
                ended = Unreachable(f"Redis was lost: {error}")
        finally:
            self._writer = None
            if self._late:
                ended = TooSlow(f"Redis did not answer within {self._seconds} s.")
            self._late = False
            if self._watch is not None:
                self._watch.cancel()
                self._watch = None
            # whether these were run, nobody knows
            _fail((reply for _, reply, _ in self._sent), ended)
            self._sent.clear()
            await connection.disconnect(nowait=True)

    async def _answer(
        self, stream: asyncio.StreamReader, error: Callable[[str], Exception]
    ) -> None:
        parser = hiredis.Reader(
            protocolError=InvalidResponse,
            replyError=error,
            encoding="utf-8",
            notEnoughData=_NOTHING,
        )
        sent = self._sent
        while data := await stream.read(READ_BYTES):
            parser.feed(data)
            while (value := parser.gets()) is not _NOTHING:
                if isinstance(value, hiredis.PushNotification):
                    continue
                _, reply, read = sent.popleft()
                if reply.done():
                    continue  # who asked has gone
                if isinstance(value, Exception):
                    reply.set_exception(value)
                    continue
                try:
                    reply.set_result(value if read is None else read(value))
                except Exception as wrong:  # noqa: BLE001 -- it belongs to the one who asked
                    reply.set_exception(wrong)
            if self._asked:
                self._flush()

    def _flush(self) -> None:
        writer = self._writer
        if writer is None or writer.transport.get_write_buffer_size() > UNSENT_BYTES:
            return  # it is sent by the next connection, or after the next reply
        asked = [each for each in self._asked if not each[1].done()]
        self._asked.clear()
        if not asked:
            return
        now = self._loop.time()
        self._sent.extend([(now, reply, read) for _, reply, read in asked])
        writer.write(b"".join([packed for packed, _, _ in asked]))
        if self._watch is None:
            self._watch = self._loop.call_at(now + self._seconds, self._look)

    def _look(self) -> None:
        """Give the connection up when its oldest command has waited too long."""
        self._watch = None
        if not self._sent:
            return
        end = self._sent[0][0] + self._seconds
        if end > self._loop.time():
            self._watch = self._loop.call_at(end, self._look)
        elif self._writer is not None:
            self._late = True
            self._writer.transport.abort()


def _fail(replies: Iterable[asyncio.Future[Any]], error: Exception) -> None:
    for reply in replies:
        if not reply.done():
            reply.set_exception(error)


# What redis-py passes for its cache alone.
_IGNORED = {"keys"}

SHORT = (
    "EVALSHA",
    "GET",
    "GETEX",
    "HGET",
    "HGETALL",
    "HMGET",
    "PING",
    "SET",
    "TIME",
    "UNLINK",
    "XLEN",
)
