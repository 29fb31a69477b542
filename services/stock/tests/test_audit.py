"""Every kind of drift is planted, seen, mended or refused; a busy shop has none."""

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa

from chassis.database import Database
from stock import tables
from stock.auditor import KINDS, Auditor, Bounds
from stock.domain import build
from stock.settings import Settings

pytestmark = [pytest.mark.connected, pytest.mark.one_partition]


@pytest.fixture
def settings(redis_server: Callable[..., Any]) -> Settings:
    """A Redis of the test's own: all of its keys are looked at."""
    return Settings(redis_url=redis_server("--appendonly", "no").url, redis_timeout=10)


def auditor(shop: Any, units: int = 10, repairs: int = 20) -> Auditor:
    bounds = Bounds(units=units, repairs=repairs)
    return Auditor(shop.redis, shop.store.slots, shop.journal, bounds)


async def audit(audit: Auditor) -> dict[str, str]:
    """One whole round; the kinds of what differs, by name."""
    async for _ in audit.round():
        pass
    return {drift.name: drift.kind for drift in audit.drifts.values()}


async def audits(sql: Database) -> list[tuple[str, str, str]]:
    table = tables.audits.c
    query = sa.select(table.kind, table.name, table.outcome).order_by(table.id)
    async with sql.read() as connection:
        return [tuple(row) for row in await connection.execute(query)]


async def alter(sql: Database, statement: Any) -> None:
    async def work(connection: Any) -> None:
        await connection.execute(statement)

    await sql.write(work)


@pytest.fixture
async def quiet(shop: Any) -> Any:
    """A shop whose chairs are on hand, held and sold, with a price that ends."""
    await shop.busy(5)
    for sku in ("chair", "table"):
        await shop.put(sku, 9)
    held, sold = uuid4(), uuid4()
    for order in (held, sold):
        await shop.store.holds.reserve(order, [("chair", 2)], uuid4())
    await shop.store.holds.finish("commit", sold, [("chair", 2)], uuid4())
    shop.held = str(held)
    await shop.books.catch_up()
    return shop


async def test_a_shop_that_never_rests_has_no_drift_however_late_its_journal_is(shop: Any) -> None:
    audit_ = auditor(shop, units=0)
    ended = asyncio.Event()

    async def work() -> None:
        for seed in range(3):
            await shop.busy(seed)
        ended.set()

    async def follow_now_and_then() -> None:
        while not ended.is_set():
            await shop.books.take(shop.store.slots[0])
            await asyncio.sleep(0.05)

    working = [asyncio.create_task(work()), asyncio.create_task(follow_now_and_then())]
    seen = 0
    while not ended.is_set():
        assert {} == await audit(audit_)
        seen += 1
    await asyncio.gather(*working)
    await shop.books.catch_up()
    assert {} == await audit(audit_)
    assert seen > 0


async def test_counters_that_differ_are_put_right_and_told(quiet: Any, sql: Database) -> None:
    slot = quiet.store.slots[0]
    await quiet.redis.hset(slot.quantity("chair"), "avail", "9")
    audit_ = auditor(quiet)
    before = await quiet.redis.xlen(slot.outbox)

    assert {} == await audit(audit_)

    level = await quiet.store.quantities.level("chair")
    assert (5, 2, 5) == (level.available, level.reserved, level.version)
    movement = (await quiet.store.quantities.ledger("chair"))[0]
    assert ("repair", 0, 5) == (movement.op, movement.available, movement.version)
    assert "available 9" in movement.reason
    told = [build(fields) for _, fields in await quiet.redis.xrange(slot.outbox)][before:]
    assert [("chair", 5)] == [(event.data.sku, event.data.available) for event in told]
    assert [("level", "chair", "repairing"), ("level", "chair", "repaired")] == await audits(sql)
    await quiet.books.catch_up()
    assert {} == await audit(audit_)
    assert 2 == len(await audits(sql))


class Gauge:
    """What a metric says, by kind."""

    def __init__(self) -> None:
        self.now: dict[str, int] = {}

    def set(self, value: int, labels: dict[str, str]) -> None:
        self.now[labels["kind"]] = value


async def test_beyond_the_bound_nothing_is_changed_and_the_metric_says_so(
    quiet: Any, sql: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    drift, units = Gauge(), Gauge()
    monkeypatch.setattr("stock.auditor._drift", drift)
    monkeypatch.setattr("stock.auditor._drift_units", units)
    slot = quiet.store.slots[0]
    await quiet.redis.hset(slot.quantity("chair"), "avail", "500")
    before = await quiet.state()
    audit_ = auditor(quiet)

    for _ in range(2):
        assert {"chair": "level"} == await audit(audit_)

    assert before == await quiet.state()
    assert [("level", "chair", "refused")] == await audits(sql)
    others = dict.fromkeys(KINDS, 0)
    assert others | {"level": 1} == drift.now
    assert others | {"level": 495} == units.now
    await quiet.redis.hset(slot.quantity("chair"), "avail", "5")
    assert {} == await audit(audit_)
    assert others == drift.now


async def test_only_so_many_are_repaired_in_a_round(quiet: Any, sql: Database) -> None:
    slot = quiet.store.slots[0]
    for sku in ("chair", "table"):
        await quiet.redis.hincrby(slot.quantity(sku), "recv", 1)

    assert {"table": "level"} == await audit(auditor(quiet, repairs=1))

    assert ("level", "table", "refused") == (await audits(sql))[-1]


async def test_a_sku_that_is_gone_comes_back_and_one_that_no_step_made_is_left(quiet: Any) -> None:
    slot = quiet.store.slots[0]
    await quiet.redis.unlink(slot.quantity("chair"))
    await quiet.redis.hset(
        slot.quantity("ghost"), mapping={"recv": 1, "avail": 1, "resv": 0, "sold": 0, "ver": 1}
    )

    assert {"ghost": "level"} == await audit(auditor(quiet))

    assert 5 == (await quiet.store.quantities.level("chair")).available
    assert 1 == (await quiet.store.quantities.level("ghost")).available


async def test_a_journal_that_redis_and_the_movements_contradict_is_put_right(
    quiet: Any, sql: Database
) -> None:
    level = tables.levels.c
    await alter(sql, sa.update(tables.levels).where(level.sku == "chair").values(avail=7))

    assert {} == await audit(auditor(quiet))

    async with sql.read() as connection:
        query = sa.select(level.avail).where(level.sku == "chair")
        assert 5 == await connection.scalar(query)
    assert ("record", "chair", "repaired") == (await audits(sql))[-1]


async def test_movements_that_do_not_add_up_are_a_persons_business(
    quiet: Any, sql: Database
) -> None:
    moves = tables.movements.c
    first = (moves.sku == "chair") & (moves.version == 1)
    await alter(sql, sa.update(tables.movements).where(first).values(davail=8))

    assert {"chair": "sum"} == await audit(auditor(quiet))

    assert [("sum", "chair", "refused")] == await audits(sql)


async def test_units_that_no_hold_holds_are_seen(quiet: Any, sql: Database) -> None:
    lines = tables.held_lines.c
    await alter(sql, sa.delete(tables.held_lines).where(lines.name == quiet.held))

    assert {"chair": "held"} == await audit(auditor(quiet))


async def test_a_hold_a_price_or_a_threshold_that_differs_waits_for_a_person(quiet: Any) -> None:
    slot = quiet.store.slots[0]
    await quiet.redis.hset(slot.hold(quiet.held), "q1", "1")
    await quiet.redis.hset(slot.price("ghost"), mapping={"prices": "", "ver": "1"})
    await quiet.redis.hset(slot.quantity("table"), "low", "7")
    before = await quiet.state()

    found = await audit(auditor(quiet))

    assert {quiet.held: "hold", "ghost": "price", "table": "threshold"} == found
    assert before == await quiet.state()


async def test_an_index_that_lost_a_hold_is_mended(quiet: Any, sql: Database) -> None:
    slot = quiet.store.slots[0]
    before = await quiet.redis.zrange(slot.exp, 0, -1, withscores=True)
    await quiet.redis.zrem(slot.exp, quiet.held)
    await quiet.redis.zincrby(slot.bounds, 5, "sku-1")

    assert {} == await audit(auditor(quiet))

    assert before == await quiet.redis.zrange(slot.exp, 0, -1, withscores=True)
    assert ("index", quiet.held, "repaired") in await audits(sql)


async def test_what_is_no_number_stops_nobody(quiet: Any) -> None:
    slot = quiet.store.slots[0]
    await quiet.redis.hset(slot.quantity("chair"), "avail", "many")
    await quiet.redis.hset(slot.hold("nothing"), "state", "odd")

    found = await audit(auditor(quiet))

    assert {"chair": "level", "nothing": "hold"} == found


async def test_a_ledger_that_is_lost_is_no_drift(quiet: Any) -> None:
    await quiet.empty()

    assert {} == await audit(auditor(quiet))


async def test_a_hold_that_both_forget_is_no_drift(quiet: Any, sql: Database) -> None:
    slot = quiet.store.slots[0]
    order = uuid4()
    await quiet.store.holds.finish("release", order, [("chair", 1)], uuid4())
    await quiet.books.catch_up()
    audit_ = auditor(quiet)
    await quiet.redis.unlink(slot.hold(order))
    assert {str(order): "hold"} == await audit(audit_)

    # its time was over
    hold = tables.holds.c
    async with sql.read() as connection:
        query = sa.select(hold.fields).where(hold.name == str(order))
        fields = dict(await connection.scalar(query)) | {"at": "1000"}
    await alter(sql, sa.update(tables.holds).where(hold.name == str(order)).values(fields=fields))

    assert {} == await audit(audit_)


def test_every_kind_of_drift_is_measured() -> None:
    assert 8 == len(set(KINDS))
