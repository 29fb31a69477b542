"""Lays a work queue out in partitions, and moves what lies in it there. Run at deploy time.

The owner's exchange leads to `<work>.by-key`, which hashes the subject, and that to the queues
`<work>.p0`, `<work>.p1` and so on: each subject has its queue, and each queue one active consumer.
The work queue itself stays, bound to nothing: what comes back from waiting, parking or a replay
goes there.

Another number of partitions deals the subjects out anew. So it is done while nobody publishes or
consumes, and what lies in the old queues goes into the new ones first, in order.
"""

import asyncio
from collections.abc import Collection

from aio_pika import ExchangeType
from aio_pika.abc import (
    AbstractChannel,
    AbstractConnection,
    AbstractExchange,
    AbstractIncomingMessage,
)
from aio_pika.exceptions import ChannelNotFoundEntity
from aiormq.exceptions import ChannelLockedResource

from bus.broker import CONFIRM_SECONDS, confirming, own_cancellation
from shop_contracts import topology

BATCH = 500
HASHED = "partitionkey"
WEIGHT = "1"
"""How many parts of the hashes a partition takes: each as many as the others."""


class Busy(Exception):
    """Somebody still publishes or consumes; nothing was changed."""


async def arrange(
    connection: AbstractConnection, work: str, owner: str, keys: Collection[str], count: int
) -> None:
    """Bind `count` partitions to the owner's events, or for 0 the work queue itself.

    Doing it again changes nothing, and ends what was begun. Raises Busy.
    """
    stands = await standing(connection, work)
    channel = await connection.channel()
    if stands == count and not (stands and await _found(connection, _moving(work))):
        await _bind(channel, work, owner, keys, count)
        return
    await _idle(connection, work, owner, stands)
    moving = await channel.declare_queue(
        _moving(work), durable=True, arguments={"x-queue-type": "quorum"}
    )
    if count:
        dealt = await _deal(channel, work, count)
        for number in range(count, stands):
            gone = await channel.get_queue(topology.partition(work, number))
            await gone.unbind(dealt, WEIGHT)
        await _move(connection, work, topology.by_key(work))
    for number in range(stands):
        name = topology.partition(work, number)
        await _move(connection, name, topology.by_key(work) if count else "", work)
    await _bind(channel, work, owner, keys, count)
    if not count:
        await channel.exchange_delete(topology.by_key(work))
    # the first goes last: while it stands, this is not done
    for number in reversed(range(count, stands)):
        await channel.queue_delete(topology.partition(work, number))
    await moving.delete(if_unused=False, if_empty=False)
    await channel.queue_delete(topology.relay_lease(owner))


async def _bind(
    channel: AbstractChannel, work: str, owner: str, keys: Collection[str], count: int
) -> None:
    source = await channel.get_exchange(topology.exchange(owner))
    itself = await channel.get_queue(work)
    if not count:
        for key in keys:
            await itself.bind(source, key)
        return
    dealt = await _deal(channel, work, count)
    for key in keys:
        await dealt.bind(source, key)
        await itself.unbind(source, key)


async def _deal(channel: AbstractChannel, work: str, count: int) -> AbstractExchange:
    """The exchange that hashes, and its partitions."""
    dealt = await channel.declare_exchange(
        topology.by_key(work),
        ExchangeType.X_CONSISTENT_HASH,
        durable=True,
        arguments={"hash-header": HASHED},
    )
    for number in range(count):
        queue = await channel.declare_queue(
            topology.partition(work, number),
            durable=True,
            arguments=topology.partition_arguments(work),
        )
        await queue.bind(dealt, WEIGHT)
    return dealt


async def _idle(connection: AbstractConnection, work: str, owner: str, stands: int) -> None:
    """Keep relays away for as long as this connection lives. Raises Busy."""
    channel = await connection.channel()
    try:
        await channel.declare_queue(topology.relay_lease(owner), exclusive=True)
    except ChannelLockedResource as error:
        raise Busy(f"the relay of {owner} is at work: stop it first") from error
    for name in (work, *(topology.partition(work, number) for number in range(stands))):
        queue = await channel.declare_queue(name, passive=True)
        if queue.declaration_result.consumer_count:
            await channel.queue_delete(topology.relay_lease(owner))
            raise Busy(f"somebody consumes {name}: stop the worker first")


async def _move(
    connection: AbstractConnection, name: str, exchange: str, key: str | None = None
) -> None:
    """Publish what lies in a queue to the exchange, in order; then it is gone from the queue.

    A crash in between leaves some in both, and a consumer bears a repetition.
    """
    taking, giving = await connection.channel(), await confirming(connection)
    await taking.set_qos(prefetch_count=BATCH)
    queue = await taking.declare_queue(name, passive=True)
    left = queue.declaration_result.message_count or 0
    messages: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()
    out = await giving.get_underlay_channel()
    if left:
        await queue.consume(messages.put)
    while left:
        with own_cancellation():
            async with asyncio.timeout(CONFIRM_SECONDS):
                batch = [await messages.get() for _ in range(min(BATCH, left))]
                # their order is that in which they take the channel's lock
                await asyncio.gather(
                    *(
                        out.basic_publish(
                            one.body,
                            exchange=exchange,
                            routing_key=key or one.routing_key or "",
                            properties=one.properties,
                            mandatory=True,
                        )
                        for one in batch
                    )
                )
        await batch[-1].ack(multiple=True)
        left -= len(batch)
    # what came round to this queue again, and was taken already, goes back into it
    await taking.close()
    await giving.close()


async def standing(connection: AbstractConnection, work: str) -> int:
    """How many partitions a work queue has; 0 is the queue itself."""
    count = 0
    while await _found(connection, topology.partition(work, count)):
        count += 1
    return count


async def _found(connection: AbstractConnection, name: str) -> bool:
    channel = await connection.channel()
    try:
        await channel.declare_queue(name, passive=True)
    except ChannelNotFoundEntity:
        return False
    await channel.close()
    return True


def _moving(work: str) -> str:
    """The queue that stands for as long as a move is not done."""
    return f"{work}.moving"
