"""The worker dies by SIGKILL in the middle of refunds: each ends once, and the ledger agrees."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
import uuid_utils.compat as uuids
from aiohttp.test_utils import TestServer
from sqlalchemy.ext.asyncio import AsyncConnection

from chassis.database import Database
from checkout import worker
from checkout.after import Back, RefundWanted
from checkout.domain import Asked, Timers
from checkout.provider.stripe import Stripe
from checkout.settings import Settings
from checkout.store import tables
from checkout.store.after import After
from checkout.store.orders import Orders
from payments.app import Simulator
from payments.domain import Fault, Script
from shop_contracts.events.checkout import OrderRefundedV1

pytestmark = pytest.mark.connected

KEY = "key-0123456789abcdef"
LEASE = timedelta(seconds=30)
PATIENCE_S = 120
UNITS = 3

Sent = Callable[[Database], Awaitable[list[Any]]]


@pytest.fixture
def process(settings: Settings, payment_server: TestServer, broker_url: str) -> Callable[[], Any]:
    """Starts the worker as a process of its own; whatever becomes of the test, it ends."""
    env = os.environ | {
        "CHECKOUT_REDIS_URL": settings.redis_url,
        "CHECKOUT_KEY_PREFIX": settings.key_prefix,
        "CHECKOUT_DATABASE_URL": settings.database_url,
        "CHECKOUT_BROKER_URL": broker_url,
        "CHECKOUT_PROFILE": "test",
        "CHECKOUT_PAYMENT_URL": str(payment_server.make_url("/")),
        "CHECKOUT_PAYMENT_KEY": "sk_test_of_the_tests",
    }

    @asynccontextmanager
    async def run() -> AsyncIterator[asyncio.subprocess.Process]:
        started = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "checkout", "worker", env=env, stderr=asyncio.subprocess.DEVNULL
        )
        try:
            yield started
        finally:
            if started.returncode is None:
                started.kill()
                await started.wait()

    return run


async def bought(orders: Orders, provider: Stripe, make: Any) -> UUID:
    """A confirmed order of three units at 10.00 that the provider has captured."""
    accepted = await orders.place(
        uuids.uuid7().hex, KEY, b"x" * 32, make.a_purchase(), make.a_quote(UNITS, 1_000)
    )
    order_id = accepted.order_id
    for fact in (make.held(order_id), make.committed(order_id)):
        await orders.apply(order_id, fact)
        for ask in await orders.claim_payments(1, LEASE):
            await orders.answered(ask, await worker._answer(provider, ask))
    return order_id


async def ended(database: Database) -> int:
    table = tables.refunds.c
    query = sa.select(sa.func.count()).where(table.state == Asked.DONE.value)
    async with database.read() as connection:
        return await connection.scalar(query) or 0


async def leases_end(database: Database) -> None:
    """Time passes: whoever died is waited for no longer."""
    table = tables.refunds

    async def work(connection: AsyncConnection) -> None:
        await connection.execute(
            sa.update(table)
            .where(table.c.state == Asked.SENT.value)
            .values(next_at=datetime.now(UTC))
        )

    await database.write(work)


async def until(look: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await look():
            await asyncio.sleep(0.02)


async def survive(
    own: Database,
    provider: Stripe,
    simulator: Simulator,
    process: Callable[[], Any],
    make: Any,
    sent: Sent,
    *,
    orders: int,
    kills: int,
) -> None:
    """So many orders are given back unit by unit, while the worker is killed so many times."""
    of, following = Orders(own, Timers()), After(own)
    ids = [await bought(of, provider, make) for _ in range(orders)]
    for number in range(UNITS):
        for order_id in ids:
            back = RefundWanted(lines=[Back(sku="LAMP-1", qty=1, restock=True)])
            await following.refund(order_id, f"{KEY}-{number}", back)
    faults: list[Any] = ["error", "error_after", "lose_request", "lose_answer"]
    simulator.follow(
        Script(
            faults=[
                *[Fault(on="refund", does=does, times=10_000, chance=0.05) for does in faults],
                Fault(on="refund", does="slow", times=10_000, chance=0.7, seconds=0.3),
            ]
        )
    )
    whole = orders * UNITS
    for kill in range(kills + 1):
        reached = whole * (kill + 1) // (kills + 1)

        async def far(reached: int = reached) -> bool:
            return await ended(own) >= reached

        async with process() as started:
            await until(far)
            started.kill()
            await started.wait()
        await leases_end(own)

    ledger = [entry for entry in simulator.bank.ledger if entry.op == "refunded"]
    assert whole == len({entry.reference for entry in ledger}) == len(ledger)
    assert {1_000} == {entry.amount for entry in ledger}
    facts = [event.data for event in await sent(own) if isinstance(event.data, OrderRefundedV1)]
    assert whole == len({fact.refund_id for fact in facts}) == len(facts)
    for order_id in ids:
        view = await of.view(order_id)
        assert view is not None
        assert UNITS * 1_000 == view.refunded_minor == view.total_minor
        told = [fact.refunded_minor for fact in facts if fact.order_id == order_id]
        assert [1_000, 2_000, 3_000] == told


async def test_each_refund_ends_once_though_its_worker_is_killed_in_the_middle(
    own: Database,
    provider: Stripe,
    simulator: Simulator,
    process: Callable[[], Any],
    make: Any,
    sent: Sent,
) -> None:
    await survive(own, provider, simulator, process, make, sent, orders=8, kills=1)


@pytest.mark.long
async def test_three_hundred_refunds_end_once_through_ten_kills(
    own: Database,
    provider: Stripe,
    simulator: Simulator,
    process: Callable[[], Any],
    make: Any,
    sent: Sent,
) -> None:
    await survive(own, provider, simulator, process, make, sent, orders=100, kills=10)
