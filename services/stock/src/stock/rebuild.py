"""Fills an empty Redis from the journal, a partition at a time. Knows no SQL.

The mark of an installed partition comes last, and until then nobody works in it. What a broken
rebuild left is written again; a partition that was not lost, and keys that no rebuild wrote, are
never touched. What others have heard of changes that are lost is told anew, under versions above
theirs.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Container, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
import uuid_utils.compat as uuids
from msgspec import Struct, field
from redis.asyncio import Redis

from bus import replay
from shop_contracts.events.stock import PriceChangedV1, StockChangedV1
from stock import tables
from stock.books import COUNTERS, read_id
from stock.journal import Journal, units
from stock.parts import KEEP_MS, clock, time
from stock.prices import moment
from stock.scripts import Script
from stock.slots import Slot, Slots, answering, rebuilding
from stock.store.price_plans import KEPT_PLANS

BATCH = 1_000
OWNER = "stock"
# The stream finds a time by when an event was stored, by another clock than Redis's.
MARGIN = timedelta(minutes=10)
QUIET_SECONDS = 10.0
_FILLED = "filled"
_WHOLE = "redis.call('SET', KEYS[2], ARGV[1]) redis.call('DEL', KEYS[1])"
_OPEN = f"redis.call('RENAME', KEYS[1], KEYS[2]) redis.call('SET', KEYS[3], '{_FILLED}')"


class NotEmpty(Exception):
    """The partition has keys that no rebuild wrote."""


class Heard(Struct):
    """The highest version of each SKU's level and prices that was told."""

    levels: dict[str, int] = field(default_factory=dict)
    prices: dict[str, int] = field(default_factory=dict)


class Rebuilt(Struct, kw_only=True):
    """How much of each kind a rebuild wrote, and what it told anew."""

    skus: int = 0
    prices: int = 0
    plans: int = 0
    holds: int = 0
    commands: int = 0
    untold: int = 0
    movements: int = 0
    told_anew: int = 0


async def heard(broker_url: str, since: datetime) -> Heard:
    """What stock's own stream has told since that time. Raises one of `BROKER_ERRORS`."""
    told = Heard()
    end = await replay.end(broker_url, OWNER)
    async with aclosing(replay.until(broker_url, OWNER, since - MARGIN, end)) as stream:
        while True:
            try:
                # from a time behind the last event the broker sends nothing
                async with asyncio.timeout(QUIET_SECONDS):
                    logged = await anext(stream, None)
            except TimeoutError:
                return told
            if logged is None:
                return told
            version = logged.event.meta.entityversion
            match logged.event.data:
                case StockChangedV1(sku=sku):
                    told.levels[sku] = max(version, told.levels.get(sku, 0))
                case PriceChangedV1(sku=sku):
                    told.prices[sku] = max(version, told.prices.get(sku, 0))


class Rebuild:
    """Writes what the journal knows into `redis`; `keep_ms` of the ledger with it."""

    def __init__(self, redis: Redis, slots: Slots, journal: Journal, *, keep_ms: int) -> None:
        self._redis: Any = redis
        self._slots = slots
        self._journal = journal
        self._keep_ms = keep_ms
        self._repair = Script(redis, "repair", anywhere=True)
        self._reprice = Script(redis, "reprice", anywhere=True)

    async def since(self) -> datetime:
        """A time up to which the journal has all that was told."""
        cursors = [cursor for cursor in (await self._journal.cursors()).values() if cursor]
        return moment(min((read_id(cursor)[0] for cursor in cursors), default=0))

    async def run(self, told: Heard) -> Rebuilt:
        """Fill every partition. Raises NotEmpty, before anything is written, and Unavailable."""
        cursors = await self._journal.cursors()
        marks = {slot: await self._refuse(slot) for slot in self._slots}
        lost = {slot: mark for slot, mark in marks.items() if mark is not None}
        if not lost:
            raise NotEmpty("no partition is empty: there is nothing to fill")
        done = Rebuilt()
        for slot, mark in lost.items():
            if mark != _FILLED and (cursor := cursors.get(slot.number)):
                await self._fill(slot, cursor, done)
        await self._tell_anew(told, lost, done)
        with answering:
            for slot in lost:
                keys = (rebuilding(slot), slot.partitions)
                await self._redis.eval(_WHOLE, len(keys), *keys, len(self._slots))
        return done

    async def _refuse(self, slot: Slot) -> str | None:
        """How far an earlier rebuild has come, "" where there was none; None: it was not lost."""
        with answering:
            if mark := await self._redis.get(rebuilding(slot)):
                return str(mark)
            if await self._redis.exists(slot.partitions) and await self._redis.exists(slot.ledger):
                return None
            async for key in self._redis.scan_iter(f"{_at(slot)}*", count=BATCH):
                if key == slot.partitions:
                    continue  # an earlier version marks what it finds empty
                raise NotEmpty(f"partition {slot.number} is not empty: it has {key}")
        return ""

    async def _tell_anew(self, told: Heard, lost: Container[Slot], done: Rebuilt) -> None:
        """Nobody who has heard of a change that is lost may leave out the next one."""
        for sku, version in told.levels.items():
            slot = self._slots.at(sku)
            if slot not in lost:
                continue
            with answering:
                has = await self._redis.hmget(slot.quantity(sku), *COUNTERS, "ver")
                counters = [int(value or 0) for value in has]
                if counters[-1] >= version:
                    continue
                await self._repair(
                    (slot.quantity(sku), slot.moves(sku), slot.ledger, slot.outbox),
                    (
                        *(sku, str(uuids.uuid7()), f"rebuild: version {version} was told"),
                        *counters,
                        *(*counters[:-1], version),
                    ),
                )
            done.told_anew += 1
        for sku, version in told.prices.items():
            slot = self._slots.at(sku)
            if slot not in lost:
                continue
            with answering:
                if int(await self._redis.hget(slot.price(sku), "ver") or 0) >= version:
                    continue
                await self._reprice(
                    (slot.price(sku), slot.outbox, slot.ledger),
                    (sku, str(uuids.uuid7()), version),
                )
            done.told_anew += 1

    async def _fill(self, slot: Slot, cursor: str, done: Rebuilt) -> None:
        with answering:
            await self._redis.set(rebuilding(slot), cursor)
            await self._redis.unlink(slot.outbox, slot.exp, slot.bounds, slot.ledger)
        now = await self._now()
        done.skus += await self._each(slot, tables.levels, self._level)
        done.prices += await self._each(slot, tables.prices, self._price)
        done.plans += await self._each(slot, tables.plans, self._plan)
        done.holds += await self._each(slot, tables.holds, self._hold, now)
        done.commands += await self._each(slot, tables.commands, self._command, now)
        done.untold += await self._each(slot, tables.untold, self._event)
        done.movements += await self._ledger(slot, cursor, now)

    async def _each(
        self, slot: Slot, table: sa.Table, write: Callable[..., bool], *args: Any
    ) -> int:
        count = 0
        async for rows in self._rows(slot, table, None):
            pipe = self._redis.pipeline(transaction=False)
            count += sum([write(pipe, slot, row, *args) for row in rows])
            with answering:
                await pipe.execute()
        return count

    async def _rows(
        self, slot: Slot, table: sa.Table, after: tuple[Any, ...] | None
    ) -> AsyncIterator[Sequence[sa.Row[Any]]]:
        keys = [column.name for column in table.primary_key if column.name != "slot"]
        while True:
            async with self._journal.at_cursor(slot.number) as snapshot:
                rows = await snapshot.rows(table, after, BATCH)
            if not rows:
                return
            yield rows
            after = tuple(getattr(rows[-1], key) for key in keys)

    def _level(self, pipe: Any, slot: Slot, row: Any) -> bool:
        # the index of the movements begins anew with what of the ledger comes back
        _unlink(pipe, slot.moves(row.sku))
        level = units(row)
        if level.ver:
            fields = {name: str(value) for name, value in _counted(level).items()}
            pipe.hset(slot.quantity(row.sku), mapping=fields)
        return bool(level.ver)

    def _price(self, pipe: Any, slot: Slot, row: Any) -> bool:
        _unlink(pipe, slot.plans(row.sku))
        pipe.hset(slot.price(row.sku), mapping=row.fields)
        if until := row.fields.get("until"):
            pipe.zadd(slot.bounds, {row.sku: until})
        return True

    def _plan(self, pipe: Any, slot: Slot, row: Any) -> bool:
        pipe.rpush(slot.plans(row.sku), f"{row.since_ms}|{row.plan}")
        pipe.ltrim(slot.plans(row.sku), -KEPT_PLANS, -1)
        return True

    def _hold(self, pipe: Any, slot: Slot, row: Any, now: int) -> bool:
        ends = row.at_ms + KEEP_MS
        if row.state == "held":
            pipe.zadd(slot.exp, {row.name: row.fields["exp"]})
        elif ends <= now:
            return False
        pipe.hset(slot.hold(row.name), mapping=row.fields)
        if row.state != "held":
            pipe.pexpireat(slot.hold(row.name), ends)
        return True

    def _command(self, pipe: Any, slot: Slot, row: Any, now: int) -> bool:
        ends = row.at_ms + KEEP_MS
        if ends <= now:
            return False
        pipe.hset(slot.marker(row.key), mapping=row.fields)
        pipe.pexpireat(slot.marker(row.key), ends)
        return True

    def _event(self, pipe: Any, slot: Slot, row: Any) -> bool:
        pipe.xadd(slot.outbox, row.fields, id=f"{row.at_ms}-{row.seq}")
        return True

    async def _ledger(self, slot: Slot, cursor: str, now: int) -> int:
        """The newest movements, then where the journal goes on; with that the partition is whole.

        They are written beside the ledger's place, and put there in one step at the end.
        """
        beside, count = f"{_at(slot)}ledger:rebuilt", 0
        with answering:
            await self._redis.unlink(beside)
        async for rows in self._rows(slot, tables.movements, (now - KEEP_MS, 0)):
            pipe = self._redis.pipeline(transaction=False)
            for row in rows:
                if row.order_id and row.cause:
                    # what an event has moved it has moved: it may come again
                    pipe.set(slot.marker(row.cause), "1", pxat=row.at_ms + KEEP_MS)
                if row.at_ms < now - self._keep_ms:
                    continue
                id_ = f"{row.at_ms}-{row.seq}"
                pipe.xadd(beside, _movement(row), id=id_)
                pipe.rpush(slot.moves(row.sku), id_)
                count += 1
            with answering:
                await pipe.execute()
        with answering:
            last = await self._redis.xrevrange(beside, count=1)
            if not last or read_id(last[0][0]) < read_id(cursor):
                await self._redis.xadd(beside, {"op": "rebuilt"}, id=cursor)
            await self._redis.eval(_OPEN, 3, beside, slot.ledger, rebuilding(slot))
        return count

    async def _now(self) -> int:
        with answering:
            return clock(await time(self._redis))


def _at(slot: Slot) -> str:
    return slot.ledger.removesuffix("ledger")


def _unlink(pipe: Any, key: str) -> None:
    # the method of a cluster's pipeline is for keys of several slots, and waits
    pipe.execute_command("UNLINK", key)


def _counted(level: Any) -> Mapping[str, int]:
    names = ("recv", "avail", "resv", "sold", "ver")
    low = {} if level.low is None else {"low": level.low}
    return {name: getattr(level, name) for name in names} | low


def _movement(row: Any) -> dict[str, str]:
    return {
        "op": row.op,
        "order": row.order_id,
        "sku": row.sku,
        "davail": str(row.davail),
        "dresv": str(row.dresv),
        "dsold": str(row.dsold),
        "drecv": str(row.drecv),
        "cause": row.cause,
        "event": row.event,
        "ver": str(row.version),
        "reason": row.reason,
    }
