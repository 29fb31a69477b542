"""Mails on their way to a server that is real, and to a folder."""

import asyncio
import email
from collections.abc import AsyncIterator
from email.message import Message as Parsed
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import pytest
import sqlalchemy as sa
from aiosmtpd.smtp import SMTP

from notify.book import Message
from notify.dispatch import dispatch
from notify.mail import Mail, MailPutOff, MailRefused, encode, mailer
from notify.sender import Sender

pytestmark = pytest.mark.connected

MAIL = Mail(
    title="Chäir is back",
    text="It can be had again.\n",
    unsubscribe="https://shop.example/alerts/1",
)


class Server:
    """A mail server that keeps what it takes and answers as it is told."""

    def __init__(self) -> None:
        self.got: list[tuple[list[str], Parsed]] = []
        self.answer = "250 OK"

    async def handle_RCPT(  # noqa: N802 -- aiosmtpd names it
        self, _server: Any, _session: Any, envelope: Any, address: str, _options: Any
    ) -> str:
        if self.answer.startswith("250"):
            envelope.rcpt_tos.append(address)
        return self.answer

    async def handle_DATA(  # noqa: N802 -- aiosmtpd names it
        self, _server: Any, _session: Any, envelope: Any
    ) -> str:
        self.got.append((envelope.rcpt_tos, email.message_from_bytes(envelope.content)))
        return "250 OK"


@pytest.fixture
async def server() -> AsyncIterator[tuple[Server, str]]:
    server = Server()
    listening = await asyncio.get_running_loop().create_server(
        lambda: SMTP(server, hostname="mail.example"), "127.0.0.1", 0
    )
    async with listening:
        yield server, f"smtp://127.0.0.1:{listening.sockets[0].getsockname()[1]}"


async def test_a_mail_says_who_sent_it_and_how_to_end_it(
    server: tuple[Server, str], tmp_path: Path
) -> None:
    smtp, url = server
    id_ = uuid4()
    await mailer(url, "Shop <shop@shop.example>", tmp_path).send(
        id_, "ada@people.example", encode(MAIL)
    )
    to, mail = smtp.got[0]

    assert ["ada@people.example"] == to
    assert "Shop <shop@shop.example>" == mail["From"]
    assert f"<{id_}@shop.example>" == mail["Message-ID"]
    assert "<https://shop.example/alerts/1>" == mail["List-Unsubscribe"]
    assert "List-Unsubscribe=One-Click" == mail["List-Unsubscribe-Post"]
    text = mail.get_payload(decode=True)
    assert isinstance(text, bytes)
    assert "It can be had again." == text.decode().strip()


@pytest.mark.parametrize(
    ("answer", "error"), [("550 no such person", MailRefused), ("451 later", MailPutOff)]
)
async def test_a_server_may_refuse_for_ever_or_for_now(
    server: tuple[Server, str], tmp_path: Path, answer: str, error: type[Exception]
) -> None:
    smtp, url = server
    smtp.answer = answer
    with pytest.raises(error):
        await mailer(url, "shop@shop.example", tmp_path).send(
            uuid4(), "ada@people.example", encode(MAIL)
        )


async def test_a_server_that_is_away_puts_the_mail_off(tmp_path: Path) -> None:
    with pytest.raises(MailPutOff):
        await mailer("smtp://127.0.0.1:1", "shop@shop.example", tmp_path).send(
            uuid4(), "ada@people.example", encode(MAIL)
        )


@pytest.mark.parametrize("url", ["http://mail.example", "mail.example:25", "smtp://"])
def test_a_wrong_url_is_told_at_start(url: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="smtp://"):
        mailer(url, "shop@shop.example", tmp_path)


async def test_without_a_server_mails_are_files(tmp_path: Path) -> None:
    id_ = uuid4()
    await mailer("", "shop@shop.example", tmp_path / "mails").send(
        id_, "ada@people.example", encode(MAIL)
    )
    (file,) = (tmp_path / "mails").iterdir()

    assert f"{id_}.eml" == file.name
    assert "ada@people.example" == email.message_from_bytes(file.read_bytes())["To"]


@pytest.mark.parametrize(
    ("answer", "state"), [("250 OK", "delivered"), ("550 no such person", "failed")]
)
async def test_who_was_told_is_forgotten_when_the_mail_has_gone_or_failed(
    kept: Any, server: tuple[Server, str], tmp_path: Path, answer: str, state: str
) -> None:
    smtp, url = server
    smtp.answer = answer
    message = Message(
        type="stock.back", subject="chair", body=encode(MAIL), address="ada@people.example"
    )
    await kept.book.send(message)
    table = kept.tables.deliveries
    async with aiohttp.ClientSession() as http:
        sender = Sender(http, mailer(url, "shop@shop.example", tmp_path), loopback=True)
        task = asyncio.create_task(dispatch(kept.book, sender, poll_seconds=0.02))
        async with asyncio.timeout(30):
            while True:
                async with kept.database.read() as connection:
                    row = (await connection.execute(sa.select(table))).one()
                if row.state != "waiting":
                    break
                await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])

    assert (state, None, b"") == (row.state, row.address, row.body)
    assert (state == "delivered") is (len(smtp.got) == 1)


async def test_a_mail_may_say_the_same_in_html(tmp_path: Path) -> None:
    mail = Mail(title="Order", text="It is on its way.", html="<p>It is on its way.</p>")
    await mailer("", "shop@shop.example", tmp_path).send(
        uuid4(), "ada@people.example", encode(mail)
    )
    (file,) = tmp_path.iterdir()
    parts = email.message_from_bytes(file.read_bytes()).walk()

    assert ["multipart/alternative", "text/plain", "text/html"] == [
        part.get_content_type() for part in parts
    ]


@pytest.mark.parametrize(
    "address", ["a,b@people.example", "<ada>@people.example", "a\x0b@b", "@", "ä(b@c"]
)
async def test_what_is_no_mailbox_is_sent_to_nobody(
    kept: Any, server: tuple[Server, str], tmp_path: Path, address: str
) -> None:
    smtp, url = server
    message = Message(type="t", subject="s", body=encode(MAIL), address=address)
    id_ = await kept.book.send(message)
    (due,) = await kept.book.claim(10, [], each=4)
    async with aiohttp.ClientSession() as http:
        sender = Sender(http, mailer(url, "shop@shop.example", tmp_path), loopback=True)
        given_up = await kept.book.record(due, await sender.send(due))

    assert given_up
    assert [] == smtp.got
    assert [(id_, ["no address"])] == [
        (mail.id, [each.outcome for each in mail.log]) for mail in await kept.book.given_up()
    ]
