"""Carts on the real Redis, orders on SQLite and on the real MariaDB, and the service itself."""

import re
import secrets
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

import msgspec
import pytest
import sqlalchemy as sa
import uuid_utils.compat as uuids
from aiohttp import ClientSession, DummyCookieJar
from aiohttp.test_utils import TestClient, TestServer
from msgspec import Struct
from multidict import CIMultiDictProxy

import chassis.database
import payments.app
import payments.settings
from bus.sql import SqlOutbox
from chassis.database import Database
from chassis.redis import connect
from checkout import app
from checkout.domain import Approved, Timers
from checkout.provider.stripe import Stripe
from checkout.purchase import Means, Purchase
from checkout.quotes import Offer, Quote, quote
from checkout.settings import Settings
from checkout.store import tables
from checkout.store.carts import Carts
from checkout.store.orders import Orders
from checkout.store.projections import Projections
from checkout.store.schema import HISTORY
from notify import mail
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


class Answer(Struct, frozen=True):
    """What came back."""

    status: int
    headers: CIMultiDictProxy[str]
    text: str

    def json(self) -> Any:
        return msgspec.json.decode(self.text)


class Browser:
    """One shopper and the cookies that the shop gave; to this machine browsers send all of them."""

    def __init__(self, session: ClientSession, origin: str, mailed: Any) -> None:
        self.cookies: dict[str, str] = {}
        self._session = session
        self._origin = origin
        self._mailed = mailed

    async def send(self, method: str, path: str, **sent: Any) -> Answer:
        cookie = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        headers = ({"Cookie": cookie} if cookie else {}) | sent.pop("headers", {})
        async with self._session.request(
            method, self._origin + path, headers=headers, allow_redirects=False, **sent
        ) as answer:
            for name, morsel in answer.cookies.items():
                self.cookies[name] = morsel.value
                if morsel["max-age"] == "0":
                    del self.cookies[name]
            return Answer(answer.status, answer.headers, await answer.text())

    async def link(self, email: str) -> str:
        """The token of the link that this mailbox is sent."""
        asked = await self.send("POST", "/me/sign-in", json={"email": email})
        assert 202 == asked.status, asked.text
        found = re.search(
            r"/sign-in/confirm\?token=([A-Za-z0-9_-]+)", (await self._mailed(email))[-1]
        )
        assert found is not None
        return found[1]

    async def sign_in(self, email: str = "ada@example.com") -> dict[str, Any]:
        """The profile of whoever owns the mailbox."""
        answer = await self.send("POST", "/me/session", json={"token": await self.link(email)})
        assert 201 == answer.status, answer.text
        profile: dict[str, Any] = answer.json()
        return profile

    async def order(self, **lines: int) -> str:
        """The id of an order of the customer's, or of a guest's."""
        signed_in = (await self.send("GET", "/me/cart")).status == 200
        which = ("GET", "/me/cart") if signed_in else ("POST", "/carts")
        cart = (await self.send(*which)).json()["cart_id"]
        for sku, qty in (lines or {"LAMP_1": 1}).items():
            path = f"/carts/{cart}/lines/{sku.replace('_', '-')}"
            assert 200 == (await self.send("PUT", path, json={"qty": qty})).status
        purchase = {"email": "ada@example.com", "name": "Ada", "payment": {"token": "tok_ok"}}
        key = {"Idempotency-Key": secrets.token_urlsafe(24)}
        answer = await self.send("POST", f"/carts/{cart}/checkout", json=purchase, headers=key)
        assert 202 == answer.status, answer.text
        return str(answer.json()["order_id"])


class Make:
    """Inputs of tests."""

    @staticmethod
    def price(sku: str, version: int = 1, **amounts: int) -> Event[PriceChangedV1]:
        prices = [Price(currency=code, amount_minor=minor) for code, minor in amounts.items()]
        return new(PriceChangedV1(sku=sku, prices=prices), id=uuids.uuid7(), entityversion=version)

    @staticmethod
    def product(
        name: str, *skus: str, version: int = 1, product_id: UUID | None = None, **said: Any
    ) -> Event[ProductPublishedV1]:
        fact = ProductPublishedV1(
            product_id=product_id or uuids.uuid7(),
            slug="lamp",
            name=name,
            variants=[Variant(sku=sku, **said) for sku in skus],
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
        url = f"sqlite+aiosqlite:///{tmp_path}/checkout.sqlite3"
        async with chassis.database.database(url) as database:
            await HISTORY.migrate(database)
            yield database
        return
    url = request.getfixturevalue("stack").mariadb_url
    if url is None:
        pytest.skip("this stack has no MariaDB: start it with --mariadb")
    name = f"t_{secrets.token_hex(6)}"
    own = sa.make_url(url).set(database=name).render_as_string(hide_password=False)
    async with chassis.database.database(url) as admin:
        async with admin.engine.begin() as connection:
            await connection.execute(sa.text(f"CREATE DATABASE {name} CHARACTER SET utf8mb4"))
        async with chassis.database.database(own) as database:
            await HISTORY.migrate(database)
            yield database
        async with admin.engine.begin() as connection:
            await connection.execute(sa.text(f"DROP DATABASE {name}"))


@pytest.fixture
def orders(database: Database) -> Orders:
    return Orders(database, Timers())


@pytest.fixture
def projections(database: Database) -> Projections:
    return Projections(database)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """What needs carts runs on one Redis, and in the long form also on a Redis Cluster.

    Marked `everywhere`, it runs on both in the everyday form.
    """
    if "settings" not in metafunc.fixturenames:
        return
    everyday = metafunc.definition.get_closest_marker("everywhere") is not None
    cluster = pytest.param(True, id="cluster", marks=() if everyday else (pytest.mark.long,))
    metafunc.parametrize("on_cluster", [pytest.param(False, id="one"), cluster])


@pytest.fixture
async def settings(
    stack: Stack,
    prefix: str,
    tmp_path: Path,
    on_cluster: bool,
    request: pytest.FixtureRequest,
) -> AsyncIterator[Settings]:
    """A service of this test's own: its carts and its SQLite file."""
    settings = Settings(
        redis_url=request.getfixturevalue("redis_cluster") if on_cluster else stack.redis_carts_url,
        database_url=f"sqlite+aiosqlite:///{tmp_path}/checkout.sqlite3",
        key_prefix=f"{prefix}{secrets.token_hex(3)}:",
        profile="test",
        payment_webhook_secret="whsec_of_the_tests",
        sign_ins_per_address=12,
    )
    yield settings
    async with connect(settings.redis_url, connections=4, timeout=10) as redis:
        for key in [key async for key in redis.scan_iter(f"{settings.key_prefix}*", count=1_000)]:
            await redis.unlink(key)


@pytest.fixture
async def carts(settings: Settings) -> AsyncIterator[Carts]:
    async with app.carts(settings) as carts:
        yield carts


@pytest.fixture
async def own(settings: Settings) -> AsyncIterator[Database]:
    """The database of the service that `client` talks to."""
    async with chassis.database.database(settings.database_url) as database:
        await HISTORY.migrate(database)
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
def mailed(own: Database) -> Callable[[str], Any]:
    """The texts of the mails that wait for a mailbox, oldest first."""

    table = tables.notices.deliveries
    query = sa.select(table.c.address, table.c.body).order_by(table.c.seq)

    async def read(email: str) -> list[str]:
        async with own.read() as connection:
            rows = (await connection.execute(query)).all()
        return [
            msgspec.json.decode(row.body, type=mail.Mail).text
            for row in rows
            if row.address == email
        ]

    return read


@pytest.fixture
async def browsers(
    client: TestClient[Any, Any], mailed: Any
) -> AsyncIterator[Callable[[], Browser]]:
    """Browsers of different shoppers."""
    async with ClientSession(cookie_jar=DummyCookieJar()) as session:
        yield lambda: Browser(session, str(client.make_url("")), mailed)


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
