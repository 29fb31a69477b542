"""What the worker does with events, time and feeds, on the real Redis."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from redis.asyncio import Redis
from uuid_utils.compat import uuid7

from bus.consumer import Permanent
from feeds import jobs
from shop_contracts import envelope
from shop_contracts.envelope import Event
from shop_contracts.events.base import Fact
from shop_contracts.events.checkout import OrderAuthorisedV1, OrderCancelledV1, OrderPlacedV1
from shop_contracts.events.checkout.order_cancelled_v1 import CancelReason
from shop_contracts.types import Line, PricedLine
from stock.domain import MAX_LINES, Action, Adjust, build
from stock.settings import Settings
from stock.store import StockStore
from stock.worker import HANDLERS, carry_imports, sweep

pytestmark = pytest.mark.connected

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CHAIRS = [Line(sku="chair", qty=2)]


def placed(order: UUID, lines: list[Line]) -> Event[Fact]:
    priced = [PricedLine(sku=each.sku, qty=each.qty, name="x", unit_minor=1) for each in lines]
    return _event(
        OrderPlacedV1(order_id=order, lines=priced, total_minor=1, currency="EUR", placed_at=NOW)
    )


def authorised(order: UUID, lines: list[Line]) -> Event[Fact]:
    return _event(OrderAuthorisedV1(order_id=order, lines=lines, total_minor=1, currency="EUR"))


def cancelled(order: UUID, lines: list[Line], reason: CancelReason) -> Event[Fact]:
    return _event(OrderCancelledV1(order_id=order, lines=lines, reason=reason, cancelled_at=NOW))


def _event(fact: Fact) -> Event[Fact]:
    return envelope.new(fact, id=uuid7(), entityversion=1)


async def handle(store: StockStore, *events: Event[Fact]) -> None:
    for event in events:
        await HANDLERS[type(event.data)](store, event)


async def outbox(redis: Any, store: StockStore) -> int:
    """How many events wait for the relay."""
    return sum([await redis.xlen(slot.outbox) for slot in store.slots])


async def chairs(store: StockStore) -> tuple[int, int]:
    level = await store.quantities.level("chair")
    return level.available, level.reserved


@pytest.fixture
async def stocked(store: StockStore) -> StockStore:
    await store.quantities.adjust("chair", Adjust(stock=5, action=Action.SET))
    return store


async def test_an_order_is_held_then_sold(stocked: StockStore) -> None:
    order = uuid4()

    await handle(stocked, placed(order, CHAIRS))
    assert (3, 2) == await chairs(stocked)

    await handle(stocked, authorised(order, CHAIRS))
    assert (3, 0) == await chairs(stocked)


@pytest.mark.parametrize("reason", [r for r in CancelReason if r != CancelReason.CAPTURE_REFUSED])
async def test_a_cancelled_order_gives_back_what_it_holds(
    stocked: StockStore, reason: CancelReason
) -> None:
    order = uuid4()

    await handle(stocked, placed(order, CHAIRS), cancelled(order, CHAIRS, reason))

    assert (5, 0) == await chairs(stocked)


async def test_a_refused_capture_returns_what_was_sold(stocked: StockStore) -> None:
    order = uuid4()

    await handle(
        stocked,
        placed(order, CHAIRS),
        authorised(order, CHAIRS),
        cancelled(order, CHAIRS, CancelReason.CAPTURE_REFUSED),
    )

    assert (5, 0) == await chairs(stocked)


async def test_every_event_may_come_twice(stocked: StockStore, redis: Redis) -> None:
    order = uuid4()
    history = [
        placed(order, CHAIRS),
        authorised(order, CHAIRS),
        cancelled(order, CHAIRS, CancelReason.CAPTURE_REFUSED),
    ]

    for event in history:
        await handle(stocked, event, event)
    await handle(stocked, *history)

    assert (5, 0) == await chairs(stocked)
    assert 4 == (await stocked.quantities.level("chair")).version
    assert 7 == await outbox(redis, stocked)


async def test_events_of_a_hold_name_their_order_and_their_cause(
    stocked: StockStore, redis: Any
) -> None:
    order = uuid4()
    event = placed(order, CHAIRS)

    await handle(stocked, event)

    chair, home = stocked.slots.at("chair"), stocked.slots.home(order)
    told = [await redis.xrevrange(slot.outbox, count=2) for slot in {chair, home}]
    metas = [build(fields).meta for entries in told for _, fields in entries]
    assert 2 == sum(
        (str(order), str(event.meta.id)) == (meta.correlationid, meta.causationid) for meta in metas
    )


@pytest.mark.parametrize(
    "event",
    [
        cancelled(UUID(int=1), CHAIRS, CancelReason.BY_CUSTOMER),
        cancelled(UUID(int=1), [Line(sku="chair", qty=1)], CancelReason.CAPTURE_REFUSED),
        placed(UUID(int=2), [Line(sku=f"s{i}", qty=1) for i in range(MAX_LINES + 1)]),
        authorised(UUID(int=2), [Line(sku=f"s{i}", qty=1) for i in range(MAX_LINES + 1)]),
    ],
)
async def test_what_no_repetition_can_heal_is_parked(
    stocked: StockStore, event: Event[Fact]
) -> None:
    order = UUID(int=1)
    await handle(stocked, placed(order, CHAIRS), authorised(order, CHAIRS))

    with pytest.raises(Permanent):
        await handle(stocked, event)

    assert (3, 0) == await chairs(stocked)


async def test_the_sweeper_ends_holds_whose_time_is_over(redis: Redis, settings: Settings) -> None:
    store = StockStore(redis, settings.key_prefix, hold_ms=1)
    await store.quantities.adjust("chair", Adjust(stock=5, action=Action.SET))
    await handle(store, placed(uuid4(), CHAIRS))

    async with running(sweep(store)), asyncio.timeout(30):
        while (5, 0) != await chairs(store):
            await asyncio.sleep(0.02)


async def test_a_feed_sets_stock_and_prices_and_its_repetition_changes_nothing(
    store: StockStore, redis: Redis, tmp_path: Path
) -> None:
    rows = 500
    feed = b"".join(
        b'{"key": "p%d", "name": "Product", "variants": [{"sku": "s%d", "stock": %d,'
        b' "prices": [{"currency": "EUR", "amount": "19.99", "list": "29.99"}]}]}\n' % (i, i, i)
        for i in range(rows)
    )
    feed += b'{"key": "bad", "name": "", "variants": [{"sku": "bad"}]}\n'

    first = await carried(store, tmp_path, feed)
    written = await outbox(redis, store)
    second = await carried(store, tmp_path, feed)

    assert ("done", rows, 1) == (first.state, first.counts.created, first.counts.failed)
    assert ("done", rows, 1) == (second.state, second.counts.unchanged, second.counts.failed)
    assert (2 * rows, 2 * rows) == (written, await outbox(redis, store))
    assert 42 == (await store.quantities.level("s42")).on_hand
    assert [(1999, 2999)] == [
        (price.amount_minor, price.list_minor)
        for price in (await store.prices.in_force(["s42"]))[0].prices
    ]


async def test_a_feed_below_what_is_reserved_fails_for_that_row_only(
    stocked: StockStore, tmp_path: Path
) -> None:
    await handle(stocked, placed(uuid4(), CHAIRS))
    feed = (
        b'{"key": "a", "name": "A", "variants": [{"sku": "chair", "stock": 1}]}\n'
        b'{"key": "b", "name": "B", "variants": [{"sku": "table", "stock": 1}]}\n'
    )

    job = await carried(stocked, tmp_path, feed)

    assert (1, 1) == (job.counts.created, job.counts.failed)
    assert ["insufficient-stock"] == [error.code for error in job.errors]
    assert (3, 2) == await chairs(stocked)


async def carried(store: StockStore, spool: Path, feed: bytes) -> jobs.Job:
    """The job of this feed, when the running worker has carried it."""

    async def chunks() -> AsyncIterator[bytes]:
        yield feed

    async def parts() -> AsyncIterator[jobs.Part]:
        yield "feed.ndjson", chunks()

    job = await jobs.spool(spool, parts(), format="ndjson")
    async with running(carry_imports(store, spool)), asyncio.timeout(30):
        while (found := jobs.find(spool, job.id)).finished is None:
            await asyncio.sleep(0.02)
    return found


@asynccontextmanager
async def running(loop: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """A loop of the worker for the time of a block; it does not end by itself."""
    task = asyncio.create_task(loop)
    yield
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
