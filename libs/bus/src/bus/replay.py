"""Reads an owner's stream from any place on. Never publishes to an exchange."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from datetime import datetime

from aio_pika.abc import AbstractIncomingMessage
from msgspec import Struct

from bus.broker import connected
from shop_contracts import topology
from shop_contracts.envelope import Event, Undecodable, decode
from shop_contracts.events.base import Fact

log = logging.getLogger(__name__)

PREFETCH = 500


class Logged(Struct, frozen=True):
    """An event with its place in the owner's stream."""

    offset: int
    event: Event[Fact]


async def follow(
    broker_url: str, owner: str, since: str | int | datetime = "first"
) -> AsyncGenerator[Logged]:
    """The events of `owner` from `since` on, then each new one as it comes.

    `since`: "first", "next", an offset, or a time (it may begin earlier: the broker finds chunks).
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
                    logged = Logged(offset, decode(message.body))
                except Undecodable as error:
                    log.warning("%s: offset %d is no event: %s", queue.name, offset, error)
                else:
                    yield logged
            await message.ack()
    raise ConnectionError(f"the stream of {owner} ended")
