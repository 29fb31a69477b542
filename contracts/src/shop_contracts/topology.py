"""Every exchange, queue and binding of the shop, derived from who owns and who reads what. No I/O.

Arguments of a live queue cannot change: a new argument is a new name. They hold on RabbitMQ 3.10
and 4.x. Declare in the order of `TOPOLOGY`: what receives dead letters stands before its sender.
"""

from typing import Any

from msgspec import Struct

from shop_contracts.events import EVENTS

DAY_SECONDS = 86_400
RETRY_DELAYS = {"1s": 1_000, "10s": 10_000, "60s": 60_000}
"""Waiting queues of a consumer, by name and milliseconds; attempt n waits in the n-th."""

READS: dict[str, dict[str, tuple[str, ...]]] = {
    "stock": {
        "checkout": (
            "order.placed.v1",
            "order.authorised.v1",
            "order.cancelled.v1",
            "order.refunded.v1",
        )
    },
    "search": {
        "catalog": ("product.#", "category.#"),
        "stock": ("stock.changed.v1", "price.changed.v1"),
    },
    "checkout": {
        "catalog": ("product.#",),
        "stock": ("reservation.#", "price.changed.v1"),
    },
    "purger": {
        "catalog": ("product.#", "category.#"),
        "stock": ("stock.changed.v1", "price.changed.v1"),
    },
}
"""Who consumes whose events, by binding key: `READS[consumer][owner]`."""


class Exchange(Struct, frozen=True, kw_only=True):
    """A durable exchange."""

    name: str
    type: str


class Queue(Struct, frozen=True, kw_only=True):
    """A durable queue."""

    name: str
    arguments: dict[str, Any]


class Binding(Struct, frozen=True, kw_only=True):
    """What a queue receives from an exchange."""

    exchange: str
    key: str
    queue: str


class Topology(Struct, frozen=True, kw_only=True):
    """All that has to stand in the broker before a service starts."""

    exchanges: list[Exchange]
    queues: list[Queue]
    bindings: list[Binding]


def exchange(owner: str) -> str:
    """The exchange on which `owner`, and nobody else, publishes."""
    return f"{owner}.events"


def log(owner: str) -> str:
    """The stream that keeps every event of `owner` for replay."""
    return f"{owner}.events.log"


def queue(consumer: str, owner: str) -> str:
    """The work queue of `consumer` for the events of `owner`."""
    return f"{consumer}.{owner}"


def parking(work: str) -> str:
    """Where the messages of a work queue go that cannot be worked."""
    return f"{work}.parking"


def by_key(work: str) -> str:
    """The exchange that deals the events of a partitioned work queue out to its partitions.

    It is not part of `TOPOLOGY`, and neither are they: whoever deploys says how many there are.
    """
    return f"{work}.by-key"


def partition(work: str, number: int) -> str:
    """One of the queues among which the subjects of a partitioned work queue are dealt out."""
    return f"{work}.p{number}"


def retry(work: str, delay: str) -> str:
    """Where a message of a work queue waits before it is tried again."""
    return f"{work}.retry.{delay}"


def retry_exchange(consumer: str) -> str:
    """The exchange on which `consumer` publishes to its own waiting and parking queues only."""
    return f"{consumer}.retry"


def relay_lease(owner: str) -> str:
    """The exclusive queue whose connection is the one relay that may publish for `owner`.

    It is not part of `TOPOLOGY`: the relay declares it, and it ends with the relay's connection.
    """
    return f"{owner}.relay"


def matches(binding: str, key: str) -> bool:
    """Whether a topic binding brings a routing key: `*` is one word, `#` any number of them."""
    return _matches(binding.split("."), key.split("."))


def _matches(pattern: list[str], words: list[str]) -> bool:
    if not pattern:
        return not words
    first, rest = pattern[0], pattern[1:]
    if first == "#":
        return any(_matches(rest, words[skip:]) for skip in range(len(words) + 1))
    return bool(words) and first in {"*", words[0]} and _matches(rest, words[1:])


def readers(owner: str, key: str) -> list[str]:
    """The services whose queue gets the event `key` of `owner`."""
    return [
        consumer
        for consumer, owners in READS.items()
        if any(matches(binding, key) for binding in owners.get(owner, ()))
    ]


def _dead_letters_to(queue: str) -> dict[str, Any]:
    # at-least-once dead-lettering needs reject-publish, and keeps the letter until it has arrived
    return {
        "x-queue-type": "quorum",
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": queue,
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }


def _work(work: str) -> dict[str, Any]:
    return {**_dead_letters_to(parking(work)), "x-delivery-limit": 5}


def partition_arguments(work: str) -> dict[str, Any]:
    """How a partition is declared: as its work queue, with one consumer at a time."""
    return {**_work(work), "x-single-active-consumer": True}


def _build() -> Topology:
    exchanges: list[Exchange] = []
    queues: list[Queue] = []
    bindings: list[Binding] = []
    for owner in EVENTS:
        exchanges.append(Exchange(name=exchange(owner), type="topic"))
        queues.append(
            Queue(
                name=log(owner),
                arguments={
                    "x-queue-type": "stream",
                    "x-max-age": "7D",
                    "x-max-length-bytes": 5_000_000_000,
                    "x-stream-max-segment-size-bytes": 50_000_000,
                },
            )
        )
        bindings.append(Binding(exchange=exchange(owner), key="#", queue=log(owner)))
    for consumer, owners in READS.items():
        exchanges.append(Exchange(name=retry_exchange(consumer), type="direct"))
        for owner, keys in owners.items():
            work = queue(consumer, owner)
            # parking before work before waiting: no letter without an address
            queues.append(Queue(name=parking(work), arguments={"x-queue-type": "quorum"}))
            queues.append(Queue(name=work, arguments=_work(work)))
            for delay, milliseconds in RETRY_DELAYS.items():
                waiting = retry(work, delay)
                queues.append(
                    Queue(
                        name=waiting,
                        arguments={**_dead_letters_to(work), "x-message-ttl": milliseconds},
                    )
                )
                bindings.append(
                    Binding(exchange=retry_exchange(consumer), key=waiting, queue=waiting)
                )
            # what a consumer parks itself carries its reason; the broker's letters have none
            bindings.append(
                Binding(exchange=retry_exchange(consumer), key=parking(work), queue=parking(work))
            )
            bindings.extend(Binding(exchange=exchange(owner), key=key, queue=work) for key in keys)
    return Topology(exchanges=exchanges, queues=queues, bindings=bindings)


TOPOLOGY = _build()
