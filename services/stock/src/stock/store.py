"""Quantities, holds and prices in Redis: one Lua script per atomic step. Knows no HTTP, no broker.

Every step writes counters, ledger, inbox marker and outbox entry in its script or nothing at all;
time is Redis's own. The scripts stand beside this file.

Problem (chassis)
+-- InsufficientStock 409   fewer units are available than the step takes
+-- TooManyUnits 409        the SKU would have received more than JSON can count
+-- HoldTaken 409           an order has taken the reservation over
+-- HoldOver 410            the reservation's time is over
+-- UnknownSku 404          nothing was ever said about this SKU
+-- UnknownHold 404         there is no such reservation
+-- KeyReused 422           the Idempotency-Key came with another command
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import uuid_utils.compat as uuids
from msgspec import Struct
from redis.asyncio import Redis

from chassis.problems import Conflict, Gone, Invalid, NotFound, Unavailable
from shop_contracts.envelope import derived_id
from shop_contracts.types import Line
from stock.domain import Action, Adjust, Level, Movement, Reservation, level, merged
from stock.install import Install
from stock.parts import (
    KEEP_MS,
    RESTLESS,
    Parts,
    Taken,
    anywhere,
    ask_time,
    clock,
    held,
    passes,
    time,
)
from stock.parts import (
    Change as Units,
)
from stock.prices import (
    MAX_PRICES,
    Past,
    Priced,
    PriceEntry,
    boundary,
    flat_plan,
    flat_prices,
    in_force,
    milliseconds,
    moment,
    planned,
    read_prices,
)
from stock.scripts import Script, StoreIsEmpty
from stock.slots import CART, PART, Slot, Slots, answering

BATCH = 200
KEPT_PLANS = 50  # of one SKU, behind the one that stands

Step = Literal["commit", "release", "return"]
Change = Literal["created", "updated", "unchanged"]
Edited = Literal[Change, "full"]
Verdict = Literal[Edited, "short"]
How = Literal["replace", "merge"]


class InsufficientStock(Conflict):
    """Fewer units are available than the step takes."""

    slug = "insufficient-stock"
    title = "There is not enough stock"


class TooManyUnits(Conflict):
    """The SKU would have received more units than JSON can count."""

    slug = "too-many-units"
    title = "That is more than can be counted"


class HoldTaken(Conflict):
    """An order has taken the reservation over: it can be neither changed nor released here."""

    slug = "reservation-taken"
    title = "The reservation belongs to an order"


class HoldOver(Gone):
    """The reservation's time is over: its units may be somebody else's by now."""

    slug = "reservation-over"
    title = "The reservation is over"


class UnknownSku(NotFound):
    """Nothing was ever said about this SKU."""


class UnknownHold(NotFound):
    """There is no such reservation."""


class KeyReused(Invalid):
    """The Idempotency-Key came with another command before."""

    slug = "idempotency-key-reused"
    title = "This Idempotency-Key belongs to another request"


class Adjusted(Struct, frozen=True):
    """The level after a command, and whether the command had been carried out before."""

    level: Level
    replayed: bool
    change: Change


class Offer(Struct, frozen=True, kw_only=True):
    """What a feed says of one SKU: units on hand (None = nothing) and prices for everybody."""

    sku: str
    stock: int | None = None
    prices: Sequence[PriceEntry] = ()


class StockStore:
    """The one way to the stock Redis; `redis` decodes responses and never retries by itself."""

    def __init__(
        self, redis: Redis, key_prefix: str = "", hold_ms: int = 900_000, partitions: int = 1
    ) -> None:
        # redis-py types every reply for bytes and text, sync and async at once.
        self._redis: Any = redis
        self.slots = Slots.of(key_prefix, partitions)
        self._hold_ms = hold_ms
        self._parts = Parts(redis, self.slots)
        self._adjust = Script(redis, "adjust")
        self._reserve = Script(redis, "reserve")
        self._extend = Script(redis, "extend")
        self._price = Script(redis, "price")
        self._threshold = Script(redis, "threshold")
        self._restock = Script(redis, "restock")
        self._claiming = Script(redis, "claim")
        self.install = Install(redis, self.slots)

    async def ping(self) -> None:
        with answering:
            await self._redis.ping(**anywhere(self._redis))

    async def level(self, sku: str) -> Level:
        """How much there is; raises `UnknownSku`."""
        with answering:
            available, reserved, version, low = await self._redis.hmget(
                self.slots.at(sku).quantity(sku), ("avail", "resv", "ver", "low")
            )
        if version is None:
            await self._refuse_empty([sku])
            raise UnknownSku
        return level(sku, int(available), int(reserved), int(version), _number(low))

    async def adjust(
        self, sku: str, command: Adjust, *, key: str | None = None, traceparent: str = ""
    ) -> Adjusted:
        """Change the units on hand. With a `key`, repeating the command changes nothing."""
        with answering:
            await self._claim(sku, key)
            reply = await self._parts.decide(
                self.slots.at(sku), self._adjust, *self._adjusting(sku, command, key, traceparent)
            )
        return _adjusted(sku, reply)

    async def adjust_many(
        self,
        changes: Sequence[tuple[str, Adjust, str | None]],
        traceparent: str = "",
        *,
        job: str = "",
        rows: Sequence[int] = (),
    ) -> list[Adjusted | Conflict | Invalid]:
        """As `adjust` for each (SKU, command, key), in order, in few round trips.

        With a `job`, each change is one of its `rows` and carried out once, however often it comes.
        """
        results: dict[int, Adjusted | Conflict | Invalid] = {}
        numbered = list(rows) if job else [None] * len(changes)
        for place, (sku, _, key) in enumerate(changes):
            try:
                with answering:
                    await self._claim(sku, key)
            except KeyReused as refused:
                results[place] = refused
        left = [place for place in range(len(changes)) if place not in results]
        while left:
            # one change of a SKU at a time: one that holds are in the way of is finished first
            first: dict[str, int] = {}
            for place in left:
                first.setdefault(changes[place][0], place)
            asked = [
                (changes[place][0], self._adjusting(*changes[place], traceparent, job, row))
                for place in first.values()
                for row in [numbered[place]]
            ]
            results |= zip(first.values(), await self._adjust_each(asked), strict=True)
            left = [place for place in left if place not in results]
        return [results[place] for place in range(len(changes))]

    async def _adjust_each(
        self, asked: Sequence[tuple[str, tuple[list[str], list[Any]]]]
    ) -> list[Adjusted | Conflict | Invalid]:
        results: list[Adjusted | Conflict | Invalid] = []
        with answering:
            replies = await self._adjust.many([call for _, call in asked])
            for (sku, (keys, args)), answered in zip(asked, replies, strict=True):
                reply = answered
                if reply[0] == "due":  # holds that are over stand in the way: the slow path
                    reply = await self._parts.decide(self.slots.at(sku), self._adjust, keys, args)
                try:
                    results.append(_adjusted(sku, reply))
                except (Conflict, Invalid) as refused:
                    results.append(refused)
        return results

    async def set_threshold(self, sku: str, units: int | None) -> Level:
        """Say from how many units on the SKU runs low (None: never); raises `UnknownSku`."""
        found = await self.level(sku)
        slot = self.slots.at(sku)
        with answering:
            await self._threshold(
                (slot.quantity(sku), slot.ledger), (sku, "" if units is None else units)
            )
        return level(sku, found.available, found.reserved, found.version, units)

    async def reserve(
        self,
        order: UUID,
        lines: Iterable[tuple[str, int]],
        cause: UUID,
        traceparent: str = "",
        taking: UUID | None = None,
    ) -> str:
        """Hold all lines or none: "held", "rejected", or "dup" when that was decided before.

        The units of the reservation `taking`, if it still holds, become the order's first; where
        there are several partitions, they are free for a moment before.
        """
        wanted, name = merged(lines), str(order)
        home = self.slots.home(name)
        if taking is not None and len(self.slots) > 1:
            await self._hand_over(taking, traceparent)
            taking = None
        async for _ in passes():
            cart, given = await self._given(home, taking)
            changes = _changes(wanted, given)
            args: list[Any] = [name, str(cause), str(derived_id(cause, "reservation"))]
            args += [self._hold_ms, KEEP_MS, traceparent]
            args += [cart.name, cart.version] if given else ["", 0]
            keys = self._parts.keys(home, name, changes, marker=cause, more=[home.hold(cart.name)])
            with answering:
                taken = await self._parts.take(name, wanted, cause, traceparent, {"none"})
                flat = self._parts.flat(name, cause, changes, taken.there)
                reply = await self._parts.decide(
                    home, self._reserve, keys, [*args, taken.fence, *flat]
                )
                if reply[0] in {"dup", "rejected"}:
                    skus = (sku for sku, _ in wanted)
                    await self._parts.follow(name, skus, str(cause), traceparent)
            if reply[0] != "moved":
                return str(reply[0])
        raise Unavailable(RESTLESS)

    async def hold(
        self,
        reservation: UUID,
        lines: Iterable[tuple[str, int]],
        seconds: int | None = None,
        traceparent: str = "",
    ) -> Reservation:
        """Hold all lines in place of what the reservation held.

        Raises `InsufficientStock` (with `lines`; what it held it still holds) and `HoldTaken`.
        """
        wanted, name = merged(lines), _cart(reservation)
        home = self.slots.home(name)
        hold_ms = seconds * 1000 if seconds else self._hold_ms
        async for _ in passes():
            now, given = await self._given(home, reservation)
            if now.state == "taken":
                raise HoldTaken
            changes = _changes(wanted, given)
            with answering:
                taken = await self._parts.take(name, wanted, reservation, traceparent)
                args = [name, str(reservation), now.version, hold_ms, traceparent, "", taken.fence]
                flat = self._parts.flat(name, f"{name}:{now.version + 1}", changes, taken.there)
                reply = await self._parts.decide(
                    home, self._parts.holding, self._parts.keys(home, name, changes), [*args, *flat]
                )
                if reply[0] == "short" or given:
                    skus = (sku for sku, _, _ in changes)
                    await self._parts.follow(name, skus, str(reservation), traceparent)
            match reply:
                case ["held", expires, version]:
                    return Reservation(
                        id=reservation,
                        state="held",
                        lines=[Line(sku=sku, qty=qty) for sku, qty in wanted],
                        expires_at=moment(expires),
                        version=version,
                    )
                case ["short", *short]:
                    raise InsufficientStock(lines=[_shortage(text) for text in short])
        raise Unavailable(RESTLESS)

    async def reservation(self, reservation: UUID) -> Reservation:
        """What a reservation holds; raises `UnknownHold`."""
        name = _cart(reservation)
        with answering:
            pipe = self._redis.pipeline(transaction=False)
            ask_time(pipe, self._redis)
            pipe.hgetall(self.slots.home(name).hold(name))
            now, hold = await pipe.execute()
        if not hold:
            await self._refuse_empty([name])
            raise UnknownHold
        over = hold["state"] == "held" and int(hold["exp"]) <= clock(now)
        return Reservation(
            id=reservation,
            state="expired" if over else hold["state"],
            lines=[Line(sku=sku, qty=qty) for sku, qty in held(hold)],
            expires_at=moment(hold["exp"]),
            version=int(hold["ver"]),
        )

    async def extend(self, reservation: UUID, seconds: int | None = None) -> Reservation:
        """Hold for so long from now on. Raises `UnknownHold`, `HoldTaken`, `HoldOver`."""
        name = _cart(reservation)
        slot = self.slots.home(name)
        hold_ms = seconds * 1000 if seconds else self._hold_ms
        with answering:
            reply = await self._extend((slot.hold(name), slot.exp, slot.ledger), (name, hold_ms))
        _refuse_ended(reply[0])
        return await self.reservation(reservation)

    async def release(self, reservation: UUID, traceparent: str = "") -> None:
        """Give back what is held; repeating it changes nothing.

        Raises `UnknownHold`, `HoldTaken`, `HoldOver`.
        """
        state = await self._give_back("release", reservation, traceparent)
        if state != "released":
            _refuse_ended(state)

    async def finish(
        self,
        step: Step,
        order: UUID,
        lines: Iterable[tuple[str, int]],
        cause: UUID,
        traceparent: str = "",
    ) -> str:
        """End a hold. Answers with what became of it, as listed at the top of finish.lua.

        "conflict" (other lines than held, or a release of what is sold) changes nothing.
        """
        wanted, name = merged(lines), str(order)
        home = self.slots.home(name)
        changes = [(sku, qty, 0) for sku, qty in wanted]
        args = [step, name, str(cause), str(derived_id(cause, "reservation"))]
        args += [str(KEEP_MS), traceparent, ""]
        keys = self._parts.keys(home, name, changes, marker=cause)
        taken = Taken()
        with answering:
            async for _ in passes():
                flat = self._parts.flat(name, cause, changes, taken.there)
                reply = await self._parts.decide(
                    home, self._parts.finishing, keys, [*args, taken.fence, *flat]
                )
                if reply[0] not in {"take", "moved"}:
                    skus = (sku for sku, _ in wanted)
                    await self._parts.follow(name, skus, str(cause), traceparent)
                    return str(reply[0])
                # a commit whose hold is gone takes free units, all lines or none
                taken = await self._parts.take(
                    name, wanted, cause, traceparent, {"none", "expired"}
                )
        raise Unavailable(RESTLESS)

    async def restock(
        self, order: UUID, lines: Iterable[tuple[str, int]], cause: UUID, traceparent: str = ""
    ) -> str:
        """Put sold units of an order back for sale: "restocked", or "dup" when that was done.

        "early" (nothing of it is sold yet) and "conflict" (more than was sold) change nothing.
        """
        wanted, name = merged(lines), str(order)
        home = self.slots.home(name)
        with answering:
            hold = await self._redis.hgetall(home.hold(name)) if len(self.slots) > 1 else {}
            skus = [sku for sku, _ in [*held(hold), *wanted]]
            reply = await self._put_back(home, name, wanted, cause, traceparent, skus)
            if reply in {"restocked", "dup"}:
                await self._parts.follow(name, skus, str(cause), traceparent)
                for slot in self.slots.parts(name, skus):
                    mine = [(sku, qty) for sku, qty in wanted if self.slots.at(sku) is slot]
                    await self._put_back(slot, f"{PART}{name}", mine, cause, traceparent, skus)
        return reply

    async def expire_due(self) -> int:
        """End the holds whose time is over, 100 at most in each slot; says how many ended."""
        ended = 0
        with answering:
            for slot in self.slots:
                now = clock(await time(self._redis))
                names = await self._redis.zrangebyscore(slot.exp, "-inf", now, start=0, num=100)
                ended += await self._parts.expire(slot, names)
        return ended

    async def set_prices(
        self, sku: str, prices: Sequence[PriceEntry], traceparent: str = ""
    ) -> Priced:
        """Make these the plan of the SKU; a plan that stands already changes nothing."""
        await self.edit_prices([(sku, "replace", prices)], traceparent)
        return await self.plan(sku)

    async def plan(self, sku: str) -> Priced:
        """All prices of the SKU, those to come with them; raises `UnknownSku`."""
        with answering:
            plan, prices, version, until = await self._redis.hmget(
                self.slots.at(sku).price(sku), _PRICE
            )
        if version is None:
            await self._refuse_empty([sku])
            raise UnknownSku
        return Priced(
            sku=sku,
            prices=read_prices(plan or prices),
            version=int(version),
            valid_until=moment(until) if until else None,
        )

    async def prices(self, skus: Sequence[str], at: datetime | None = None) -> list[Priced]:
        """What is in force, now or `at` a time, of those SKUs that have been given any prices.

        The past is told by the plans that stood then, of which the last KEPT_PLANS are known.
        """
        now, found = await self._plans(skus)
        await self._refuse_empty(
            [sku for sku, (_, _, version) in zip(skus, found, strict=True) if not version]
        )
        when = at or now
        pasts = await self._pasts(skus) if when < now else [None] * len(skus)
        priced = [
            _priced_at(sku, when, plan, version, past)
            for sku, (plan, _, version), past in zip(skus, found, pasts, strict=True)
            if version
        ]
        return [each for each in priced if each is not None]

    async def edit_prices(
        self, edits: Sequence[tuple[str, How, Sequence[PriceEntry]]], traceparent: str = ""
    ) -> list[Edited]:
        """Replace the plans of SKUs or merge into them, in order; what stands changes nothing.

        "full": the plan would have more than MAX_PRICES entries, and is left as it is.
        """
        changes: list[Edited] = ["unchanged"] * len(edits)
        left = list(range(len(edits)))
        async for _ in passes():
            if not left:
                return changes
            # An edit of a SKU is computed from the version that the one before it has made.
            first: dict[str, int] = {}
            for place in left:
                first.setdefault(edits[place][0], place)
            now, found = await self._plans(list(first))
            steps = []
            for (sku, place), (plan, was, version) in zip(first.items(), found, strict=True):
                new = planned(plan, edits[place][2], now, whole=edits[place][1] == "replace")
                if version and (flat_plan(new), flat_prices(in_force(new, now))) == was:
                    left.remove(place)
                elif len(new) > MAX_PRICES:
                    changes[place] = "full"
                    left.remove(place)
                else:
                    steps.append((place, sku, new, version))
            done = await self._write_plans([step[1:] for step in steps], now, traceparent)
            for (place, _, _, version), written in zip(steps, done, strict=True):
                if written:
                    changes[place] = "updated" if version else "created"
                    left.remove(place)
        raise Unavailable("The prices change all the time.")

    async def turn_due(self) -> int:
        """Put in force what has begun by now and end what has ended; says how many SKUs changed.

        However many do this at a time, each boundary is turned, and told, once.
        """
        turned = 0
        for slot in self.slots:
            with answering:
                now = clock(await time(self._redis))
                skus = await self._redis.zrangebyscore(slot.bounds, "-inf", now, start=0, num=BATCH)
            if skus:
                at, found = await self._plans(skus)
                steps = [(sku, p, ver) for sku, (p, _, ver) in zip(skus, found, strict=True)]
                turned += sum(await self._write_plans(steps, at, "", edited=False))
        return turned

    async def offer(self, sku: str) -> tuple[int, Priced]:
        """Units available (0 for an unknown SKU) and prices in force, in one round trip."""
        slot = self.slots.at(sku)
        with answering:
            pipe = self._redis.pipeline(transaction=False)
            ask_time(pipe, self._redis)
            pipe.hget(slot.quantity(sku), "avail")
            pipe.hmget(slot.price(sku), _PRICE)
            clocked, available, (plan, prices, version, _) = await pipe.execute()
        if available is None or version is None:
            await self._refuse_empty([sku])
        entries, now = read_prices(plan or prices or ""), moment(clock(clocked))
        return int(available or 0), Priced(
            sku=sku,
            prices=in_force(entries, now),
            version=int(version or 0),
            valid_until=boundary(entries, now),
        )

    async def ledger(
        self, sku: str, *, before: int | None = None, limit: int = 50
    ) -> list[Movement]:
        """The newest movements of a SKU first, those older than version `before`.

        Those that were trimmed, because the journal has them, are left out.
        """
        slot = self.slots.at(sku)
        index = slot.moves(sku)
        with answering:
            pipe = self._redis.pipeline(transaction=False)
            pipe.hget(slot.quantity(sku), "ver")
            pipe.lrange(index, -limit, -1)
            version, found = await pipe.execute()
            if version is None:
                await self._refuse_empty([sku])
                raise UnknownSku
            if before is not None:
                # The n-th movement of a SKU made its version n: a version is a place in the index.
                last = min(before - 1, int(version)) - int(version) - 1
                found = await self._redis.lrange(index, last - limit + 1, last)
            pipe = self._redis.pipeline(transaction=False)
            for entry in reversed(found):
                pipe.xrange(slot.ledger, entry, entry)
            entries = await pipe.execute()
        return [_movement(entry, fields) for found in entries for entry, fields in found]

    async def put_offers(self, offers: Sequence[Offer], traceparent: str = "") -> list[Verdict]:
        """Set the units on hand and merge the prices of many SKUs, a few round trips for all.

        "short": fewer units than are reserved, so nothing of that offer's stock was changed.
        "full": its plan of prices would be too long, and was left as it is.
        """
        changes: list[set[Verdict]] = [set() for _ in offers]
        stocked = [place for place, offer in enumerate(offers) if offer.stock is not None]
        adjusted = await self.adjust_many(
            [
                (
                    offers[place].sku,
                    Adjust(stock=offers[place].stock or 0, action=Action.SET, reason="import"),
                    None,
                )
                for place in stocked
            ],
            traceparent,
        )
        for place, result in zip(stocked, adjusted, strict=True):
            changes[place].add(result.change if isinstance(result, Adjusted) else "short")
        priced = [place for place, offer in enumerate(offers) if offer.prices]
        edited = await self.edit_prices(
            [(offers[place].sku, "merge", offers[place].prices) for place in priced], traceparent
        )
        for place, change in zip(priced, edited, strict=True):
            changes[place].add(change)
        ranked: tuple[Verdict, ...] = ("short", "full", "created", "updated")
        return [next((r for r in ranked if r in seen), "unchanged") for seen in changes]

    async def _put_back(
        self,
        slot: Slot,
        name: str,
        lines: Sequence[tuple[str, int]],
        cause: UUID,
        traceparent: str,
        skus: Sequence[str],
    ) -> str:
        """Restock what lies in one partition; a home only notes what parts put back."""
        changes = [(sku, qty, 0) for sku, qty in lines]
        marker = f"{PART}{cause}" if name.startswith(PART) else cause
        reply = await self._restock(
            self._parts.keys(slot, name, changes, marker=marker, whole=skus),
            [
                *(name, str(cause), KEEP_MS, traceparent),
                *self._parts.flat(name, cause, changes, whole=skus),
            ],
        )
        return str(reply[0])

    async def _claim(self, sku: str, key: str | None) -> None:
        """An Idempotency-Key serves one SKU; within its partition the script sees to that."""
        if key is None or len(self.slots) == 1:
            return
        claim = self.slots.home(key).marker(f"of:{key}")
        if await self._claiming([claim], (sku, KEEP_MS)) != [sku]:
            raise KeyReused

    async def _refuse_empty(self, names: Sequence[str]) -> None:
        """What is missing is unknown only where Redis has not lost it; raises StoreIsEmpty."""
        with answering:
            for slot in {self.slots.at(name) for name in names}:
                if await self._redis.get(slot.partitions) is None:
                    raise StoreIsEmpty

    async def _hand_over(self, reservation: UUID, traceparent: str) -> None:
        """Give the units of a cart back, so that its order can have them."""
        await self._give_back("take", reservation, traceparent)

    async def _give_back(
        self, how: Literal["release", "take"], reservation: UUID, traceparent: str
    ) -> str:
        """What became of a cart's hold that was to end now."""
        name = _cart(reservation)
        home = self.slots.home(name)
        async for _ in passes():
            now, given = await self._given(home, reservation)
            if now.state == "none":
                await self._refuse_empty([name])
            if now.state != "held":
                return now.state
            lines = [(sku, qty, 0) for sku, qty in given.items()]
            args = [how, name, str(reservation), "", KEEP_MS, traceparent, "", ""]
            flat = self._parts.flat(name, f"{name}:{now.version + 1}", lines)
            with answering:
                reply = await self._parts.finishing(
                    self._parts.keys(home, name, lines, marker=name), [*args, *flat]
                )
                if reply[0] in {"released", "taken", "expired"}:
                    await self._parts.follow(name, given, str(reservation), traceparent)
                    return str(reply[0])
        raise Unavailable(RESTLESS)

    async def _given(self, slot: Slot, reservation: UUID | None) -> tuple["_Cart", dict[str, int]]:
        """A cart's hold as it stands, and the units it gives up to whoever takes its place."""
        if reservation is None:
            return _Cart("", "none", 0), {}
        name = _cart(reservation)
        with answering:
            hold = await self._redis.hgetall(slot.hold(name))
        state = hold.get("state", "none")
        given = dict(held(hold)) if state == "held" else {}
        return _Cart(name, state, int(hold.get("ver", 0))), given

    async def _plans(
        self, skus: Sequence[str]
    ) -> tuple[datetime, list[tuple[list[PriceEntry], tuple[str, str], int]]]:
        """The time, and for each SKU its plan, plan and prices in force as text, its version."""
        with answering:
            pipe = self._redis.pipeline(transaction=False)
            ask_time(pipe, self._redis)
            for sku in skus:
                pipe.hmget(self.slots.at(sku).price(sku), _PRICE)
            clocked, *found = await pipe.execute()
        return moment(clock(clocked)), [
            (read_prices(plan or prices or ""), (plan or prices or "", prices or ""), int(ver or 0))
            for plan, prices, ver, _ in found
        ]

    async def _pasts(self, skus: Sequence[str]) -> list[Past]:
        with answering:
            pipe = self._redis.pipeline(transaction=False)
            for sku in skus:
                slot = self.slots.at(sku)
                pipe.hmget(slot.price(sku), ("since", "first", "plan", "prices"))
                pipe.lrange(slot.plans(sku), 0, -1)
            replies = await pipe.execute()
        pasts = []
        for (since, first, plan, prices), before in zip(replies[::2], replies[1::2], strict=True):
            texts = [*before, f"{since or 0}|{plan or prices or ''}"]
            each = [text.partition("|") for text in texts]
            pasts.append(
                Past(
                    first=_number(first),
                    plans=[(int(at), read_prices(flat)) for at, _, flat in each],
                )
            )
        return pasts

    async def _write_plans(
        self,
        steps: Sequence[tuple[str, Sequence[PriceEntry], int]],
        at: datetime,
        traceparent: str,
        *,
        edited: bool = True,
    ) -> list[bool]:
        """Write each SKU's plan and what of it is in force, unless its version is another now."""
        if not steps:
            return []
        calls = []
        for sku, entries, version in steps:
            slot = self.slots.at(sku)
            plan, prices = flat_plan(entries), flat_prices(in_force(entries, at))
            until = boundary(entries, at)
            args = [sku, version, str(uuids.uuid7()), traceparent]
            args += ["" if plan == prices else plan, prices]
            args += ["" if until is None else milliseconds(until), int(edited), KEPT_PLANS]
            keys = (slot.price(sku), slot.outbox, slot.bounds, slot.ledger, slot.plans(sku))
            calls.append((keys, args))
        with answering:
            return [reply[0] == "ok" for reply in await self._price.many(calls)]

    def _adjusting(
        self,
        sku: str,
        command: Adjust,
        key: str | None,
        traceparent: str,
        job: str = "",
        row: int | None = None,
    ) -> tuple[list[str], list[Any]]:
        slot = self.slots.at(sku)
        return (
            [
                slot.quantity(sku),
                slot.moves(sku),
                slot.ledger,
                slot.outbox,
                slot.exp,
                slot.marker(key or ""),
                slot.rows(job),
            ],
            [
                sku,
                command.action.value,
                command.stock,
                key or "",
                str(uuids.uuid7()),
                KEEP_MS,
                traceparent,
                command.reason,
                "" if row is None else row,
            ],
        )


class _Cart(Struct, frozen=True):
    """A cart's hold as it was read."""

    name: str
    state: str
    version: int


_PRICE = ("plan", "prices", "ver", "until")


def _cart(reservation: UUID) -> str:
    return f"{CART}{reservation}"


def _refuse_ended(state: str) -> None:
    if state == "none":
        raise UnknownHold
    if state == "taken":
        raise HoldTaken
    if state != "held":
        raise HoldOver


def _adjusted(sku: str, reply: Sequence[Any]) -> Adjusted:
    match reply:
        case ["short", available]:
            raise InsufficientStock(available=available)
        case ["full"]:
            raise TooManyUnits
        case ["reused"]:
            raise KeyReused
    outcome, available, reserved, version, low, change = reply
    return Adjusted(
        level(sku, available, reserved, version, _number(low)), outcome == "replay", change
    )


def _priced_at(
    sku: str, when: datetime, plan: Sequence[PriceEntry], version: int, past: Past | None
) -> Priced | None:
    """What holds of the plan, or held by those before it; None where there was no price yet."""
    stood = (plan, None) if past is None else past.at(when)
    if stood is None:
        return None
    if isinstance(stood, datetime):
        return Priced(sku=sku, prices=[], version=version, known_from=stood)
    entries, replaced = stood
    ends = [end for end in (boundary(entries, when), replaced) if end is not None]
    return Priced(
        sku=sku,
        prices=in_force(entries, when),
        version=version,
        valid_until=min(ends, default=None),
    )


def _changes(wanted: Sequence[tuple[str, int]], given: Mapping[str, int]) -> list[Units]:
    """For each SKU in order: the units wanted, and those that another hold gives up."""
    units = dict(wanted)
    return [
        (sku, units.get(sku, 0), given.get(sku, 0)) for sku in sorted(units.keys() | given.keys())
    ]


def _shortage(text: str) -> dict[str, object]:
    sku, requested, available = text.split(":")
    return {"sku": sku, "requested": int(requested), "available": int(available)}


def _movement(entry: str, fields: Mapping[str, str]) -> Movement:
    return Movement(
        version=int(fields["ver"]),
        at=moment(entry.partition("-")[0]),
        op=fields["op"],
        available=int(fields["davail"]),
        reserved=int(fields["dresv"]),
        sold=int(fields["dsold"]),
        received=int(fields["drecv"]),
        order_id=UUID(fields["order"]) if fields["order"] else None,
        cause=fields["cause"] or None,
        event_id=UUID(fields["event"]),
        reason=fields["reason"],
    )


def _number(text: str | int | None) -> int | None:
    return int(text) if text not in {None, ""} else None
