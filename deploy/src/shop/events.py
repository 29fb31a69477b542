"""Reading the event logs of the broker, for people. Consumes nothing from anybody's queue."""

import asyncio
from collections.abc import AsyncIterator

import aio_pika
import msgspec
from aio_pika.abc import AbstractIncomingMessage
from msgspec import Struct

from shop.servers import SERVICES

PREFETCH = 100


class Seen(Struct, frozen=True):
    """An event as it stands in a log: the CloudEvents attributes that people look for."""

    type: str
    subject: str = ""
    time: str = ""
    entityversion: int | None = None
    data: msgspec.Raw = msgspec.Raw(b"null")


async def tail(url: str, *, owner: str | None, start: str) -> AsyncIterator[Seen]:
    """Events of one owner, or of all, from `first` or from `next`; never ends by itself."""
    found: asyncio.Queue[Seen] = asyncio.Queue(PREFETCH)

    async def put(message: AbstractIncomingMessage) -> None:
        await found.put(msgspec.json.decode(message.body, type=Seen))
        await message.ack()

    # a robust connection would read a log again from its first offset after a reconnect
    connection = await aio_pika.connect(url)
    async with connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=PREFETCH)
        for name in [owner] if owner else SERVICES:
            log = await channel.get_queue(f"{name}.events.log")
            await log.consume(put, arguments={"x-stream-offset": start})
        while True:
            yield await found.get()
