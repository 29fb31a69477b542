"""A store of this session's own keys on the real Redis, or on a cluster; emptied for each test."""

import random
import secrets
import shutil
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncConnection

from chassis.database import Database, database
from chassis.problems import Conflict, Gone, NotFound
from stock import schema
from stock.app import connect
from stock.bookkeeping import Bookkeeper
from stock.domain import Action, Adjust
from stock.journal import Journal
from stock.parts import clock
from stock.parts import time as time_of
from stock.prices import PriceEntry, moment
from stock.settings import Settings
from stock.store import StockStore
from stock.tables import METADATA

WEEK_MS = 7 * 86_400_000
FAR_MS = 4_102_444_800_000


class Stack(Protocol):
    redis_stock_url: str
    mariadb_url: str | None


ONE, SEVERAL, CLUSTER = "", "several partitions", "cluster"
PARTITIONS = 5


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """What needs a store runs on one partition, and in the long form also on a Redis Cluster.

    Marked `everywhere`, it runs in the everyday form on a cluster and on one Redis with several
    partitions, too; marked `several`, on those two, the cluster in the long form; marked
    `one_partition`, on one only.
    """
    if "settings" not in metafunc.fixturenames:
        return

    def marked(name: str) -> bool:
        return metafunc.definition.get_closest_marker(name) is not None

    if marked("one_partition"):
        return
    everyday = () if marked("everywhere") else (pytest.mark.long,)
    places = [] if marked("several") else [pytest.param(ONE, id="one")]
    places.append(pytest.param(CLUSTER, id="cluster", marks=everyday))
    if marked("several") or marked("everywhere"):
        places.append(pytest.param(SEVERAL, id="several"))
    metafunc.parametrize("place", places)


@pytest.fixture
def place() -> str:
    """Where the store of a test is."""
    return ONE


@pytest.fixture
def settings(stack: Stack, prefix: str, place: str, request: pytest.FixtureRequest) -> Settings:
    """Each test has keys of its own."""
    url: str = (
        request.getfixturevalue("redis_cluster") if place == CLUSTER else stack.redis_stock_url
    )
    return Settings(
        redis_url=url,
        key_prefix=f"{prefix}{secrets.token_hex(3)}:",
        redis_timeout=10,
        partitions=PARTITIONS if place else 1,
    )


@pytest.fixture
async def redis(settings: Settings) -> AsyncIterator[Redis]:
    client = connect(settings)
    await StockStore(client, settings.key_prefix, partitions=settings.partitions).install.make()
    yield client
    # keys of several hash slots are no one command's
    slots = defaultdict[str, list[str]](list)
    async for key in client.scan_iter(f"{settings.key_prefix}*", count=1000):
        slots[key.partition("}")[0]].append(key)
    for keys in slots.values():
        await client.unlink(*keys)
    await client.aclose()


@pytest.fixture
def store(redis: Redis, settings: Settings) -> StockStore:
    return StockStore(redis, settings.key_prefix, partitions=settings.partitions)


@pytest.fixture(scope="session")
async def sqlite_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with all tables, to be copied."""
    path = tmp_path_factory.mktemp("sql") / "stock.sqlite"
    async with database(f"sqlite+aiosqlite:///{path}") as opened:
        await schema.HISTORY.migrate(opened)
    return path


@pytest.fixture(scope="session")
async def mariadb_url(stack: Stack) -> AsyncIterator[str]:
    """A database of this session's own with all tables."""
    if stack.mariadb_url is None:
        pytest.skip("this stack has no MariaDB")
    name = f"stock_{secrets.token_hex(4)}"
    own = sa.make_url(stack.mariadb_url).set(database=name).render_as_string(hide_password=False)
    async with database(stack.mariadb_url) as server:
        await _run(server, f"CREATE DATABASE {name}")
        async with database(own) as opened:
            await schema.HISTORY.migrate(opened)
        yield own
        await _run(server, f"DROP DATABASE {name}")


@pytest.fixture(params=["sqlite", "mariadb"])
def sql_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database with all tables, on either server."""
    if request.param == "mariadb":
        return str(request.getfixturevalue("mariadb_url"))
    copied = shutil.copy(request.getfixturevalue("sqlite_file"), tmp_path / "stock.sqlite")
    return f"sqlite+aiosqlite:///{copied}"


@pytest.fixture
async def sql(sql_url: str) -> AsyncIterator[Database]:
    """A database with all tables and no row."""
    async with database(sql_url) as opened:
        for table in reversed(METADATA.sorted_tables):
            await _run(opened, f"DELETE FROM {table.name}")
        yield opened


class Shop:
    """A store with its journal."""

    def __init__(
        self, redis: Redis, settings: Settings, store: StockStore, journal: Journal
    ) -> None:
        self.redis: Any = redis
        self.prefix = settings.key_prefix
        self.store = store
        self.journal = journal
        self.books = self.bookkeeper()

    def bookkeeper(self, keep_ms: int = WEEK_MS) -> Bookkeeper:
        return Bookkeeper(self.redis, self.store.slots, self.journal, keep_ms=keep_ms)

    async def put(self, sku: str, units: int, **more: Any) -> None:
        await self.store.quantities.adjust(sku, Adjust(stock=units, action=Action.SET), **more)

    async def now(self) -> int:
        """Redis's time in ms."""
        return clock(await time_of(self.redis))

    async def keys(self) -> list[str]:
        return [key async for key in self.redis.scan_iter(f"{self.prefix}*", count=1000)]

    async def empty(self) -> None:
        """As a server that lost its disk."""
        await self.redis.unlink(*await self.keys())

    async def state(self) -> dict[str, Any]:
        """Every key with what it holds; of the ledger what moved units.

        Left out are the marks of events: the holds answer for them.
        """
        found: dict[str, Any] = {}
        for key in await self.keys():
            name = key.removeprefix(self.prefix)
            match await self.redis.type(key):
                case "hash":
                    found[name] = await self.redis.hgetall(key)
                case "zset":
                    found[name] = await self.redis.zrange(key, 0, -1, withscores=True)
                case "list":
                    found[name] = await self.redis.lrange(key, 0, -1)
                case "stream":
                    entries = await self.redis.xrange(key)
                    moved = [each for each in entries if "davail" in each[1]]
                    found[name] = moved if key.endswith(":ledger") else entries
        return {name: held for name, held in found.items() if held}

    async def ends(self) -> dict[str, int]:
        """When each key that ends is forgotten, in ms; marks of events are left out."""
        ends = {
            key.removeprefix(self.prefix): await self.redis.pexpiretime(key)
            for key in await self.keys()
            if await self.redis.type(key) == "hash"
        }
        return {key: at for key, at in ends.items() if at > 0}

    async def busy(self, seed: int, steps: int = 60) -> None:
        """Do a bit of everything that a shop does with its stock."""
        draw = random.Random(seed)
        skus = [f"sku-{n}" for n in range(6)]
        for sku in skus:
            await self.put(sku, 40)
        orders: list[tuple[UUID, list[tuple[str, int]]]] = [(uuid4(), [(skus[0], 1)])]
        carts = [uuid4()]

        def lines() -> list[tuple[str, int]]:
            return [(each, draw.randint(1, 4)) for each in draw.sample(skus, 2)]

        async def order(_: str) -> None:
            orders.append((uuid4(), lines()))
            await self.store.holds.reserve(*orders[-1], uuid4(), taking=draw.choice([None, *carts]))

        async def price(sku: str) -> None:
            until = draw.choice((None, moment(FAR_MS + draw.randint(0, 99))))
            entry = PriceEntry(currency="EUR", amount_minor=draw.randint(0, 99), valid_until=until)
            await self.store.prices.put(sku, [entry])

        async def end(_: str) -> None:
            op = draw.choice(("commit", "release", "return"))
            await self.store.holds.finish(op, *draw.choice(orders), uuid4())

        async def cart(_: str) -> None:
            carts.append(uuid4())
            await self.store.carts.hold(carts[-1], lines())

        deeds: list[Callable[[str], Awaitable[Any]]] = [
            lambda sku: self.put(sku, draw.randint(20, 60)),
            lambda sku: self.put(sku, draw.randint(20, 60), key=f"a-key-{draw.random()}"),
            lambda sku: self.store.quantities.set_threshold(sku, draw.choice((None, 3, 5))),
            lambda _: self.store.carts.extend(draw.choice(carts)),
            lambda _: self.store.carts.release(draw.choice(carts)),
            *(order, price, end, end, cart),
        ]
        for _ in range(steps):
            with suppress(Conflict, Gone, NotFound):
                await draw.choice(deeds)(draw.choice(skus))


@pytest.fixture
def shop(redis: Redis, settings: Settings, store: StockStore, sql: Database) -> Shop:
    """A shop with its journal, on both databases."""
    return Shop(redis, settings, store, Journal(sql))


async def _run(server: Database, statement: str) -> None:
    async def work(connection: AsyncConnection) -> None:
        await connection.execute(sa.text(statement))

    await server.write(work)
