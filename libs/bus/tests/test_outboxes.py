"""One suite for every store: what is pending comes out in order and stays until it is settled."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from elasticsearch import AsyncElasticsearch
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import create_async_engine

from bus import sql
from bus.documents import MAPPING, ElasticOutbox, pend
from bus.outbox import Outbox
from bus.redis_stream import RedisOutbox
from shop_contracts.envelope import Event, decode, encode, new
from shop_contracts.events.base import Fact
from shop_contracts.events.stock import StockChangedV1
from shop_contracts.events.stock.stock_changed_v1 import Cause

pytestmark = pytest.mark.connected

Store = tuple[Outbox, Callable[..., Awaitable[None]]]


def change(sku: str, version: int) -> Event[Fact]:
    data = StockChangedV1(
        sku=sku, on_hand=version, reserved=0, available=version, cause=Cause.ADJUSTED
    )
    return new(data, id=uuid.uuid4(), entityversion=version)


async def redis_store(stack: Any, prefix: str) -> AsyncIterator[Store]:
    key = f"{prefix}{{s0}}:outbox:{uuid.uuid4()}"
    async with Redis.from_url(stack.redis_stock_url, decode_responses=True) as redis:

        async def put(*events: Event[Fact]) -> None:
            for event in events:
                await redis.xadd(key, {"body": encode(event).decode()})

        yield RedisOutbox(redis, key, build=lambda fields: decode(fields["body"].encode())), put
        await redis.delete(key)


async def sql_store(url: str) -> AsyncIterator[Store]:
    engine = create_async_engine(url)
    metadata = sa.MetaData()
    table = sql.outbox_table(metadata)
    sql.inbox_table(metadata)
    async with engine.begin() as connection:
        await connection.run_sync(metadata.drop_all)
        await connection.run_sync(metadata.create_all)

    async def put(*events: Event[Fact]) -> None:
        async with engine.begin() as connection:
            await sql.add(connection, table, *events)

    yield sql.SqlOutbox(engine, table), put
    async with engine.begin() as connection:
        await connection.run_sync(metadata.drop_all)
    await engine.dispose()


async def elastic_store(stack: Any, prefix: str) -> AsyncIterator[Store]:
    index = f"{prefix}outbox-{uuid.uuid4()}"
    async with AsyncElasticsearch(stack.elasticsearch_url) as client:
        await client.indices.create(
            index=index, mappings={"dynamic": "strict", "properties": MAPPING}
        )

        async def put(*events: Event[Fact]) -> None:
            for event in events:
                id_ = event.meta.subject
                found = await client.options(ignore_status=404).get(index=index, id=id_)
                source = found["_source"] if found["found"] else {}
                pend(source, [event])
                await client.index(index=index, id=id_, document=source)

        yield ElasticOutbox(client, index), put
        await client.indices.delete(index=index)


async def mariadb_url(stack: Any, prefix: str) -> str:
    if stack.mariadb_url is None:
        pytest.skip("MariaDB is not part of this stack: start it with --mariadb")
    server = sa.make_url(stack.mariadb_url)
    engine = create_async_engine(server)
    async with engine.begin() as connection:
        await connection.execute(sa.text(f"CREATE DATABASE IF NOT EXISTS {prefix}_bus"))
    await engine.dispose()
    return server.set(database=f"{prefix}_bus").render_as_string(hide_password=False)


@pytest.fixture(params=["redis", "sqlite", "mariadb", "elasticsearch"])
async def store(
    request: pytest.FixtureRequest, stack: Any, prefix: str, tmp_path: Path
) -> AsyncIterator[Store]:
    match request.param:
        case "redis":
            stores = redis_store(stack, prefix)
        case "sqlite":
            stores = sql_store(f"sqlite+aiosqlite:///{tmp_path}/outbox.db")
        case "mariadb":
            stores = sql_store(await mariadb_url(stack, prefix))
        case _:
            stores = elastic_store(stack, prefix)
    async for one in stores:
        yield one


async def test_pending_events_come_in_order_per_subject(store: Store) -> None:
    outbox, put = store
    sent = [change(sku, version) for version in (1, 2, 3) for sku in ("A", "B")]
    await put(*sent)

    entries = await outbox.pending(100)

    for sku in ("A", "B"):
        assert [event for event in sent if event.meta.subject == sku] == [
            entry.event for entry in entries if entry.event.meta.subject == sku
        ]


async def test_what_is_not_settled_is_pending_again(store: Store) -> None:
    outbox, put = store
    await put(change("A", 1), change("A", 2))

    first = await outbox.pending(100)
    again = await outbox.pending(100)
    await outbox.settle(again[:1])
    left = await outbox.pending(100)

    assert [entry.event for entry in first] == [entry.event for entry in again]
    assert [entry.event for entry in again[1:]] == [entry.event for entry in left]


async def test_what_is_given_out_behind_others_is_none_of_them(store: Store) -> None:
    outbox, put = store
    sent = [change(sku, 1) for sku in ("A", "B", "C")]
    await put(*sent)

    first = await outbox.pending(1)
    # of a document that is on its way, the store may keep back what is new
    late = change(first[0].meta.subject, 2)
    await put(late)
    behind = await outbox.pending(100, first)
    await outbox.settle(first)
    await outbox.settle(behind)
    rest = await outbox.pending(100)
    await outbox.settle(rest)

    given = [entry.event for entry in (*first, *behind, *rest)]
    assert 1 == len(first)
    assert {event.meta.id for event in (*sent, late)} == {event.meta.id for event in given}
    assert 4 == len(given)
    assert [] == list(await outbox.pending(100, rest))
    assert (0, None) == await outbox.waiting()


async def test_an_event_that_comes_while_others_are_settled_is_kept(store: Store) -> None:
    outbox, put = store
    await put(change("A", 1))
    entries = await outbox.pending(100)
    late = change("A", 2)
    await put(late)
    await outbox.settle(entries)

    assert [late] == [entry.event for entry in await outbox.pending(100)]


async def test_an_empty_outbox_wakes_for_the_next_event(store: Store) -> None:
    outbox, put = store
    waiting = asyncio.create_task(outbox.pending(100))
    await asyncio.sleep(0.1)
    await put(change("A", 1))
    entries = await waiting or await outbox.pending(100)

    assert 1 == len(entries)
    await outbox.settle(entries)
    assert (0, None) == await outbox.waiting()


@pytest.mark.parametrize("kind", ["sqlite", "mariadb"])
async def test_an_event_is_new_to_the_inbox_once(
    kind: str, stack: Any, prefix: str, tmp_path: Path
) -> None:
    url = (
        f"sqlite+aiosqlite:///{tmp_path}/inbox.db"
        if kind == "sqlite"
        else await mariadb_url(stack, prefix)
    )
    engine = create_async_engine(url)
    metadata = sa.MetaData()
    inbox = sql.inbox_table(metadata)
    async with engine.begin() as connection:
        await connection.run_sync(metadata.drop_all)
        await connection.run_sync(metadata.create_all)
    event = change("A", 1)

    async def arrive(consumer: str) -> bool:
        async with engine.begin() as connection:
            return await sql.first_time(connection, inbox, consumer, event)

    assert [True, False, True] == [await arrive("one"), await arrive("one"), await arrive("two")]
    # the marks of three are long past, that of "two" is not
    assert [True, True] == [await arrive("three"), await arrive("four")]
    then = datetime.now(UTC).replace(tzinfo=None) - sql.REMEMBERED
    async with engine.begin() as connection:
        for days, consumer in enumerate(("one", "three", "four"), start=1):
            mark = sa.update(inbox).where(inbox.c.consumer == consumer)
            await connection.execute(mark.values(received_at=then - timedelta(days=days)))
        for more, left in ((True, 2), (False, 1), (False, 1)):
            assert more is await sql.forget_seen(connection, inbox, 1)
            marks = await connection.execute(sa.select(inbox.c.consumer))
            assert left == len(marks.all())
    assert [True, False] == [await arrive("one"), await arrive("two")]
    await engine.dispose()
