"""Carts on the real Redis, orders on SQLite and on the real MariaDB, and the service itself."""

import secrets
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

import pytest
import sqlalchemy as sa
import uuid_utils.compat as uuids
from aiohttp import ClientSession
from aiohttp.test_utils import TestClient, TestServer
from redis.asyncio import Redis

import chassis.database
import payments.app
import payments.settings
from bus.sql import SqlOutbox
from chassis.database import Database, engine_for
from checkout import app
from checkout.domain import Approved, Means, Offer, Purchase, Quote, Timers, quote
from checkout.provider.stripe import Stripe
from checkout.settings import Settings
from checkout.store import tables
from checkout.store.carts import Carts
from checkout.store.orders import Orders
from checkout.store.projections import Projections
from checkout.store.schema import migrate
from shop_contracts.envelope import Event, new
from shop_contracts.events.base import Fact
from shop_contracts.events.catalog import ProductPublishedV1
from shop_contracts.events.catalog.product_published_v1 import Variant
from shop_contracts.events.stock import (
    PriceChangedV1,
    ReservationCommittedV1,
    ReservationHeldV1,
)
from shop_contracts.events.stock.price_changed_v1 import Price

PAYMENT_KEY = "sk_test_of_the_tests"


class Stack(Protocol):
    redis_carts_url: str
    mariadb_url: str | None


class Make:
    """Inputs of tests."""

    @staticmethod
    def price(sku: str, version: int = 1, **amounts: int) -> Event[PriceChangedV1]:
        prices = [Price(currency=code, amount_minor=minor) for code, minor in amounts.items()]
        return new(PriceChangedV1(sku=sku, prices=prices), id=uuids.uuid7(), entityversion=version)

    @staticmethod
    def product(
        name: str, *skus: str, version: int = 1, product_id: UUID | None = None
    ) -> Event[ProductPublishedV1]:
        fact = ProductPublishedV1(
            product_id=product_id or uuids.uuid7(),
            slug="lamp",
            name=name,
            variants=[Variant(sku=sku) for sku in skus],
            published_at=datetime.now(UTC),
        )
        return new(fact, id=uuids.uuid7(), entityversion=version)

    @staticmethod
    def a_quote(qty: int = 2, unit: int = 1_250) -> Quote:
        offers = {"LAMP-1": Offer(name="Lamp", prices={"EUR": unit})}
        return quote({"LAMP-1": qty}, offers, currency="EUR", preferred="EUR")

    @staticmethod
    def a_purchase(token: str = "tok_ok") -> Purchase:
        return Purchase(email="ada@example.com", name="Ada", payment=Means(token=token))

    @staticmethod
    def held(order_id: UUID) -> ReservationHeldV1:
        return ReservationHeldV1(order_id=order_id, lines=[], expires_at=datetime.now(UTC))

    @staticmethod
    def committed(order_id: UUID) -> ReservationCommittedV1:
        return ReservationCommittedV1(order_id=order_id, lines=[])

    @staticmethod
    async def authorise(orders: Orders, order_id: str) -> None:
        """Bring a placed order as far as its authorised payment."""
        fact = ReservationHeldV1(order_id=UUID(order_id), lines=[], expires_at=datetime.now(UTC))
        await orders.apply(fact.order_id, fact)
        for ask in await orders.claim_payments(1, timedelta(seconds=30)):
            await orders.answered(ask, Approved("ref"))


@pytest.fixture(params=["sqlite", pytest.param("mariadb", marks=pytest.mark.connected)])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    """An empty schema of the test's own."""
    if request.param == "sqlite":
        engine = engine_for(f"sqlite+aiosqlite:///{tmp_path}/checkout.sqlite3")
        database = Database(engine)
        await migrate(database)
        yield database
        await engine.dispose()
        return
    url = request.getfixturevalue("stack").mariadb_url
    if url is None:
        pytest.skip("this stack has no MariaDB: start it with --mariadb")
    admin, name = engine_for(url), f"t_{secrets.token_hex(6)}"
    async with admin.begin() as connection:
        await connection.execute(sa.text(f"CREATE DATABASE {name} CHARACTER SET utf8mb4"))
    engine = engine_for(sa.make_url(url).set(database=name).render_as_string(hide_password=False))
    database = Database(engine)
    await migrate(database)
    yield database
    await engine.dispose()
    async with admin.begin() as connection:
        await connection.execute(sa.text(f"DROP DATABASE {name}"))
    await admin.dispose()


@pytest.fixture
def orders(database: Database) -> Orders:
    return Orders(database, Timers())


@pytest.fixture
def projections(database: Database) -> Projections:
    return Projections(database)


@pytest.fixture
async def settings(stack: Stack, prefix: str, tmp_path: Path) -> AsyncIterator[Settings]:
    """A service of this test's own: its carts and its SQLite file."""
    settings = Settings(
        redis_url=stack.redis_carts_url,
        database_url=f"sqlite+aiosqlite:///{tmp_path}/checkout.sqlite3",
        key_prefix=f"{prefix}{secrets.token_hex(3)}:",
        profile="test",
        payment_webhook_secret="whsec_of_the_tests",
    )
    yield settings
    async with Redis.from_url(settings.redis_url) as redis:
        keys = [key async for key in redis.scan_iter(f"{settings.key_prefix}*", count=1_000)]
        if keys:
            await redis.unlink(*keys)


@pytest.fixture
async def carts(settings: Settings) -> AsyncIterator[Carts]:
    async with app.carts(settings) as carts:
        yield carts


@pytest.fixture
async def own(settings: Settings) -> AsyncIterator[Database]:
    """The database of the service that `client` talks to."""
    async with chassis.database.database(settings.database_url) as database:
        await migrate(database)
        yield database


@pytest.fixture
async def client(settings: Settings, own: Database) -> AsyncIterator[TestClient[Any, Any]]:
    """Talks to the service; LAMP-1 costs 12.50 EUR, LAMP-2 7 USD, OLD-1 is withdrawn."""
    projections = Projections(own)
    await projections.price_changed(Make.price("LAMP-1", EUR=1_250))
    await projections.price_changed(Make.price("LAMP-2", USD=700))
    await projections.price_changed(Make.price("OLD-1", EUR=100))
    await projections.product_published(Make.product("Lamp <b>one</b>", "LAMP-1"))
    async with TestClient(TestServer(app.application(settings))) as client:
        yield client


@pytest.fixture
async def payment_server(settings: Settings) -> AsyncIterator[TestServer]:
    """The provider behind HTTP; it sends webhooks once a test says where."""
    theirs = payments.settings.Settings(
        key=PAYMENT_KEY, webhook_secret=settings.payment_webhook_secret, profile="test"
    )
    async with TestServer(payments.app.application(theirs)) as server:
        yield server


@pytest.fixture
def simulator(payment_server: TestServer) -> payments.app.Simulator:
    """The provider's books and its fault script."""
    return payment_server.app[payments.app.SIMULATOR]


@pytest.fixture
async def provider(payment_server: TestServer) -> AsyncIterator[Stripe]:
    """The provider as the worker reaches it."""
    async with ClientSession() as session:
        yield Stripe(session, str(payment_server.make_url("/")), PAYMENT_KEY)


@pytest.fixture
def sent() -> Callable[[Database], Any]:
    """The events that wait in a database's outbox."""

    async def read(database: Database) -> list[Event[Fact]]:
        outbox = SqlOutbox(database.engine, tables.outbox)
        return [entry.event for entry in await outbox.pending(1_000)]

    return read


@pytest.fixture
def make() -> type[Make]:
    return Make
