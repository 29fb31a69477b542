"""Invoices in SQL: one for each order, numbered without a gap, whoever dies on the way."""

import asyncio
import os
import random
import secrets
import sys
from asyncio.subprocess import Process
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from chassis.database import Database
from checkout import drawing, invoice, paper, seller
from checkout.domain import Timers
from checkout.invoice import Document
from checkout.letters import Shop
from checkout.store import invoices, tables
from checkout.store.invoices import Invoices
from checkout.store.orders import Orders
from notify.mail import Mail

SELLER = seller.parse("sample")
assert SELLER is not None
SHOP = Shop(name="Shop", invoices=True)


@pytest.fixture
def invoicing(database: Database) -> Invoices:
    assert SELLER is not None
    return Invoices(database, SELLER, SHOP)


async def wanted(database: Database, make: Any, count: int) -> list[UUID]:
    """Orders that want their invoices; how they came to their end is of no matter here."""
    orders = Orders(database, Timers())
    accepted = await asyncio.gather(
        *(
            orders.place(secrets.token_hex(16), secrets.token_hex(16), b"", purchase, quote)
            for purchase, quote in [(make.a_purchase(), make.a_quote())] * count
        )
    )
    ids = [each.order_id for each in accepted]
    now = datetime.now(UTC)
    await database.write(lambda connection: invoices.want(connection, ids, now))
    return ids


async def numbers(database: Database) -> list[tuple[UUID, str, int]]:
    table = tables.invoices.c
    query = sa.select(table.order_id, table.number, table.count).order_by(table.count)
    async with database.read() as connection:
        rows = await connection.execute(query.where(table.number.is_not(None)))
        return [(row.order_id, row.number, row.count) for row in rows]


async def count(database: Database, what: sa.Select[Any]) -> int:
    async with database.read() as connection:
        return int(await connection.scalar(sa.select(sa.func.count()).select_from(what.subquery())))


def year() -> str:
    assert SELLER is not None
    return invoice.series("invoice", datetime.now(UTC), SELLER)


async def test_numbers_follow_each_other_in_the_order_in_which_they_were_wanted(
    database: Database, invoicing: Invoices, make: Any
) -> None:
    first = await wanted(database, make, 2)
    await invoicing.issue()
    second = await wanted(database, make, 1)
    await invoicing.issue()

    assert [f"{year()}-00000{i}" for i in (1, 2, 3)] == [n for _, n, _ in await numbers(database)]
    assert {*first} == {id_ for id_, _, _ in (await numbers(database))[:2]}
    assert second == [id_ for id_, _, _ in (await numbers(database))[2:]]


async def test_many_at_once_leave_no_gap_even_where_the_year_begins(
    database: Database, invoicing: Invoices, make: Any
) -> None:
    ids = await wanted(database, make, 24)
    while await asyncio.gather(*(invoicing.issue(3) for _ in range(6))) != [0] * 6:
        pass

    found = await numbers(database)
    assert list(range(1, 25)) == [number for _, _, number in found]
    assert set(ids) == {id_ for id_, _, _ in found}


async def test_a_transaction_that_fails_takes_no_number_along(
    database: Database, invoicing: Invoices, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await wanted(database, make, 2)

    async def taken(connection: AsyncConnection, series: str, count: int) -> int:
        await take(connection, series, count)
        raise ZeroDivisionError

    take = invoices._take
    monkeypatch.setattr(invoices, "_take", taken)
    with pytest.raises(ZeroDivisionError):
        await invoicing.issue()
    monkeypatch.undo()
    await invoicing.issue()

    assert [1, 2] == [number for _, _, number in await numbers(database)]


async def test_one_that_cannot_be_made_takes_no_number_and_holds_up_nobody(
    database: Database, invoicing: Invoices, make: Any
) -> None:
    broken, *others = await wanted(database, make, 3)

    async def spoil(connection: AsyncConnection) -> None:
        table = tables.order_private
        await connection.execute(
            sa.update(table).where(table.c.order_id == broken).values(address={"street": 1})
        )

    await database.write(spoil)
    while await paper.step(invoicing):
        pass

    assert {*others} == {id_ for id_, _, _ in await numbers(database)}
    assert [1, 2] == [number for _, _, number in await numbers(database)]


async def test_an_invoice_is_drawn_kept_and_mailed_once_whoever_draws_it(
    database: Database, invoicing: Invoices, make: Any
) -> None:
    (order_id,) = await wanted(database, make, 1)
    await invoicing.issue()
    ((id_, document),) = await invoicing.undrawn()
    pdf = drawing.draw(document)

    assert [True, False] == [await invoicing.keep(id_, document, pdf) for _ in range(2)]
    async with database.read() as connection:
        drawn = await invoices.of_order(connection, order_id)
        mail = (await connection.execute(sa.select(tables.notices.deliveries))).one()
    assert drawn is not None
    assert (document.number, pdf) == (drawn.number, drawn.pdf)
    assert ("order.invoice", str(order_id), "ada@example.com") == (
        mail.type,
        mail.subject,
        mail.address,
    )
    assert pdf == msgspec.json.decode(mail.body, type=Mail).attachments[0].content
    assert [] == await invoicing.undrawn()


async def test_who_wanted_to_be_forgotten_still_has_an_invoice_but_no_mail(
    database: Database, invoicing: Invoices, make: Any
) -> None:
    await wanted(database, make, 1)
    forgotten = sa.update(tables.order_private).values(email="", name=None, address=None)
    await database.write(lambda connection: connection.execute(forgotten))
    while await paper.step(invoicing):
        pass
    async with database.read() as connection:
        document = await connection.scalar(sa.select(tables.invoices.c.document))

    assert [] == msgspec.json.decode(document, type=Document).buyer
    assert 0 == await count(database, sa.select(tables.notices.deliveries.c.seq))


@pytest.mark.slow
async def test_a_process_that_is_killed_leaves_neither_gap_nor_double(
    database: Database, make: Any, tmp_path: Path
) -> None:
    await kill(database, make, tmp_path, orders=10, kills=1)


@pytest.mark.long
async def test_processes_that_are_killed_many_times_leave_neither_gap_nor_double(
    database: Database, make: Any, tmp_path: Path
) -> None:
    await kill(database, make, tmp_path, orders=300, kills=12)


async def kill(database: Database, make: Any, folder: Path, *, orders: int, kills: int) -> None:
    """Let processes make invoices while orders come in, and kill one after the other."""
    chance = random.Random(orders)
    env = os.environ | {
        "CHECKOUT_REDIS_URL": "redis://127.0.0.1:1",
        "CHECKOUT_DATABASE_URL": database.engine.url.render_as_string(hide_password=False),
        "CHECKOUT_PROFILE": "test",
        "CHECKOUT_SELLER": "sample",
        "CHECKOUT_MAIL_DIR": str(folder / "mails"),
    }

    async def start() -> Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "checkout", "notify", env=env, stdout=asyncio.subprocess.DEVNULL
        )

    async def come() -> None:
        for _ in range(10):
            await wanted(database, make, orders // 10)
            await asyncio.sleep(0.1)

    files = sa.select(tables.invoice_files.c.invoice_id)
    coming = asyncio.create_task(come())
    processes = [await start() for _ in range(2)]
    try:
        for _ in range(kills):
            before = await count(database, files)
            async with asyncio.timeout(120):
                while await count(database, files) <= before < orders:
                    await asyncio.sleep(0.01)
            await asyncio.sleep(chance.uniform(0, 0.2))
            dead = processes.pop(0)
            dead.kill()
            await dead.wait()
            processes.append(await start())
        await coming
        async with asyncio.timeout(120 + orders / 5):
            while await count(database, files) < orders:
                await asyncio.sleep(0.1)
    finally:
        coming.cancel()
        for process in processes:
            process.kill()
            await process.wait()
    found = await numbers(database)

    assert list(range(1, orders + 1)) == [number for _, _, number in found]
    assert orders == len({id_ for id_, _, _ in found})
    assert orders == await count(database, files)
    # one each, however often its process died before it could say that it had sent it
    assert orders == await count(database, sa.select(tables.notices.deliveries.c.seq))


@pytest.mark.connected
async def test_a_shopper_reads_the_invoice_as_soon_as_it_is_drawn(
    client: Any, own: Database, make: Any
) -> None:
    (order_id,) = await wanted(own, make, 1)
    path = f"/orders/{order_id}/invoice.pdf"
    async with own.read() as connection:
        ordered = sa.select(tables.orders.c.cart_id).where(tables.orders.c.id == order_id)
        guest = {"Cookie": f"cart={await connection.scalar(ordered)}"}
    before = await client.get(path, headers=guest)
    assert SELLER is not None
    while await paper.step(Invoices(own, SELLER, SHOP)):
        pass
    answer = await client.get(path, headers=guest)
    html = {"Accept": "text/html"}
    page = await client.get(f"/orders/{order_id}", headers=html | guest)
    strangers = await client.get(f"/orders/{order_id}", headers=html)
    program = await client.get(path, params={"cart": guest["Cookie"].removeprefix("cart=")})

    assert 404 == before.status
    assert 200 == answer.status
    assert "application/pdf" == answer.content_type
    assert "private, no-store" == answer.headers["Cache-Control"]
    assert f'inline; filename="{year()}-000001.pdf"' == answer.headers["Content-Disposition"]
    assert (await answer.read()).startswith(b"%PDF-")
    assert path in await page.text()
    assert 200 == program.status
    # who has read the order's id somewhere does not learn who ordered
    assert path not in await strangers.text()
    for wrong in ({}, {"cart": "A" * 32}, {"cart": "ä"}):
        assert 404 == (await client.get(path, params=wrong)).status
    assert 404 == (await client.get(f"/orders/{uuid4()}/invoice.pdf")).status
