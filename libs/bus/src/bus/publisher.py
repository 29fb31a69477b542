"""Publishes batches in order on one confirming channel. Knows no outbox and no event.

aio-pika publishes one message at a time: a lock, a write and a drain for each. Here the frames of
a batch leave in few writes, and the confirms are awaited together. A batch may be sent while those
before it are not confirmed yet.
"""

import asyncio
from collections.abc import Sequence

import aiormq
from aio_pika.abc import AbstractConnection
from aiormq.abc import ChannelFrame

from bus import frames
from bus.broker import BROKER_ERRORS, CONFIRM_SECONDS, confirming
from bus.frames import Message

WRITE_BYTES = 256 * 1024

_Future = asyncio.Future[object]


class Publisher:
    """The only user of its channel."""

    def __init__(self, channel: aiormq.Channel, exchange: str) -> None:
        self._channel = channel
        self._exchange = exchange
        self._frame_max = channel.connection.connection_tune.frame_max

    @classmethod
    async def open(cls, connection: AbstractConnection, exchange: str) -> "Publisher":
        """A publisher to an exchange that stands, or to `""`, which leads to queues by name.

        Raises one of `BROKER_ERRORS`.
        """
        channel = await confirming(connection)
        if exchange:
            await channel.get_exchange(exchange, ensure=True)
        underlay = await channel.get_underlay_channel()
        assert isinstance(underlay, aiormq.Channel)  # noqa: S101 - the only kind there is
        return cls(underlay, exchange)

    async def send(self, messages: Sequence[Message]) -> "Sent":
        """Write the messages to the connection, behind those of the batches before.

        Raises one of `BROKER_ERRORS`; then nobody knows which of them arrive, and the channel is
        of no more use.
        """
        channel = self._channel
        sent = Sent(channel, [message.message_id for message in messages])
        try:
            async with asyncio.timeout(CONFIRM_SECONDS), channel.lock:
                payload = bytearray()
                for message, confirm in zip(messages, sent.confirms, strict=True):
                    channel.delivery_tag += 1
                    channel.confirmations[channel.delivery_tag] = confirm
                    # the broker tells a returned message by its properties alone
                    channel.message_id_delivery_tag[message.message_id] = channel.delivery_tag
                    payload += frames.publish(
                        message, self._exchange, channel.number, self._frame_max
                    )
                    if len(payload) > WRITE_BYTES:
                        await self._write(bytes(payload), sent)
                        payload.clear()
                await self._write(bytes(payload), sent)
        except BaseException:
            sent.abandon()
            raise
        return sent

    async def _write(self, payload: bytes, sent: "Sent") -> None:
        written = sent.future()
        await self._channel.write_queue.put(ChannelFrame(payload, False, written))
        await written


class Sent:
    """A batch on its way. Its futures end with the channel; aiormq's own may end cancelled."""

    def __init__(self, channel: aiormq.Channel, ids: Sequence[str]) -> None:
        self._loop = asyncio.get_running_loop()
        self._ids = ids
        self._tags = channel.message_id_delivery_tag
        self.confirms: list[_Future] = [self._loop.create_future() for _ in ids]
        self._others: list[_Future] = []
        self._channel_closed = channel.create_future()
        self._channel_closed.add_done_callback(self._closed)

    def future(self) -> _Future:
        """One more future that fails when the channel closes."""
        self._others.append(self._loop.create_future())
        if self._channel_closed.done():
            self._closed(self._channel_closed)
        return self._others[-1]

    async def confirmed(self) -> tuple[int, Exception | None]:
        """How many the broker has, from the first on, and why not the next one.

        After such a failure the channel is of no more use: a late confirm would be taken for
        another's.
        """
        count = 0
        failure: Exception | None = None
        try:
            async with asyncio.timeout(CONFIRM_SECONDS):
                for confirm in self.confirms:
                    await confirm
                    count += 1
        except BROKER_ERRORS as error:
            failure = error
        finally:
            self.abandon()
        return count, failure

    def abandon(self) -> None:
        """Wait for nothing any more."""
        self._channel_closed.cancel()
        for id_ in self._ids:
            self._tags.pop(id_, None)
        for future in (*self.confirms, *self._others):
            if not future.cancel() and not future.cancelled():
                future.exception()  # seen, though nobody waits for it

    def _closed(self, closed: _Future) -> None:
        if closed.cancelled():
            return
        for future in (*self.confirms, *self._others):
            if not future.done():
                future.set_exception(ConnectionError("the channel closed before the confirm"))
