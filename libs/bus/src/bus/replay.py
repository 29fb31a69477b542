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
from bus.broker import BROKER_ERRORS, connected, pause
from bus.frames import Message
from bus.publisher import Publisher
from bus.subscription import REPLAY_HEADER
from shop_contracts import topology
from shop_contracts.envelope import Event, Undecodable, decode
from shop_contracts.events.base import Fact

log = logging.getLogger(__name__)

PREFETCH = 500
BATCH = 500
FIRST_SECONDS = 3.0
QUIET_SECONDS = 1.0

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
    async with connected(broker_url, f"{owner} replay") as connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=PREFETCH)
        queue = await channel.get_queue(topology.log(owner), ensure=True)
        messages: asyncio.Queue[AbstractIncomingMessage | None] = asyncio.Queue()
        channel.close_callbacks.add(lambda *_: messages.put_nowait(None))
        await queue.consume(messages.put, arguments={"x-stream-offset": since})
        while (message := await messages.get()) is not None:
            offset = int(str(message.headers["x-stream-offset"]))
            # the broker starts a chunk early; what lies before the offset is not asked for
            if not isinstance(since, int) or offset >= since:
                try:
                    logged = Logged(offset, decode(message.body), message.body)
                except Undecodable as error:
                    log.warning("%s: offset %d is no event: %s", queue.name, offset, error)
                else:
                    yield logged
            await message.ack()
    raise ConnectionError(f"the stream of {owner} ended")


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
    async with aclosing(follow(broker_url, owner, since)) as stream:
        async for logged in stream:
            if logged.offset < end:
                yield logged
            if logged.offset >= end - 1:
                return


async def end(broker_url: str, owner: str) -> int:
    """A place in the stream of `owner` behind all that stands in it now.

    The broker does not tell it. The first event to come tells it, and while none comes, the last.
    """
    heard: asyncio.Queue[tuple[str, int] | Exception] = asyncio.Queue()

    async def listen(since: str) -> None:
        try:
            async with aclosing(follow(broker_url, owner, since)) as stream:
                async for logged in stream:
                    heard.put_nowait((since, logged.offset))
        except BROKER_ERRORS as error:
            heard.put_nowait(error)

    listening = [asyncio.create_task(listen(since)) for since in ("next", "last")]
    last = -1
    try:
        while True:
            try:
                async with asyncio.timeout(FIRST_SECONDS if last < 0 else QUIET_SECONDS):
                    told = await heard.get()
            except TimeoutError:
                return last + 1
            if isinstance(told, Exception):
                raise told
            since, last = told
            if since == "next":
                return last
    finally:
        for task in listening:
            task.cancel()
        await asyncio.wait(listening)


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
                        wire.message(logged.event, key=queue, body=logged.body, headers=headers)
                    )
                if len(batch) == BATCH:
                    await flush(logged.offset + 1)
        await flush(stop)
    return count
