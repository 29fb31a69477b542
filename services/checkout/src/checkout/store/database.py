"""The SQL engine and its transactions, SQLite and MariaDB alike. Knows no table's meaning.

SQLite: WAL, synchronous=FULL, writers begin IMMEDIATE and take turns. MariaDB: READ COMMITTED; what
decides a change is read FOR UPDATE. A transaction that lost a race runs again from its start.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from chassis.problems import Unavailable

T = TypeVar("T")

TRIES = 4
DEADLOCK = {1205, 1213}
MIGRATIONS = Path(__file__).parent / "migrations"
MIGRATES, MIGRATE_SECONDS = "checkout_migrates", 120
FIRST = "0001"
_IMMEDIATE = "checkout_begin_immediate"


class LostRace(Exception):
    """Somebody else changed the row after it was read: run the transaction again."""


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


class Database:
    """Transactions on one engine."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self._writer = engine.execution_options(**{_IMMEDIATE: True})
        # SQLite has one writer: waiting here costs nothing, waiting in its busy handler does
        self._turn: AbstractAsyncContextManager[Any] = (
            asyncio.Lock() if engine.dialect.name == "sqlite" else nullcontext()
        )

    async def migrate(self) -> None:
        """Bring the schema up to date. Several at once take turns; a second run changes nothing."""
        async with self._writer.begin() as connection:
            # SQLite's writers wait for each other; MariaDB commits each change of a table by itself
            mysql = connection.dialect.name != "sqlite"
            if mysql:
                await connection.execute(sa.select(sa.func.get_lock(MIGRATES, MIGRATE_SECONDS)))
            await connection.run_sync(_upgrade)
            if mysql:
                await connection.execute(sa.select(sa.func.release_lock(MIGRATES)))

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
                    await asyncio.sleep(random.uniform(0.01, 0.1))  # noqa: S311 - jitter
                    continue
                if isinstance(error, DBAPIError) and not isinstance(error, OperationalError):
                    raise
                raise Unavailable("The database cannot do this now.") from error
        raise AssertionError("the last try returns or raises")


def _upgrade(connection: sa.Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("version_locations", str(MIGRATIONS / "versions"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    names = sa.inspect(connection).get_table_names()
    if "orders" in names and "alembic_version" not in names:
        command.stamp(config, FIRST)  # made before there were versions
    command.upgrade(config, "head")


def _may_pass(error: Exception) -> bool:
    if isinstance(error, LostRace):
        return True
    if not isinstance(error, DBAPIError):
        return False
    code = next(iter(getattr(error.orig, "args", ())), None)
    return error.connection_invalidated or code in DEADLOCK or "database is locked" in str(code)


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
