"""Mails that wait in the transaction of what they tell, and the process that sends them."""

import asyncio
import email
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.message import Message
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
import sqlalchemy as sa
from aiosmtpd.smtp import SMTP
from sqlalchemy.ext.asyncio import AsyncConnection

from chassis.database import Database
from checkout import drawing, letters
from checkout.domain import Approved, CancelRequested, Order, Status, Timers
from checkout.letters import Shop
from checkout.quotes import plain
from checkout.settings import Settings
from checkout.store import mails, tables
from checkout.store.orders import Orders
from notify.mail import Mail
from shop_contracts.events.checkout.order_cancelled_v1 import CancelReason
from shop_contracts.types import PricedLine

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
        async with asyncio.timeout(120):
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


async def test_the_end_of_an_order_is_told_once_in_the_transaction_that_ends_it(
    database: Database, make: Any
) -> None:
    orders = Orders(database, Timers(), Shop(name="Lampenladen", url="https://shop.example"))
    placed = await orders.place("c" * 32, "k" * 16, b"", make.a_purchase(), make.a_quote())
    for _ in range(2):
        await orders.apply(placed.order_id, CancelRequested())
    (row,) = await rows(database)
    mail = msgspec.json.decode(row.body, type=Mail)

    assert ("order.cancelled", str(placed.order_id)) == (row.type, row.subject)
    assert "ada@example.com" == row.address
    assert "Your order was cancelled" == mail.title
    assert mail.html is not None
    for said in ("Hello Ada,", "You took it back.", "Nothing was charged.", "€25.00", "Lamp"):
        assert said in mail.text.replace("\u00a0", " ")
        assert said in mail.html
    assert f"https://shop.example/orders/{placed.order_id}" in mail.text


async def test_a_confirmed_order_is_told_of_and_wants_its_invoice(
    database: Database, make: Any
) -> None:
    orders = Orders(database, Timers(), Shop(invoices=True))
    placed = await orders.place("c" * 32, "k" * 16, b"", make.a_purchase(), make.a_quote())
    await make.authorise(orders, str(placed.order_id))
    await orders.apply(placed.order_id, make.committed(placed.order_id))
    for ask in await orders.claim_payments(1, timedelta(seconds=30)):
        await orders.answered(ask, Approved("ref"))
    (row,) = await rows(database)
    async with database.read() as connection:
        wanted = (await connection.execute(sa.select(tables.invoices))).one()

    assert "order.confirmed" == row.type
    assert (placed.order_id, None) == (wanted.cause, wanted.number)


@pytest.mark.parametrize("language", ["de", "en"])
def test_every_reason_has_its_words(language: Any) -> None:
    reasons = set(CancelReason) - {CancelReason.UNKNOWN}

    assert reasons == set(letters.BECAUSE[language])
    assert letters.WORDS["en"].keys() == letters.WORDS[language].keys()
    assert drawing.WORDS["en"].keys() == drawing.WORDS[language].keys()


def test_what_others_wrote_stands_in_html_as_text() -> None:
    line = PricedLine(sku="X", qty=1, name='<img src="x">', unit_minor=100)
    order = Order(
        id=uuid4(),
        status=Status.CONFIRMED,
        version=1,
        lines=[line],
        total_minor=100,
        currency="EUR",
        placed_at=datetime.now(UTC),
        deadline_at=None,
    )
    letter = letters.ended(Shop(), order, plain(order.lines, "EUR"), "<b>Ada</b>", "en")

    assert letter.html is not None
    assert "&lt;img src=&quot;x&quot;&gt;" in letter.html
    assert "&lt;b&gt;Ada&lt;/b&gt;" in letter.html
