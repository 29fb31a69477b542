"""Plans of prices on the real Redis: what turns, what is told, what held in the past."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from redis.asyncio import Redis

from stock.domain import build
from stock.prices import PriceEntry
from stock.settings import Settings
from stock.store import StockStore

pytestmark = [pytest.mark.connected, pytest.mark.one_partition]

HOUR = timedelta(hours=1)
FAR = datetime(2100, 1, 1, tzinfo=UTC)


def euro(amount: int, begin: datetime | None = None, end: datetime | None = None) -> PriceEntry:
    return PriceEntry(currency="EUR", amount_minor=amount, valid_from=begin, valid_until=end)


async def told(redis: Any, store: StockStore) -> list[Any]:
    entries = await redis.xrange(store.slots[0].outbox)
    return [event for _, fields in entries if (event := build(fields)).meta.key.startswith("price")]


async def test_who_sees_a_boundary_after_another_has_turned_it_tells_nothing(
    store: StockStore, redis: Any, settings: Settings
) -> None:
    await store.set_prices("chair", [euro(100), euro(90, FAR)])
    # as if the worker had listed the boundaries before the other one turned this one
    await redis.zadd(f"{settings.key_prefix}{{s0}}:bounds", {"chair": 1})

    assert 0 == await store.turn_due()

    assert 1 == (await store.plan("chair")).version
    assert 1 == len(await told(redis, store))


async def test_an_edit_of_what_is_far_away_is_one_though_nothing_in_force_changes(
    store: StockStore, redis: Redis
) -> None:
    await store.set_prices("chair", [euro(100), euro(90, FAR)])

    changed = await store.set_prices("chair", [euro(100), euro(90, FAR), euro(80, FAR + HOUR)])

    assert (2, [100, 90, 80]) == (changed.version, [each.amount_minor for each in changed.prices])
    assert 2 == len(await told(redis, store))
