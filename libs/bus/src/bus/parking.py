"""What lies in parking queues: looking at it, sending it back to its own consumer, dropping it.

For operators: whoever calls this may read parking queues and write to work queues by name.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from hashlib import sha256
from typing import Any

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage
from msgspec import Struct

from bus.broker import confirming, connected, publish
from bus.subscription import ATTEMPT_HEADER, ERROR_HEADER, REASON_HEADER, REPLAY_HEADER
from shop_contracts import topology

REJECTED, DELIVERED_TOO_OFTEN = "rejected", "delivery_limit"
"""Why the broker itself parks: it was told to, or whoever took the message died each time."""

ID_LENGTH = 16

_OF_THE_ROAD = (ATTEMPT_HEADER, ERROR_HEADER, REASON_HEADER, "x-death", "x-delivery-count")


class Parked(Struct, frozen=True, kw_only=True):
    """A message that its consumer could not work; `queue` is the consumer's work queue."""

    queue: str
    id: str
    type: str
    reason: str
    error: str
    attempts: int
    made_at: datetime | None
    headers: Mapping[str, Any]
    body: bytes


class Held(Struct, frozen=True):
    """A parked message in hand. What is done to none of them goes back into its parking."""

    parked: Parked
    _message: AbstractIncomingMessage
    _channel: AbstractChannel

    async def send_back(self) -> None:
        """Put it into the work queue it came from, and into no other; then take it out.

        A crash in between leaves it in both, and its consumer bears a repetition.
        """
        message = self._message
        kept = {k: v for k, v in message.headers.items() if k not in _OF_THE_ROAD}
        kept = {k: v for k, v in kept.items() if not k.startswith(("x-first-", "x-last-"))}
        again = aio_pika.Message(
            message.body,
            content_type=message.content_type,
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            message_id=message.message_id,
            correlation_id=message.correlation_id,
            type=message.type,
            app_id=message.app_id,
            timestamp=message.timestamp,
            headers={**kept, REPLAY_HEADER: "parking"},
        )
        await publish(self._channel.default_exchange, again, self.parked.queue)
        await message.ack()

    async def drop(self) -> None:
        """Forget it for good."""
        await self._message.ack()


@asynccontextmanager
async def opened(broker_url: str, queue: str, limit: int) -> AsyncIterator[list[Held]]:
    """The oldest messages in the parking of a work queue, at most `limit`.

    Raises one of `BROKER_ERRORS`.
    """
    async with connected(broker_url, f"{queue} parking") as connection:
        channel = await confirming(connection)
        parking = await channel.get_queue(topology.parking(queue), ensure=True)
        held: list[Held] = []
        while len(held) < limit and (message := await parking.get(fail=False)) is not None:
            held.append(Held(_parked(queue, message), message, channel))
        yield held


def _parked(queue: str, message: AbstractIncomingMessage) -> Parked:
    headers = message.headers
    attempts = headers.get(ATTEMPT_HEADER, 0)
    return Parked(
        queue=queue,
        # whoever sent it may have given it no name
        id=message.message_id or sha256(message.body).hexdigest()[:ID_LENGTH],
        type=(message.type or "").removeprefix("shop."),
        # the broker says why it parked; a consumer that did says it better
        reason=str(headers.get(REASON_HEADER) or headers.get("x-first-death-reason") or REJECTED),
        error=str(headers.get(ERROR_HEADER, "")),
        attempts=attempts if isinstance(attempts, int) else 0,
        made_at=message.timestamp,
        # how often it was looked at says nothing of the message
        headers={k: v for k, v in headers.items() if k != "x-delivery-count"},
        body=message.body,
    )
