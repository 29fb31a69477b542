"""SQL for services: an engine and its transactions, SQLite and MariaDB alike. Knows no table.

SQLite: WAL, synchronous=FULL, writers begin IMMEDIATE and take turns. MariaDB: READ COMMITTED; what
decides a change is read FOR UPDATE. A transaction that lost a race runs again from its start.
Needs SQLAlchemy and a driver, which only services with a database install.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from datetime import UTC, datetime
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import QueuePool

from chassis import telemetry
from chassis.problems import Unavailable

T = TypeVar("T")

TRIES = 4
CLOSING_SECONDS = 5.0
# a lock waited for in vain, and the victim of a deadlock
_LOST = {1205, 1213}
_IMMEDIATE = "shop_begin_immediate"

BIG = sa.BigInteger().with_variant(sa.Integer, "sqlite")
"""A big integer that SQLite can count up by itself."""


class LostRace(Exception):
    """Somebody else changed the row after it was read: run the transaction again."""


class UtcTime(sa.TypeDecorator[datetime]):
    """A moment, kept in UTC to the microsecond."""

    impl = sa.DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        precise = mysql.DATETIME(fsp=6) if dialect.name in {"mysql", "mariadb"} else sa.DateTime()
        return dialect.type_descriptor(precise)

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        del dialect
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        del dialect
        return None if value is None else value.replace(tzinfo=UTC)


def exact(length: int) -> sa.String:
    """Text whose case counts, whatever a database's default collation thinks of it."""
    return sa.String(length).with_variant(
        sa.String(length, collation="utf8mb4_bin"), "mysql", "mariadb"
    )


def engine_for(url: str) -> AsyncEngine:
    """An engine for `sqlite+aiosqlite://` or `mysql+asyncmy://`; connects when first used."""
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == "sqlite":
        engine = create_async_engine(parsed, connect_args={"timeout": 10})
        sa.event.listen(engine.sync_engine, "connect", _sqlite_connected)
        sa.event.listen(engine.sync_engine, "begin", _sqlite_begins)
        return engine
    return create_async_engine(
        parsed.update_query_dict({"charset": "utf8mb4"}),
        isolation_level="READ COMMITTED",
        pool_pre_ping=True,
        pool_recycle=1_800,
        pool_size=16,
        max_overflow=0,
        pool_timeout=5,
    )


@asynccontextmanager
async def database(url: str) -> AsyncIterator["Database"]:
    """The database at `url`; its connections are made when they are needed."""
    engine = engine_for(url)
    telemetry.instrument_sql(engine)
    try:
        yield Database(engine)
    finally:
        await close(engine)


async def close(engine: AsyncEngine) -> None:
    """Close the engine when no transaction runs in it any more, or after `CLOSING_SECONDS`.

    A group's transaction is nobody's child and may outlive those who asked for it. A connection
    that is out while its engine is disposed of comes back to nobody and is never closed.
    """
    pool = engine.pool
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSING_SECONDS):
                while isinstance(pool, QueuePool) and pool.checkedout():  # noqa: ASYNC110 -- no event tells
                    await asyncio.sleep(0.01)
    finally:
        await engine.dispose()


class Database:
    """Transactions on one engine."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self._writer = engine.execution_options(**{_IMMEDIATE: True})
        # SQLite has one writer: waiting here costs nothing, waiting in its busy handler does
        self._turn: AbstractAsyncContextManager[Any] = (
            asyncio.Lock() if engine.dialect.name == "sqlite" else nullcontext()
        )

    async def create(self, metadata: sa.MetaData) -> None:
        """Create what is missing of the schema."""
        async with self._writer.begin() as connection:
            await connection.run_sync(metadata.create_all)

    async def ping(self) -> None:
        """Raise when the database does not answer."""
        async with self.engine.connect() as connection:
            await connection.execute(sa.text("SELECT 1"))

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A connection for queries. Raises Unavailable when there is none."""
        try:
            async with self.engine.connect() as connection:
                yield connection
        except (OperationalError, sa.exc.TimeoutError, OSError) as error:
            raise Unavailable("The database does not answer.") from error

    async def write(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """What `work` returns, committed. Raises Unavailable when it cannot be.

        `work` may run more than once; it must leave no trace outside its connection.
        """
        for left in reversed(range(TRIES)):
            try:
                async with self._turn, self._writer.begin() as connection:
                    return await work(connection)
            except IntegrityError:
                raise
            except (LostRace, DBAPIError, sa.exc.TimeoutError, OSError) as error:
                if left and _may_pass(error):
                    await asyncio.sleep(random.uniform(0.01, 0.1))  # noqa: S311 -- jitter
                    continue
                if isinstance(error, DBAPIError) and not isinstance(error, OperationalError):
                    raise
                raise Unavailable("The database cannot do this now.") from error
        raise AssertionError("the last try returns or raises")


def _may_pass(error: Exception) -> bool:
    if isinstance(error, LostRace):
        return True
    if not isinstance(error, DBAPIError):
        return False
    code = next(iter(getattr(error.orig, "args", ())), None)
    return error.connection_invalidated or code in _LOST or "database is locked" in str(code)


def _sqlite_connected(connection: Any, _record: Any) -> None:
    # SQLAlchemy decides when a transaction begins, not the driver
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _sqlite_begins(connection: sa.Connection) -> None:
    # a writer that begins as a reader can be refused half-way; one that waits its turn cannot
    immediate = connection.get_execution_options().get(_IMMEDIATE)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")
