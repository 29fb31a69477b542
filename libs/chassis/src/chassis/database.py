"""SQL for services: an engine and its transactions, SQLite and MariaDB alike. Knows no table.

SQLite: WAL, synchronous=FULL, writers begin IMMEDIATE and take turns. MariaDB: READ COMMITTED; what
decides a change is read FOR UPDATE. A transaction that lost a race runs again from its start. Who
only reads has connections without transactions: each statement sees what is committed by then, as
it would in one, and nothing has to be rolled back.
Needs SQLAlchemy and a driver, which only services with a database install.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    nullcontext,
    suppress,
)
from datetime import UTC, datetime
from time import monotonic
from typing import Any, TypeVar

import msgspec
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
RESTED_SECONDS = 1.0
"""A connection that was not used for so long is asked whether it lives before it is used again."""
_RESTS = "shop_rests_since"
POOL_SIZE = 8
"""Of those that write, and of those that read."""

_JSON: dict[str, Any] = {
    "json_serializer": lambda value: msgspec.json.encode(value).decode(),
    "json_deserializer": msgspec.json.decode,
}

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


@asynccontextmanager
async def database(url: str) -> AsyncIterator["Database"]:
    """The database at `sqlite+aiosqlite://` or `mysql+asyncmy://`; connects when first used."""
    if sa.make_url(url).get_backend_name() == "sqlite":
        engine = reader = _sqlite(url)
    else:
        engine = _mariadb(url, isolation_level="READ COMMITTED")
        reader = _mariadb(url, isolation_level="AUTOCOMMIT", skip_autocommit_rollback=True)
    engines = [engine] if reader is engine else [engine, reader]
    telemetry.instrument_sql(*engines)
    async with AsyncExitStack() as closing:
        for each in engines:
            closing.push_async_callback(_close, each)
        yield Database(engine, reader)


async def _close(engine: AsyncEngine) -> None:
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


def _sqlite(url: str) -> AsyncEngine:
    engine = create_async_engine(url, connect_args={"timeout": 10}, **_JSON)
    sa.event.listen(engine.sync_engine, "connect", _sqlite_connected)
    sa.event.listen(engine.sync_engine, "begin", _sqlite_begins)
    return engine


def _mariadb(url: str, **options: Any) -> AsyncEngine:
    engine = create_async_engine(
        sa.make_url(url).update_query_dict({"charset": "utf8mb4"}),
        pool_recycle=1_800,
        pool_size=POOL_SIZE,
        max_overflow=0,
        pool_timeout=5,
        # a Connection ends its own transaction: the pool's ROLLBACK would follow each COMMIT
        pool_reset_on_return=None,
        **_JSON,
        **options,
    )
    _ask_the_rested(engine.sync_engine)
    return engine


def _ask_the_rested(engine: sa.Engine) -> None:
    """Use no connection that a database has left behind while nobody used it.

    To ask each time, as a pool's own ping does, costs as much as a small statement. One that is
    lost between two uses fails the second: `write` runs it again, on a new connection.
    """

    def returned(_connection: Any, record: Any) -> None:
        record.info[_RESTS] = monotonic()

    def taken(connection: Any, record: Any, _proxy: Any) -> None:
        since = record.info.get(_RESTS)
        if since is None or monotonic() - since < RESTED_SECONDS:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            # the others have rested no less
            raise sa.exc.InvalidatePoolError from error

    sa.event.listen(engine, "checkin", returned)
    sa.event.listen(engine, "checkout", taken)


class Database:
    """Transactions on `engine`; `reader` is for what only reads."""

    def __init__(self, engine: AsyncEngine, reader: AsyncEngine) -> None:
        self.engine = engine
        self.reader = reader
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
        async with self.reader.connect() as connection:
            await connection.execute(sa.text("SELECT 1"))

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A connection for queries. Raises Unavailable when there is none."""
        try:
            async with self.reader.connect() as connection:
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
