"""Holds Redis, the ledger and the journal against each other, a slice at a time. Knows no HTTP.

A slice reads the journal at its cursor, then of Redis, at one moment, both the hashes and what the
ledger tells behind that cursor. What the journal has not got is added, so its lag is no drift.

Units are told three times: by the counters in Redis, by the journal's level, by the sum of all
movements. Where one differs from two that agree, it is put right, within bounds; all else waits for
a person.
"""

import asyncio
from collections import Counter
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Mapping,
    Sequence,
)
from typing import Any, NoReturn

import structlog
import uuid_utils.compat as uuids
from msgspec import Struct, field
from msgspec.structs import asdict
from opentelemetry import metrics
from redis.asyncio import Redis

from chassis.problems import Unavailable
from stock.bookkeeping import entry, script_alone
from stock.books import COUNTERS, Books, Entry, Fields, Units, enter, moved
from stock.journal import READS, Journal
from stock.parts import KEEP_MS
from stock.scripts import Script
from stock.slots import Slot, Slots, answering

SLICE = 100
BEHIND = 1_000
"""More than so many entries behind the journal, and a slice is put off."""
FORGETTING_MS = 60_000
"""So long before and after its time an ended hold may be gone on one side only."""

LEVEL, PRICE, HOLD = "level", "price", "hold"
RECORD, SUM, HELD, THRESHOLD, INDEX = "record", "sum", "held", "threshold", "index"
KINDS = (LEVEL, RECORD, SUM, HELD, THRESHOLD, PRICE, HOLD, INDEX)

_log = structlog.stdlib.get_logger(__name__)
_meter = metrics.get_meter(__name__)
_drift = _meter.create_gauge(
    "shop_stock_drift", description="SKUs and holds of which Redis, ledger and journal disagree"
)
_drift_units = _meter.create_gauge(
    "shop_stock_drift_units", description="units by which they disagree"
)
_audited = _meter.create_counter("shop_stock_audited", description="names compared, by kind")
_put_off = _meter.create_counter(
    "shop_stock_audits_put_off", description="slices that could not be compared at one moment"
)
_repairs = _meter.create_counter(
    "shop_stock_repairs", description="what became of drifts: repaired, refused, moved"
)


class Drift(Struct, frozen=True, kw_only=True):
    """What a level, a price or a hold (`of`) is told to be in two ways."""

    kind: str
    of: str
    name: str
    found: str
    expected: str
    units: int = 0


class Bounds(Struct, frozen=True, kw_only=True):
    """What may be repaired without a person: so many units of a SKU, so many times in a round."""

    units: int
    repairs: int


class _Rows(Struct):
    """The journal's part of a slice, at its cursor."""

    cursor: str = ""
    books: Books = field(default_factory=Books)
    sums: dict[str, Units] = field(default_factory=dict)
    held: dict[str, int] = field(default_factory=dict)


class _Live(Struct):
    """Redis's part of a slice, at one moment behind that cursor."""

    now: int
    tail: Sequence[Entry]
    hashes: Mapping[str, Fields]
    scores: Mapping[str, str]


class Auditor:
    """Compares all partitions, round after round."""

    def __init__(self, redis: Redis, slots: Slots, journal: Journal, bounds: Bounds) -> None:
        self._redis: Any = redis
        self._slots = slots
        self._journal = journal
        self._bounds = bounds
        self._look = script_alone(redis, "look")
        self._repair = Script(redis, "repair")
        self._reindex = script_alone(redis, "reindex")
        self._repaired = 0
        self.drifts: dict[tuple[int, str, str], Drift] = {}

    async def run(self, pause: float) -> NoReturn:
        """Compare for as long as the task lives, with a pause in seconds after each slice."""
        while True:
            try:
                async for _ in self.round():
                    await asyncio.sleep(pause)
            except Unavailable as error:
                _log.warning("the audit waits", reason=str(error))
            await asyncio.sleep(pause)

    async def round(self) -> AsyncIterator[None]:
        """Compare everything once, and stop after each slice."""
        self._repaired = 0
        for slot in self._slots:
            for kind in (LEVEL, PRICE, HOLD):
                async for names in self._recorded(slot, kind):
                    await self.compare(slot, kind, names)
                    yield
        async for slot, kind, names in self._found():
            if unknown := await self._unknown(slot, kind, names):
                await self.compare(slot, kind, unknown)
            yield

    async def compare(self, slot: Slot, kind: str, names: Sequence[str]) -> bool:
        """Compare what is told of these names; False when they will not rest. Mends what it may."""
        rows = await self._rows(slot, kind, names)
        live = await self._live(slot, kind, names, rows.cursor) if rows else None
        if rows is None or live is None:
            _put_off.add(1, {"kind": kind})
            return False
        found = {drift.name: drift for drift in _differences(kind, names, rows, live)}
        for name in names:
            key = (slot.number, kind, name)
            if (drift := found.get(name)) is None:
                self.drifts.pop(key, None)
                continue
            if self.drifts.get(key) != drift:
                _log.error("drift", partition=slot.number, **asdict(drift))
            self.drifts[key] = drift
            if await self._settle(slot, drift, rows, live) == "repaired":
                self._repaired += 1
                del self.drifts[key]
        _audited.add(len(names), {"kind": kind})
        self._measure()
        return True

    async def _settle(self, slot: Slot, drift: Drift, rows: _Rows, live: _Live) -> str:
        """What became of it: "repaired", "refused", or "moved" when it is another by now.

        It is written down before the deed: nothing is repaired of which nobody can know.
        """

        async def note(outcome: str) -> None:
            await self._journal.note(
                slot.number, drift.kind, drift.name, drift.found, drift.expected, outcome
            )

        repair = self._repairer(slot, drift, rows, live)
        outcome = "refused"
        if repair is not None:
            await note("repairing")
            outcome = "repaired" if await repair() else "moved"
        await note(outcome)
        _repairs.add(1, {"kind": drift.kind, "outcome": outcome})
        return outcome

    def _repairer(
        self, slot: Slot, drift: Drift, rows: _Rows, live: _Live
    ) -> Callable[[], Awaitable[bool]] | None:
        """How it may be repaired; None where a person has to look."""
        name = drift.name
        if self._repaired >= self._bounds.repairs or drift.units > self._bounds.units:
            return None
        right = _summed(rows, live, [name]).get(name)
        if drift.kind == INDEX:
            return lambda: self._mend_index(slot, drift)
        if drift.kind == LEVEL and right is not None:
            return lambda: self._mend_level(slot, drift, _units(live.hashes[name]), right)
        if drift.kind == RECORD and name in rows.books.levels and name in rows.sums:
            seen, sum_ = rows.books.levels[name], rows.sums[name]
            return lambda: self._journal.mend(slot.number, name, seen, sum_)
        return None

    async def _mend_level(self, slot: Slot, drift: Drift, seen: Units, right: Units) -> bool:
        sku = drift.name
        with answering:
            reply = await self._repair(
                (slot.quantity(sku), slot.moves(sku), slot.ledger, slot.outbox),
                (
                    *(sku, str(uuids.uuid7()), f"audit: found {drift.found}"[:200]),
                    *(*seen.counters, seen.ver),
                    *(*right.counters, right.ver),
                ),
            )
        return bool(reply[0] == "ok")

    async def _mend_index(self, slot: Slot, drift: Drift) -> bool:
        name = drift.name
        index, hash_, *rest = (
            (slot.bounds, slot.price(name), name, "until", "")
            if drift.of == PRICE
            else (slot.exp, slot.hold(name), name, "exp", "held")
        )
        with answering:
            await self._reindex((index, hash_), rest)
        return True

    async def _recorded(self, slot: Slot, kind: str) -> AsyncIterator[list[str]]:
        """The names that the journal knows, a slice at a time."""
        after = ""
        while True:
            async with self._journal.at_cursor(slot.number) as snapshot:
                names = await snapshot.names(kind, after, SLICE)
            if not names:
                return
            after = names[-1]
            yield names

    async def _found(self) -> AsyncIterator[tuple[Slot, str, list[str]]]:
        """All names there are in Redis, of one partition and kind at a time."""
        starts = {
            _key(slot, kind, ""): (slot, kind)
            for slot in self._slots
            for kind in (LEVEL, PRICE, HOLD)
        }
        pattern = f"{self._slots[0].ledger.partition('{')[0]}{{s*}}:*"
        found: dict[str, list[str]] = {start: [] for start in starts}
        with answering:
            async for key in self._redis.scan_iter(pattern, count=BEHIND):
                start = _start(key)
                if start not in found:
                    continue
                found[start].append(key.removeprefix(start))
                if len(found[start]) >= SLICE:
                    yield *starts[start], found[start]
                    found[start] = []
        for start, names in found.items():
            if names:
                yield *starts[start], names

    async def _unknown(self, slot: Slot, kind: str, names: Sequence[str]) -> list[str]:
        async with self._journal.at_cursor(slot.number) as snapshot:
            known: Collection[str]
            if kind == LEVEL:
                known = await snapshot.levels(names)
            elif kind == PRICE:
                known = await snapshot.prices(names)
            else:
                known = await snapshot.holds(names)
        return [name for name in names if name not in known]

    async def _rows(self, slot: Slot, kind: str, names: Sequence[str]) -> _Rows | None:
        """The journal's rows of one cursor; None when it never stood still meanwhile."""
        for _ in range(READS):
            async with self._journal.at_cursor(slot.number) as snapshot:
                rows = _Rows(cursor=await snapshot.cursor())
                if kind == LEVEL:
                    rows.books.levels = await snapshot.levels(names)
                    rows.sums = await snapshot.sums(names)
                    rows.held = await snapshot.held(names)
                elif kind == PRICE:
                    rows.books.prices = await snapshot.prices(names)
                else:
                    rows.books.holds = await snapshot.holds(names)
                if rows.cursor == await snapshot.cursor():
                    return rows
        return None

    async def _live(self, slot: Slot, kind: str, names: Sequence[str], cursor: str) -> _Live | None:
        keys = [_key(slot, kind, name) for name in names]
        index = slot.bounds if kind == PRICE else slot.exp
        with answering:
            found, *rest = await self._look(
                (slot.ledger, index, *keys), (cursor, BEHIND + 1, *names)
            )
        if not found or len(rest[1]) > BEHIND:
            return None
        now, raw, hashes, scores = rest
        tail = [entry(*each) for each in raw]
        if any(not each.known for each in tail):
            return None
        return _Live(
            now=int(now),
            tail=tail,
            hashes={
                name: dict(zip(flat[::2], flat[1::2], strict=True))
                for name, flat in zip(names, hashes, strict=True)
            },
            scores=dict(zip(names, scores, strict=True)),
        )

    def _measure(self) -> None:
        counts = Counter(drift.kind for drift in self.drifts.values())
        units: Counter[str] = Counter()
        for drift in self.drifts.values():
            units[drift.kind] += drift.units
        for kind in KINDS:
            _drift.set(counts[kind], {"kind": kind})
            _drift_units.set(units[kind], {"kind": kind})


# ---- pure ----


def _differences(kind: str, names: Sequence[str], rows: _Rows, live: _Live) -> Iterable[Drift]:
    """At most one drift of each name: the one that must be settled first."""
    if kind == LEVEL:
        return _unequal_levels(names, rows, live)
    told = Books(prices=dict(rows.books.prices), holds=dict(rows.books.holds))
    enter(told, (each for each in live.tail if not each.moves))
    return (
        _unequal_prices(names, told, live) if kind == PRICE else _unequal_holds(names, told, live)
    )


def _unequal_levels(names: Sequence[str], rows: _Rows, live: _Live) -> Iterable[Drift]:
    told = Books(levels=dict(rows.books.levels))
    enter(told, live.tail)
    sums = _summed(rows, live, names)
    for sku in names:
        redis, record = _units(live.hashes[sku]), told.levels.get(sku, Units())
        total = sums.get(sku, Units())
        by_redis, by_record, by_sum = (_text(each) for each in (redis, record, total))
        held, reserved = rows.held.get(sku, 0), rows.books.levels.get(sku, Units()).resv
        if by_redis != by_record == by_sum:
            yield _unequal(LEVEL, sku, redis, total)
        elif by_record != by_redis == by_sum:
            yield _unequal(RECORD, sku, record, total)
        elif by_redis != by_sum:
            yield _unequal(SUM, sku, total, redis)
        elif held != reserved:
            found, expected = f"{reserved} reserved", f"{held} held"
            yield _drifted(HELD, LEVEL, sku, found, expected, abs(held - reserved))
        elif redis.low != record.low:
            yield _drifted(THRESHOLD, LEVEL, sku, str(redis.low), str(record.low))


def _unequal(kind: str, sku: str, found: Units, expected: Units) -> Drift:
    pairs = zip(found.counters, expected.counters, strict=True)
    units = max(abs(one - other) for one, other in pairs)
    return _drifted(kind, LEVEL, sku, _text(found), _text(expected), units)


def _unequal_prices(names: Sequence[str], told: Books, live: _Live) -> Iterable[Drift]:
    for sku in names:
        found, expected = live.hashes[sku], told.prices.get(sku, {})
        until = found.get("until", "")
        if found != expected:
            yield _drifted(PRICE, PRICE, sku, str(found), str(expected))
        elif not _same(live.scores[sku], until):
            yield _drifted(INDEX, PRICE, sku, live.scores[sku], until)


def _unequal_holds(names: Sequence[str], told: Books, live: _Live) -> Iterable[Drift]:
    for name in names:
        found, expected = live.hashes[name], told.holds.get(name, {})
        ends = found.get("exp", "") if found.get("state") == "held" else ""
        if found != expected and not _forgetting(found, expected, live.now):
            yield _drifted(HOLD, HOLD, name, str(found), str(expected))
        elif not _same(live.scores[name], ends):
            yield _drifted(INDEX, HOLD, name, live.scores[name], ends)


def _drifted(kind: str, of: str, name: str, found: str, expected: str, units: int = 0) -> Drift:
    return Drift(kind=kind, of=of, name=name, found=found, expected=expected, units=units)


def _same(score: str, wanted: str) -> bool:
    """Whether two numbers are one; Redis spells a score in its own way."""
    return score == wanted or (bool(score and wanted) and float(score) == float(wanted))


def _forgetting(found: Fields, expected: Fields, now: int) -> bool:
    """Redis and the journal each forget an ended hold by a clock, not in the same moment."""
    if found and expected:
        return False
    hold = found or expected
    ended = hold.get("state") != "held" and hold.get("at", "").isdigit()
    return ended and int(hold["at"]) + KEEP_MS <= now + FORGETTING_MS


def _summed(rows: _Rows, live: _Live, names: Sequence[str]) -> dict[str, Units]:
    """What the movements add up to, those with them that the journal has not got."""
    wanted = set(names)
    sums = {sku: units for sku, units in rows.sums.items() if sku in wanted}
    for each in live.tail:
        if each.moves and (sku := each.fields["sku"]) in wanted:
            sums[sku] = moved(sums.get(sku, Units()), each.fields)
    return sums


def _units(fields: Fields) -> Units:
    """The counters in Redis; what is no number there is -1, which no ledger ever says."""
    return Units(
        **{name: _number(fields.get(name, "0")) for name in (*COUNTERS, "ver")},
        low=_number(fields["low"]) if "low" in fields else None,
    )


def _number(text: str) -> int:
    return int(text) if text.removeprefix("-").isdigit() else -1


def _text(units: Units) -> str:
    """All of it but the threshold, which has no version and no sum."""
    received, available, reserved, sold = units.counters
    return (
        f"received {received}, available {available}, reserved {reserved}, sold {sold},"
        f" version {units.ver}"
    )


def _start(key: str) -> str:
    """The part of a key in front of a name: partition and kind."""
    partition, _, rest = key.partition("}:")
    return f"{partition}}}:{rest.partition(':')[0]}:"


def _key(slot: Slot, kind: str, name: str) -> str:
    return {LEVEL: slot.quantity, PRICE: slot.price, HOLD: slot.hold}[kind](name)
