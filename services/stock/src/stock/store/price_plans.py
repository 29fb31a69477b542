"""Plans of prices in Redis: edited, asked, turned when a price begins or ends. Knows no unit."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

import uuid_utils.compat as uuids
from redis.asyncio import Redis

from chassis.problems import Unavailable
from stock.install import Install
from stock.parts import Passes, ask_time, clock, time
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
from stock.scripts import Script
from stock.slots import Slots, answering
from stock.store.problems import UnknownSku

BATCH = 200
KEPT_PLANS = 50  # of one SKU, behind the one that stands
FIELDS = ("plan", "prices", "ver", "until")

Edited = Literal["created", "updated", "unchanged", "full"]
How = Literal["replace", "merge"]


class PricePlans:
    """The plans of all SKUs; an edit is computed here and written if nobody came between."""

    def __init__(self, redis: Redis, slots: Slots, install: Install) -> None:
        self._redis: Any = redis
        self._slots = slots
        self._install = install
        self._price = Script(redis, "price")

    async def put(self, sku: str, prices: Sequence[PriceEntry], traceparent: str = "") -> Priced:
        """Make these the plan of the SKU; a plan that stands already changes nothing."""
        await self.edit([(sku, "replace", prices)], traceparent)
        return await self.plan(sku)

    async def plan(self, sku: str) -> Priced:
        """All prices of the SKU, those to come with them; raises `UnknownSku`."""
        with answering:
            plan, prices, version, until = await self._redis.hmget(
                self._slots.at(sku).price(sku), FIELDS
            )
        if version is None:
            await self._install.refuse_empty([sku])
            raise UnknownSku
        return Priced(
            sku=sku,
            prices=read_prices(plan or prices),
            version=int(version),
            valid_until=moment(until) if until else None,
        )

    async def in_force(self, skus: Sequence[str], at: datetime | None = None) -> list[Priced]:
        """What is in force, now or `at` a time, of those SKUs that have been given any prices.

        The past is told by the plans that stood then, of which the last KEPT_PLANS are known.
        """
        now, found = await self._plans(skus)
        await self._install.refuse_empty(
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

    async def edit(
        self, edits: Sequence[tuple[str, How, Sequence[PriceEntry]]], traceparent: str = ""
    ) -> list[Edited]:
        """Replace the plans of SKUs or merge into them, in order; what stands changes nothing.

        "full": the plan would have more than MAX_PRICES entries, and is left as it is.
        """
        changes: list[Edited] = ["unchanged"] * len(edits)
        left = list(range(len(edits)))
        async for _ in Passes():
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
        for slot in self._slots:
            with answering:
                now = clock(await time(self._redis))
                skus = await self._redis.zrangebyscore(slot.bounds, "-inf", now, start=0, num=BATCH)
            if skus:
                at, found = await self._plans(skus)
                steps = [(sku, p, ver) for sku, (p, _, ver) in zip(skus, found, strict=True)]
                turned += sum(await self._write_plans(steps, at, "", edited=False))
        return turned

    async def _plans(
        self, skus: Sequence[str]
    ) -> tuple[datetime, list[tuple[list[PriceEntry], tuple[str, str], int]]]:
        """The time, and for each SKU its plan, plan and prices in force as text, its version."""
        with answering:
            pipe = self._redis.pipeline(transaction=False)
            ask_time(pipe, self._redis)
            for sku in skus:
                pipe.hmget(self._slots.at(sku).price(sku), FIELDS)
            clocked, *found = await pipe.execute()
        return moment(clock(clocked)), [
            (read_prices(plan or prices or ""), (plan or prices or "", prices or ""), int(ver or 0))
            for plan, prices, ver, _ in found
        ]

    async def _pasts(self, skus: Sequence[str]) -> list[Past]:
        with answering:
            pipe = self._redis.pipeline(transaction=False)
            for sku in skus:
                slot = self._slots.at(sku)
                pipe.hmget(slot.price(sku), ("since", "first", "plan", "prices"))
                pipe.lrange(slot.plans(sku), 0, -1)
            replies = await pipe.execute()
        pasts = []
        for (since, first, plan, prices), before in zip(replies[::2], replies[1::2], strict=True):
            texts = [*before, f"{since or 0}|{plan or prices or ''}"]
            each = [text.partition("|") for text in texts]
            pasts.append(
                Past(
                    first=int(first) if first else None,
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
            slot = self._slots.at(sku)
            plan, prices = flat_plan(entries), flat_prices(in_force(entries, at))
            until = boundary(entries, at)
            args = [sku, version, str(uuids.uuid7()), traceparent]
            args += ["" if plan == prices else plan, prices]
            args += ["" if until is None else milliseconds(until), int(edited), KEPT_PLANS]
            keys = (slot.price(sku), slot.outbox, slot.bounds, slot.ledger, slot.plans(sku))
            calls.append((keys, args))
        with answering:
            return [reply[0] == "ok" for reply in await self._price.many(calls)]


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
