"""Plans of prices on the real Redis: what turns, what is told, what held in the past."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec import UNSET
from redis.asyncio import Redis

from stock.domain import build
from stock.prices import PriceEntry, moment
from stock.settings import Settings
from stock.store import StockStore
from stock.store.price_plans import KEPT_PLANS

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
    await store.prices.put("chair", [euro(100), euro(90, FAR)])
    # as if the worker had listed the boundaries before the other one turned this one
    await redis.zadd(f"{settings.key_prefix}{{s0}}:bounds", {"chair": 1})

    assert 0 == await store.prices.turn_due()

    assert 1 == (await store.prices.plan("chair")).version
    assert 1 == len(await told(redis, store))


async def test_an_edit_of_what_is_far_away_is_one_though_nothing_in_force_changes(
    store: StockStore, redis: Redis
) -> None:
    await store.prices.put("chair", [euro(100), euro(90, FAR)])

    changed = await store.prices.put("chair", [euro(100), euro(90, FAR), euro(80, FAR + HOUR)])

    assert (2, [100, 90, 80]) == (changed.version, [each.amount_minor for each in changed.prices])
    assert 2 == len(await told(redis, store))


async def amounts(store: StockStore, at: datetime) -> list[int] | None:
    found = await store.prices.in_force(["chair"], at)
    return [price.amount_minor for price in found[0].prices] if found else None


async def age(redis: Any, settings: Settings, *times: datetime) -> None:
    """As if the plans of the chair had been made at these times; the last is the one in force."""
    key = f"{settings.key_prefix}{{s0}}:plans:chair"
    *before, since = [int(time.timestamp() * 1000) for time in times]
    for place, at in enumerate(before):
        plan = (await redis.lindex(key, place)).partition("|")[2]
        await redis.lset(key, place, f"{at}|{plan}")
    price = f"{settings.key_prefix}{{s0}}:price:chair"
    await redis.hset(price, mapping={"since": since, "first": (before or [since])[0]})


async def test_the_past_is_what_held_then_whatever_was_edited_since(
    store: StockStore, redis: Any, settings: Settings
) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    week, day = now - 7 * 24 * HOUR, now - 24 * HOUR
    await store.prices.put("chair", [euro(100)])
    await store.prices.put("chair", [euro(120), euro(90, now + HOUR, now + 2 * HOUR)])
    await store.prices.put("chair", [euro(150), euro(140, FAR)])
    # the second plan had a promotion for an hour, long over
    key = f"{settings.key_prefix}{{s0}}:plans:chair"
    began, ended = [int((day - hours * HOUR).timestamp() * 1000) for hours in (48, 47)]
    await redis.lset(key, 1, f"1|EUR::1:120:;EUR::1:90::{began}:{ended}::")
    await age(redis, settings, week, week + 24 * HOUR, day)

    assert 2 == await redis.llen(key)
    assert await amounts(store, week - HOUR) is None
    assert [100] == await amounts(store, week)
    assert [100] == await amounts(store, week + 23 * HOUR)
    assert [120] == await amounts(store, week + 24 * HOUR)
    assert [90] == await amounts(store, day - 48 * HOUR)
    assert [120] == await amounts(store, day - 47 * HOUR)
    assert [150] == await amounts(store, day)
    assert [150] == await amounts(store, now + HOUR)
    assert [140] == await amounts(store, FAR)

    async def until(at: datetime) -> datetime | None:
        return (await store.prices.in_force(["chair"], at))[0].valid_until

    assert [week + 24 * HOUR, day - 47 * HOUR, day, FAR, None] == [
        await until(at) for at in (week, day - 48 * HOUR, day - 47 * HOUR, now - HOUR, FAR)
    ]


async def test_an_edit_that_changes_nothing_and_a_boundary_leave_no_past(
    store: StockStore, redis: Any, settings: Settings
) -> None:
    slot = f"{settings.key_prefix}{{s0}}:"
    await store.prices.put("chair", [euro(100), euro(90, FAR)])
    first = await redis.hmget(f"{slot}price:chair", ("first", "since"))
    await store.prices.put("chair", [euro(100), euro(90, FAR)])
    await redis.hset(f"{slot}price:chair", "plan", "EUR::1:100:;EUR::1:90::1000:::")
    await redis.zadd(f"{slot}bounds", {"chair": 1000})

    assert 1 == await store.prices.turn_due()

    assert 0 == await redis.llen(f"{slot}plans:chair")
    assert first == await redis.hmget(f"{slot}price:chair", ("first", "since"))
    assert first[0] == first[1]


async def test_of_a_past_that_is_forgotten_it_is_said_how_far_back_it_is_known(
    store: StockStore, redis: Any, settings: Settings
) -> None:
    key = f"{settings.key_prefix}{{s0}}:plans:chair"
    for amount in range(KEPT_PLANS + 3):
        await store.prices.put("chair", [euro(amount)])
    oldest = moment((await redis.lindex(key, 0)).partition("|")[0])
    await redis.hset(f"{settings.key_prefix}{{s0}}:price:chair", "first", "1000")

    (found,) = await store.prices.in_force(["chair"], datetime(2020, 1, 1, tzinfo=UTC))

    assert KEPT_PLANS == await redis.llen(key)
    assert "2" == (await redis.lindex(key, 0)).split(":")[3]
    assert ([], oldest) == (found.prices, found.known_from)


async def test_without_its_past_a_plan_is_known_from_its_own_time_on(
    store: StockStore, redis: Any, settings: Settings
) -> None:
    slot = f"{settings.key_prefix}{{s0}}:"
    await store.prices.put("chair", [euro(100)])
    await store.prices.put("chair", [euro(110)])
    # as after a rebuild: the hash is whole, the plans before it are gone
    await redis.delete(f"{slot}plans:chair")
    await redis.hset(f"{slot}price:chair", "first", "1000")
    since = moment(await redis.hget(f"{slot}price:chair", "since"))

    (before,) = await store.prices.in_force(["chair"], since - HOUR)
    (now,) = await store.prices.in_force(["chair"], since)

    assert ([], since) == (before.prices, before.known_from)
    assert [110] == [price.amount_minor for price in now.prices]
    assert now.known_from is UNSET
