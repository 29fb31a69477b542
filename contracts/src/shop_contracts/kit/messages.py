"""A message as a consumer sees it, and what the consumer did with it. Knows no broker.

`Message` answers to the names of aio-pika (`body`, `headers`, `ack()`, `reject()`, `process()`);
`pika()` gives the four arguments of a pika callback. So a handler runs as it is.
"""

# ruff: noqa: ARG002, FBT001, FBT002 - the signatures are aio-pika's and pika's

import asyncio
import json
from collections.abc import Awaitable, Callable, Generator
from datetime import datetime
from enum import StrEnum
from types import TracebackType
from typing import Any

from msgspec import Struct

from shop_contracts.envelope import CONTENT_TYPE, TYPE_PREFIX
from shop_contracts.events import OWNER_OF
from shop_contracts.topology import exchange


class Outcome(StrEnum):
    """What became of a message. A consumer that settles by itself need not name it."""

    ACK = "ack"
    """Done, or nothing to do: the broker forgets it."""
    RETRY = "retry"
    """It comes again: requeued, or a copy was sent to wait."""
    PARK = "park"
    """It never comes again and is kept: rejected without requeue."""
    UNSETTLED = "unsettled"
    """The handler ended and said nothing: the broker keeps waiting for it."""
    CRASHED = "crashed"
    """The handler raised and said nothing."""


class Properties(Struct, frozen=True, kw_only=True):
    """The AMQP properties of a message; the names are pika's and aio-pika's."""

    content_type: str = CONTENT_TYPE
    delivery_mode: int = 2
    message_id: str | None = None
    correlation_id: str | None = None
    type: str | None = None
    app_id: str | None = None
    timestamp: int | None = None
    headers: dict[str, Any] = {}


class Method(Struct, frozen=True, kw_only=True):
    """The delivery arguments of a pika callback."""

    delivery_tag: int
    exchange: str
    routing_key: str
    redelivered: bool


class _Done:
    """What a settlement returns: it is done already, awaited or not."""

    def __init__(self, after: Callable[[], Awaitable[None]] | None) -> None:
        self._after = after

    def __await__(self) -> Generator[Any, None, None]:
        if self._after is not None:
            yield from self._after().__await__()


class Message:
    """One delivery. `settled` tells what the handler said, `first_ack` runs when it says ack."""

    def __init__(
        self,
        body: bytes,
        *,
        exchange: str,
        routing_key: str,
        properties: Properties,
        redelivered: bool = False,
        delivery_tag: int = 1,
    ) -> None:
        self.body = body
        self.exchange = exchange
        self.routing_key = routing_key
        self.properties = properties
        self.redelivered = redelivered
        self.delivery_tag = delivery_tag
        self.settled: Outcome | None = None
        self.at_ack: Callable[[], Awaitable[None] | None] | None = None

    def __getattr__(self, name: str) -> Any:
        # content_type, message_id, headers ... stand on the message in aio-pika
        if name in Properties.__struct_fields__:
            return getattr(self.properties, name)
        raise AttributeError(name)

    def __repr__(self) -> str:
        return f"<Message {self.routing_key} {self.properties.message_id}>"

    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)

    def ack(self, multiple: bool = False) -> _Done:
        return self._settle(Outcome.ACK)

    def nack(self, multiple: bool = False, requeue: bool = True) -> _Done:
        return self._settle(Outcome.RETRY if requeue else Outcome.PARK)

    def reject(self, requeue: bool = False) -> _Done:
        return self._settle(Outcome.RETRY if requeue else Outcome.PARK)

    def process(
        self,
        requeue: bool = False,
        reject_on_redelivered: bool = False,
        ignore_processed: bool = False,
    ) -> "_Process":
        return _Process(self, requeue, reject_on_redelivered, ignore_processed)

    def pika(self) -> tuple["_Channel", Method, Properties, bytes]:
        """`channel, method, properties, body` of a pika callback."""
        method = Method(
            delivery_tag=self.delivery_tag,
            exchange=self.exchange,
            routing_key=self.routing_key,
            redelivered=self.redelivered,
        )
        return _Channel(self), method, self.properties, self.body

    def _settle(self, outcome: Outcome) -> _Done:
        if self.settled is not None:
            raise RuntimeError(f"{self!r} is settled already: {self.settled}")
        self.settled = outcome
        looked = self.at_ack() if self.at_ack and outcome is Outcome.ACK else None

        async def after() -> None:
            if looked is not None:
                await looked

        return _Done(after if looked is not None else None)


class _Process:
    """aio-pika's `async with message.process()`: ack at the end, reject on an exception."""

    def __init__(
        self, message: Message, requeue: bool, reject_on_redelivered: bool, ignore_processed: bool
    ) -> None:
        self._message = message
        self._requeue = requeue
        self._reject_on_redelivered = reject_on_redelivered
        self._ignore_processed = ignore_processed

    async def __aenter__(self) -> Message:
        return self._message

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._ignore_processed and self._message.settled is not None:
            return
        if kind is None:
            await self._message.ack()
        elif issubclass(kind, asyncio.CancelledError):
            await self._message.reject(requeue=self._requeue)
        else:
            again = self._requeue and not (
                self._reject_on_redelivered and self._message.redelivered
            )
            await self._message.reject(requeue=again)


class _Channel:
    """The part of a pika channel that settles."""

    def __init__(self, message: Message) -> None:
        self._message = message

    def basic_ack(self, delivery_tag: int = 0, multiple: bool = False) -> None:
        _ = self._message.ack()

    def basic_nack(
        self,
        delivery_tag: int = 0,
        multiple: bool = False,
        requeue: bool = True,
    ) -> None:
        _ = self._message.nack(requeue=requeue)

    def basic_reject(self, delivery_tag: int = 0, requeue: bool = True) -> None:
        _ = self._message.reject(requeue=requeue)


def message(event: dict[str, Any], *, redelivered: bool = False) -> Message:
    """The message in which the shop sends `event`, a whole CloudEvent."""
    key = str(event["type"]).removeprefix(TYPE_PREFIX)
    headers = {
        name: event[name] for name in ("partitionkey", "traceparent") if event.get(name) is not None
    }
    if redelivered:
        headers["x-delivery-count"] = 1  # what a quorum queue says of a second delivery
    return Message(
        compact(event),
        exchange=exchange(OWNER_OF.get(key, str(event["source"]).strip("/"))),
        routing_key=key,
        properties=Properties(
            message_id=str(event["id"]),
            correlation_id=event.get("correlationid"),
            type=event["type"],
            app_id=event["source"],
            timestamp=int(datetime.fromisoformat(event["time"]).timestamp()),
            headers=headers,
        ),
        redelivered=redelivered,
    )


def compact(value: Any) -> bytes:
    """JSON without spaces, as the shop writes it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
