"""One work queue: taking its messages, and settling each by ack, retry or parking. No handler.

Two connections: a broker that is short of memory stops reading from those that publish, and what is
taken must still be acknowledged then. The second one is opened for the first retry.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from copy import copy
from datetime import UTC, datetime
from typing import NoReturn

import aiormq
from aio_pika.abc import AbstractConnection
from aiormq.abc import AbstractChannel, ChannelFrame, DeliveredMessage
from msgspec import Struct
from opentelemetry import metrics
from pamqp.common import FieldValue

from bus import failpoints, frames
from bus.broker import (
    BROKER_ERRORS,
    CONFIRM_SECONDS,
    CONNECT_SECONDS,
    confirming,
    connected,
    own_cancellation,
    pause,
    stop_if_cancelled,
)
from bus.share import Share
from shop_contracts import topology
from shop_contracts.envelope import (
    CONTENT_TYPE,
    Event,
    Undecodable,
    UnknownType,
    decode,
    decode_binary,
)
from shop_contracts.events.base import Fact

log = logging.getLogger(__name__)
meter = metrics.get_meter(__name__)
_consumed = meter.create_counter("shop_events_consumed", description="by queue, type and outcome")
_lag = meter.create_histogram(
    "shop_event_lag_seconds", unit="s", description="from the event to its ack, by queue"
)
_ready = meter.create_gauge("shop_queue_ready", description="messages that wait in a work queue")
_parked = meter.create_gauge("shop_queue_parked", description="messages in a parking queue")

ATTEMPT_HEADER = "x-attempt"
REPLAY_HEADER = "x-replay"
REASON_HEADER = "x-parked-reason"
ERROR_HEADER = "x-parked-error"
ERROR_LENGTH = 1_000
PERMANENT, EXHAUSTED, MALFORMED, UNKNOWN = "permanent", "exhausted", "malformed", "unknown-type"
WATCH_SECONDS = 15
DEAF_LOOKS = 4
ACK_SECONDS = 0.005
"""How long an ack lets others come: one frame, and one entry of the broker's log, for all."""


def is_away(error: Exception) -> bool:
    """Whether what the handler needs does not answer, so that nothing is wrong with the event."""
    return bool(getattr(error, "away", False))


class Place(Struct, frozen=True):
    """Where events are taken from: a work queue itself, or one of its partitions."""

    work: str
    queue: str
    share: Share | None = None


class Taken(Struct, frozen=True):
    """A message in hand, with its event."""

    tag: int
    message: DeliveredMessage
    event: Event[Fact]

    @property
    def attempt(self) -> int:
        """How often it has waited already."""
        value = (self.message.header.properties.headers or {}).get(ATTEMPT_HEADER, 0)
        return value if isinstance(value, int) else 0

    @property
    def live(self) -> bool:
        """Whether it comes straight from its owner: no retry, no replay."""
        headers = self.message.header.properties.headers or {}
        return ATTEMPT_HEADER not in headers and REPLAY_HEADER not in headers


class Subscription:
    """A consumer of one work queue. Raises one of `BROKER_ERRORS` when it has lost its queue."""

    def __init__(
        self,
        channel: aiormq.Channel,
        place: Place,
        retries: "_Retries",
    ) -> None:
        self.work, self.queue = place.work, place.queue
        self._share = place.share
        self._channel = channel
        self._retries = retries
        self._messages: asyncio.Queue[DeliveredMessage | None] = asyncio.Queue()
        self._unsettled: dict[int, None] = {}
        self._acked: set[int] = set()
        self._rejected: set[int] = set()
        self._counted: Counter[str] = Counter()
        self._settled = asyncio.Event()
        self._parking: set[asyncio.Task[None]] = set()

    async def take(self) -> Taken | None:
        """The next message, or None where it was no event."""
        return self._taken(await self._messages.get())

    def arrived(self, most: int) -> list[Taken]:
        """Those that have arrived already, without waiting for more."""
        taken: list[Taken] = []
        while len(taken) < most and not self._messages.empty():
            if one := self._taken(self._messages.get_nowait()):
                taken.append(one)
        return taken

    def ack(self, *taken: Taken) -> None:
        """Their effects stand."""
        self._acked.update(one.tag for one in taken)
        self._settled.set()
        now = datetime.now(UTC)
        for one in taken:
            _lag.record((now - one.event.meta.time).total_seconds(), {"queue": self.queue})
            self._counted[one.event.meta.key] += 1

    async def later(self, taken: Taken, error: Exception) -> None:
        """Send a copy to wait, then ack. A crash between the two makes a duplicate."""
        delays = list(topology.RETRY_DELAYS)
        attempt = taken.attempt
        if is_away(error):
            # nothing is wrong with the event: this must not use up its attempts
            attempt = min(attempt, len(delays) - 1)
        if attempt >= len(delays):
            self.park(taken.tag, taken.message, EXHAUSTED, error)
            return
        traceback = None if is_away(error) else error
        log.warning("%s %s waits: %r", self.queue, taken.event.meta.id, error, exc_info=traceback)
        failpoints.reach(f"{self.work}.before_retry")
        key = topology.retry(self.work, delays[attempt])
        if not await self._retries.publish(taken.message, {ATTEMPT_HEADER: attempt + 1}, key):
            return  # it is not acked, so it comes again
        failpoints.reach(f"{self.work}.after_retry")
        self._acked.add(taken.tag)
        self._settled.set()
        kind = taken.event.meta.key
        _consumed.add(1, {"queue": self.queue, "type": kind, "outcome": "retry"})

    def park(self, tag: int, message: DeliveredMessage, reason: str, error: Exception) -> None:
        """Put it aside with its reason; the next message need not wait for that."""
        task = asyncio.create_task(self._park(tag, message, reason, error))
        self._parking.add(task)
        task.add_done_callback(self._parking.discard)

    async def _park(
        self, tag: int, message: DeliveredMessage, reason: str, error: Exception
    ) -> None:
        properties = message.header.properties
        log.error("%s parks %s: %r", self.queue, properties.message_id, error)
        failpoints.reach(f"{self.work}.before_park")
        why = {REASON_HEADER: reason, ERROR_HEADER: repr(error)[:ERROR_LENGTH]}
        if await self._retries.publish(message, why, topology.parking(self.work), tries=1):
            failpoints.reach(f"{self.work}.after_park")
            self._acked.add(tag)
        else:
            # the queue's own dead-lettering takes it there as well, without a word
            self._rejected.add(tag)
        self._settled.set()
        kind = (properties.message_type or "").removeprefix("shop.")
        _consumed.add(1, {"queue": self.queue, "type": kind, "outcome": "parked"})

    async def settled(self) -> None:
        """Return when all that was settled so far has been sent."""
        written = asyncio.get_running_loop().create_future()
        with suppress(TimeoutError):
            async with asyncio.timeout(CONFIRM_SECONDS):
                if self._parking:
                    await asyncio.wait(list(self._parking))
                if await self._send(written):
                    await written

    def _taken(self, message: DeliveredMessage | None) -> Taken | None:
        if message is None:
            raise ConnectionError(f"the broker ended the consumer of {self.queue}")
        tag = message.delivery_tag or 0
        try:
            return Taken(tag, message, _event(message))
        except Undecodable as error:
            reason = UNKNOWN if isinstance(error, UnknownType) else MALFORMED
            self.park(tag, message, reason, error)
            return None

    async def received(self, message: DeliveredMessage) -> None:
        self._unsettled[message.delivery_tag or 0] = None
        if self._share is not None:
            self._share.works(self.queue)
        self._messages.put_nowait(message)

    def lost(self, *_: object) -> None:
        """Wake the worker of a dead channel: it must not stay deaf."""
        self._messages.put_nowait(None)

    async def send(self) -> NoReturn:
        """Send what is settled; all that is settled meanwhile leaves together."""
        while True:
            await self._settled.wait()
            await asyncio.sleep(ACK_SECONDS)
            await self._send(None)

    async def _send(self, written: "asyncio.Future[None] | None") -> bool:
        self._settled.clear()
        for kind, count in self._counted.items():
            _consumed.add(count, {"queue": self.queue, "type": kind, "outcome": "ack"})
        self._counted.clear()
        parts = [frames.reject(tag, self._channel.number) for tag in self._rejected]
        for tag in self._rejected:
            del self._unsettled[tag]
        self._rejected.clear()
        # one ack covers the oldest that are all settled; it must not cover one still in hand
        last = None
        for tag in self._unsettled:
            if tag not in self._acked:
                break
            last = tag
        if last is not None:
            parts.append(frames.ack(last, self._channel.number, multiple=True))
        for tag in self._acked:
            if last is None or tag > last:
                parts.append(frames.ack(tag, self._channel.number, multiple=False))
            del self._unsettled[tag]
        self._acked.clear()
        # a dead channel's queue is read by nobody
        if parts and not self._channel.is_closed:
            await self._channel.write_queue.put(ChannelFrame(b"".join(parts), False, written))
            failpoints.reach(f"{self.work}.after_ack")
            return True
        return False

    async def watch(self, connection: AbstractConnection) -> None:
        """Fail when the broker knows no consumer of the queue, or gives it nothing for long.

        It does not always say so when it has lost one. Whoever only stands by gets nothing either;
        to subscribe again does it no harm.
        """
        channel = await connection.channel()
        silent = 0
        while True:
            before = next(reversed(self._unsettled), None)
            await asyncio.sleep(WATCH_SECONDS)
            stop_if_cancelled()
            async with asyncio.timeout(CONNECT_SECONDS):
                work = await channel.declare_queue(self.queue, passive=True)
                name = topology.parking(self.work)
                parking = await channel.declare_queue(name, passive=True)
            ready = work.declaration_result.message_count or 0
            _ready.set(ready, {"queue": self.queue})
            _parked.set(parking.declaration_result.message_count or 0, {"queue": self.work})
            consumers = work.declaration_result.consumer_count or 0
            if consumers == 0:
                raise ConnectionError(f"{self.queue} has lost its consumer")
            if self._share is not None and self._share.too_many(self.queue, consumers):
                # what is in hand ends first, so that the next one begins behind it
                raise ConnectionError(f"{self.queue} is left to another process")
            quiet = not self._unsettled and before is None
            silent = silent + 1 if ready and quiet else 0
            if silent == DEAF_LOOKS:
                raise ConnectionError(f"{self.queue} gives its consumer nothing")


class _Retries:
    """Publishes copies to the consumer's waiting queues, on a connection of its own."""

    def __init__(self, url: str, consumer: str) -> None:
        self._url = url
        self._consumer = consumer
        self._open = AsyncExitStack()
        self._channel: AbstractChannel | None = None
        self._opening = asyncio.Lock()
        self._over = False

    async def publish(
        self,
        message: DeliveredMessage,
        headers: Mapping[str, FieldValue],
        key: str,
        *,
        tries: int | None = None,
    ) -> bool:
        """Publish a copy with more headers, for as long as that takes.

        False when tries run out, or the subscription ends meanwhile.
        """
        properties = message.header.properties
        sent = copy(properties)
        sent.headers = {**(properties.headers or {}), **headers}
        sent.delivery_mode = frames.PERSISTENT
        tried = 0
        while True:
            tried += 1
            channel: AbstractChannel | None = None
            try:
                channel = await self._opened()
                with own_cancellation():
                    async with asyncio.timeout(CONFIRM_SECONDS):
                        await channel.basic_publish(
                            message.body,
                            exchange=topology.retry_exchange(self._consumer),
                            routing_key=key,
                            properties=sent,
                            mandatory=True,
                        )
            except BROKER_ERRORS as error:
                log.warning("%s is not confirmed: %r", key, error)
                if channel is self._channel:
                    self._channel = None
                if tried == tries or self._over:
                    return False
                await pause()
            else:
                return True

    async def close(self) -> None:
        """Give the connection up, for good."""
        self._over = True
        self._channel = None
        await self._open.aclose()

    async def _opened(self) -> AbstractChannel:
        async with self._opening:
            if self._over:
                # who is late would open a connection that nobody closes
                raise ConnectionError("the subscription has ended")
            if self._channel is None:
                await self._open.aclose()
                connection = await self._open.enter_async_context(
                    connected(self._url, f"{self._consumer} retries")
                )
                async with asyncio.timeout(CONNECT_SECONDS):
                    channel = await confirming(connection)
                    self._channel = await channel.get_underlay_channel()
            return self._channel


@asynccontextmanager
async def subscribed(
    broker_url: str, consumer: str, place: Place, prefetch: int
) -> AsyncIterator[Subscription]:
    """A subscription to a queue that stands. Raises one of `BROKER_ERRORS`.

    What is in hand and not settled when it ends is delivered again.
    """
    retries = _Retries(broker_url, consumer)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(retries.close)
        name = f"{place.queue} consumer"
        connection = await stack.enter_async_context(connected(broker_url, name))
        async with asyncio.timeout(CONNECT_SECONDS):
            channel = await (await connection.channel()).get_underlay_channel()
            assert isinstance(channel, aiormq.Channel)  # noqa: S101 - the only kind there is
            subscription = Subscription(channel, place, retries)
            channel.create_future().add_done_callback(subscription.lost)
            channel.on_consumer_cancel_callbacks.add(subscription.lost)
            await channel.basic_qos(prefetch_count=prefetch)
            await channel.basic_consume(place.queue, subscription.received)
        tasks = [
            asyncio.create_task(subscription.send()),
            asyncio.create_task(subscription.watch(connection)),
        ]
        for task in tasks:
            task.add_done_callback(subscription.lost)
        try:
            yield subscription
        finally:
            await subscription.settled()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            if place.share is not None:
                place.share.left(place.queue)


def _event(message: DeliveredMessage) -> Event[Fact]:
    properties = message.header.properties
    if (properties.content_type or "").startswith(CONTENT_TYPE):
        return decode(message.body)
    return decode_binary(properties.headers or {}, message.body)
