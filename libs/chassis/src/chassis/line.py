"""One connection to a Redis that many share: what is asked for in one moment leaves in one write.

Replies come in the order of the commands. A connection that ends fails what was sent on it, for
nobody knows whether that was run; what was not sent yet goes over the next one. Knows no key.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import hiredis
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.exceptions import ConnectionError as Unreachable
from redis.exceptions import DataError, InvalidResponse
from redis.exceptions import TimeoutError as TooSlow

MOST = 10_000
"""Commands that may wait for their replies; one more is refused, as by a pool that is used up."""
READ_BYTES = 256 * 1024
UNSENT_BYTES = 1024 * 1024
"""What may wait in the socket's buffer before commands are kept back."""

Read = Callable[[Any], Any]

_NOTHING = object()


class Line:
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


IGNORED = {"keys"}
"""What redis-py passes for its cache alone."""

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
"""Commands that neither wait inside Redis nor bring much."""
