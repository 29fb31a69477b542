"""The one place that takes messages from a queue and acknowledges them. Knows no handler.

A handler returns: ack. It raises `Permanent`, or the body is no event: parking, at once. It raises
anything else: a copy waits in the consumer's next retry queue and comes back to this consumer only;
after the last delay it is parked, unless the error says that what the handler needs is `away`: then
it waits the last delay again, for as long as that lasts. Events of one subject are handled in
order, of several subjects side by side. The ack comes after the handler's commit: a crash between
repeats the event, and the handler's inbox or version guard makes the repetition harmless.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, NoReturn, TypeVar

import aio_pika
from aio_pika.abc import (
    AbstractConnection,
    AbstractExchange,
    AbstractIncomingMessage,
    AbstractQueue,
)
from opentelemetry import metrics, propagate, trace

from bus import failpoints
from bus.broker import BROKER_ERRORS, RECONNECT_SECONDS, confirming, connected, publish
from shop_contracts import topology
from shop_contracts.envelope import Event, Undecodable, decode, decode_binary
from shop_contracts.events.base import Fact

log = logging.getLogger(__name__)
tracer = trace.get_tracer(__name__)
meter = metrics.get_meter(__name__)
_consumed = meter.create_counter("shop_events_consumed", description="by queue, type and outcome")
_seconds = meter.create_histogram("shop_event_process_seconds", unit="s")

C = TypeVar("C")
Handler = Callable[[C, Event[Any]], Awaitable[None]]
BatchHandler = Callable[[C, Sequence[Event[Fact]]], Awaitable[None]]

ATTEMPT_HEADER = "x-attempt"
DRAIN_SECONDS = 10
BATCH_WAIT_SECONDS = 0.02
WATCH_SECONDS = 15


class Permanent(Exception):
    """Trying again cannot help: the message is parked at once, with this reason."""


async def consume(
    broker_url: str,
    consumer: str,
    owner: str,
    handlers: Mapping[type[Any], Handler[C]],
    context: C,
    *,
    prefetch: int = 64,
) -> NoReturn:
    """Hand the events of `owner` to their handlers for as long as the task lives.

    Types without a handler are acked. Cancelled, it takes no new message, finishes those in hand
    and leaves the others to the next consumer.
    """

    async def work(settle: "_Settle", messages: "_Messages") -> None:
        lanes: dict[str, asyncio.Task[None]] = {}

        async def one(previous: asyncio.Task[None] | None, taken: "_Taken") -> None:
            if previous is not None:
                await asyncio.wait([previous])
            try:
                await settle.handled(taken, _handle(handlers, context, taken, settle.queue))
            except BROKER_ERRORS as error:
                log.warning("%s: not settled, so it comes again: %r", settle.queue, error)

        def forget(subject: str, done: asyncio.Task[None]) -> None:
            if lanes.get(subject) is done:
                del lanes[subject]

        try:
            while True:
                taken = await settle.take(messages)
                if taken is None:
                    continue
                subject = taken.event.meta.subject
                task = asyncio.create_task(one(lanes.get(subject), taken))
                lanes[subject] = task
                task.add_done_callback(partial(forget, subject))
        finally:
            await _drain(lanes.values())

    await _for_ever(broker_url, consumer, owner, work, prefetch)


async def consume_batches(
    broker_url: str,
    consumer: str,
    owner: str,
    handler: BatchHandler[C],
    context: C,
    *,
    size: int = 200,
) -> NoReturn:
    """As `consume`, but the handler gets what has arrived, at most `size` events, oldest first.

    When a batch fails, its events are tried again one by one, so that one cannot hold up others.
    """

    async def work(settle: "_Settle", messages: "_Messages") -> None:
        while True:
            batch: list[_Taken] = []
            while len(batch) < size:
                wait = BATCH_WAIT_SECONDS if batch else None
                try:
                    async with asyncio.timeout(wait):
                        taken = await settle.take(messages)
                except TimeoutError:
                    break
                if taken is not None:
                    batch.append(taken)
            # a batch that has begun ends, even when the task is cancelled meanwhile
            task = asyncio.create_task(_handle_batch(settle, handler, context, batch))
            try:
                await asyncio.shield(task)
            except asyncio.CancelledError:
                await _drain([task])
                raise

    await _for_ever(broker_url, consumer, owner, work, size)


class _Taken:
    """A message in hand, with its event."""

    __slots__ = ("event", "message")

    def __init__(self, message: AbstractIncomingMessage, event: Event[Fact]) -> None:
        self.message = message
        self.event = event


_Messages = asyncio.Queue[AbstractIncomingMessage | None]


class _Settle:
    """Acknowledges, sends to wait, or parks; for one work queue on one connection."""

    def __init__(self, retries: AbstractExchange, queue: str) -> None:
        self._retries = retries
        self.queue = queue

    async def take(self, messages: _Messages) -> _Taken | None:
        """The next message, or None where it was no event. Raises when the consumer is gone."""
        message = await messages.get()
        if message is None:
            raise ConnectionError(f"the broker ended the consumer of {self.queue}")
        try:
            return _Taken(message, _event(message))
        except Undecodable as error:
            await self.park(message, error)
            return None

    async def handled(self, taken: _Taken, handling: Awaitable[None]) -> None:
        """Await the handler and settle its message by how it ended."""
        try:
            await handling
        except Permanent as error:
            await self.park(taken.message, error)
        except Exception as error:  # noqa: BLE001 - whatever a handler raises is worth a retry
            await self.later(taken, error)
        else:
            failpoints.reach(f"{self.queue}.after_effect")
            await self.ack(taken)

    async def ack(self, taken: _Taken) -> None:
        await taken.message.ack()
        _consumed.add(1, {"queue": self.queue, "type": taken.event.meta.key, "outcome": "ack"})

    async def later(self, taken: _Taken, error: Exception) -> None:
        """Send a copy to wait, then ack. A crash between the two makes a duplicate."""
        delays = list(topology.RETRY_DELAYS)
        attempt = _attempt(taken.message)
        if getattr(error, "away", False):
            # nothing is wrong with the event: this must not use up its attempts
            attempt = min(attempt, len(delays) - 1)
        if attempt >= len(delays):
            await self.park(taken.message, error)
            return
        log.warning("%s %s waits: %r", self.queue, taken.event.meta.id, error, exc_info=error)
        headers = {**taken.message.headers, ATTEMPT_HEADER: attempt + 1}
        await publish(
            self._retries,
            _copy(taken.message, headers),
            topology.retry(self.queue, delays[attempt]),
        )
        await taken.message.ack()
        _consumed.add(1, {"queue": self.queue, "type": taken.event.meta.key, "outcome": "retry"})

    async def park(self, message: AbstractIncomingMessage, error: Exception) -> None:
        """Reject: the queue dead-letters to parking at least once."""
        log.error("%s parks %s: %r", self.queue, message.message_id, error)
        await message.reject(requeue=False)
        _consumed.add(1, {"queue": self.queue, "type": message.type or "", "outcome": "parked"})


def _attempt(message: AbstractIncomingMessage) -> int:
    value = message.headers.get(ATTEMPT_HEADER, 0)
    return value if isinstance(value, int) else 0


def _copy(message: AbstractIncomingMessage, headers: Mapping[str, Any]) -> aio_pika.Message:
    return aio_pika.Message(
        message.body,
        content_type=message.content_type,
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        message_id=message.message_id,
        correlation_id=message.correlation_id,
        type=message.type,
        app_id=message.app_id,
        timestamp=message.timestamp,
        headers=dict(headers),
    )


def _event(message: AbstractIncomingMessage) -> Event[Fact]:
    if (message.content_type or "").startswith("application/cloudevents+json"):
        return decode(message.body)
    return decode_binary(message.headers, message.body)


async def _handle(
    handlers: Mapping[type[Any], Handler[C]], context: C, taken: _Taken, queue: str
) -> None:
    handler = handlers.get(type(taken.event.data))
    if handler is None:
        return
    meta = taken.event.meta
    parent = propagate.extract({"traceparent": meta.traceparent} if meta.traceparent else {})
    started = asyncio.get_running_loop().time()
    with tracer.start_as_current_span(
        f"process {meta.key}",
        context=parent,
        kind=trace.SpanKind.CONSUMER,
        attributes={
            "messaging.system": "rabbitmq",
            "messaging.operation.type": "process",
            "messaging.destination.name": queue,
            "messaging.message.id": str(meta.id),
        },
    ):
        await handler(context, taken.event)
    _seconds.record(asyncio.get_running_loop().time() - started, {"queue": queue, "type": meta.key})


async def _handle_batch(
    settle: _Settle, handler: BatchHandler[C], context: C, batch: Sequence[_Taken]
) -> None:
    async def handle(part: Sequence[_Taken]) -> None:
        parents = {taken.event.meta.traceparent for taken in part} - {None}
        contexts = (
            trace.get_current_span(propagate.extract({"traceparent": parent})).get_span_context()
            for parent in parents
            if parent
        )
        with tracer.start_as_current_span(
            f"process {settle.queue}",
            kind=trace.SpanKind.CONSUMER,
            links=[trace.Link(linked) for linked in contexts if linked.is_valid],
            attributes={
                "messaging.system": "rabbitmq",
                "messaging.operation.type": "process",
                "messaging.destination.name": settle.queue,
                "messaging.batch.message_count": len(part),
            },
        ):
            await handler(context, [taken.event for taken in part])

    try:
        await handle(batch)
    except Exception as error:  # noqa: BLE001 - the one that failed is found below
        log.warning("%s: a batch of %d failed: %r", settle.queue, len(batch), error)
        for taken in batch:
            await settle.handled(taken, handle([taken]))
        return
    failpoints.reach(f"{settle.queue}.after_effect")
    await batch[-1].message.ack(multiple=True)
    types: dict[str, int] = defaultdict(int)
    for taken in batch:
        types[taken.event.meta.key] += 1
    for key, count in types.items():
        _consumed.add(count, {"queue": settle.queue, "type": key, "outcome": "ack"})


async def _drain(tasks: Collection[asyncio.Task[None]]) -> None:
    if tasks:
        await asyncio.wait(list(tasks), timeout=DRAIN_SECONDS)


async def _watch(queue: AbstractQueue) -> None:
    """Fail when the broker knows no consumer of the queue any more; it does not always say so."""
    while True:
        await asyncio.sleep(WATCH_SECONDS)
        state = await queue.channel.declare_queue(queue.name, passive=True)
        if state.declaration_result.consumer_count == 0:
            raise ConnectionError(f"{queue.name} has lost its consumer")


async def _for_ever(
    broker_url: str,
    consumer: str,
    owner: str,
    work: Callable[[_Settle, _Messages], Awaitable[None]],
    prefetch: int,
) -> NoReturn:
    name = topology.queue(consumer, owner)
    while True:
        try:
            async with connected(broker_url, f"{name} consumer") as connection:
                await _consume(connection, consumer, name, work, prefetch)
        except BROKER_ERRORS as error:
            log.warning("consumer of %s starts again: %r", name, error)
        await asyncio.sleep(RECONNECT_SECONDS)


async def _consume(
    connection: AbstractConnection,
    consumer: str,
    name: str,
    work: Callable[[_Settle, _Messages], Awaitable[None]],
    prefetch: int,
) -> None:
    publishing = await confirming(connection)
    retries = await publishing.get_exchange(topology.retry_exchange(consumer), ensure=True)
    channel = await connection.channel()
    await channel.set_qos(prefetch_count=prefetch)
    queue = await channel.get_queue(name, ensure=True)
    messages: _Messages = asyncio.Queue()
    # a dead connection or channel must wake the worker, not leave it deaf
    channel.close_callbacks.add(lambda *_: messages.put_nowait(None))
    await queue.consume(messages.put)
    watchdog = asyncio.create_task(_watch(queue))
    watchdog.add_done_callback(lambda _: messages.put_nowait(None))
    try:
        await work(_Settle(retries, name), messages)
    finally:
        watchdog.cancel()
        await asyncio.wait([watchdog])
