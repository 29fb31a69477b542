"""Hands events to handlers and settles each by how its handler ended. Knows no handler, no queue.

A handler returns: ack. It raises `Permanent`, or the body is no event: parking, at once. It raises
anything else: a copy waits in the consumer's next retry queue and comes back to this consumer only;
after the last delay it is parked, unless the error says that what the handler needs is `away`: then
it waits the last delay again, for as long as that lasts. Events of one subject are handled in
order, of several subjects side by side. The ack comes after the handler's commit: a crash between
repeats the event, and the handler's inbox or version guard makes the repetition harmless.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NoReturn, TypeVar

from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.util.types import AnyValue

from bus import failpoints, tracing
from bus.broker import BROKER_ERRORS, pause, stop_if_cancelled
from bus.share import Share
from bus.subscription import PERMANENT, Place, Subscription, Taken, is_away, subscribed
from shop_contracts import topology
from shop_contracts.envelope import Event
from shop_contracts.events.base import Fact

log = logging.getLogger(__name__)
tracer = trace.get_tracer(__name__)
meter = metrics.get_meter(__name__)
_seconds = meter.create_histogram(
    "shop_event_process_seconds", unit="s", description="an event, or a batch of them, in hand"
)

C = TypeVar("C")
Handler = Callable[[C, Event[Any]], Awaitable[None]]
BatchHandler = Callable[[C, Sequence[Event[Fact]]], Awaitable[None]]

DRAIN_SECONDS = 8
"""Shorter than a process has to stop, so that what was done is still acked."""
GIVE_UP_SECONDS = 1
GATHER_SECONDS, GATHER_LOOKS = 0.005, 4


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
    partitions: int = 0,
) -> NoReturn:
    """Hand the events of `owner` to their handlers for as long as the task lives.

    `partitions` is how many the work queue was deployed with. Types without a handler are acked.
    Cancelled, it takes no new message, finishes those in hand and leaves the others to the next
    consumer.
    """

    async def work(subscription: Subscription) -> NoReturn:
        lanes: dict[str, asyncio.Task[None]] = {}

        async def one(previous: asyncio.Task[None] | None, taken: Taken) -> None:
            if previous is not None:
                await asyncio.wait([previous])
            await _settle(subscription, taken, _handle(handlers, context, taken, subscription))

        def forget(subject: str, done: asyncio.Task[None]) -> None:
            if lanes.get(subject) is done:
                del lanes[subject]

        try:
            while True:
                taken = await subscription.take()
                if taken is None:
                    continue
                subject = taken.event.meta.subject
                task = asyncio.create_task(one(lanes.get(subject), taken))
                lanes[subject] = task
                task.add_done_callback(partial(forget, subject))
        finally:
            await _drain(lanes.values())

    await _for_ever(broker_url, consumer, owner, work, prefetch, partitions)


async def consume_batches(
    broker_url: str,
    consumer: str,
    owner: str,
    handler: BatchHandler[C],
    context: C,
    *,
    size: int = 500,
    partitions: int = 0,
) -> NoReturn:
    """As `consume`, but the handler gets what has arrived, at most `size` events, oldest first.

    Those that come one upon the other, for `GATHER_LOOKS` times `GATHER_SECONDS` at most, are
    handled together: a round trip to a store costs as much for a few as for many.

    When a batch fails, its events are tried again one by one, so that one cannot hold up others;
    when what the handler needs is `away`, all of them wait.
    """

    async def work(subscription: Subscription) -> NoReturn:
        while True:
            batch = await _gathered(subscription, size)
            if not batch:
                continue
            # a batch that has begun ends, even when the task is cancelled meanwhile
            task = asyncio.create_task(_handle_batch(subscription, handler, context, batch))
            try:
                await asyncio.shield(task)
            except asyncio.CancelledError:
                await _drain([task])
                raise

    # the next batch arrives while this one is in hand
    await _for_ever(broker_url, consumer, owner, work, 2 * size, partitions)


async def _gathered(subscription: Subscription, size: int) -> list[Taken]:
    """What has arrived, and what keeps arriving for some moments; nothing where it was no event."""
    first = await subscription.take()
    batch = [first] if first else []
    for look in range(GATHER_LOOKS + 1):
        more = subscription.arrived(size - len(batch))
        batch += more
        if len(batch) == size or (look and not more):
            break
        await asyncio.sleep(GATHER_SECONDS)
    return batch


async def _settle(subscription: Subscription, taken: Taken, handling: Awaitable[None]) -> None:
    """Await the handler and settle its message by how it ended."""
    try:
        await handling
    except Permanent as error:
        subscription.park(taken.tag, taken.message, PERMANENT, error)
    except Exception as error:  # noqa: BLE001 - whatever a handler raises is worth a retry
        await subscription.later(taken, error)
    else:
        failpoints.reach(f"{subscription.work}.after_effect")
        subscription.ack(taken)


async def _handle(
    handlers: Mapping[type[Any], Handler[C]], context: C, taken: Taken, subscription: Subscription
) -> None:
    handler = handlers.get(type(taken.event.data))
    if handler is None:
        return
    failpoints.reach(f"{subscription.work}.before_effect")
    with _timed(subscription.queue, taken.event.meta.key), _processing(subscription.queue, taken):
        await handler(context, taken.event)


async def _handle_batch(
    subscription: Subscription, handler: BatchHandler[C], context: C, batch: Sequence[Taken]
) -> None:
    async def handle(part: Sequence[Taken]) -> None:
        queue = subscription.queue
        failpoints.reach(f"{subscription.work}.before_effect")
        events = [taken.event for taken in part]
        with _timed(queue, "batch"), _processing(queue, *part):
            await handler(context, events)

    try:
        await handle(batch)
    except Exception as error:  # noqa: BLE001 - the one that failed is found below
        log.warning("%s: a batch of %d failed: %r", subscription.queue, len(batch), error)
        for taken in batch:
            if is_away(error):
                await subscription.later(taken, error)
            else:
                await _settle(subscription, taken, handle([taken]))
        return
    failpoints.reach(f"{subscription.work}.after_effect")
    subscription.ack(*batch)


@contextmanager
def _processing(queue: str, *taken: Taken) -> Iterator[None]:
    """The spans of handling: each live event's own trace goes on here.

    A retry or replay begins a trace of its own and links to the old one. Of a batch, one span does
    the work and each live event has a span beside it, for the time that it took.
    """
    metas = [one.event.meta for one in taken]
    alone = len(taken) == 1 and taken[0].live
    attributes: dict[str, AnyValue] = {
        "messaging.system": "rabbitmq",
        "messaging.operation.type": "process",
        "messaging.destination.name": queue,
        "messaging.batch.message_count": len(taken),
    }
    with tracer.start_as_current_span(
        f"process {metas[0].key}" if len(taken) == 1 else f"process {queue}",
        context=tracing.origin(metas[0]) if alone else Context(),
        kind=trace.SpanKind.CONSUMER,
        attributes=attributes,
    ) as span:
        tracing.link(span, metas)
        beside = (
            [
                tracer.start_span(
                    f"process {one.event.meta.key}",
                    context=tracing.origin(one.event.meta),
                    kind=trace.SpanKind.CONSUMER,
                    links=[trace.Link(span.get_span_context())],
                    attributes={
                        **attributes,
                        "messaging.message.id": str(one.event.meta.id),
                    },
                )
                for one in taken
                if one.live
            ]
            if span.is_recording() and not alone
            else []
        )
        try:
            yield
        finally:
            for one in beside:
                one.end()


@contextmanager
def _timed(queue: str, kind: str) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    started = loop.time()
    try:
        yield
    finally:
        _seconds.record(loop.time() - started, {"queue": queue, "type": kind})


async def _drain(tasks: Collection[asyncio.Task[None]]) -> None:
    """Wait for what is in hand; what takes too long is given up, and comes again."""
    if tasks:
        _, late = await asyncio.wait(list(tasks), timeout=DRAIN_SECONDS)
        for task in late:
            task.cancel()
        if late:
            # what they hold open is given back before it is closed under them
            await asyncio.wait(late, timeout=GIVE_UP_SECONDS)


async def _for_ever(
    broker_url: str,
    consumer: str,
    owner: str,
    work: Callable[[Subscription], Awaitable[NoReturn]],
    prefetch: int,
    partitions: int,
) -> NoReturn:
    async def follow(place: Place) -> NoReturn:
        while True:
            try:
                async with subscribed(broker_url, consumer, place, prefetch) as subscription:
                    await work(subscription)
            except BROKER_ERRORS as error:
                log.warning("consumer of %s starts again: %r", place.queue, error)
            await pause()
            stop_if_cancelled()

    name = topology.queue(consumer, owner)
    if not partitions:
        await follow(Place(name, name))
    share = Share(name, partitions)
    # what waited, was parked or is replayed comes back to the work queue itself
    queues = [name, *(topology.partition(name, number) for number in range(partitions))]
    while True:
        async with asyncio.TaskGroup() as group:
            for queue in queues:
                group.create_task(follow(Place(name, queue, share)))
