"""Mails to customers, written in the transaction of what they tell. Sends nothing.

`checkout notify` sends them: at least once, ten tries within a day under one Message-ID. To whom
and what is forgotten as soon as a mail has gone or is given up.
"""

import re
from uuid import UUID

import sqlalchemy as sa
import uuid_utils.compat as uuids
from sqlalchemy.ext.asyncio import AsyncConnection

from checkout.store import tables
from notify import book, mail

_BREAKS = re.compile(r"[\x00-\x1f\x7f\u2028\u2029]+")


async def add(
    connection: AsyncConnection,
    *,
    to: str,
    subject: str,
    text: str,
    html: str | None = None,
    kind: str = "mail",
    about: str = "",
) -> UUID:
    """Put a mail into the caller's transaction; its id becomes its Message-ID.

    `kind` (at most 64 characters) and `about` (128, such as an order's id) stand in logs and lists:
    no personal data in them. `html` says the same as `text`.
    """
    id_ = uuids.uuid7()
    content = mail.Mail(title=_BREAKS.sub(" ", subject), text=text, html=html)
    message = book.Message(id=id_, type=kind, subject=about, body=mail.encode(content), address=to)
    await book.put(connection, tables.notices.deliveries, [message])
    return id_


async def forget(connection: AsyncConnection, about: str) -> None:
    """Take back what has not gone yet: whom it is for wants to be forgotten."""
    table = tables.notices.deliveries
    await connection.execute(
        sa.delete(table).where(table.c.subject == about, table.c.address.is_not(None))
    )


async def forget_mailbox(connection: AsyncConnection, email: str) -> None:
    """Take back all that has not gone yet to this mailbox, written in whatever case."""
    table = tables.notices.deliveries
    await connection.execute(sa.delete(table).where(sa.func.lower(table.c.address) == email))
