"""Who waits and who is told, on both databases."""

import asyncio
import random
from collections import Counter
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from chassis.database import Database
from notify.book import Book
from notify.mail import Mail
from stock import waiting as waiting_
from stock.waiting import TABLES, Alert, NoSuchAlert, Priced, TooManyAlerts, Waiting

pytestmark = [pytest.mark.connected, pytest.mark.one_partition]


class Kept:
    """The alerts of one database, and what of them has been put on its way."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.book = Book(database, TABLES)
        self.waiting = self.patient(900)

    def patient(self, seconds: float) -> Waiting:
        patience = timedelta(seconds=seconds)
        return Waiting(self.database, self.book, link="https://shop.example/", patience=patience)

    async def back(self, email: str, sku: str = "chair", version: int = 0) -> UUID:
        alert = Alert(sku=sku, when="back_in_stock", email=email)
        return await self.waiting.add(alert, version=version, price_version=0)

    async def below(self, email: str, minor: int, version: int = 0) -> UUID:
        alert = Alert(
            sku="chair", when="price_below", currency="EUR", below_minor=minor, email=email
        )
        return await self.waiting.add(alert, version=0, price_version=version)

    async def told(self, kind: str = waiting_.BACK) -> list[str]:
        """Whose mails of a type are in the book, in order."""
        table = TABLES.deliveries
        query = sa.select(table.c.address).where(table.c.type == kind).order_by(table.c.seq)
        async with self.database.read() as connection:
            return [str(address) for address in await connection.scalars(query)]

    async def rows(self, table: sa.Table) -> list[Any]:
        async with self.database.read() as connection:
            return list((await connection.execute(sa.select(table))).all())


@pytest.fixture
def kept(sql: Database) -> Kept:
    """The same tests on both databases; each has one of its own."""
    return Kept(sql)


async def test_those_who_came_first_are_told_first_and_no_more_than_came_back(
    kept: Kept,
) -> None:
    for n in range(10):
        await kept.back(f"p{n}@people.example")

    assert 3 == await kept.waiting.moved([("chair", 1, 3)])
    assert ["p0@people.example", "p1@people.example", "p2@people.example"] == await kept.told()
    # the three buy, and nothing comes back
    assert 0 == await kept.waiting.moved([("chair", 2, 2), ("chair", 3, 1), ("chair", 4, 0)])
    # one order is cancelled, then there is a delivery
    assert 1 == await kept.waiting.moved([("chair", 5, 1)])
    assert 2 == await kept.waiting.moved([("chair", 6, 3)])
    assert [f"p{n}@people.example" for n in range(6)] == await kept.told()
    # more than anybody waits for
    assert 4 == await kept.waiting.moved([("chair", 7, 100)])
    assert 0 == await kept.waiting.moved([("chair", 8, 200)])


async def test_the_next_in_line_are_told_of_what_the_others_left(kept: Kept) -> None:
    for n in range(5):
        await kept.back(f"p{n}@people.example")
    assert 2 == await kept.waiting.moved([("chair", 1, 2)])

    assert 0 == await kept.waiting.offer_again()

    kept.waiting = kept.patient(0)
    await kept.waiting.moved([("chair", 2, 1), ("chair", 3, 2)])  # one told, one left over
    assert 2 == await kept.waiting.offer_again()
    assert 0 == await kept.waiting.offer_again()
    assert 5 == len(set(await kept.told()))


async def test_asking_twice_is_asking_once(kept: Kept) -> None:
    first = await kept.back("ada@people.example")
    again = await kept.back("Ada@people.example")
    await kept.back("ada@people.example", sku="table")

    assert first == again
    assert 1 == await kept.waiting.moved([("chair", 1, 9)])
    assert ["ada@people.example"] == await kept.told()
    assert 2 == len(await kept.told(waiting_.WELCOME))

    # what was told is over: who asks again waits again
    assert first != await kept.back("ada@people.example", version=2)
    assert 1 == await kept.waiting.moved([("chair", 3, 1)])


async def test_news_from_before_the_wish_are_no_news(kept: Kept) -> None:
    await kept.back("ada@people.example", version=5)
    assert 0 == await kept.waiting.moved([("chair", 4, 9), ("chair", 5, 0)])

    await kept.waiting.moved([("chair", 6, 0)])
    await kept.back("ben@people.example", version=9)

    assert 0 == await kept.waiting.moved([("chair", 7, 9), ("chair", 8, 9), ("chair", 9, 0)])
    assert 1 == await kept.waiting.moved([("chair", 10, 1)])


async def test_a_price_below_tells_those_who_named_a_higher_one(kept: Kept) -> None:
    for minor in (1_000, 1_500, 2_000):
        await kept.below(f"p{minor}@people.example", minor, version=3)
    priced = kept.waiting.priced

    assert 0 == await priced([Priced(sku="chair", version=2, amounts={"EUR": 1})])
    assert 0 == await priced([Priced(sku="chair", version=4, amounts={"EUR": 2_000})])
    assert 0 == await priced([Priced(sku="chair", version=5, amounts={"USD": 1})])
    assert 2 == await priced([Priced(sku="chair", version=6, amounts={"EUR": 1_499})])
    assert 0 == await priced([Priced(sku="chair", version=6, amounts={"EUR": 1})])
    assert 1 == await priced([Priced(sku="chair", version=7, amounts={"EUR": 999})])
    expected = ["p1500@people.example", "p2000@people.example", "p1000@people.example"]
    assert expected == await kept.told(waiting_.BELOW)


async def test_who_stops_hears_nothing_more_of_anything(kept: Kept) -> None:
    id_ = await kept.back("ada@people.example")
    await kept.back("ada@people.example", sku="table")
    await kept.below("ada@people.example", 500)
    await kept.back("ben@people.example")

    assert 3 == await kept.waiting.cancel(id_)
    assert 0 == await kept.waiting.cancel(id_)
    assert 1 == await kept.waiting.moved([("chair", 1, 9), ("table", 1, 9)])
    assert ["ben@people.example"] == await kept.told()
    with pytest.raises(NoSuchAlert):
        await kept.waiting.cancel(uuid4())


async def test_an_address_is_kept_only_while_it_waits(kept: Kept) -> None:
    await kept.back("ada@people.example")
    await kept.waiting.cancel(await kept.back("ben@people.example"))
    await kept.waiting.moved([("chair", 1, 1)])

    assert [None, None] == [row.email for row in await kept.rows(waiting_.alerts)]


async def test_nobodys_mailbox_is_filled_through_us(kept: Kept) -> None:
    for n in range(waiting_.MOST):
        await kept.back("ada@people.example", sku=f"s{n}")
    with pytest.raises(TooManyAlerts):
        await kept.back("ada@people.example", sku="one-more")

    await kept.waiting.moved([("s0", 1, 1)])
    await kept.back("ada@people.example", sku="one-more")


async def test_a_mail_names_the_shop_and_the_way_to_stop(kept: Kept) -> None:
    id_ = await kept.back("ada@people.example")
    await kept.waiting.moved([("chair", 1, 1)])
    welcome, back = (
        msgspec.json.decode(row.body, type=Mail) for row in await kept.rows(TABLES.deliveries)
    )

    assert "chair is back" == back.title
    assert f"https://shop.example/alerts/{id_}" == back.unsubscribe == welcome.unsubscribe
    assert "https://shop.example/s?q=chair" in back.text
    assert str(back.unsubscribe) in back.text
    assert "ada@" not in welcome.text + back.text


async def test_a_webhook_is_told_in_figures(kept: Kept) -> None:
    webhook, _ = await kept.book.register("https://hooks.example/", [])
    for when, more in (
        ("back_in_stock", {}),
        ("price_below", {"currency": "EUR", "below_minor": 500}),
    ):
        alert = Alert(sku="chair", when=when, webhook=webhook.id, **more)  # type: ignore[arg-type]  # of a table
        await kept.waiting.add(alert, version=0, price_version=0)
    await kept.waiting.moved([("chair", 1, 7)])
    await kept.waiting.priced([Priced(sku="chair", version=1, amounts={"EUR": 499})])
    back, below = (msgspec.json.decode(row.body) for row in await kept.rows(TABLES.deliveries))

    assert waiting_.BACK == back["type"]
    assert ("chair", 7) == (back["data"]["sku"], back["data"]["available"])
    assert waiting_.BELOW == below["type"]
    assert (499, 500) == (below["data"]["amount_minor"], below["data"]["below_minor"])

    stranger = Alert(sku="chair", when="back_in_stock", webhook=uuid4())
    with pytest.raises(IntegrityError):
        await kept.waiting.add(stranger, version=0, price_version=0)


async def test_several_processes_that_hear_everything_twice_tell_each_once(kept: Kept) -> None:
    people = [f"p{n}@people.example" for n in range(60)]
    await asyncio.gather(*(kept.back(person) for person in people))
    available = 0
    events = []
    came_back = 0
    for version in range(1, 41):
        new = random.choice([0, 0, 1, 2, 5])
        came_back += max(0, new - available)
        available = new
        events.append(("chair", version, available))

    async def process() -> None:
        for start in range(0, len(events), 4):
            batch = events[max(0, start - 4) : start + 4]
            await kept.waiting.moved(random.sample(batch, len(batch)))

    await asyncio.gather(process(), process(), process())
    told = Counter(await kept.told())

    assert {1} == set(told.values())
    assert 1 <= len(told) <= came_back
