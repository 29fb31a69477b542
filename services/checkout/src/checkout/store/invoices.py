"""Invoices in SQL: wanted once, numbered without a gap, drawn later. Draws nothing.

An order's last step wants its invoice in its own transaction. A number is taken in the transaction
that gives it to its invoice, from a row that everybody waits for: who dies takes none along.
"""

import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa
import uuid_utils.compat as uuids
from msgspec import Struct, structs
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from chassis.database import Database, LostRace
from checkout import invoice
from checkout.credit import credit_note
from checkout.invoice import SERIES, Buyer, Document, Kind
from checkout.letters import Shop
from checkout.purchase import Address, Entry
from checkout.seller import Seller
from checkout.seller import day as day_of
from checkout.store import mails, parcels, rows, tables

log = logging.getLogger(__name__)

AT_ONCE = 50
LATER = timedelta(minutes=5)
"""When one that could not be made is tried again."""

_TABLE = tables.invoices


class Drawn(Struct, frozen=True):
    """An invoice as it can be read."""

    number: str
    pdf: bytes


async def want(connection: AsyncConnection, orders: Sequence[UUID], now: datetime) -> None:
    """Each of these orders is to have an invoice, in the transaction that makes it due."""
    wanted = [
        {"id": uuids.uuid7(), "order_id": id_, "cause": id_, "kind": "invoice", "due_at": now}
        for id_ in orders
    ]
    if wanted:
        await connection.execute(sa.insert(_TABLE), wanted)


async def want_credit_note(
    connection: AsyncConnection, order_id: UUID, refund_id: UUID, now: datetime
) -> None:
    """The refund is to have a credit note, where its order has an invoice."""
    invoiced = sa.select(_TABLE.c.id).where(_TABLE.c.cause == order_id)
    if await connection.scalar(invoiced) is not None:
        await connection.execute(
            sa.insert(_TABLE).values(
                id=uuids.uuid7(),
                order_id=order_id,
                cause=refund_id,
                kind="credit_note",
                due_at=now,
            )
        )


class Invoices:
    """The invoices of one seller."""

    def __init__(self, database: Database, seller: Seller, shop: Shop) -> None:
        self._database = database
        self._seller = seller
        self._shop = shop

    async def issue(self, limit: int = AT_ONCE) -> int:
        """Give wanted invoices their numbers, in the order in which they were wanted; how many.

        One that cannot be made is logged, takes no number, and is tried again later.
        """
        due = (_TABLE.c.number.is_(None)) & (_TABLE.c.due_at <= datetime.now(UTC))
        query = (
            sa.select(_TABLE.c.id, _TABLE.c.order_id, _TABLE.c.kind, _TABLE.c.cause)
            .where(due)
            .order_by(_TABLE.c.due_at, _TABLE.c.id)
            .limit(limit)
        )

        async def work(connection: AsyncConnection) -> int:
            wanted = (await connection.execute(query.with_for_update(skip_locked=True))).all()
            made = [await self._drafted(connection, row) for row in wanted]
            drafts = [draft for draft in made if draft is not None]
            # always in this order: others wait for the same rows
            for kind in SERIES:
                if some := [draft for draft in drafts if draft[1].kind == kind]:
                    await self._number(connection, kind, some)
            return len(wanted)

        # an idle poll must not take SQLite's write lock
        async with self._database.read() as connection:
            if (await connection.execute(query.limit(1))).first() is None:
                return 0
        return await self._database.write(work)

    async def undrawn(self, limit: int = AT_ONCE) -> list[tuple[UUID, Document]]:
        """Numbered invoices that have no PDF yet, oldest first."""
        query = (
            sa.select(_TABLE.c.id, _TABLE.c.document)
            .where(_TABLE.c.number.is_not(None), _TABLE.c.due_at <= datetime.now(UTC))
            .order_by(_TABLE.c.due_at, _TABLE.c.id)
            .limit(limit)
        )
        async with self._database.read() as connection:
            return [
                (id_, msgspec.json.decode(document, type=Document))
                for id_, document in await connection.execute(query)
            ]

    async def keep(self, id_: UUID, document: Document, pdf: bytes) -> bool:
        """Keep the invoice's PDF and mail it; False where somebody else did so before."""

        async def work(connection: AsyncConnection) -> bool:
            still_due = (_TABLE.c.id == id_) & _TABLE.c.due_at.is_not(None)
            done = await connection.execute(sa.update(_TABLE).where(still_due).values(due_at=None))
            if done.rowcount == 0:
                return False
            values = {"invoice_id": id_, "pdf": pdf}
            await connection.execute(sa.insert(tables.invoice_files).values(values))
            buyer = await _buyer(connection, UUID(document.order))
            if buyer.email is not None:
                await mails.send_invoice(
                    connection, self._shop, document, pdf, to=buyer.email, name=buyer.name
                )
            return True

        return await self._database.write(work)

    async def put_off(self, id_: UUID) -> None:
        """Draw it later: it could not be drawn now."""
        await self._database.write(lambda connection: _put_off(connection, id_))

    async def _drafted(self, connection: AsyncConnection, row: Any) -> tuple[UUID, Document] | None:
        """The document without a number, or None where none can be made."""
        try:
            return row.id, await self._draft(connection, row)
        except DBAPIError:
            raise
        except Exception:
            log.exception("no invoice of order %s can be made", row.order_id)
            await _put_off(connection, row.id)
            return None

    async def _draft(self, connection: AsyncConnection, row: Any) -> Document:
        order_id = row.order_id
        order = (await rows.load(connection, [order_id]))[order_id]
        breakdown = await rows.breakdown_of(connection, order)
        if row.kind == "credit_note":
            refunds = await parcels.refunds(connection, order_id)
            refund = next(one for one in refunds if one.refund_id == row.cause)
            about = await _document(connection, order_id)
            now = datetime.now(UTC)
            return credit_note(about, breakdown, refund, self._seller, now)
        named = {line.sku: line.name for line in order.lines}
        return invoice.invoice(
            number="",
            order=str(order_id),
            names=[named[line.sku] for line in breakdown.lines],
            breakdown=breakdown,
            seller=self._seller,
            buyer=await _buyer(connection, order_id),
            ordered_at=order.placed_at,
            issued_at=datetime.now(UTC),
        )

    async def _number(
        self, connection: AsyncConnection, kind: Kind, drafts: Sequence[tuple[UUID, Document]]
    ) -> None:
        series = invoice.series(kind, datetime.now(UTC), self._seller)
        last = await _take(connection, series, len(drafts))
        # while others waited for this row, a year may have ended
        now = datetime.now(UTC)
        if invoice.series(kind, now, self._seller) != series:
            raise LostRace
        day = day_of(now, self._seller)
        given = []
        for count, (id_, draft) in enumerate(drafts, last - len(drafts) + 1):
            number = invoice.number(series, count)
            document = structs.replace(draft, number=number, issued_on=day)
            given.append(
                {
                    "b_id": id_,
                    "b_series": series,
                    "b_count": count,
                    "b_number": number,
                    "b_now": now,
                    "b_document": msgspec.json.encode(document),
                }
            )
        await connection.execute(_GIVE, given)


async def of_order(connection: AsyncConnection, order_id: UUID) -> Drawn | None:
    """The order's invoice; None while it has none that can be read."""
    query = (
        sa.select(_TABLE.c.number, tables.invoice_files.c.pdf)
        .join(tables.invoice_files, tables.invoice_files.c.invoice_id == _TABLE.c.id)
        .where(_TABLE.c.cause == order_id)
    )
    row = (await connection.execute(query)).first()
    return Drawn(row.number, row.pdf) if row else None


async def _take(connection: AsyncConnection, series: str, count: int) -> int:
    """Take the next `count` numbers; the last of them. Raises LostRace where a year begins."""
    table = tables.invoice_series
    taken = await connection.execute(
        sa.update(table).where(table.c.series == series).values(last=table.c.last + count)
    )
    if taken.rowcount:
        found = await connection.scalar(sa.select(table.c.last).where(table.c.series == series))
        return int(found or 0)
    try:
        await connection.execute(sa.insert(table).values(series=series, last=count))
    except IntegrityError as error:
        raise LostRace from error  # somebody else began it
    return count


async def _put_off(connection: AsyncConnection, id_: UUID) -> None:
    later = datetime.now(UTC) + LATER
    still_due = (_TABLE.c.id == id_) & _TABLE.c.due_at.is_not(None)
    await connection.execute(sa.update(_TABLE).where(still_due).values(due_at=later))


async def _document(connection: AsyncConnection, order_id: UUID) -> Document:
    """The order's invoice; it must have its number. Raises LookupError."""
    query = sa.select(_TABLE.c.document).where(_TABLE.c.cause == order_id)
    document = await connection.scalar(query)
    if document is None:
        raise LookupError("the invoice that it is about has no number yet")
    return msgspec.json.decode(document, type=Document)


async def _buyer(connection: AsyncConnection, order_id: UUID) -> Buyer:
    table = tables.order_private.c
    query = sa.select(table.email, table.name, table.address, table.billing).where(
        table.order_id == order_id
    )
    row = (await connection.execute(query)).first()
    if row is None or not row.email:
        return Buyer()  # who it was wanted to be forgotten
    address = msgspec.convert(row.address, Address) if row.address else None
    billing = msgspec.convert(row.billing, Entry) if row.billing else None
    return Buyer(email=row.email, name=row.name, address=address, billing=billing)


_GIVE = (
    sa.update(_TABLE)
    .where(_TABLE.c.id == sa.bindparam("b_id"))
    .values(
        series=sa.bindparam("b_series"),
        count=sa.bindparam("b_count"),
        number=sa.bindparam("b_number"),
        issued_at=sa.bindparam("b_now"),
        due_at=sa.bindparam("b_now"),
        document=sa.bindparam("b_document"),
    )
)
