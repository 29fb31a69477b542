"""Reads an owner's stream from any place on, and sends what was read to one consumer's queue.

Never publishes to an owner's exchange: what happened once is not said again to everybody.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from datetime import datetime

from aio_pika.abc import AbstractIncomingMessage
from msgspec import Struct

from bus import wire
from bus.broker import BROKER_ERRORS, CONNECT_SECONDS, connected, pause
from bus.frames import Message
from bus.publisher import Publisher
from bus.subscription import REPLAY_HEADER
from shop_contracts import topology
from shop_contracts.envelope import Event, Undecodable, decode
from shop_contracts.events.base import Fact

log = logging.getLogger(__name__)

PREFETCH = 500
ACK_AT = PREFETCH // 4
BATCH = 500
FIRST_SECONDS = 3.0
QUIET_SECONDS = 1.0
END_SECONDS = 60.0

Since = str | int | datetime
"""Where to begin: "first", "next", an offset, or a time."""


class Logged(Struct, frozen=True):
    """An event with its place in the owner's stream."""

    offset: int
    event: Event[Fact]
    body: bytes


async def follow(broker_url: str, owner: str, since: Since = "first") -> AsyncGenerator[Logged]:
    """The events of `owner` from `since` on, then each new one as it comes.

    From a time on it may begin earlier: the broker finds chunks, not messages.
    Ends with a `ConnectionError` when the connection does; go on from the last offset + 1.
    """
    async with aclosing(_read(broker_url, owner, since)) as stream:
        async for offset, body in stream:
            if logged := _logged(owner, offset, body):
                yield logged


async def _read(
    broker_url: str, owner: str, since: Since, begun: asyncio.Event | None = None
) -> AsyncGenerator[tuple[int, bytes]]:
    """What stands in the stream, events or not, with its place; `begun` when the broker reads."""
    async with connected(broker_url, f"{owner} replay") as connection:
        messages: asyncio.Queue[AbstractIncomingMessage | None] = asyncio.Queue()

        def lost(*_: object) -> None:
            messages.put_nowait(None)

        async with asyncio.timeout(CONNECT_SECONDS):
            channel = await connection.channel()
            await channel.set_qos(prefetch_count=PREFETCH)
            queue = await channel.get_queue(topology.log(owner), ensure=True)
            channel.close_callbacks.add(lost)
            # a stream that is deleted or moved takes its reader away and leaves the channel
            (await channel.get_underlay_channel()).on_consumer_cancel_callbacks.add(lost)
            await queue.consume(messages.put, arguments={"x-stream-offset": since})
        if begun is not None:
            begun.set()
        owed = 0
        while (message := await messages.get()) is not None:
            offset = int(str(message.headers["x-stream-offset"]))
            # the broker starts a chunk early; what lies before the offset is not asked for
            if not isinstance(since, int) or offset >= since:
                yield offset, message.body
            owed += 1
            # an ack asks the broker for more: one for many costs as much as one for each
            if owed == ACK_AT or messages.empty():
                await message.ack(multiple=True)
                owed = 0
    raise ConnectionError(f"the stream of {owner} ended")


def _logged(owner: str, offset: int, body: bytes) -> Logged | None:
    try:
        return Logged(offset, decode(body), body)
    except Undecodable as error:
        log.warning("%s: offset %d is no event: %s", topology.log(owner), offset, error)
        return None


async def resume(broker_url: str, owner: str, since: Since = "first") -> AsyncGenerator[Logged]:
    """As `follow`, but for ever: a new connection goes on where the last one stopped."""
    while True:
        try:
            if since == "next":
                # what comes while there is no connection must not be missed
                since = await end(broker_url, owner)
            async with aclosing(follow(broker_url, owner, since)) as stream:
                async for logged in stream:
                    since = logged.offset + 1
                    yield logged
        except BROKER_ERRORS as error:
            log.warning("the stream of %s is read on from %s: %r", owner, since, error)
        await pause()


async def until(broker_url: str, owner: str, since: Since, end: int) -> AsyncGenerator[Logged]:
    """The events of `owner` from `since` on, as far as those before the place `end`."""
    if end == 0 or (isinstance(since, int) and since >= end):
        return
    async with aclosing(_read(broker_url, owner, since)) as stream:
        async for offset, body in stream:
            if offset < end and (logged := _logged(owner, offset, body)):
                yield logged
            # the last one may be no event, and ends this all the same
            if offset >= end - 1:
                return


async def end(broker_url: str, owner: str) -> int:
    """A place in the stream of `owner` behind all that stands in it now.

    The broker does not tell it. The first message to come tells it, and while none comes, the last.
    Raises one of `BROKER_ERRORS`.
    """
    heard: asyncio.Queue[tuple[str, int] | Exception] = asyncio.Queue()

    async def listen(since: str, begun: asyncio.Event) -> None:
        try:
            async with aclosing(_read(broker_url, owner, since, begun)) as stream:
                async for offset, _ in stream:
                    heard.put_nowait((since, offset))
        except BROKER_ERRORS as error:
            heard.put_nowait(error)
            begun.set()

    reading = {since: asyncio.Event() for since in ("next", "last")}
    listening = [asyncio.create_task(listen(*one)) for one in reading.items()]
    try:
        async with asyncio.timeout(END_SECONDS):
            for begun in reading.values():
                await begun.wait()
            while (place := await _place(heard)) is None:
                # a broker that is slow to tell the last one is not one that has none
                if not await _holds_any(broker_url, owner):
                    return 0
            return place
    finally:
        for task in listening:
            task.cancel()
        await asyncio.wait(listening)


async def _place(heard: "asyncio.Queue[tuple[str, int] | Exception]") -> int | None:
    """The end by what was heard; None where nothing was."""
    last = -1
    while True:
        try:
            async with asyncio.timeout(FIRST_SECONDS if last < 0 else QUIET_SECONDS):
                told = await heard.get()
        except TimeoutError:
            return None if last < 0 else last + 1
        if isinstance(told, Exception):
            raise told
        since, last = told
        if since == "next":
            return last


async def _holds_any(broker_url: str, owner: str) -> bool:
    """Whether the broker counts messages in the stream. Those of the last seconds are missing."""
    async with connected(broker_url, f"{owner} replay") as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(topology.log(owner), passive=True)
        return bool(queue.declaration_result.message_count)


async def send(
    broker_url: str,
    owner: str,
    queue: str,
    since: Since,
    wanted: Callable[[Event[Fact]], bool],
    told: Callable[[int, int], None] = lambda _done, _end: None,
) -> int:
    """Publish what is in the stream now and `wanted` into that queue alone; how many events.

    After each confirmed batch `told` hears the place at which to go on, and the place of the end.
    Raises one of `BROKER_ERRORS`; then go on from the last place told.
    """
    count = 0
    stop = await end(broker_url, owner)
    async with connected(broker_url, f"{owner} replay to {queue}") as connection:
        publisher = await Publisher.open(connection, "")
        batch: list[Message] = []

        async def flush(place: int) -> None:
            nonlocal count
            if batch:
                _, failure = await (await publisher.send(batch)).confirmed()
                if failure:
                    raise failure
                count += len(batch)
                batch.clear()
            told(place, stop)

        async with aclosing(until(broker_url, owner, since, stop)) as stream:
            async for logged in stream:
                if wanted(logged.event):
                    headers = {REPLAY_HEADER: str(logged.offset)}
                    batch.append(
                        wire.message(logged.event.meta, logged.body, key=queue, headers=headers)
                    )
                if len(batch) == BATCH:
                    await flush(logged.offset + 1)
        await flush(stop)
    return count
