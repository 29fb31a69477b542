"""A database of a service: what a process leaves behind that ends in the middle."""

import asyncio
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from chassis.database import database


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
