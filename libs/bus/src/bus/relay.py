"""The one loop that takes events out of an outbox and publishes them. Knows no store.

Only one relay per owner publishes at a time. Its lease is the exclusive queue `<owner>.relay`,
which belongs to the very connection that publishes and ends with it: a relay that lost the lease
has lost the means to publish, so no fencing token is needed.

Order: batches are published pipelined on one channel, in outbox order; while one is on its way, the
next is read and sent behind it. Whatever was not confirmed is published again, from the oldest
entry on. A crash repeats events; it cannot lose one.
"""

import asyncio
import logging
import time as clock
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, time, timedelta
from typing import NoReturn

from aio_pika.abc import AbstractConnection
from aiormq.exceptions import ChannelLockedResource
from msgspec import Struct
from opentelemetry import metrics, trace

from bus import failpoints, tracing, wire
from bus.broker import (
    BROKER_ERRORS,
    CONNECT_SECONDS,
    connected,
    own_cancellation,
    pause,
    stop_if_cancelled,
)
from bus.outbox import Entry, Outbox
from bus.publisher import Publisher, Sent
from shop_contracts import topology
from shop_contracts.events import EVENTS

log = logging.getLogger(__name__)
tracer = trace.get_tracer(__name__)
meter = metrics.get_meter(__name__)
_published = meter.create_counter("shop_events_published", description="events confirmed")
_seconds = meter.create_histogram(
    "shop_event_publish_seconds", unit="s", description="a batch, until its last confirm"
)
_depth = meter.create_gauge("shop_outbox_depth", description="events waiting to be published")
_age = meter.create_gauge("shop_outbox_age_seconds", description="age of the oldest waiting event")
_sunset = meter.create_gauge(
    "shop_event_sunset_timestamp_seconds", description="the end of the last day of a major"
)

BATCH = 500
SOME, PATIENCE_SECONDS = 8, 0.02
"""After a batch of some events more are to come: the next one is looked for a moment later, since a
look, a confirm and a settling cost about the same for one event as for fifty."""
BUSY = 50
"""A batch so large has others behind it, most likely: they are sent at once."""
STORE_SECONDS = 30
DRAIN_SECONDS, GIVE_UP_SECONDS = 8, 1
OBSERVE_SECONDS = 1.0
RECORDED_SECONDS = 30.0
RECORDED_PAUSE_SECONDS = 0.1


async def relay(broker_url: str, owner: str, outbox: Outbox) -> NoReturn:
    """Publish what is in the outbox for as long as the task lives."""
    observing = asyncio.create_task(_observe(owner, outbox))
    announce(owner)
    try:
        while True:
            try:
                async with connected(broker_url, f"{owner} relay") as connection:
                    await _lease(connection, owner)
                    await _recorded(connection, owner)
                    async with asyncio.timeout(CONNECT_SECONDS):
                        publisher = await Publisher.open(connection, topology.exchange(owner))
                    log.info("relay of %s holds the lease", owner)
                    await _forward(publisher, owner, outbox)
            except Exception as error:
                expected = isinstance(error, BROKER_ERRORS)
                log.warning("relay of %s starts again: %r", owner, error, exc_info=not expected)
            await pause()
    finally:
        observing.cancel()
        # the store is closed next, and must not be asked then
        await asyncio.wait([observing], timeout=OBSERVE_SECONDS)


def announce(owner: str) -> None:
    """Tell when the majors end that are to end; whether they are still sent, `published` tells."""
    for fact in EVENTS[owner]:
        if fact.SUNSET is not None:
            end = datetime.combine(fact.SUNSET + timedelta(days=1), time(), UTC)
            _sunset.set(end.timestamp(), {"type": fact.KEY})


async def _lease(connection: AbstractConnection, owner: str) -> None:
    """Wait until this connection is the one that owns the lease queue."""
    while True:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                channel = await connection.channel()
                await channel.declare_queue(topology.relay_lease(owner), exclusive=True)
        except ChannelLockedResource:  # another relay holds it
            await pause()
        else:
            failpoints.reach(f"{owner}.relay.leased")
            return


async def _recorded(connection: AbstractConnection, owner: str) -> None:
    """Wait until the owner's stream takes what is published; it can be read from then on.

    A broker that has just started, or just lost a node, takes messages before the writer of a
    stream is up again, and confirms them though the stream never gets them. Raises one of
    `BROKER_ERRORS` when the stream stays away: a relay then tries another node.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + RECORDED_SECONDS
    while True:
        try:
            async with asyncio.timeout(CONNECT_SECONDS), connection.channel() as channel:
                await channel.set_qos(prefetch_count=1)
                queue = await channel.get_queue(topology.log(owner), ensure=False)
                tag = await queue.consume(_unread, arguments={"x-stream-offset": "next"})
                await queue.cancel(tag)
                return
        except BROKER_ERRORS as error:
            if connection.is_closed or loop.time() > end:
                raise
            log.info("the stream of %s is not there yet: %r", owner, error)
        await asyncio.sleep(RECORDED_PAUSE_SECONDS)


async def _unread(_: object) -> None:
    """What the stream has is not asked for here."""


class _Batch(Struct, frozen=True):
    """What is on its way, and the task that ends when it is settled."""

    entries: Sequence[Entry]
    settling: asyncio.Task[None]


async def _forward(publisher: Publisher, owner: str, outbox: Outbox) -> NoReturn:
    """Send batch after batch, each while the one before it is confirmed and settled.

    What is on its way when this ends is still settled, or it would go out again.
    """
    ahead: _Batch | None = None
    last: asyncio.Task[None] | None = None
    try:
        while True:
            stop_if_cancelled()
            behind = await _send(publisher, owner, outbox, ahead)
            if behind is not None:
                last = behind.settling
            if ahead is not None:
                await asyncio.shield(ahead.settling)
                if behind is None and len(ahead.entries) >= SOME:
                    await asyncio.sleep(PATIENCE_SECONDS)
            ahead = behind
    finally:
        if last is not None:
            await _ended(last)


async def _ended(settling: asyncio.Task[None]) -> None:
    await asyncio.wait([settling], timeout=DRAIN_SECONDS)
    if not settling.done():
        settling.cancel()
        await asyncio.wait([settling], timeout=GIVE_UP_SECONDS)
    if settling.done() and not settling.cancelled():
        settling.exception()  # whoever waited for it was told, or ends for another reason


async def _send(
    publisher: Publisher, owner: str, outbox: Outbox, ahead: _Batch | None
) -> _Batch | None:
    """Send the oldest entries behind those of `ahead`, when there are some."""
    if ahead is not None and len(ahead.entries) < BUSY:
        return None
    async with asyncio.timeout(STORE_SECONDS):
        entries = await outbox.pending(BATCH, ahead.entries if ahead else ())
    if not entries:
        return None
    failpoints.reach(f"{owner}.relay.before_publish")
    since = clock.time_ns()
    sent = await publisher.send([wire.message(entry.meta, entry.body) for entry in entries])
    failpoints.reach(f"{owner}.relay.before_confirm")
    settling = _settle(owner, outbox, entries, sent, since, ahead.settling if ahead else None)
    return _Batch(entries, asyncio.create_task(settling))


async def _settle(
    owner: str,
    outbox: Outbox,
    entries: Sequence[Entry],
    sent: Sent,
    since: int,
    ahead: asyncio.Task[None] | None,
) -> None:
    """Await the confirms and forget what has one, when the batch before is settled.

    Raises what the first entry without a confirm says. `since` is Unix time in nanoseconds.
    """
    try:
        if ahead is not None:
            # what stands behind a failure goes out again with it, or a subject's order would break
            await ahead
        with (
            own_cancellation(),
            tracer.start_as_current_span(
                f"publish {topology.exchange(owner)}",
                kind=trace.SpanKind.PRODUCER,
                start_time=since,
                attributes={
                    "messaging.system": "rabbitmq",
                    "messaging.operation.type": "send",
                    "messaging.destination.name": topology.exchange(owner),
                    "messaging.batch.message_count": len(entries),
                },
            ) as span,
        ):
            # the span is nobody's child: it links to the span in which each event was made
            tracing.link(span, (entry.meta for entry in entries))
            count, failure = await sent.confirmed()
    finally:
        sent.abandon()
    _seconds.record((clock.time_ns() - since) / 1e9, {"owner": owner})
    failpoints.reach(f"{owner}.relay.after_confirm")
    if count:
        async with asyncio.timeout(STORE_SECONDS):
            await outbox.settle(entries[:count])
    failpoints.reach(f"{owner}.relay.after_settle")
    for kind, published in Counter(entry.meta.key for entry in entries[:count]).items():
        _published.add(published, {"type": kind})
    if failure:
        raise failure


async def _observe(owner: str, outbox: Outbox) -> NoReturn:
    """Tell how much waits and how long, most of all while the broker is away."""
    while True:
        try:
            async with asyncio.timeout(STORE_SECONDS):
                depth, oldest = await outbox.waiting()
        except Exception as error:  # noqa: BLE001 - what is not seen now is seen a second later
            log.warning("the outbox of %s cannot be counted: %r", owner, error)
        else:
            age = (datetime.now(UTC) - oldest).total_seconds() if oldest else 0.0
            _depth.set(depth, {"owner": owner})
            _age.set(max(age, 0.0), {"owner": owner})
        await asyncio.sleep(OBSERVE_SECONDS)
        stop_if_cancelled()
