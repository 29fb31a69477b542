"""The one loop that takes events out of an outbox and publishes them. Knows no store.

Only one relay per owner publishes at a time. Its lease is the exclusive queue `<owner>.relay`,
which belongs to the very connection that publishes and ends with it: a relay that lost the lease
has lost the means to publish, so no fencing token is needed.

Order: a batch is published pipelined on one channel, in outbox order. Whatever was not confirmed
is published again, from the oldest entry on. A crash repeats events; it cannot lose one.
"""

import asyncio
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NoReturn, cast

import aio_pika
from aio_pika.abc import AbstractConnection, AbstractExchange, FieldValue
from aiormq.exceptions import ChannelLockedResource
from opentelemetry import metrics, propagate, trace

from bus import failpoints
from bus.broker import BROKER_ERRORS, RECONNECT_SECONDS, confirming, connected, publish
from bus.outbox import Entry, Outbox
from shop_contracts import topology
from shop_contracts.envelope import CONTENT_TYPE, Event, encode
from shop_contracts.events.base import Fact

log = logging.getLogger(__name__)
tracer = trace.get_tracer(__name__)
meter = metrics.get_meter(__name__)
_published = meter.create_counter("shop_events_published", description="events confirmed")
_depth = meter.create_gauge("shop_outbox_depth", description="events waiting to be published")
_age = meter.create_gauge("shop_outbox_age_seconds", description="age of the oldest waiting event")

BATCH = 500


async def relay(broker_url: str, owner: str, outbox: Outbox) -> NoReturn:
    """Publish what is in the outbox for as long as the task lives."""
    while True:
        try:
            async with connected(broker_url, f"{owner} relay") as connection:
                await _lease(connection, owner)
                channel = await confirming(connection)
                exchange = await channel.get_exchange(topology.exchange(owner), ensure=True)
                log.info("relay of %s holds the lease", owner)
                while True:
                    await _forward(exchange, owner, outbox)
        except Exception as error:  # noqa: BLE001 - broker or store: an outbox waits for either
            expected = isinstance(error, BROKER_ERRORS)
            log.warning("relay of %s starts again: %r", owner, error, exc_info=not expected)
        await asyncio.sleep(RECONNECT_SECONDS)


async def _lease(connection: AbstractConnection, owner: str) -> None:
    """Wait until this connection is the one that owns the lease queue."""
    while True:
        channel = await connection.channel()
        try:
            await channel.declare_queue(topology.relay_lease(owner), exclusive=True)
        except ChannelLockedResource:  # another relay holds it
            await asyncio.sleep(RECONNECT_SECONDS)
        else:
            return


async def _forward(exchange: AbstractExchange, owner: str, outbox: Outbox) -> None:
    entries = await outbox.pending(BATCH)
    if not entries:
        _depth.set(0, {"owner": owner})
        _age.set(0, {"owner": owner})
        return
    failpoints.reach(f"{owner}.relay.before_publish")
    _age.set((datetime.now(UTC) - entries[0].event.meta.time).total_seconds(), {"owner": owner})
    _depth.set(await outbox.depth(), {"owner": owner})
    with tracer.start_as_current_span(
        f"publish {topology.exchange(owner)}",
        kind=trace.SpanKind.PRODUCER,
        links=_links(entries),
        attributes={
            "messaging.system": "rabbitmq",
            "messaging.operation.type": "send",
            "messaging.destination.name": topology.exchange(owner),
            "messaging.batch.message_count": len(entries),
        },
    ):
        results = await asyncio.gather(
            *(publish(exchange, _message(entry.event), entry.event.meta.key) for entry in entries),
            return_exceptions=True,
        )
    failpoints.reach(f"{owner}.relay.after_confirm")
    # what stands behind the first failure goes out again with it, or a subject's order would break
    failure = next((i for i, result in enumerate(results) if result is not None), len(results))
    if failure:
        await outbox.settle(entries[:failure])
    for entry in entries[:failure]:
        _published.add(1, {"type": entry.event.meta.key})
    if failure < len(results):
        raise cast(BaseException, results[failure])


def _links(entries: Sequence[Entry]) -> list[trace.Link]:
    """One link per trace in the batch: the relay's span is nobody's child."""
    parents = {entry.event.meta.traceparent for entry in entries} - {None}
    contexts = (
        trace.get_current_span(propagate.extract({"traceparent": parent})).get_span_context()
        for parent in parents
        if parent
    )
    return [trace.Link(context) for context in contexts if context.is_valid]


def _message(event: Event[Fact]) -> aio_pika.Message:
    meta = event.meta
    headers: dict[str, FieldValue] = {"partitionkey": meta.subject}
    if meta.traceparent:
        headers["traceparent"] = meta.traceparent
    return aio_pika.Message(
        encode(event),
        content_type=CONTENT_TYPE,
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        message_id=str(meta.id),
        correlation_id=meta.correlationid,
        type=meta.type,
        app_id=meta.source,
        timestamp=meta.time,
        headers=headers,
    )
