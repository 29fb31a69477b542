"""Customers on both databases: one customer per mailbox, and nothing left of an erased one."""

import asyncio
import re
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
import sqlalchemy as sa

from chassis.database import Database
from chassis.problems import NotFound
from checkout.after import ShipmentWanted, Units
from checkout.domain import Approved, CancelRequested
from checkout.store import tables
from checkout.store.after import After
from checkout.store.customers import Customers, Entry
from checkout.store.orders import Orders
from checkout.store.problems import AddressBookFull, LinkIsOver
from notify import mail

ADA = "ada@example.com"
HOME = Entry(name="Ada", street="Domstraße 1", city="Köln", postcode="50667", country="DE")


@pytest.fixture
def customers(database: Database) -> Customers:
    return Customers(database, "http://shop/sign-in/confirm")


async def links(database: Database) -> list[str]:
    """The tokens of all links that are on their way."""
    deliveries = tables.notices.deliveries.c
    async with database.read() as connection:
        bodies = (
            await connection.scalars(sa.select(deliveries.body).order_by(deliveries.seq))
        ).all()
    texts = [msgspec.json.decode(body, type=mail.Mail).text for body in bodies]
    return [re.findall(r"token=(\S+)", text)[0] for text in texts]


async def signed_in(customers: Customers, database: Database, email: str = ADA) -> UUID:
    await customers.send_link(email)
    return await customers.enter((await links(database))[-1])


async def test_many_links_of_one_mailbox_used_at_once_make_one_customer(
    customers: Customers, database: Database
) -> None:
    for email in (ADA, "Ada@Example.com", ADA):
        await customers.send_link(email)
    tokens = await links(database)

    entered = await asyncio.gather(*(customers.enter(token) for token in tokens))
    again = await asyncio.gather(
        *(customers.enter(token) for token in tokens), return_exceptions=True
    )

    assert 1 == len(set(entered))
    assert {LinkIsOver} == {type(outcome) for outcome in again}


async def test_a_link_lets_in_one_of_many(customers: Customers, database: Database) -> None:
    await customers.send_link(ADA)
    (token,) = await links(database)

    outcomes = await asyncio.gather(
        *(customers.enter(token) for _ in range(6)), return_exceptions=True
    )

    assert 1 == sum(isinstance(outcome, UUID) for outcome in outcomes)
    assert 5 == sum(isinstance(outcome, LinkIsOver) for outcome in outcomes)


async def test_an_address_is_its_customers_alone_and_the_book_has_room_for_twenty(
    customers: Customers, database: Database
) -> None:
    ada = await signed_in(customers, database)
    bob = await signed_in(customers, database, "bob@example.com")

    outcomes = await asyncio.gather(
        *(customers.add_address(ada, HOME) for _ in range(22)), return_exceptions=True
    )
    saved = await customers.addresses(ada)

    assert 2 == sum(isinstance(outcome, AddressBookFull) for outcome in outcomes)
    assert 20 == len(saved)
    with pytest.raises(NotFound):
        await customers.change_address(bob, saved[0].address_id, HOME)
    with pytest.raises(NotFound):
        await customers.remove_address(bob, saved[0].address_id)
    # to write the same again is to find it
    assert saved[0] == await customers.change_address(ada, saved[0].address_id, HOME)


async def test_nothing_is_left_of_an_erased_customer_when_the_orders_have_ended(
    customers: Customers, database: Database, orders: Orders, make: Any
) -> None:
    ada = await signed_in(customers, database)
    await customers.rename(ada, "Ada Lovelace")
    await customers.add_address(ada, HOME)
    placed = [
        (
            await orders.place(
                str(uuid4()), "k" * 16, b"x" * 32, make.a_purchase(), make.a_quote(), whose
            )
        ).order_id
        for whose in (ada, ada, ada, None)
    ]
    cancelled, sent, kept, guests = placed
    for order in (cancelled, guests):
        await orders.apply(order, CancelRequested())
    for step in (make.held, make.committed):
        for order in (sent, kept):
            await orders.apply(order, step(order))
        for ask in await orders.claim_payments(10, timedelta(seconds=30)):
            await orders.answered(ask, Approved("ref"))
    parcel = ShipmentWanted(lines=[Units(sku="LAMP-1", qty=2)], carrier="Post")
    await After(database).ship(sent, "k" * 16, parcel)
    await customers.send_link(ADA)

    await customers.erase(ada)
    await customers.erase(ada)

    assert await customers.profile(ada) is None
    assert await customers.records(ada) is None
    assert {kept} == await known(database)
    await After(database).ship(kept, "l" * 16, parcel)
    await customers.finish_erasures()
    assert set() == await known(database)
    assert ada == await customers.owner(guests)
    async with database.read() as connection:
        for table in (tables.customers, tables.addresses, tables.sign_ins):
            assert [] == (await connection.execute(sa.select(table))).all()
        mails = tables.notices.deliveries.c
        about = sa.select(mails.subject).where(mails.address == ADA)
        # the word of the parcel that has just left still goes out, and is forgotten then
        assert {str(kept)} >= set((await connection.scalars(about)).all())


async def known(database: Database) -> set[UUID]:
    """The orders whose person is known."""
    private = tables.order_private.c
    async with database.read() as connection:
        rows = (await connection.execute(sa.select(tables.order_private))).all()
    fields = {"order_id", "email", "name", "address", "billing", "payment_token"}
    assert fields == set(private.keys())
    return {row.order_id for row in rows if any(row[1:])}
