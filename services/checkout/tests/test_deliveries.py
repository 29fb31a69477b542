"""Stock's and catalog's events come one to five times and in any order: orders end the same."""

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID

import pytest
import uuid_utils.compat as uuids
from hypothesis import given, settings
from hypothesis import strategies as st

from bus.sql import SqlOutbox
from chassis.database import Database, database
from checkout.domain import Approved, Op, Refused, Timers
from checkout.purchase import Means, Purchase
from checkout.quotes import Offer, quote
from checkout.store import tables
from checkout.store.after import After
from checkout.store.orders import Orders
from checkout.store.projections import Projections
from checkout.store.schema import HISTORY
from checkout.worker import CATALOG_HANDLERS, STOCK_HANDLERS, Work
from shop_contracts import envelope
from shop_contracts.envelope import Event, derived_id
from shop_contracts.events.base import Fact
from shop_contracts.events.catalog import ProductPublishedV1, ProductWithdrawnV1
from shop_contracts.events.catalog.product_published_v1 import Variant
from shop_contracts.events.checkout import OrderAuthorisedV1, OrderCancelledV1, OrderPlacedV1
from shop_contracts.events.stock import (
    PriceChangedV1,
    ReservationCommitFailedV1,
    ReservationCommittedV1,
    ReservationHeldV1,
    ReservationRejectedV1,
    ReservationReleasedV1,
)
from shop_contracts.events.stock.price_changed_v1 import Price

pytestmark = pytest.mark.slow

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LEASE = timedelta(seconds=30)
PRODUCT = uuids.uuid7()
HANDLERS = {**STOCK_HANDLERS, **CATALOG_HANDLERS}

# what becomes of an order, in the end
plans = st.lists(
    st.sampled_from(["sells", "is short", "is declined", "loses the stock", "cannot be captured"]),
    min_size=1,
    max_size=5,
)


def told() -> list[Event[Fact]]:
    """What the owners said before: prices that move, a variant that goes, a product withdrawn."""

    def price(sku: str, amount: int) -> Fact:
        return PriceChangedV1(sku=sku, prices=[Price(currency="EUR", amount_minor=amount)])

    def product(*skus: str) -> Fact:
        variants = [Variant(sku=sku) for sku in skus]
        return ProductPublishedV1(
            product_id=PRODUCT, slug="lamp", name="Lamp", variants=variants, published_at=NOW
        )

    gone = uuids.uuid7()
    facts: list[tuple[Fact, int]] = [
        (price("A", 100), 1),
        (price("A", 90), 2),
        (price("A", 95), 3),
        (price("B", 200), 1),
        (product("A", "B"), 1),
        (product("A"), 2),
        (product("A", "C"), 3),
        (
            ProductPublishedV1(
                product_id=gone,
                slug="hat",
                name="Hat",
                variants=[Variant(sku="H")],
                published_at=NOW,
            ),
            1,
        ),
        (ProductWithdrawnV1(product_id=gone, slug="hat", skus=["H"], withdrawn_at=NOW), 2),
    ]
    return [envelope.new(fact, id=uuids.uuid7(), entityversion=at) for fact, at in facts]


def stock_says(fact: Fact, plan: str) -> Fact | None:
    """What stock answers to checkout about an order that is to end so."""
    match fact:
        case OrderPlacedV1() if plan == "is short":
            return ReservationRejectedV1(order_id=fact.order_id, shortages=[])
        case OrderPlacedV1():
            return ReservationHeldV1(order_id=fact.order_id, lines=[], expires_at=NOW)
        case OrderAuthorisedV1() if plan == "loses the stock":
            return ReservationCommitFailedV1(order_id=fact.order_id)
        case OrderAuthorisedV1():
            return ReservationCommittedV1(order_id=fact.order_id, lines=[])
        case OrderCancelledV1():
            return ReservationReleasedV1(order_id=fact.order_id, lines=[])
    return None


async def place(orders: Orders, number: int) -> UUID:
    offers = {"A": Offer(name="Lamp", prices={"EUR": 95})}
    quoted = quote({"A": 1}, offers, currency="EUR", preferred="EUR")
    purchase = Purchase(email="ada@example.com", name="Ada", payment=Means(token="tok"))
    accepted = await orders.place(f"cart-{number}", f"key-{number}", b"", purchase, quoted)
    return accepted.order_id


class Course:
    """The orders of a plan, with everybody around checkout played; in order and once, or wild."""

    def __init__(
        self, database: Database, plan: Sequence[str], chance: random.Random | None
    ) -> None:
        self._database = database
        self._outbox = SqlOutbox(database.engine, tables.outbox)
        self._plan = plan
        self._chance = chance
        self._pool: list[Event[Fact]] = []
        self._ids: list[UUID] = []
        self._said: list[set[str]] = [set() for _ in plan]
        self._work = Work(
            orders=Orders(database, Timers()),
            after=After(database),
            projections=Projections(database),
            carts=None,  # type: ignore[arg-type]  # no event touches a cart
            provider=None,  # type: ignore[arg-type]  # the test answers in its place
        )

    async def end(self) -> Any:
        """What became of each order, what was said of it, and what checkout knows of goods."""
        orders = self._work.orders
        self._ids = [await place(orders, number) for number in range(len(self._plan))]
        for event in told():
            self._deliver(event)
        await self._react()
        while self._pool:
            at = self._chance.randrange(len(self._pool)) if self._chance else 0
            event = self._pool.pop(at)
            await HANDLERS[type(event.data)](self._work, event)
            await self._react()
        views = [await orders.view(id_) for id_ in self._ids]
        offers = await self._work.projections.offers({"A", "B", "C", "H"})
        goods = {
            # what is not for sale need not be told its name
            sku: (offer.prices, None if offer.withdrawn else offer.name)
            for sku, offer in offers.items()
        }
        return [(view.status, view.reason) for view in views if view], self._said, goods

    def _deliver(self, event: Event[Fact]) -> None:
        self._pool += [event] * (self._chance.randint(1, 5) if self._chance else 1)

    async def _react(self) -> None:
        """The provider and stock answer what checkout asks and says."""
        while asks := await self._work.orders.claim_payments(16, LEASE):
            for ask in asks:
                what = self._plan[self._ids.index(ask.order_id)], ask.op
                refused = what in {("is declined", Op.AUTH), ("cannot be captured", Op.CAPTURE)}
                await self._work.orders.answered(ask, Refused("no") if refused else Approved("r"))
        # an empty outbox is waited for, so look first
        if not (await self._outbox.waiting())[0]:
            return
        entries = await self._outbox.pending(1_000)
        await self._outbox.settle(entries)
        for event in (entry.event for entry in entries):
            place = self._ids.index(event.data.order_id)  # type: ignore[attr-defined]
            self._said[place].add(event.meta.key)
            if answer := stock_says(event.data, self._plan[place]):
                id_ = derived_id(event.meta.id, answer.KEY)
                self._deliver(envelope.new(answer, id=id_, entityversion=1))


async def ends(plan: Sequence[str], chance: random.Random | None) -> Any:
    with TemporaryDirectory() as folder:
        async with database(f"sqlite+aiosqlite:///{Path(folder)}/checkout.sqlite3") as sql:
            await HISTORY.migrate(sql)
            return await Course(sql, plan, chance).end()


@settings(max_examples=15, deadline=None)
@given(plans, st.randoms(use_true_random=False))
async def test_deliveries_in_disorder_end_as_those_in_order(
    plan: list[str], chance: random.Random
) -> None:
    assert await ends(plan, None) == await ends(plan, chance)
