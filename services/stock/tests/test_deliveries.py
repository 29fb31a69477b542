"""Orders' events come one to five times and in any order: the units end where they should."""

import random
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis
from uuid_utils.compat import uuid7

from shop_contracts import envelope
from shop_contracts.envelope import Event
from shop_contracts.events.base import Fact
from shop_contracts.events.checkout import OrderAuthorisedV1, OrderCancelledV1, OrderPlacedV1
from shop_contracts.events.checkout.order_cancelled_v1 import CancelReason
from shop_contracts.types import Line, PricedLine
from stock.domain import Action, Adjust
from stock.store import StockStore
from stock.worker import HANDLERS

pytestmark = [pytest.mark.connected, pytest.mark.one_partition]

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SKUS = ["chair", "lamp", "table"]
UNITS = 1_000
COUNTERS = ("recv", "avail", "resv", "sold")

lines = st.lists(
    st.tuples(st.sampled_from(SKUS), st.integers(1, 9)), min_size=1, max_size=3, unique_by=str
)
# how far an order gets, and whether stock has to take something back
ends = st.sampled_from(["held", "sold", "cancelled", "refused"])
orders = st.lists(st.tuples(ends, lines), min_size=1, max_size=8)


def course(end: str, wanted: Sequence[tuple[str, int]]) -> list[Event[Fact]]:
    """What checkout says about one order, in the order in which it says it."""
    order = uuid4()
    plain = [Line(sku=sku, qty=qty) for sku, qty in wanted]
    priced = [PricedLine(sku=each.sku, qty=each.qty, name="x", unit_minor=1) for each in plain]
    facts: list[Fact] = [
        OrderPlacedV1(order_id=order, lines=priced, total_minor=1, currency="EUR", placed_at=NOW)
    ]
    if end in {"sold", "refused"}:
        facts.append(OrderAuthorisedV1(order_id=order, lines=plain, total_minor=1, currency="EUR"))
    reasons = {"cancelled": CancelReason.BY_CUSTOMER, "refused": CancelReason.CAPTURE_REFUSED}
    if end in reasons:
        facts.append(
            OrderCancelledV1(order_id=order, lines=plain, reason=reasons[end], cancelled_at=NOW)
        )
    return [
        envelope.new(fact, id=uuid7(), entityversion=version)
        for version, fact in enumerate(facts, 1)
    ]


async def units_after(redis: Redis, events: Sequence[Event[Fact]]) -> dict[str, Any]:
    """The counters of every SKU and the open holds, in a shop that hears just this."""
    prefix = f"d{secrets.token_hex(6)}:"
    store = StockStore(redis, prefix)
    await store.install.make()
    for sku in SKUS:
        await store.quantities.adjust(sku, Adjust(stock=UNITS, action=Action.SET))
    for event in events:
        await HANDLERS[type(event.data)](store, event)
    found: dict[str, Any] = {
        sku: await redis.hmget(f"{prefix}{{s0}}:q:{sku}", COUNTERS) for sku in SKUS
    }
    found["holds"] = set(await redis.zrange(f"{prefix}{{s0}}:exp", 0, -1))
    keys = [key async for key in redis.scan_iter(f"{prefix}*", count=1_000)]
    await redis.unlink(*keys)
    return found


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(orders, st.randoms(use_true_random=False))
async def test_deliveries_in_disorder_end_as_those_in_order(
    redis: Redis, plan: list[tuple[str, list[tuple[str, int]]]], chance: random.Random
) -> None:
    calm = [event for end, wanted in plan for event in course(end, wanted)]
    wild = [event for event in calm for _ in range(chance.randint(1, 5))]
    chance.shuffle(wild)

    assert await units_after(redis, calm) == await units_after(redis, wild)
