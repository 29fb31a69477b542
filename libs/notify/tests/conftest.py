"""A book on each database, and receivers that are real servers on loopback."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest
import sqlalchemy as sa
from aiohttp import web

from chassis.database import Database, database
from notify.book import Book
from notify.tables import Tables, tables


class Stack(Protocol):
    mariadb_url: str | None


class Kept:
    """A book with its database and tables, for tests that look behind it."""

    def __init__(self, database: Database, tables: Tables) -> None:
        self.database = database
        self.tables = tables
        self.book = Book(database, tables)

    async def change(self, statement: sa.Executable) -> None:
        async def work(connection: Any) -> None:
            await connection.execute(statement)

        await self.database.write(work)


class Receiver:
    """A server that keeps what it was sent and answers as `answer` says."""

    def __init__(self) -> None:
        self.got: list[tuple[Mapping[str, str], bytes]] = []
        self.answer: Callable[[web.Request], Awaitable[web.Response]] = self._ok
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        self.got.append((dict(request.headers), await request.read()))
        return await self.answer(request)

    async def count(self, wanted: int) -> None:
        async with asyncio.timeout(30):
            while len(self.got) < wanted:
                await asyncio.sleep(0.01)

    async def _ok(self, _request: web.Request) -> web.Response:
        return web.Response()


@asynccontextmanager
async def listening() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    app = web.Application()
    app.router.add_post("/{rest:.*}", receiver.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    yield receiver
    await runner.cleanup()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with listening() as receiver:
        yield receiver


@pytest.fixture
async def other() -> AsyncIterator[Receiver]:
    async with listening() as receiver:
        yield receiver


@pytest.fixture(params=["sqlite", "mariadb"])
async def kept(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Kept]:
    """The same tests on both databases; each has one of its own."""
    metadata = sa.MetaData()
    made = tables(metadata)
    if request.param == "sqlite":
        async with database(f"sqlite+aiosqlite:///{tmp_path / 'book.sqlite'}") as sql:
            await sql.create(metadata)
            yield Kept(sql, made)
        return
    stack: Stack = request.getfixturevalue("stack")
    if stack.mariadb_url is None:
        pytest.skip("this stack has no MariaDB")
    name = f"notify_{secrets.token_hex(4)}"
    async with database(stack.mariadb_url) as server:
        await Kept(server, made).change(sa.text(f"CREATE DATABASE {name}"))
        own = sa.make_url(stack.mariadb_url).set(database=name)
        async with database(own.render_as_string(hide_password=False)) as sql:
            await sql.create(metadata)
            yield Kept(sql, made)
        await Kept(server, made).change(sa.text(f"DROP DATABASE {name}"))
