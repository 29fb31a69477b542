"""Follows the ledgers in Redis into the journal, and forgets what is old there. Knows no HTTP.

Each page begins with the entry at which the last one ended. Where that is missing the ledger is
another one, emptied or gone back: its partition stops, and says so, until it was rebuilt.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, NoReturn

import structlog
from msgspec import Struct
from opentelemetry import metrics
from redis.asyncio import Redis

from chassis.problems import Unavailable
from chassis.redis import Script
from stock import parts
from stock.books import Entry, UnknownEntry, read_id, whole_steps
from stock.journal import Journal, Page
from stock.parts import KEEP_MS, clock
from stock.slots import Slot, Slots, answering

PAGE = 1_000
POLL_SECONDS = 0.2
RETRY_SECONDS = 1.0
TRIM_SECONDS = 60.0

_log = structlog.stdlib.get_logger(__name__)
_meter = metrics.get_meter(__name__)
_lag = _meter.create_gauge(
    "shop_stock_journal_lag_seconds", description="age of the oldest entry not in the journal"
)
_stopped = _meter.create_gauge(
    "shop_stock_journal_stopped", description="1 where a ledger is not the one the journal knows"
)
_entries = _meter.create_counter(
    "shop_stock_journal_entries", description="entries of the ledger taken into the journal"
)


class LedgerLost(Exception):
    """The ledger is not the one that the journal has followed: the partition wants a rebuild."""


class Bookkeeper:
    """Writes the journal of all partitions; `keep_ms` of each ledger stay in Redis."""

    def __init__(self, redis: Redis, slots: Slots, journal: Journal, *, keep_ms: int) -> None:
        self._redis: Any = redis
        self._slots = slots
        self._journal = journal
        self._keep_ms = keep_ms
        self._page = script_alone(redis, "page")
        self._trim = script_alone(redis, "trim")
        self._places: dict[int, _Place] = {}
        self.stopped: dict[int, str] = {}

    async def check(self) -> None:
        """Raise when a partition is not followed any more."""
        if self.stopped:
            raise RuntimeError("; ".join(self.stopped.values()))

    async def follow(self, slot: Slot) -> NoReturn:
        """Keep the journal of one partition up to date for as long as the task lives."""
        labels = {"partition": str(slot.number)}
        while True:
            try:
                taken = await self.take(slot)
                self.stopped.pop(slot.number, None)
                _stopped.set(0, labels)
            except Unavailable as error:
                _log.warning("the journal waits", partition=slot.number, reason=str(error))
                await asyncio.sleep(RETRY_SECONDS)
                continue
            except (LedgerLost, UnknownEntry) as error:
                if slot.number not in self.stopped:
                    _log.error("the journal stopped", partition=slot.number, reason=str(error))
                self.stopped[slot.number] = f"partition {slot.number}: {error}"
                _stopped.set(1, labels)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            _lag.set(time.time() - taken[0].at_ms / 1000 if taken else 0, labels)
            if not taken:
                await asyncio.sleep(POLL_SECONDS)

    async def take(self, slot: Slot) -> Sequence[Entry]:
        """Take the next page in; its entries. Raises LedgerLost, UnknownEntry, Unavailable."""
        at = self._places.pop(slot.number, None) or await self._place(slot)
        page = await self._read(slot, at)
        if page.entries or page.untold or page.first_untold != at.oldest:
            if not await self._journal.write(slot.number, page):
                return page.entries  # another process has taken it in
            _entries.add(len(page.entries), {"partition": str(slot.number)})
            at = _behind(at, page)
        self._places[slot.number] = at
        return page.entries

    async def _place(self, slot: Slot) -> "_Place":
        oldest, newest = await self._journal.untold(slot.number)
        return _Place(await self._journal.cursor(slot.number), oldest, newest)

    async def catch_up(self) -> None:
        """Take in all there is, for whoever needs the journal whole now."""
        for slot in self._slots:
            while await self.take(slot):
                pass

    async def _read(self, slot: Slot, at: "_Place") -> Page:
        with answering:
            found, *rest = await self._page(
                (slot.ledger, slot.outbox), (at.cursor, at.newest, PAGE)
            )
        if not found:
            raise LedgerLost(f"the ledger does not have {at.cursor} any more: rebuild stock")
        raw, first, told_raw = rest
        entries: Sequence[Entry] = [entry(*each) for each in raw]
        untold = [entry(*each) for each in told_raw]
        if len(entries) == PAGE:
            entries = whole_steps(entries)
            # events of later steps belong to a later page
            untold = [each for each in untold if each.at_ms <= entries[-1].at_ms]
        return Page(
            behind=at.cursor,
            entries=entries,
            first_untold=first,
            untold=untold,
        )

    async def tidy(self) -> NoReturn:
        """Keep the ledgers in Redis short, and of ended holds no more than Redis has."""
        while True:
            for slot in self._slots:
                try:
                    while await self.trim(slot):
                        pass
                    now = await self._now()
                    await self._journal.forget(slot.number, now - KEEP_MS)
                except Unavailable as error:
                    _log.warning("the ledger stays long", reason=str(error))
            await asyncio.sleep(TRIM_SECONDS)

    async def trim(self, slot: Slot) -> int:
        """Forget the oldest entries that are in the journal; how many.

        The entry at the cursor stays: it tells this ledger from any other.
        """
        cursor = await self._journal.cursor(slot.number)
        if not cursor:
            return 0
        until = min(read_id(cursor), (await self._now() - self._keep_ms, 0))
        with answering:
            raw = await self._redis.xrange(slot.ledger, count=PAGE + 1)
            old = [id_ for id_, _ in raw if read_id(id_) < until]
            # the first that stays is one that was read, so that its movements were counted
            keep = len(old) if len(old) < len(raw) else len(old) - 1
            if keep <= 0:
                return 0
            moves = Counter(fields["sku"] for _, fields in raw[:keep] if "davail" in fields)
            keys = [slot.ledger, *(slot.moves(sku) for sku in moves)]
            return int(await self._trim(keys, [raw[0][0], raw[keep][0], *moves.values()]))

    async def _now(self) -> int:
        with answering:
            return clock(await parts.time(self._redis))


class _Place(Struct, frozen=True):
    """How far the journal is: in the ledger, and which entries of the outbox it has."""

    cursor: str
    oldest: str
    newest: str


def _behind(at: _Place, page: Page) -> _Place:
    first = page.first_untold
    newest = at.newest if first and at.newest and read_id(at.newest) >= read_id(first) else ""
    if page.untold:
        newest = page.untold[-1].id
    cursor = page.entries[-1].id if page.entries else at.cursor
    return _Place(cursor, first if newest else "", newest)


def script_alone(redis: Redis, name: str) -> Any:
    """A script that shares nothing with the steps of stock."""
    return Script(redis, (files("stock") / f"{name}.lua").read_text())


def entry(id_: str, flat: Sequence[str]) -> Entry:
    at, seq = read_id(id_)
    return Entry(at, seq, dict(zip(flat[::2], flat[1::2], strict=True)))
