"""Mails that wait in the transaction of what they tell, and the process that sends them."""

import asyncio
import email
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.message import Message
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from aiosmtpd.smtp import SMTP
from sqlalchemy.ext.asyncio import AsyncConnection

from chassis.database import Database
from checkout.settings import Settings
from checkout.store import mails, tables

DELIVERIES = tables.notices.deliveries


class Server:
    """A mail server that keeps what it takes; it answers each address as it is told."""

    def __init__(self) -> None:
        self.got: list[tuple[str, Message]] = []
        self.answers: dict[str, list[str]] = {}
        self.url = ""

    async def handle_RCPT(  # noqa: N802 -- aiosmtpd names it
        self, _server: Any, _session: Any, envelope: Any, address: str, _options: Any
    ) -> str:
        answers = self.answers.get(address)
        answer = answers.pop(0) if answers else "250 OK"
        if answer.startswith("250"):
            envelope.rcpt_tos.append(address)
        return answer

    async def handle_DATA(  # noqa: N802 -- aiosmtpd names it
        self, _server: Any, _session: Any, envelope: Any
    ) -> str:
        (to,) = envelope.rcpt_tos
        self.got.append((to, email.message_from_bytes(envelope.content)))
        return "250 OK"


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    listening = await asyncio.get_running_loop().create_server(
        lambda: SMTP(server, hostname="mail.example"), "127.0.0.1", 0
    )
    async with listening:
        server.url = f"smtp://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        yield server


@asynccontextmanager
async def sending(settings: Settings, smtp_url: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """The process that sends; whatever becomes of the test, it ends."""
    env = os.environ | {
        "CHECKOUT_REDIS_URL": settings.redis_url,
        "CHECKOUT_DATABASE_URL": settings.database_url,
        "CHECKOUT_PROFILE": "test",
        "CHECKOUT_SMTP_URL": smtp_url,
        "CHECKOUT_MAIL_FROM": "Shop <shop@shop.example>",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "checkout", "notify", env=env
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def rows(database: Database) -> list[Any]:
    async with database.read() as connection:
        return list(
            (await connection.execute(sa.select(DELIVERIES).order_by(DELIVERIES.c.seq))).all()
        )


async def write(database: Database, to: str, about: str = "order-1") -> UUID:
    async def work(connection: AsyncConnection) -> UUID:
        return await mails.add(
            connection, to=to, subject="Your\r\norder", text="Grüße", kind="order.x", about=about
        )

    return await database.write(work)


async def test_a_mail_is_written_with_what_it_tells_or_not_at_all(database: Database) -> None:
    async def work(connection: AsyncConnection) -> None:
        await mails.add(connection, to="ada@people.example", subject="Order", text="Yes.")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await database.write(work)

    assert [] == await rows(database)

    id_ = await write(database, "ada@people.example")

    assert [(id_, "waiting", "ada@people.example")] == [
        (row.id, row.state, row.address) for row in await rows(database)
    ]


async def test_what_has_not_gone_can_be_taken_back(database: Database) -> None:
    await write(database, "ada@people.example", "order-1")
    kept = await write(database, "bob@people.example", "order-2")

    await database.write(lambda connection: mails.forget(connection, "order-1"))

    assert [kept] == [row.id for row in await rows(database)]


@pytest.mark.connected
async def test_the_process_sends_what_waits_and_forgets_who_it_was_for(
    own: Database, settings: Settings, server: Server, client: Any
) -> None:
    server.answers = {"nobody@people.example": ["550 no such person"]}
    sent = await write(own, "ada@people.example")
    refused = await write(own, "nobody@people.example")
    async with sending(settings, server.url) as process:
        async with asyncio.timeout(30):
            while "waiting" in {row.state for row in await rows(own)}:
                await asyncio.sleep(0.05)
        process.terminate()

        assert 0 == await process.wait()
    ((to, mail),) = server.got

    assert "ada@people.example" == to
    assert f"<{sent}@shop.example>" == mail["Message-ID"]
    assert "Your order" == mail["Subject"]
    assert {(sent, "delivered", None, b""), (refused, "failed", None, b"")} == {
        (row.id, row.state, row.address, row.body) for row in await rows(own)
    }
    answer = await client.get("/mails/given-up")

    assert 401 == answer.status
