"""Mails: by SMTP, or as files in a folder where no server is configured. Knows no shop."""

from datetime import UTC, datetime
from email.errors import HeaderParseError
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from functools import partial
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit
from uuid import UUID

import aiosmtplib
import msgspec
from msgspec import Struct

SECONDS = 20
_FINAL = range(500, 600)


class MailRefused(Exception):
    """The server will never take this mail; `status` is its reply code."""

    def __init__(self, status: int) -> None:
        super().__init__(f"refused with {status}")
        self.status = status


class MailPutOff(Exception):
    """The mail was not taken this time."""


class Attachment(Struct, frozen=True, kw_only=True):
    """A file that goes with a mail, such as `application/pdf`."""

    name: str
    media: str
    content: bytes


class Mail(Struct, frozen=True, kw_only=True):
    """A mail as it waits in the book; `unsubscribe` ends what it is about with one click.

    `html` says the same as `text`, for those who would rather see it so.
    """

    title: str
    text: str
    html: str | None = None
    attachments: list[Attachment] = []
    unsubscribe: str | None = None


class Mailer(Protocol):
    """Takes mails on their way."""

    async def send(self, id_: UUID, address: str, body: bytes) -> None:
        """Hand over one encoded `Mail`. Raises MailRefused, MailPutOff; ValueError: no mailbox."""
        ...


def encode(mail: Mail) -> bytes:
    return msgspec.json.encode(mail)


def mailer(url: str, sender: str, folder: Path) -> Mailer:
    """By SMTP to `smtp://`, `smtps://` or `smtp+starttls://[user:password@]host[:port]`.

    Without a URL, mails are written into `folder`.
    """
    return Smtp(url, sender) if url else Folder(folder, sender)


class Smtp:
    """A mail server that passes mails on."""

    def __init__(self, url: str, sender: str) -> None:
        at = urlsplit(url)
        if at.scheme not in {"smtp", "smtps", "smtp+starttls"} or not at.hostname:
            raise ValueError("not an smtp://, smtps:// or smtp+starttls:// URL")
        self._sender = sender
        self._send = partial(
            aiosmtplib.send,
            hostname=at.hostname,
            port=at.port,
            username=unquote(at.username) if at.username else None,
            password=unquote(at.password) if at.password else None,
            use_tls=at.scheme == "smtps",
            start_tls=at.scheme == "smtp+starttls",
            timeout=SECONDS,
        )

    async def send(self, id_: UUID, address: str, body: bytes) -> None:
        try:
            # by the mailbox that was meant: a header may be read as several
            await self._send(_message(id_, self._sender, address, body), recipients=[address])
        except aiosmtplib.SMTPRecipientsRefused as error:
            code = error.recipients[0].code
            raise (MailRefused(code) if code in _FINAL else MailPutOff) from error
        except aiosmtplib.SMTPResponseException as error:
            # a wrong password is our fault, and will be mended
            ours = isinstance(error, aiosmtplib.SMTPAuthenticationError)
            final = error.code in _FINAL and not ours
            raise (MailRefused(error.code) if final else MailPutOff) from error
        except (aiosmtplib.SMTPException, OSError) as error:
            raise MailPutOff from error


class Folder:
    """Files instead of mails, for a shop that is being tried out."""

    def __init__(self, folder: Path, sender: str) -> None:
        self._folder = folder
        self._sender = sender

    async def send(self, id_: UUID, address: str, body: bytes) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            ready = self._folder / f"{id_}.part"
            ready.write_bytes(_message(id_, self._sender, address, body).as_bytes(policy=SMTP))
            ready.rename(ready.with_suffix(".eml"))
        except OSError as error:
            raise MailPutOff from error


def _message(id_: UUID, sender: str, address: str, body: bytes) -> EmailMessage:
    mail = msgspec.json.decode(body, type=Mail)
    message = EmailMessage()
    message["From"] = sender
    message["To"] = _mailbox(address)
    message["Subject"] = mail.title
    message["Date"] = format_datetime(datetime.now(UTC))
    # the same at each try: who gets it twice can tell
    message["Message-ID"] = f"<{id_}@{sender.rpartition('@')[2].strip('>')}>"
    message["Auto-Submitted"] = "auto-generated"
    if mail.unsubscribe is not None:
        message["List-Unsubscribe"] = f"<{mail.unsubscribe}>"
        message["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
    message.set_content(mail.text)
    if mail.html is not None:
        message.add_alternative(mail.html, subtype="html")
    for file in mail.attachments:
        main, _, sub = file.media.partition("/")
        message.add_attachment(file.content, maintype=main, subtype=sub, filename=file.name)
    return message


def _mailbox(address: str) -> Address:
    try:
        return Address(addr_spec=address)
    except (HeaderParseError, IndexError) as error:  # the parser runs off the end of some
        raise ValueError("not an address of one mailbox") from error
