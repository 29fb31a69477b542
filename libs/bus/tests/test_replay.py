"""What was said once is read again from any place, and sent again to one consumer only."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import aio_pika
import aiohttp
import pytest
from yarl import URL

from bus import replay
from bus.broker import confirming, connected
from bus.replay import Logged
from bus.subscription import REPLAY_HEADER
from shop_contracts import topology
from shop_contracts.envelope import CONTENT_TYPE, Event, encode, new
from shop_contracts.events.base import Fact
from shop_contracts.events.stock import PriceChangedV1, StockChangedV1
from shop_contracts.events.stock.stock_changed_v1 import Cause

pytestmark = pytest.mark.connected

DEADLINE = 30


def change(version: int) -> Event[StockChangedV1]:
    data = StockChangedV1(
        sku="A", on_hand=version, reserved=0, available=version, cause=Cause.ADJUSTED
    )
    return new(data, id=uuid4(), entityversion=version)


def every(event: Event[Fact]) -> bool:
    return True


async def publish(broker_url: str, *events: Event[Fact]) -> None:
    async with connected(broker_url, "test") as connection:
        exchange = await (await confirming(connection)).get_exchange("stock.events")
        await asyncio.gather(
            *(
                exchange.publish(
                    aio_pika.Message(encode(event), content_type=CONTENT_TYPE),
                    routing_key=event.meta.key,
                )
                for event in events
            )
        )


@asynccontextmanager
async def emptied(broker_url: str, *queues: str) -> AsyncIterator[aio_pika.abc.AbstractChannel]:
    """A channel, with these queues empty."""
    async with connected(broker_url, "test") as connection:
        channel = await connection.channel()
        for name in queues:
            await (await channel.get_queue(name)).purge()
        yield channel


async def taken(
    channel: aio_pika.abc.AbstractChannel, name: str, count: int
) -> list[aio_pika.abc.AbstractIncomingMessage]:
    queue = await channel.get_queue(name)
    found = []
    async with asyncio.timeout(DEADLINE):
        while len(found) < count:
            if message := await queue.get(fail=False):
                await message.ack()
                found.append(message)
    assert await queue.get(fail=False) is None
    return found


async def read(broker_url: str, since: replay.Since, count: int) -> list[Logged]:
    found: list[Logged] = []
    async with asyncio.timeout(DEADLINE), aclosing(replay.resume(broker_url, "stock", since)) as s:
        async for logged in s:
            found.append(logged)
            if len(found) == count:
                break
    return found


async def test_a_replay_goes_to_one_queue_as_it_was_said(new_broker_url: str) -> None:
    sent = [change(version) for version in range(1, 1_201)]
    await publish(new_broker_url, *sent)
    queues = [queue for queue in topology.TOPOLOGY.queues if not queue.name.endswith(".log")]
    async with emptied(new_broker_url, *(queue.name for queue in queues)) as channel:
        count = await replay.send(new_broker_url, "stock", "search.stock", "first", every)
        found = await taken(channel, "search.stock", 1_200)
        others = [
            (await channel.declare_queue(queue.name, passive=True)).declaration_result
            for queue in queues
        ]
        end = await replay.end(new_broker_url, "stock")

    assert 1_200 == count
    assert [encode(event) for event in sent] == [message.body for message in found]
    assert ["0", "1", "2"] == [message.headers[REPLAY_HEADER] for message in found[:3]]
    assert 0 == sum(other.message_count or 0 for other in others)
    # nothing was said again to everybody
    assert 1_200 == end


async def test_a_replay_sends_what_is_wanted_from_a_place_on(new_broker_url: str) -> None:
    price = new(PriceChangedV1(sku="A", prices=[]), id=uuid4(), entityversion=1)
    await publish(new_broker_url, *(change(version) for version in (1, 2, 3)))
    await publish(new_broker_url, price)
    await publish(new_broker_url, change(4))
    async with emptied(new_broker_url, "search.stock") as channel:
        count = await replay.send(
            *(new_broker_url, "stock", "search.stock", 2),
            lambda event: event.meta.key == "stock.changed.v1",
        )
        found = await taken(channel, "search.stock", count)

    assert ["2", "4"] == [message.headers[REPLAY_HEADER] for message in found]


async def test_a_broken_replay_goes_on_from_the_place_it_told(new_broker_url: str) -> None:
    sent = [change(version) for version in range(1, 1_301)]
    await publish(new_broker_url, *sent)
    places: list[int] = []

    def told(place: int, end: int) -> None:
        places.append(place)
        if len(places) == 1:
            raise ConnectionError("cut")

    async with emptied(new_broker_url, "search.stock") as channel:
        arguments = new_broker_url, "stock", "search.stock"
        with pytest.raises(ConnectionError):
            await replay.send(*arguments, "first", every, told)
        await replay.send(*arguments, places[0], every, told)
        found = await taken(channel, "search.stock", len(sent))

    assert [encode(event) for event in sent] == [message.body for message in found]
    assert [500, 1_000, 1_300] == places


async def test_an_empty_stream_is_replayed_at_once(new_broker_url: str) -> None:
    assert 0 == await replay.end(new_broker_url, "stock")
    assert 0 == await replay.send(new_broker_url, "stock", "search.stock", "first", every)


async def test_a_stream_is_read_from_a_time_on(new_broker_url: str) -> None:
    await publish(new_broker_url, change(1))
    long_ago = datetime.now(UTC) - timedelta(days=1)

    assert [0] == [logged.offset for logged in await read(new_broker_url, long_ago, 1)]


async def test_a_reader_whose_connections_are_cut_reads_nothing_twice_and_misses_nothing(
    new_broker_url: str, stack: object
) -> None:
    management = URL(stack.management_url)  # type: ignore[attr-defined]  # conftest's Struct
    mine = URL(new_broker_url).path.removeprefix("/")
    reading = asyncio.create_task(read(new_broker_url, "next", 900))
    await asyncio.sleep(2 * replay.QUIET_SECONDS)
    login = aiohttp.encode_basic_auth(management.user or "", management.password or "")
    async with aiohttp.ClientSession(headers={"Authorization": login}) as http:
        api = management.with_user(None) / "api" / "vhosts" / mine / "connections"
        for part in range(3):
            await publish(new_broker_url, *(change(part * 300 + n) for n in range(1, 301)))
            async with http.get(api) as answer:
                for connection in await answer.json():
                    if "replay" in connection["user_provided_name"]:
                        name = connection["name"]
                        gone = management.with_user(None) / "api/connections" / name
                        async with http.delete(gone):
                            pass
            await asyncio.sleep(0.3)
    found = await reading

    assert list(range(900)) == [logged.offset for logged in found]
    assert list(range(1, 901)) == [logged.event.meta.entityversion for logged in found]


async def test_a_stream_that_ends_in_what_is_no_event_has_an_end(new_broker_url: str) -> None:
    async with connected(new_broker_url, "test") as connection:
        exchange = await (await confirming(connection)).get_exchange("stock.events")
        garbage = aio_pika.Message(b"{no json", content_type=CONTENT_TYPE)
        await exchange.publish(garbage, routing_key="stock.changed.v1")
        assert 1 == await replay.end(new_broker_url, "stock")

        await publish(new_broker_url, change(1))
        await exchange.publish(garbage, routing_key="stock.changed.v1")
    async with asyncio.timeout(DEADLINE):
        assert 3 == await replay.end(new_broker_url, "stock")
        found = [one.offset async for one in replay.until(new_broker_url, "stock", "first", 3)]
        count = await replay.send(new_broker_url, "stock", "search.stock", "first", every)

    assert [1] == found
    assert 1 == count


async def test_a_reader_whose_stream_is_taken_away_hears_of_it(new_broker_url: str) -> None:
    await publish(new_broker_url, change(1))
    async with (
        connected(new_broker_url, "test") as connection,
        aclosing(replay.follow(new_broker_url, "stock")) as stream,
        asyncio.timeout(DEADLINE),
    ):
        assert 0 == (await anext(stream)).offset
        await (await connection.channel()).queue_delete(topology.log("stock"))

        with pytest.raises(ConnectionError):
            await anext(stream)
