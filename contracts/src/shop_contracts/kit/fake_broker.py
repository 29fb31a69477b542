"""RabbitMQ in memory, for tests that have none: routing, confirms, returns, dead letters, time.

It does what a RabbitMQ does with durable topic, direct and fanout exchanges and with quorum queues;
a test gives both the same random operations and finds them equal. What it does not know it refuses:
`Unsupported` is raised, never a guess made. Time stands still until `advance` is called.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import Any

import msgspec
from msgspec import Struct

from shop_contracts import topology
from shop_contracts.kit.messages import Message, Outcome, Properties

_EXCHANGES = {"topic", "direct", "fanout"}
_ARGUMENTS = {
    *("x-queue-type", "x-dead-letter-exchange", "x-dead-letter-routing-key"),
    *("x-dead-letter-strategy", "x-overflow", "x-delivery-limit", "x-message-ttl"),
}


class Unsupported(Exception):
    """What a real broker would do here is not known."""


class NotFound(Exception):
    """404: the channel would be closed."""


class PreconditionFailed(Exception):
    """406: it stands already, with other arguments; the channel would be closed."""


class Published(Struct, frozen=True):
    """What a publisher hears. RabbitMQ confirms what it cannot route: only `returned` tells."""

    confirmed: bool
    returned: bool


class Delivered(Message):
    """A message out of a queue; settling it changes the queue."""

    def __init__(self, broker: "FakeBroker", queue: str, kept: "_Kept", tag: int) -> None:
        headers = deepcopy(kept.headers)
        if kept.deliveries:
            headers["x-delivery-count"] = kept.deliveries
        super().__init__(
            kept.body,
            exchange=kept.exchange,
            routing_key=kept.routing_key,
            properties=msgspec.structs.replace(kept.properties, headers=headers),
            redelivered=kept.deliveries > 0,
            delivery_tag=tag,
        )
        self._settled_in = broker
        self._queue = queue

    def _settle(self, outcome: Outcome) -> Any:
        done = super()._settle(outcome)
        self._settled_in.settle(self._queue, self.delivery_tag, outcome)
        return done


class _Kept(Struct):
    """A message in a queue, with what the queue knows of it."""

    body: bytes
    exchange: str
    routing_key: str
    properties: Properties
    headers: dict[str, Any]
    expires: float | None = None
    deliveries: int = 0
    place: int = 0


class _Queue:
    def __init__(self, name: str, arguments: Mapping[str, Any]) -> None:
        self.name = name
        self.arguments = dict(arguments)
        self.ready: deque[_Kept] = deque()
        self.returned: deque[_Kept] = deque()
        self.unacked: dict[int, _Kept] = {}
        self.places = 0

    @property
    def depth(self) -> int:
        return len(self.ready) + len(self.returned)


class FakeBroker:
    """A virtual host. `published` holds what was published, for `assert_publishes`."""

    def __init__(self) -> None:
        self.now = 0.0
        self.published: list[Message] = []
        self.dropped: list[bytes] = []
        self._exchanges: dict[str, str] = {"": "direct"}
        self._queues: dict[str, _Queue] = {}
        self._bindings: list[tuple[str, str, str]] = []
        self._tags = 0

    @classmethod
    def with_topology(cls, declared: topology.Topology = topology.TOPOLOGY) -> "FakeBroker":
        """A broker in which the shop's exchanges and work queues stand; streams are left out."""
        broker = cls()
        for exchange in declared.exchanges:
            broker.declare_exchange(exchange.name, exchange.type)
        streams = set()
        for queue in declared.queues:
            if queue.arguments.get("x-queue-type") == "stream":
                streams.add(queue.name)
            else:
                broker.declare_queue(queue.name, queue.arguments)
        for binding in declared.bindings:
            if binding.queue not in streams:
                broker.bind(binding.queue, binding.exchange, binding.key)
        return broker

    def declare_exchange(self, name: str, kind: str = "topic") -> None:
        """Declare a durable exchange. Raises `PreconditionFailed`, `Unsupported`."""
        if kind not in _EXCHANGES:
            raise Unsupported(f"exchange type {kind}")
        if self._exchanges.setdefault(name, kind) != kind:
            raise PreconditionFailed(f"exchange {name} is {self._exchanges[name]}")

    def declare_queue(self, name: str, arguments: Mapping[str, Any] | None = None) -> int:
        """Declare a durable quorum queue and say how many messages are ready in it."""
        wanted = dict(arguments or {"x-queue-type": "quorum"})
        unknown = set(wanted) - _ARGUMENTS
        if unknown or wanted.get("x-queue-type") != "quorum":
            raise Unsupported(f"queue {name}: {sorted(unknown) or wanted.get('x-queue-type')}")
        known = self._queues.setdefault(name, _Queue(name, wanted))
        if known.arguments != wanted:
            raise PreconditionFailed(f"queue {name} has {known.arguments}")
        return known.depth

    def bind(self, queue: str, exchange: str, key: str) -> None:
        """Bind a queue. Raises `NotFound`."""
        if queue not in self._queues or exchange not in self._exchanges:
            raise NotFound(queue if queue not in self._queues else exchange)
        if (exchange, key, queue) not in self._bindings:
            self._bindings.append((exchange, key, queue))

    def publish(
        self,
        exchange: str,
        routing_key: str,
        body: bytes,
        properties: Properties | None = None,
        *,
        mandatory: bool = False,
    ) -> Published:
        """Publish with confirms. Raises `NotFound` where the exchange is missing."""
        if exchange not in self._exchanges:
            raise NotFound(f"exchange {exchange}")
        given = properties or Properties()
        sent = Message(body, exchange=exchange, routing_key=routing_key, properties=given)
        self.published.append(sent)
        queues = self._route(exchange, routing_key)
        for queue in queues:
            self._put(queue, body, exchange, routing_key, given, dict(given.headers))
        return Published(confirmed=True, returned=mandatory and not queues)

    def send(self, message: Message, *, mandatory: bool = True) -> Published:
        """Publish a message of the kit as it is."""
        return self.publish(
            message.exchange,
            message.routing_key,
            message.body,
            message.properties,
            mandatory=mandatory,
        )

    def get(self, queue: str) -> Delivered | None:
        """The next message of a queue, unacknowledged; None when it is empty."""
        found = self._queue(queue)
        waiting = found.returned or found.ready
        if not waiting:
            return None
        kept = waiting.popleft()
        self._tags += 1
        found.unacked[self._tags] = kept
        return Delivered(self, queue, kept, self._tags)

    def drain(self, queue: str) -> Iterable[Delivered]:
        """Messages until the queue is empty; those that come back come again."""
        while (message := self.get(queue)) is not None:
            yield message

    def depth(self, queue: str) -> int:
        """How many messages are ready."""
        return self._queue(queue).depth

    def settle(self, queue: str, tag: int, outcome: Outcome) -> None:
        """Take an answer to a delivery. Raises `PreconditionFailed` where there is none such."""
        found = self._queue(queue)
        kept = found.unacked.pop(tag, None)
        if kept is None:
            raise PreconditionFailed(f"unknown delivery tag {tag}")
        if outcome is Outcome.RETRY:
            # without a limit the log would grow for ever: it comes again after all others
            self._return(found, kept, last="x-delivery-limit" not in found.arguments)
        elif outcome is Outcome.PARK:
            self._die(found, kept, "rejected")

    def disconnect(self) -> None:
        """The consumers' connection is gone: what they had in hand comes back."""
        for queue in self._queues.values():
            in_hand = sorted(queue.unacked.values(), key=lambda kept: kept.place)
            queue.unacked.clear()
            for kept in in_hand:
                self._return(queue, kept)

    def advance(self, seconds: float) -> None:
        """Let time pass; what expires meanwhile is dead-lettered, earliest first."""
        end = self.now + seconds
        while True:
            # a quorum queue looks at its head only
            due = [
                (expires, queue)
                for queue in self._queues.values()
                if queue.ready and (expires := queue.ready[0].expires) is not None
            ]
            moment, first = min(due, key=lambda pair: pair[0], default=(None, None))
            if moment is None or first is None or moment > end:
                break
            self.now = max(self.now, moment)
            self._die(first, first.ready.popleft(), "expired")
        self.now = end

    def _queue(self, name: str) -> _Queue:
        if name not in self._queues:
            raise NotFound(f"queue {name}")
        return self._queues[name]

    def _route(self, exchange: str, key: str) -> list[_Queue]:
        if exchange == "":
            return [self._queues[key]] if key in self._queues else []
        kind = self._exchanges[exchange]
        names = {
            queue: None
            for source, pattern, queue in self._bindings
            if source == exchange
            and (
                kind == "fanout"
                or (kind == "direct" and pattern == key)
                or (kind == "topic" and topology.matches(pattern, key))
            )
        }
        return [self._queues[name] for name in names]

    def _put(
        self,
        queue: _Queue,
        body: bytes,
        exchange: str,
        key: str,
        properties: Properties,
        headers: dict[str, Any],
    ) -> None:
        ttl = queue.arguments.get("x-message-ttl")
        queue.places += 1
        queue.ready.append(
            _Kept(
                body=body,
                exchange=exchange,
                routing_key=key,
                properties=properties,
                headers=headers,
                expires=None if ttl is None else self.now + ttl / 1000,
                place=queue.places,
            )
        )

    def _return(self, queue: _Queue, kept: _Kept, *, last: bool = False) -> None:
        kept.deliveries += 1
        limit = queue.arguments.get("x-delivery-limit")
        if limit is not None and kept.deliveries > limit:
            self._die(queue, kept, "delivery_limit")
        elif last:
            queue.ready.append(kept)
        else:
            queue.returned.append(kept)

    def _die(self, queue: _Queue, kept: _Kept, reason: str) -> None:
        exchange = queue.arguments.get("x-dead-letter-exchange")
        if exchange is None or exchange not in self._exchanges:
            self.dropped.append(kept.body)
            return
        key = queue.arguments.get("x-dead-letter-routing-key", kept.routing_key)
        headers = _with_death(kept, queue.name, reason)
        targets = self._route(exchange, key)
        if reason != "rejected":
            # a circle that nobody rejects in would turn for ever: RabbitMQ cuts it
            targets = [to for to in targets if not _is_cycle(to.name, headers["x-death"])]
        if not targets:
            self.dropped.append(kept.body)
        for target in targets:
            self._put(target, kept.body, exchange, key, kept.properties, deepcopy(headers))


def _with_death(kept: _Kept, queue: str, reason: str) -> dict[str, Any]:
    headers = deepcopy(kept.headers)
    deaths: list[dict[str, Any]] = headers.get("x-death", [])
    known = [death for death in deaths if (death["queue"], death["reason"]) == (queue, reason)]
    others = [death for death in deaths if death not in known]
    new: dict[str, Any] = {"count": 0, "queue": queue, "reason": reason}
    death = known[0] if known else new
    death |= {"exchange": kept.exchange, "routing-keys": [kept.routing_key]}
    death["count"] += 1
    headers["x-death"] = [death, *others]
    headers.setdefault("x-first-death-reason", reason)
    headers.setdefault("x-first-death-queue", queue)
    headers.setdefault("x-first-death-exchange", kept.exchange)
    return headers


def _is_cycle(queue: str, deaths: list[dict[str, Any]]) -> bool:
    way: list[str] = []
    for death in deaths:
        way.append(death["reason"])
        if death["queue"] == queue:
            return "rejected" not in way
    return False
