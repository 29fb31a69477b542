"""Two majors of one fact on a real stream: an old one is replayed as the newest."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Protocol
from uuid import UUID, uuid4

import aio_pika
import pytest
from redis.asyncio import Redis

from bus import relay, replay
from bus.redis_stream import RedisOutbox
from shop_contracts import envelope, majors
from shop_contracts.envelope import CONTENT_TYPE, Event
from shop_contracts.events.base import Fact
from shop_contracts.events.catalog import CategoryChangedV1, CategoryChangedV2
from shop_contracts.events.catalog.category_changed_v2 import Step


class Gauge:
    def __init__(self) -> None:
        self.told: list[tuple[float, object]] = []

    def set(self, value: float, attributes: object) -> None:
        self.told.append((value, attributes))


def test_a_relay_tells_when_a_major_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    gauge = Gauge()
    monkeypatch.setattr(relay, "_sunset", gauge)
    relay.announce("catalog")
    (end, attributes), *others = gauge.told

    assert {"type": "category.changed.v1"} == attributes
    assert datetime(2028, 1, 1, tzinfo=UTC) == datetime.fromtimestamp(end, UTC)
    assert [] == others


def told(slug: str) -> Iterator[Event[Fact]]:
    """A category before there was a v2, and its two changes since."""
    before = CategoryChangedV1(slug=slug, name="Tents", path=["Outdoor", "Tents"], position=1)
    yield envelope.new(before, id=uuid4(), entityversion=1)
    for version in (2, 3):
        path = [Step(slug="outdoor", name="Outdoor"), Step(slug=slug, name=f"Tents {version}")]
        since = CategoryChangedV2(slug=slug, name=path[-1].name, path=path, position=1)
        yield from majors.sent_as(envelope.new(since, id=uuid4(), entityversion=version))


class Stack(Protocol):
    redis_stock_url: str


def build(fields: dict[str, str]) -> Event[Fact]:
    data = CategoryChangedV2(
        slug=fields["slug"], name="Tents", path=[Step(name="Tents")], position=1
    )
    return envelope.new(data, id=UUID(fields["id"]), entityversion=1)


@pytest.mark.connected
async def test_an_entry_in_redis_goes_when_both_its_events_are_confirmed(
    stack: Stack, prefix: str
) -> None:
    key = f"{prefix}majors:outbox"
    async with Redis.from_url(stack.redis_stock_url, decode_responses=True) as redis:
        await redis.delete(key)
        outbox = RedisOutbox(redis, key, build=build)
        for slug in ("one", "two"):
            await redis.xadd(key, {"slug": slug, "id": str(uuid4())})
        entries = await outbox.pending(500)
        keys = [entry.event.meta.key for entry in entries]
        again = await outbox.pending(500)
        left = []
        for count in range(1, 5):
            await outbox.settle(entries[count - 1 : count])
            left.append(await redis.xlen(key))

    assert ["category.changed.v2", "category.changed.v1"] * 2 == keys
    assert [entry.event.meta.id for entry in entries] == [each.event.meta.id for each in again]
    assert [2, 1, 1, 0] == left


@pytest.mark.connected
async def test_a_stream_of_both_majors_is_replayed_as_the_newest(broker_url: str) -> None:
    slug = f"tents-{uuid4().hex}"
    events = list(told(slug))
    async with await aio_pika.connect(broker_url) as connection:
        channel = await connection.channel()
        exchange = await channel.get_exchange("catalog.events")
        for event in events:
            message = aio_pika.Message(envelope.encode(event), content_type=CONTENT_TYPE)
            await exchange.publish(message, event.meta.key)

    names: dict[int, str] = {}
    read = 0
    async with asyncio.timeout(30):
        async for logged in replay.follow(broker_url, "catalog"):
            if logged.event.meta.subject == slug:
                event = majors.newest(logged.event)
                assert isinstance(event.data, CategoryChangedV2)
                names.setdefault(event.meta.entityversion, event.data.path[-1].name)
                read += 1
            if read == len(events):
                break

    assert 5 == read
    assert {1: "Tents", 2: "Tents 2", 3: "Tents 3"} == names
