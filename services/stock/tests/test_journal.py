"""The journal follows the ledger in order and once, on both databases."""

import asyncio
import os
import sys
from asyncio.subprocess import Process
from collections import Counter
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import aiohttp
import msgspec
import pytest
import sqlalchemy as sa

from chassis.database import Database
from chassis.http.server import listening
from stock import tables
from stock.app import application
from stock.bookkeeping import LedgerLost
from stock.books import Books, Entry, UnknownEntry, enter, whole_steps
from stock.settings import Settings

pytestmark = [pytest.mark.connected, pytest.mark.one_partition]


@pytest.fixture
def settings(redis_server: Callable[..., Any]) -> Settings:
    """A Redis of the test's own: all of its keys are looked at."""
    return Settings(redis_url=redis_server("--appendonly", "no").url, redis_timeout=10)


async def rows(sql: Database, table: sa.Table) -> list[sa.Row]:
    async with sql.read() as connection:
        return list((await connection.execute(sa.select(table))).all())


async def test_levels_prices_and_holds_are_what_redis_has(shop: Any, sql: Database) -> None:
    await shop.busy(1)

    await shop.books.catch_up()

    state = await shop.state()
    levels = await rows(sql, tables.levels)
    assert 6 == len(levels)
    for row in levels:
        q = state[f"{{s0}}:q:{row.sku}"]
        for name in ("recv", "avail", "resv", "sold", "ver"):
            assert int(q[name]) == getattr(row, name)
        assert q.get("low") == (None if row.low is None else str(row.low))
    for kind, table, name in (("price", tables.prices, "sku"), ("r", tables.holds, "name")):
        found = {
            f"{{s0}}:{kind}:{getattr(row, name)}": row.fields for row in await rows(sql, table)
        }
        assert found
        assert {key: held for key, held in state.items() if f":{kind}:" in key} == found
    moved = Counter(row.sku for row in await rows(sql, tables.movements))
    assert {row.sku: row.ver for row in levels} == moved
    held: Counter[str] = Counter()
    for row in await rows(sql, tables.held_lines):
        held[row.sku] += row.qty
    assert {row.sku: row.resv for row in levels if row.resv} == held


async def same_moves(shop: Any, sql: Database) -> bool:
    entries = await shop.redis.xrange(shop.store.slots[0].ledger)
    moved = [id_ for id_, fields in entries if "davail" in fields]
    found = await rows(sql, tables.movements)
    found.sort(key=lambda row: (row.at_ms, row.seq))
    return moved == [f"{row.at_ms}-{row.seq}" for row in found]


async def test_each_entry_counts_once_however_many_follow(shop: Any, sql: Database) -> None:
    followers = [shop.bookkeeper() for _ in range(3)]
    for seed in range(3):
        await asyncio.gather(shop.busy(seed, 20), *(each.catch_up() for each in followers))
    await shop.books.catch_up()

    assert await same_moves(shop, sql)
    last = await shop.redis.xrevrange(shop.store.slots[0].ledger, count=1)
    assert last[0][0] == await shop.journal.cursor(0)


@pytest.mark.long
async def test_a_journal_that_is_killed_goes_on_where_it_was(
    shop: Any, sql: Database, sql_url: str, settings: Settings
) -> None:
    env = os.environ | {
        "STOCK_REDIS_URL": settings.redis_url,
        "STOCK_REDIS_TIMEOUT": "10",
        "STOCK_DATABASE_URL": sql_url,
        "STOCK_LEDGER_KEEP_SECONDS": "86400",
    }

    async def start() -> Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "stock", "journal", env=env
        )

    async def caught_up() -> None:
        # a process takes 3 s of processor before it begins
        async with asyncio.timeout(600):
            while not await same_moves(shop, sql):
                await asyncio.sleep(0.05)

    first = await start()
    try:
        await shop.busy(1, 20)
        await caught_up()
        await shop.busy(2, 20)
        first.kill()
        await first.wait()
        await shop.busy(3, 20)
        second = await start()
        try:
            await caught_up()
        finally:
            second.terminate()
            assert 0 == await second.wait()
    finally:
        if first.returncode is None:
            first.kill()
            await first.wait()


async def test_what_has_not_left_the_outbox_is_kept_until_it_has(shop: Any, sql: Database) -> None:
    slot = shop.store.slots[0]
    await shop.put("chair", 1)
    await shop.put("chair", 2)
    await shop.books.catch_up()
    waiting = [id_ for id_, _ in await shop.redis.xrange(slot.outbox)]
    assert waiting == [f"{row.at_ms}-{row.seq}" for row in await rows(sql, tables.untold)]

    await shop.redis.xdel(slot.outbox, waiting[0])
    await shop.books.catch_up()
    assert waiting[1:] == [f"{row.at_ms}-{row.seq}" for row in await rows(sql, tables.untold)]

    await shop.redis.xdel(slot.outbox, waiting[1])
    await shop.put("chair", 3)
    await shop.books.catch_up()
    assert 1 == len(await rows(sql, tables.untold))
    assert 3 == (await rows(sql, tables.levels))[0].avail


async def test_a_ledger_that_is_not_the_same_any_more_stops_its_partition(
    shop: Any, sql: Database
) -> None:
    await shop.put("chair", 5)
    await shop.books.catch_up()
    await shop.empty()
    await shop.store.install.make()
    await shop.put("table", 1)

    with pytest.raises(LedgerLost):
        await shop.books.catch_up()
    with pytest.raises(LedgerLost):
        await shop.bookkeeper().catch_up()

    assert ["chair"] == [row.sku for row in await rows(sql, tables.levels)]
    following = asyncio.create_task(shop.books.follow(shop.store.slots[0]))
    async with asyncio.timeout(10):
        while not shop.books.stopped:
            await asyncio.sleep(0.05)
    with pytest.raises(RuntimeError, match="rebuild stock"):
        await shop.books.check()
    following.cancel()
    await asyncio.wait([following])


async def test_what_is_in_the_journal_may_leave_the_ledger_and_its_index(shop: Any) -> None:
    for units in range(1, 6):
        await shop.put("chair", units)
    await shop.put("table", 1)
    brief = shop.bookkeeper(keep_ms=0)
    slot = shop.store.slots[0]

    assert 0 == await brief.trim(slot)
    await brief.catch_up()
    await asyncio.gather(*(shop.bookkeeper(keep_ms=0).trim(slot) for _ in range(3)))

    # the entry at the cursor stays: by it the journal knows the ledger
    assert 1 == await shop.redis.xlen(slot.ledger)
    assert 0 == await shop.redis.llen(slot.moves("chair"))
    await shop.put("chair", 7)
    await shop.books.catch_up()
    assert [6] == [movement.version for movement in await shop.store.quantities.ledger("chair")]
    told = await shop.journal.movements("chair", before=None, limit=10)
    assert [6, 5, 4, 3, 2, 1] == [movement.version for movement in told]
    assert (await shop.store.quantities.ledger("chair")) == told[:1]
    assert [2, 1] == [m.version for m in await shop.journal.movements("chair", before=3, limit=9)]


async def test_the_ledger_over_http_goes_on_in_the_journal(
    shop: Any, settings: Settings, sql_url: str
) -> None:
    for units in range(1, 7):
        await shop.put("chair", units)
    await shop.books.catch_up()
    await shop.bookkeeper(keep_ms=0).trim(shop.store.slots[0])
    await shop.put("chair", 7)
    app = application(msgspec.structs.replace(settings, database_url=sql_url))
    seen, after = [], ""
    async with (
        listening(app, "127.0.0.1", 0, stop_timeout=1) as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
    ):
        while True:
            async with session.get(f"/products/chair/ledger?limit=3{after}") as answer:
                page = await answer.json()
            seen.append([item["version"] for item in page["items"]])
            if page["next"] is None:
                break
            after = f"&after={page['next']}"

    assert [[7, 6, 5], [4, 3, 2], [1]] == seen


async def test_ended_holds_are_forgotten_when_redis_forgets_them(shop: Any, sql: Database) -> None:
    await shop.put("chair", 5, key="a-key-of-sixteen-or-more")
    ended, living = uuid4(), uuid4()
    for order in (ended, living):
        await shop.store.holds.reserve(order, [("chair", 1)], uuid4())
    await shop.store.holds.finish("release", ended, [("chair", 1)], uuid4())
    await shop.books.catch_up()

    assert 0 == await shop.journal.forget(0, 0)
    assert 2 == await shop.journal.forget(0, 2**53)

    assert [str(living)] == [row.name for row in await rows(sql, tables.holds)]


def entry(seq: int, op: str, **fields: str) -> Entry:
    moves = {} if op in {"hold", "key", "tomorrow"} else {"davail": "0"}
    return Entry(1, seq, {"op": op, **moves, **fields})


def test_a_page_ends_where_a_step_ends() -> None:
    step = [entry(1, "adjust"), entry(2, "reserve"), entry(3, "reserve"), entry(4, "hold")]
    key = [entry(5, "adjust"), entry(6, "key")]
    taken = [entry(7, "release"), entry(8, "hold"), entry(9, "hold", state="taken")]

    assert step[:1] == whole_steps(step[:2])
    assert step[:1] == whole_steps(step)
    assert step == whole_steps([*step, key[0]])
    assert step == whole_steps([*step, *key])
    assert [*step, *key] == whole_steps([*step, *key, taken[0]])
    assert [*step, *key] == whole_steps([*step, *key, *taken])


def test_an_entry_that_nobody_knows_is_not_passed_over() -> None:
    with pytest.raises(UnknownEntry):
        enter(Books(), [entry(1, "tomorrow", name="chair")])
