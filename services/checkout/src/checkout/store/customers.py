"""Customers in SQL: links to sign in, profiles, addresses, their orders; to export and to erase.

All personal data of a customer is here and in `order_private`. Knows no session and no HTTP.
"""

import hashlib
import secrets
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

import sqlalchemy as sa
import uuid_utils.compat as uuids
from msgspec import Meta, Struct, structs
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from chassis.database import Database
from chassis.problems import NotFound
from checkout.domain import Asked, Status
from checkout.purchase import Entry
from checkout.store import mails, rows, tables
from checkout.store.problems import AddressBookFull, LinkIsOver
from checkout.store.rows import OrderView

TOKEN_BYTES = 32
LINK_LASTS = timedelta(minutes=15)
MOST_ADDRESSES = 20
REMEMBERED = timedelta(days=1)
"""How long an erasure is looked after: an order that was being placed may come after it."""
NOBODY = ""
"""Stands where the e-mail address of a person was."""
TO_SEND = timedelta(days=30)
"""How long an erased customer's parcels may still be on the table."""

# A mailbox as SMTP and people both write it; whether it exists, only a mail can tell.
_EMAIL = r"^[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*\Z"
Email = Annotated[str, Meta(max_length=254, pattern=_EMAIL)]


class Profile(Struct, frozen=True, kw_only=True):
    """A customer, to the customer."""

    customer_id: UUID
    email: str
    name: str | None
    created_at: datetime


class SavedAddress(Entry, frozen=True, kw_only=True):
    """An address of a customer's book."""

    address_id: UUID


class OrderSummary(Struct, frozen=True, kw_only=True):
    """An order in a customer's list."""

    order_id: UUID
    status: Status
    total_minor: int
    currency: str
    placed_at: datetime


class CustomerOrders(Struct, frozen=True, kw_only=True):
    """Orders, newest first; `next` is the cursor of those that are older, null at the end."""

    orders: list[OrderSummary]
    next: str | None


class KeptOrder(Struct, frozen=True, kw_only=True):
    """An order with the personal data that is kept with it."""

    order: OrderView
    email: str
    name: str | None
    address: Any
    billing: Any


class Records(Struct, frozen=True, kw_only=True):
    """Everything that SQL knows of a customer."""

    profile: Profile
    addresses: list[SavedAddress]
    orders: list[KeptOrder]


class Customers:
    """The customers of one database; `link` is the page that a mail's token is good for."""

    def __init__(self, database: Database, link: str = "") -> None:
        self._database = database
        self._link = link

    # ---- signing in ----

    async def send_link(self, email: str) -> None:
        """Mail a link that signs in once. The same for a customer and for one who is none yet."""
        token = secrets.token_urlsafe(TOKEN_BYTES)
        link = f"{self._link}?token={token}"
        now = datetime.now(UTC)

        async def work(connection: AsyncConnection) -> None:
            table = tables.sign_ins
            await connection.execute(sa.delete(table).where(table.c.expires_at <= now))
            await connection.execute(
                sa.insert(table).values(
                    digest=_digest(token), email=_plain(email), expires_at=now + LINK_LASTS
                )
            )
            await mails.add(
                connection,
                to=email,
                subject="Sign in to Shopstream",
                text=_MAIL.format(link=link),
                kind="sign-in",
            )

        await self._database.write(work)

    async def enter(self, token: str) -> UUID:
        """Whose link it is, who is a customer from now on; it works once. Raises LinkIsOver."""
        try:
            return await self._database.write(lambda connection: _enter(connection, token))
        except IntegrityError:
            # another link of the same mailbox made the customer at the same time
            return await self._database.write(lambda connection: _enter(connection, token))

    # ---- profile and addresses ----

    async def profile(self, id_: UUID) -> Profile | None:
        """The customer, unless erased."""
        async with self._database.read() as connection:
            return await _profile(connection, id_)

    async def rename(self, id_: UUID, name: str | None) -> Profile | None:
        """Change the name, or take it away."""
        table = tables.customers

        async def work(connection: AsyncConnection) -> Profile | None:
            await connection.execute(sa.update(table).where(table.c.id == id_).values(name=name))
            return await _profile(connection, id_)

        return await self._database.write(work)

    async def addresses(self, id_: UUID) -> list[SavedAddress]:
        """The customer's addresses, oldest first."""
        async with self._database.read() as connection:
            return await _addresses(connection, id_)

    async def address(self, id_: UUID, address_id: UUID) -> SavedAddress | None:
        """That address of the customer's book."""
        found = await self.addresses(id_)
        return next((one for one in found if one.address_id == address_id), None)

    async def keep_address(self, id_: UUID, address: Entry) -> None:
        """Write an address into the book, unless it is there already or there is no room."""
        known = [structs.asdict(one) for one in await self.addresses(id_)]
        if not any(structs.asdict(address).items() <= one.items() for one in known):
            with suppress(AddressBookFull, NotFound):
                await self.add_address(id_, address)

    async def add_address(self, id_: UUID, address: Entry) -> SavedAddress:
        """Write an address into the book. Raises AddressBookFull, NotFound."""
        saved = SavedAddress(address_id=uuids.uuid7(), **structs.asdict(address))
        table = tables.addresses
        many = sa.select(sa.func.count()).where(table.c.customer_id == id_)

        async def work(connection: AsyncConnection) -> None:
            # the customer's row is locked: of two additions at once the second counts the first
            owner = sa.select(tables.customers.c.id).where(tables.customers.c.id == id_)
            if await connection.scalar(owner.with_for_update()) is None:
                raise NotFound
            if (await connection.scalar(many) or 0) >= MOST_ADDRESSES:
                raise AddressBookFull
            await connection.execute(
                sa.insert(table).values(
                    id=saved.address_id,
                    customer_id=id_,
                    created_at=datetime.now(UTC),
                    **structs.asdict(address),
                )
            )

        await self._database.write(work)
        return saved

    async def change_address(self, id_: UUID, address_id: UUID, address: Entry) -> SavedAddress:
        """Write the address anew. Raises NotFound."""
        table = tables.addresses
        mine = (table.c.id == address_id) & (table.c.customer_id == id_)

        async def work(connection: AsyncConnection) -> None:
            known = sa.select(table.c.id).where(mine).with_for_update()
            if await connection.scalar(known) is None:
                raise NotFound("There is no such address.")
            await connection.execute(sa.update(table).where(mine).values(**structs.asdict(address)))

        await self._database.write(work)
        return SavedAddress(address_id=address_id, **structs.asdict(address))

    async def remove_address(self, id_: UUID, address_id: UUID) -> None:
        """Take an address out of the book. Raises NotFound."""
        table = tables.addresses
        mine = (table.c.id == address_id) & (table.c.customer_id == id_)

        async def work(connection: AsyncConnection) -> None:
            if (await connection.execute(sa.delete(table).where(mine))).rowcount == 0:
                raise NotFound("There is no such address.")

        await self._database.write(work)

    # ---- orders ----

    async def owner(self, order_id: UUID) -> UUID | None:
        """Whose order it is; None where it is a guest's. Raises NotFound."""
        table = tables.orders.c
        async with self._database.read() as connection:
            query = sa.select(table.customer_id).where(table.id == order_id)
            row = (await connection.execute(query)).first()
        if row is None:
            raise NotFound("There is no such order.")
        owner: UUID | None = row.customer_id
        return owner

    async def cart_of(self, order_id: UUID) -> str | None:
        """The cart that a guest's order was made of; None where it is a customer's, or is none."""
        table = tables.orders.c
        query = sa.select(table.cart_id).where(table.id == order_id, table.customer_id.is_(None))
        async with self._database.read() as connection:
            found: str | None = await connection.scalar(query)
        return found

    async def orders(self, id_: UUID, older_than: UUID | None, limit: int) -> CustomerOrders:
        """The customer's orders, newest first."""
        table = tables.orders.c
        query = sa.select(
            table.id, table.status, table.total_minor, table.currency, table.placed_at
        ).where(table.customer_id == id_)
        if older_than is not None:
            query = query.where(table.id < older_than)
        async with self._database.read() as connection:
            found = (
                await connection.execute(query.order_by(table.id.desc()).limit(limit + 1))
            ).all()
        listed = [
            OrderSummary(
                order_id=row.id,
                status=Status(row.status),
                total_minor=row.total_minor,
                currency=row.currency,
                placed_at=row.placed_at,
            )
            for row in found[:limit]
        ]
        return CustomerOrders(
            orders=listed, next=str(listed[-1].order_id) if len(found) > limit else None
        )

    # ---- all of it, and none of it ----

    async def records(self, id_: UUID) -> Records | None:
        """Everything that is known of the customer."""
        private = tables.order_private.c
        query = (
            sa.select(
                private.order_id, private.email, private.name, private.address, private.billing
            )
            .join(tables.orders, tables.orders.c.id == private.order_id)
            .where(tables.orders.c.customer_id == id_)
            .order_by(private.order_id)
        )
        async with self._database.read() as connection:
            profile = await _profile(connection, id_)
            if profile is None:
                return None
            orders = []
            for row in (await connection.execute(query)).all():
                view = await rows.view(connection, row.order_id)
                if view is not None:
                    orders.append(
                        KeptOrder(
                            order=view,
                            email=row.email,
                            name=row.name,
                            address=row.address,
                            billing=row.billing,
                        )
                    )
            return Records(
                profile=profile, addresses=await _addresses(connection, id_), orders=orders
            )

    async def erase(self, id_: UUID) -> None:
        """Forget who the customer is; again changes nothing.

        Orders stay, without a person; those on their way lose theirs when all of it has been sent,
        given back or cancelled. Guests' orders with the customer's e-mail address are theirs, too.
        """

        async def work(connection: AsyncConnection) -> None:
            customers, sign_ins = tables.customers, tables.sign_ins
            known = sa.select(customers.c.email).where(customers.c.id == id_).with_for_update()
            email = await connection.scalar(known)
            if email is None:
                return
            await connection.execute(
                sa.insert(tables.erasures).values(customer_id=id_, erased_at=datetime.now(UTC))
            )
            await connection.execute(sa.delete(sign_ins).where(sign_ins.c.email == email))
            await mails.forget_mailbox(connection, email)
            book = tables.addresses
            await connection.execute(sa.delete(book).where(book.c.customer_id == id_))
            await connection.execute(sa.delete(customers).where(customers.c.id == id_))
            orders, private = tables.orders, tables.order_private.c
            guests = (
                await connection.scalars(sa.select(private.order_id).where(private.email == email))
            ).all()
            await connection.execute(
                sa.update(orders)
                .where(orders.c.id.in_(guests), orders.c.customer_id.is_(None))
                .values(customer_id=id_)
            )
            await _forget_ended(connection, [id_])

        await self._database.write(work)

    async def finish_erasures(self) -> bool:
        """Take the person out of orders that have ended since their customer was erased."""
        table = tables.erasures
        async with self._database.read() as connection:
            ids = (await connection.scalars(sa.select(table.c.customer_id).limit(100))).all()
        if not ids:
            return False

        async def work(connection: AsyncConnection) -> None:
            await _forget_ended(connection, ids)
            orders, private = tables.orders.c, tables.order_private.c
            known = (
                sa.select(orders.customer_id)
                .join(tables.order_private, private.order_id == orders.id)
                .where(orders.customer_id.in_(ids), private.email != NOBODY)
            )
            waiting = set(await connection.scalars(known))
            await connection.execute(
                sa.delete(table).where(
                    table.c.customer_id.in_([id_ for id_ in ids if id_ not in waiting]),
                    table.c.erased_at < datetime.now(UTC) - REMEMBERED,
                )
            )

        await self._database.write(work)
        return False


async def _enter(connection: AsyncConnection, token: str) -> UUID:
    sign_ins, customers = tables.sign_ins, tables.customers
    now = datetime.now(UTC)
    this = (sign_ins.c.digest == _digest(token)) & (sign_ins.c.expires_at > now)
    email = await connection.scalar(sa.select(sign_ins.c.email).where(this))
    # who deletes it has used it: there is one such, however many try
    used = await connection.execute(sa.delete(sign_ins).where(this))
    if email is None or used.rowcount == 0:
        raise LinkIsOver
    known: UUID | None = await connection.scalar(
        sa.select(customers.c.id).where(customers.c.email == email)
    )
    if known is not None:
        return known
    id_ = uuids.uuid7()
    await connection.execute(sa.insert(customers).values(id=id_, email=email, created_at=now))
    return id_


async def _profile(connection: AsyncConnection, id_: UUID) -> Profile | None:
    table = tables.customers
    row = (await connection.execute(sa.select(table).where(table.c.id == id_))).first()
    if row is None:
        return None
    return Profile(customer_id=row.id, email=row.email, name=row.name, created_at=row.created_at)


async def _addresses(connection: AsyncConnection, id_: UUID) -> list[SavedAddress]:
    table = tables.addresses.c
    query = sa.select(tables.addresses).where(table.customer_id == id_).order_by(table.id)
    return [
        SavedAddress(
            address_id=row.id,
            name=row.name,
            street=row.street,
            city=row.city,
            area=row.area,
            postcode=row.postcode,
            country=row.country,
        )
        for row in await connection.execute(query)
    ]


async def _forget_ended(connection: AsyncConnection, ids: Sequence[UUID]) -> None:
    """Take the person out of orders that need none; the row stays, for a refund still reads it."""
    orders, table = tables.orders.c, tables.order_private
    late = datetime.now(UTC) - TO_SEND
    gone = (_units_left() <= 0) | (orders.placed_at < late)
    ended = await connection.scalars(
        sa.select(orders.id).where(
            orders.customer_id.in_(ids),
            (orders.status == Status.CANCELLED.value)
            | (orders.status == Status.CONFIRMED.value) & gone,
        )
    )
    await connection.execute(
        sa.update(table)
        .where(table.c.order_id.in_(list(ended)))
        .values(email=NOBODY, name=None, address=None, billing=None, payment_token="")
    )


def _units_left() -> sa.ColumnElement[int]:
    """The units of an order that are neither sent nor given back."""
    lines, parcels, refunds = tables.order_lines.c, tables.shipments.c, tables.refunds.c
    refused = (Asked.REFUSED.value, Asked.DROPPED.value)

    def units(qty: sa.Column[int]) -> sa.Select[tuple[int]]:
        return sa.select(sa.func.coalesce(sa.func.sum(qty), 0))

    bought = units(lines.qty).where(lines.order_id == tables.orders.c.id)
    sent = (
        units(tables.shipment_lines.c.qty)
        .join(tables.shipments, parcels.id == tables.shipment_lines.c.shipment_id)
        .where(parcels.order_id == tables.orders.c.id)
    )
    back = (
        units(tables.refund_lines.c.qty)
        .join(tables.refunds, refunds.id == tables.refund_lines.c.refund_id)
        .where(refunds.order_id == tables.orders.c.id, refunds.state.not_in(refused))
    )
    return bought.scalar_subquery() - sent.scalar_subquery() - back.scalar_subquery()


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


def _plain(email: str) -> str:
    """One mailbox, one customer: in practice no provider tells A from a."""
    return email.lower()


_MAIL = """\
Follow this link to sign in. It works once, within 15 minutes:

{link}

If you did not ask for it, you need do nothing: nobody is signed in by this mail.
"""
