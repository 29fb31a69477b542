"""The fake broker does what a RabbitMQ does: the same random operations, the same observations."""

import asyncio
import secrets
from collections.abc import Callable
from typing import Any

import aio_pika
import pytest
from aio_pika.exceptions import DeliveryError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shop_contracts import topology
from shop_contracts.kit import goldens, variants
from shop_contracts.kit.fake_broker import FakeBroker, NotFound, PreconditionFailed, Unsupported
from shop_contracts.kit.messages import Message, Outcome, message
from shop_contracts.kit.producer import assert_publishes

QUORUM = {"x-queue-type": "quorum"}
TTL_SECONDS = 2
WORDS = ["a", "b", "cc"]
QUEUES = ["work", "wait", "parking", "other"]


class Real:
    """A RabbitMQ, as the test drives it; its names carry a prefix of the example's own."""

    def __init__(self, connection: aio_pika.abc.AbstractConnection) -> None:
        self._connection = connection
        self._prefix = secrets.token_hex(4)
        self._hand: dict[int, aio_pika.abc.AbstractIncomingMessage] = {}
        self._queues: dict[str, aio_pika.abc.AbstractQueue] = {}
        self._exchanges: dict[str, aio_pika.abc.AbstractExchange] = {}

    async def open(self) -> None:
        self._admin = await self._connection.channel(on_return_raises=True)
        self._consuming = await self._connection.channel()
        self._exchanges[""] = self._admin.default_exchange

    async def close(self) -> None:
        for queue in self._queues:
            await self._admin.queue_delete(self._named(queue))
        for exchange in self._exchanges:
            if exchange:
                await self._admin.exchange_delete(self._named(exchange))

    async def declare_exchange(self, name: str, kind: str) -> None:
        self._exchanges[name] = await self._admin.declare_exchange(
            self._named(name), aio_pika.ExchangeType(kind), durable=True
        )

    async def declare_queue(self, name: str, arguments: dict[str, Any]) -> None:
        own = {
            key: self._named(value) if key in NAMES and value else value
            for key, value in arguments.items()
        }
        self._queues[name] = await self._admin.declare_queue(
            self._named(name), durable=True, arguments=own
        )

    async def bind(self, queue: str, exchange: str, key: str) -> None:
        await self._queues[queue].bind(self._named(exchange), key)

    async def publish(self, exchange: str, key: str, body: bytes) -> bool:
        made = aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        routing_key = self._named(key) if exchange == "" else key
        try:
            await self._exchanges[exchange].publish(made, routing_key, mandatory=True)
        except DeliveryError:
            return True
        return False

    async def get(self, queue: str, tag: int) -> dict[str, Any] | None:
        own = await self._consuming.get_queue(self._named(queue), ensure=False)
        found = await own.get(fail=False)
        if found is None:
            return None
        self._hand[tag] = found
        return self._seen(found)

    async def settle(self, tag: int, outcome: Outcome) -> None:
        held = self._hand.pop(tag)
        if outcome is Outcome.ACK:
            await held.ack()
        else:
            await held.reject(requeue=outcome is Outcome.RETRY)

    async def disconnect(self) -> None:
        self._hand.clear()
        await self._consuming.close()
        self._consuming = await self._connection.channel()

    async def depths(self) -> dict[str, int]:
        found = {}
        for name in self._queues:
            seen = await self._admin.declare_queue(self._named(name), passive=True)
            found[name] = seen.declaration_result.message_count or 0
        return found

    def _named(self, name: str) -> str:
        return f"{self._prefix}.{name}"

    def _seen(self, found: aio_pika.abc.AbstractIncomingMessage) -> dict[str, Any]:
        return observed(
            found.body,
            self._bare(found.exchange or ""),
            self._bare(found.routing_key or ""),
            bool(found.redelivered),
            self._bare(dict(found.headers)),
        )

    def _bare(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {name: self._bare(item) for name, item in value.items()}
        if isinstance(value, list):
            return [self._bare(item) for item in value]
        return value.removeprefix(f"{self._prefix}.") if isinstance(value, str) else value


NAMES = {"x-dead-letter-exchange", "x-dead-letter-routing-key"}


def observed(
    body: bytes, exchange: str, key: str, redelivered: bool, headers: dict[str, Any]
) -> dict[str, Any]:
    deaths = [
        {name: death[name] for name in ("queue", "reason", "count", "exchange", "routing-keys")}
        for death in headers.get("x-death", [])
    ]
    named = ("x-delivery-count", "x-first-death-reason", "x-first-death-queue")
    return {
        "body": body,
        "exchange": exchange,
        "key": key,
        "redelivered": redelivered,
        "deaths": deaths,
        # a first delivery has the count 0, or none
        **{name: headers.get(name) or None for name in named},
    }


patterns = st.lists(st.sampled_from([*WORDS, "*", "#"]), min_size=1, max_size=3).map(".".join)
keys = st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(".".join)
layouts = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["topic", "topic", "direct", "fanout"]),
        "limit": st.sampled_from([None, 1, 2]),
        "dead": st.sampled_from(["parking", "wait", "key", None]),
        "strategy": st.sampled_from(["at-least-once", "at-most-once"]),
        "bindings": st.lists(
            st.tuples(st.sampled_from(["work", "other"]), patterns), min_size=1, max_size=4
        ),
    }
)
operations = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.just("events"), keys),
        st.tuples(st.just("publish"), st.just(""), st.sampled_from([*QUEUES, "nowhere"])),
        st.tuples(st.just("get"), st.sampled_from(["work", "other", "parking"]), st.just("")),
        st.tuples(st.just("settle"), st.sampled_from(list(Outcome)[:3]), st.integers(0, 3)),
        st.tuples(st.just("disconnect"), st.just(""), st.just("")),
        st.tuples(st.just("advance"), st.just(""), st.just("")),
    ),
    min_size=3,
    max_size=25,
)


def queues_of(layout: dict[str, Any]) -> dict[str, dict[str, Any]]:
    dead: dict[str, Any] = {}
    if layout["dead"] == "key":  # to the exchange, with the key that the message came with
        dead = {"x-dead-letter-exchange": "letters"}
    elif layout["dead"]:
        dead = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": layout["dead"]}
    if dead and layout["strategy"] == "at-least-once":
        dead |= {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}
    limit = {} if layout["limit"] is None else {"x-delivery-limit": layout["limit"]}
    return {
        "parking": QUORUM,
        "other": QUORUM,
        "work": {**QUORUM, **dead, **limit},
        "wait": {
            **QUORUM,
            "x-message-ttl": TTL_SECONDS * 1000,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": "work",
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        },
    }


async def compare(url: str, layout: dict[str, Any], steps: list[tuple[str, Any, Any]]) -> None:
    connection = await aio_pika.connect(url)
    async with connection:
        real, fake = Real(connection), FakeBroker()
        await real.open()
        try:
            await _compare(real, fake, layout, steps)
        finally:
            await real.close()


async def _compare(
    real: Real, fake: FakeBroker, layout: dict[str, Any], steps: list[tuple[str, Any, Any]]
) -> None:
    for exchange, kind in (("events", layout["kind"]), ("letters", "fanout")):
        fake.declare_exchange(exchange, kind)
        await real.declare_exchange(exchange, kind)
    for name, arguments in queues_of(layout).items():
        fake.declare_queue(name, arguments)
        await real.declare_queue(name, arguments)
    for queue, exchange, key in [
        ("parking", "letters", ""),
        *((queue, "events", key) for queue, key in layout["bindings"]),
    ]:
        fake.bind(queue, exchange, key)
        await real.bind(queue, exchange, key)
    hand: list[Message] = []
    for number, (step, first, second) in enumerate(steps):
        if step == "publish":
            body = f"message {number}".encode()
            told = fake.publish(first, second, body, mandatory=True)
            assert told.returned == await real.publish(first, second, body)
        elif step == "get":
            taken = fake.get(first)
            seen = await real.get(first, taken.delivery_tag if taken else 0)
            assert seen == (taken and shown(taken))
            hand += [taken] if taken else []
        elif step == "settle" and hand:
            held = hand.pop(second % len(hand))
            await settle(held, first)
            await real.settle(held.delivery_tag, first)
        elif step == "disconnect":
            hand.clear()
            fake.disconnect()
            await real.disconnect()
        elif step == "advance":
            fake.advance(TTL_SECONDS)
        await agree(real, fake, f"{number} {step}")


async def settle(held: Message, outcome: Outcome) -> None:
    await {
        Outcome.ACK: held.ack,
        Outcome.RETRY: lambda: held.reject(requeue=True),
        Outcome.PARK: lambda: held.reject(requeue=False),
    }[outcome]()


async def agree(real: Real, fake: FakeBroker, after: str) -> None:
    """A queue takes its time; where both differ for good, the test ends here."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + 30
    wanted = {name: fake.depth(name) for name in QUEUES}
    while (found := await real.depths()) != wanted:
        assert loop.time() < deadline, (after, found, wanted)
        await asyncio.sleep(0.01)


def shown(taken: Message) -> dict[str, Any]:
    return observed(
        taken.body,
        taken.exchange,
        taken.routing_key,
        taken.redelivered,
        taken.properties.headers,
    )


@pytest.mark.connected
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(layout=layouts, steps=operations)
def test_the_fake_does_what_a_real_broker_does(
    broker: Any, layout: dict[str, Any], steps: list[tuple[str, Any, Any]]
) -> None:
    asyncio.run(compare(broker.url, layout, steps))


@pytest.mark.connected
@pytest.mark.long
@settings(
    max_examples=600,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(layout=layouts, steps=operations)
def test_the_fake_does_what_a_real_broker_does_for_long(
    broker: Any, layout: dict[str, Any], steps: list[tuple[str, Any, Any]]
) -> None:
    asyncio.run(compare(broker.url, layout, steps))


def shop() -> FakeBroker:
    return FakeBroker.with_topology()


def test_an_event_of_the_shop_reaches_those_who_read_it() -> None:
    broker = shop()
    told = broker.send(message(goldens.golden("stock.changed.v1")))

    assert not told.returned
    assert 1 == broker.depth("search.stock")
    assert 0 == broker.depth("checkout.stock")
    assert_publishes(broker.published, "stock.changed.v1")


def test_a_key_that_nobody_binds_is_confirmed_and_returned() -> None:
    broker = FakeBroker()
    broker.declare_exchange("stock.events")
    told = broker.publish("stock.events", "stock.renamed.v1", b"{}", mandatory=True)

    assert told.confirmed
    assert told.returned


def test_a_message_that_is_never_acked_is_parked_with_its_deaths() -> None:
    broker = shop()
    broker.send(message(goldens.golden("stock.changed.v1")))
    for taken in broker.drain("search.stock"):
        _ = taken.nack(requeue=True)

    parked = broker.get("search.stock.parking")
    assert parked is not None
    assert "delivery_limit" == parked.headers["x-first-death-reason"]
    assert 0 == broker.depth("search.stock")


def test_a_message_waits_as_long_as_its_queue_says() -> None:
    broker = shop()
    waits = "search.stock.retry.10s"
    broker.publish("search.retry", waits, b"{}")
    broker.advance(9.9)
    assert (1, 0) == (broker.depth(waits), broker.depth("search.stock"))
    broker.advance(0.1)
    assert (0, 1) == (broker.depth(waits), broker.depth("search.stock"))


def test_a_delivery_is_settled_once() -> None:
    broker = shop()
    broker.send(message(variants.later(goldens.golden("stock.changed.v1"))))
    taken = broker.get("search.stock")
    assert taken is not None
    broker.disconnect()

    with pytest.raises(PreconditionFailed):
        _ = taken.ack()


@pytest.mark.parametrize(
    ("misuse", "error"),
    [
        (lambda broker: broker.declare_queue("q", {"x-queue-type": "classic"}), Unsupported),
        (lambda broker: broker.declare_queue("q", {**QUORUM, "x-max-length": 1}), Unsupported),
        (lambda broker: broker.declare_exchange("e", "x-consistent-hash"), Unsupported),
        (lambda broker: broker.declare_exchange("stock.events", "fanout"), PreconditionFailed),
        (lambda broker: broker.declare_queue("search.stock", QUORUM), PreconditionFailed),
        (lambda broker: broker.bind("nowhere", "stock.events", "#"), NotFound),
        (lambda broker: broker.publish("nowhere", "a", b""), NotFound),
        (lambda broker: broker.get("nowhere"), NotFound),
    ],
)
def test_what_a_broker_refuses_or_the_fake_does_not_know_is_refused(
    misuse: Callable[[FakeBroker], Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        misuse(shop())


def test_the_shops_own_topology_is_known_whole() -> None:
    broker = shop()
    work = [queue for queue in topology.TOPOLOGY.queues if not queue.name.endswith(".log")]

    assert [0] * len(work) == [broker.depth(queue.name) for queue in work]
