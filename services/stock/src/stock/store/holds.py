"""What orders hold in Redis: held, sold, given back, put back for sale, over. Knows no saga.

In however many partitions the lines lie, the order's home decides; `parts` says how.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal
from uuid import UUID

from redis.asyncio import Redis

from chassis.problems import Unavailable
from shop_contracts.envelope import derived_id
from stock.domain import merged
from stock.parts import KEEP_MS, RESTLESS, Parts, Passes, Taken, changes_between, clock, held, time
from stock.scripts import Script
from stock.slots import PART, Slot, Slots, answering
from stock.store.carts import Carts

Step = Literal["commit", "release", "return"]


class Holds:
    """The steps of orders, and the end of every hold whose time is over."""

    def __init__(
        self, redis: Redis, slots: Slots, parts: Parts, carts: Carts, hold_ms: int
    ) -> None:
        self._redis: Any = redis
        self._slots = slots
        self._parts = parts
        self._carts = carts
        self._hold_ms = hold_ms
        self._reserve = Script(redis, "reserve")
        self._restock = Script(redis, "restock")

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
        home = self._slots.home(name)
        if taking is not None and len(self._slots) > 1:
            await self._carts.give_back("take", taking, traceparent)
            taking = None
        async for _ in Passes():
            cart, given = await self._carts.given(home, taking)
            changes = changes_between(wanted, given)
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
        home = self._slots.home(name)
        changes = [(sku, qty, 0) for sku, qty in wanted]
        args = [step, name, str(cause), str(derived_id(cause, "reservation"))]
        args += [str(KEEP_MS), traceparent, ""]
        keys = self._parts.keys(home, name, changes, marker=cause)
        taken = Taken()
        with answering:
            async for _ in Passes():
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
        home = self._slots.home(name)
        with answering:
            hold = await self._redis.hgetall(home.hold(name)) if len(self._slots) > 1 else {}
            skus = [sku for sku, _ in [*held(hold), *wanted]]
            reply = await self._put_back(home, name, wanted, cause, traceparent, skus)
            if reply in {"restocked", "dup"}:
                await self._parts.follow(name, skus, str(cause), traceparent)
                for slot in self._slots.parts(name, skus):
                    mine = [(sku, qty) for sku, qty in wanted if self._slots.at(sku) is slot]
                    await self._put_back(slot, f"{PART}{name}", mine, cause, traceparent, skus)
        return reply

    async def expire_due(self) -> int:
        """End the holds whose time is over, 100 at most in each slot; says how many ended."""
        ended = 0
        with answering:
            for slot in self._slots:
                now = clock(await time(self._redis))
                names = await self._redis.zrangebyscore(slot.exp, "-inf", now, start=0, num=100)
                ended += await self._parts.expire(slot, names)
        return ended

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
