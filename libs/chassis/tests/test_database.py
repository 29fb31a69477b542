"""A database of a service: connections that are lost, and a process that ends in the middle."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Protocol

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

import chassis.database
from chassis.database import Database, database
from chassis.problems import Unavailable


class Stack(Protocol):
    mariadb_url: str | None


@pytest.fixture
async def sql(stack: Stack) -> AsyncIterator[Database]:
    if stack.mariadb_url is None:
        pytest.skip("this stack has no MariaDB: start it with --mariadb")
    async with database(stack.mariadb_url) as sql:
        yield sql


async def number(connection: Any) -> int:
    """The server's name for this connection."""
    return int(await connection.scalar(sa.text("SELECT CONNECTION_ID()")))


async def read_on(sql: Database) -> int:
    async with sql.read() as connection:
        return await number(connection)


async def end(sql: Database, lost: int) -> None:
    """Let the server end a connection, as a restart or a time-out would."""
    async with sql.engine.connect() as admin:
        assert lost != await number(admin)
        await admin.execute(sa.text(f"KILL CONNECTION {lost}"))


@pytest.mark.connected
async def test_a_connection_is_used_again(sql: Database) -> None:
    assert await read_on(sql) == await read_on(sql)


@pytest.mark.connected
async def test_what_only_reads_leaves_nothing_to_roll_back(sql: Database) -> None:
    async with sql.read() as connection:
        before = await rollbacks(connection)

    async with sql.read() as connection:
        assert before == await rollbacks(connection)


async def rollbacks(connection: Any) -> int:
    found = await connection.execute(sa.text("SHOW SESSION STATUS LIKE 'Com_rollback'"))
    return int(found.one()[1])


@pytest.mark.connected
async def test_a_connection_lost_while_it_rested_is_replaced_unseen(
    sql: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chassis.database, "RESTED_SECONDS", 0.0)
    lost = await read_on(sql)
    await end(sql, lost)

    assert lost != await read_on(sql)


@pytest.mark.connected
async def test_a_connection_lost_between_two_uses_runs_the_transaction_again(
    sql: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chassis.database, "RESTED_SECONDS", 60.0)
    lost = await sql.write(number)
    async with sql.reader.connect() as admin:
        await admin.execute(sa.text(f"KILL CONNECTION {lost}"))

    assert lost != await sql.write(number)


@pytest.mark.connected
async def test_a_read_on_a_lost_connection_is_refused_once(
    sql: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chassis.database, "RESTED_SECONDS", 60.0)
    lost = await read_on(sql)
    await end(sql, lost)

    with pytest.raises(Unavailable):
        await read_on(sql)
    assert lost != await read_on(sql)


async def test_what_runs_while_the_database_closes_is_committed_and_its_connection_closed(
    tmp_path: Path,
) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/own.sqlite3"
    began, closed = asyncio.Event(), []

    async def slow(connection: AsyncConnection) -> None:
        await connection.execute(sa.text("CREATE TABLE kept (id INTEGER)"))
        began.set()
        await asyncio.sleep(0.05)

    async with database(url) as own:
        sa.event.listen(own.engine.sync_engine, "close", lambda *_: closed.append(True))
        running = asyncio.create_task(own.write(slow))
        await began.wait()

    await running
    assert [True] == closed
    async with database(url) as again, again.read() as connection:
        assert 0 == await connection.scalar(sa.text("SELECT count(*) FROM kept"))
