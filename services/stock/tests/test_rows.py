"""A row of a job is carried out once, in its place, on the real Redis."""

import asyncio
from typing import Any
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from stock.domain import Action, Adjust
from stock.settings import Settings
from stock.store import StockStore

pytestmark = [pytest.mark.connected, pytest.mark.one_partition]


async def test_a_row_of_a_job_is_marked_in_its_step_and_the_mark_is_forgotten_in_time(
    store: StockStore, redis: Redis
) -> None:
    put = [("chair", Adjust(stock=2, action=Action.INCREMENT), None)]

    async def row(number: int, job: str = "j") -> Any:
        return (await store.quantities.adjust_many(put, job=job, rows=[number]))[0]

    first, again, next_, other = await row(7), await row(7), await row(8), await row(7, "k")

    assert [("created", False), ("created", True), ("updated", False), ("updated", False)] == [
        (each.change, each.replayed) for each in (first, again, next_, other)
    ]
    assert 6 == (await store.quantities.level("chair")).on_hand
    assert await redis.pttl(store.slots[0].rows("j")) > 29 * 86_400_000


async def test_a_row_that_changes_nothing_is_marked_too(store: StockStore) -> None:
    same = [("chair", Adjust(stock=2, action=Action.SET), None)]
    await store.quantities.adjust("chair", Adjust(stock=2, action=Action.SET))

    before = (await store.quantities.adjust_many(same, job="j", rows=[1]))[0]
    await store.quantities.adjust("chair", Adjust(stock=1, action=Action.DECREMENT))
    again: Any = (await store.quantities.adjust_many(same, job="j", rows=[1]))[0]

    assert "unchanged" == getattr(before, "change", "") == again.change
    assert 1 == (await store.quantities.level("chair")).on_hand


async def test_rows_of_one_sku_keep_their_order_though_holds_are_in_the_way(
    store: StockStore, redis: Redis, settings: Settings
) -> None:
    hasty = StockStore(redis, settings.key_prefix, hold_ms=1)
    await store.quantities.adjust("chair", Adjust(stock=5, action=Action.SET))
    await hasty.holds.reserve(uuid4(), [("chair", 5)], uuid4())
    await asyncio.sleep(0.01)

    changed: Any = await store.quantities.adjust_many(
        [
            ("chair", Adjust(stock=2, action=Action.DECREMENT), None),
            ("chair", Adjust(stock=9, action=Action.SET), None),
        ],
        job="j",
        rows=[1, 2],
    )

    assert [3, 9] == [each.level.on_hand for each in changed]
