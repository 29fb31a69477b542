"""Connections to RabbitMQ and the one way to publish on them. Knows no exchange and no event."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractExchange
from aio_pika.exceptions import AMQPException, ChannelInvalidStateError

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 10
CONNECT_SECONDS = 10
CONFIRM_SECONDS = 10
RECONNECT_SECONDS = 1.0
JITTER = 0.5

BROKER_ERRORS = (AMQPException, ChannelInvalidStateError, OSError, TimeoutError)
"""What a broker that is away, going away or refusing looks like. aio-pika's own errors included."""


async def pause() -> None:
    """Wait before the next try; not all that lost one broker come back at the same moment."""
    share = random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - jitter
    await asyncio.sleep(RECONNECT_SECONDS * share)


@asynccontextmanager
async def connected(url: str, name: str) -> AsyncIterator[AbstractConnection]:
    """A connection that dies visibly, to any node of a cluster whose addresses `url` lists.

    The addresses are separated by commas and tried in a random order, so that the connections of
    many processes spread over the nodes. Raises one of `BROKER_ERRORS` when none answers.

    Not a robust one: those bring back their consumers with the arguments of the first time (a
    stream would be read again from its first offset) and hide that a lease was lost. Whoever
    holds a connection here starts again from the top when it is gone.
    """
    connection = await _any_of(url.split(","), name)
    try:
        stop_if_cancelled()
        with own_cancellation():
            yield connection
    finally:
        await connection.close()


async def _any_of(urls: list[str], name: str) -> AbstractConnection:
    last = len(urls) - 1
    for tried, url in enumerate(random.sample(urls, len(urls))):
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                return await aio_pika.connect(
                    url, heartbeat=HEARTBEAT_SECONDS, client_properties={"connection_name": name}
                )
        except BROKER_ERRORS:
            if tried == last:
                raise
    raise ValueError("no address of a broker is given")


async def confirming(connection: AbstractConnection) -> AbstractChannel:
    """A channel on which a publish returns when the broker has it, and raises when nobody does.

    RabbitMQ confirms an unroutable message; only `on_return_raises` with `mandatory` tells.
    """
    return await connection.channel(publisher_confirms=True, on_return_raises=True)


async def publish(exchange: AbstractExchange, message: aio_pika.Message, key: str) -> None:
    """Publish and wait for the confirm. Raises one of `BROKER_ERRORS`; then the fate is unknown."""
    with own_cancellation():
        async with asyncio.timeout(CONFIRM_SECONDS):
            await exchange.publish(message, routing_key=key, mandatory=True)


@contextmanager
def own_cancellation() -> Iterator[None]:
    """Let a `CancelledError` pass only where this very task was cancelled.

    aio-pika cancels what waits on a connection that dies.
    """
    try:
        yield
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise ConnectionError("the connection died before the answer") from error


def stop_if_cancelled() -> None:
    """Raise `CancelledError` where this task was cancelled and nobody let it know.

    `asyncio.wait_for` of Python 3.11, which both drivers use, swallows a cancellation that comes in
    the moment in which its own wait is over. A loop that runs for ever asks before each turn.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
