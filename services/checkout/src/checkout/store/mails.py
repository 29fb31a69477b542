"""Mails to customers, written in the transaction of what they tell. Sends nothing.

`checkout notify` sends them: at least once, ten tries within a day under one Message-ID. To whom
and what is forgotten as soon as a mail has gone or is given up.
"""

import re
from collections.abc import Sequence
from uuid import UUID

import sqlalchemy as sa
import uuid_utils.compat as uuids
from sqlalchemy.ext.asyncio import AsyncConnection

from checkout.domain import Order
from checkout.invoice import Document, language_of
from checkout.letters import Letter, Shop, ended, invoice, refunded, shipped
from checkout.quotes import plain
from checkout.store import tables
from notify import book, mail
from notify.mail import Attachment
from shop_contracts.events.checkout import OrderRefundedV1, OrderShippedV1

_BREAKS = re.compile(r"[\x00-\x1f\x7f\u2028\u2029]+")


async def add(
    connection: AsyncConnection,
    *,
    to: str,
    subject: str,
    text: str,
    html: str | None = None,
    files: Sequence[Attachment] = (),
    kind: str = "mail",
    about: str = "",
) -> UUID:
    """Put a mail into the caller's transaction; its id becomes its Message-ID.

    `kind` (at most 64 characters) and `about` (128, such as an order's id) stand in logs and lists:
    no personal data in them. `html` says the same as `text`. With its files it has at most 700 kB.
    """
    id_ = uuids.uuid7()
    letter = Letter(kind=kind, subject=_BREAKS.sub(" ", subject), text=text, html=html)
    await _put(connection, [_message(about, to, letter, files, id_)])
    return id_


async def tell_ends(connection: AsyncConnection, shop: Shop, orders: Sequence[Order]) -> None:
    """Tell the customers of these orders that they are confirmed, or cancelled and why."""
    if not orders:
        return
    private, amounts = tables.order_private.c, tables.orders.c
    query = (
        sa.select(private.order_id, private.email, private.name, private.address, amounts.breakdown)
        .join(tables.orders, amounts.id == private.order_id)
        .where(private.order_id.in_([order.id for order in orders]))
    )
    # who wanted to be forgotten has no address any more
    readers = {row.order_id: row for row in await connection.execute(query) if row.email}
    messages = []
    for order in orders:
        if reader := readers.get(order.id):
            language = language_of((reader.address or {}).get("country"), shop.language)
            breakdown = reader.breakdown or plain(order.lines, order.currency)
            letter = ended(shop, order, breakdown, reader.name, language)
            messages.append(_message(str(order.id), reader.email, letter))
    await _put(connection, messages)


async def tell_after(
    connection: AsyncConnection, shop: Shop, order: Order, fact: OrderShippedV1 | OrderRefundedV1
) -> None:
    """Tell the customer that a parcel has left, or that money has been given back."""
    private = tables.order_private.c
    query = sa.select(private.email, private.name, private.address)
    reader = (await connection.execute(query.where(private.order_id == order.id))).first()
    if reader is None or not reader.email:
        return  # who it was wanted to be forgotten
    language = language_of((reader.address or {}).get("country"), shop.language)
    if isinstance(fact, OrderShippedV1):
        letter = shipped(shop, order, fact, reader.name, language)
    else:
        letter = refunded(shop, order, fact, reader.name, language)
    await _put(connection, [_message(str(order.id), reader.email, letter)])


async def send_invoice(
    connection: AsyncConnection,
    shop: Shop,
    document: Document,
    pdf: bytes,
    *,
    to: str,
    name: str | None,
) -> None:
    """Send an invoice or a credit note to whom it is for."""
    letter = invoice(shop, document, name)
    file = Attachment(name=f"{document.number}.pdf", media="application/pdf", content=pdf)
    await _put(connection, [_message(document.order, to, letter, [file])])


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


async def _put(connection: AsyncConnection, messages: Sequence[book.Message]) -> None:
    await book.put(connection, tables.notices.deliveries, messages)


def _message(
    about: str,
    to: str,
    letter: Letter,
    files: Sequence[Attachment] = (),
    id_: UUID | None = None,
) -> book.Message:
    content = mail.Mail(
        title=letter.subject, text=letter.text, html=letter.html, attachments=list(files)
    )
    return book.Message(
        id=id_, type=letter.kind, subject=about, body=mail.encode(content), address=to
    )
