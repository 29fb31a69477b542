"""Holds, one step at a time, in however many partitions their lines lie. Knows no HTTP.

What becomes of an order (or of a cart) is decided in one partition, its home, by one script. The
units of lines that lie elsewhere are taken there first: a part, named `part:<order>`, is a hold
that knows nothing but its units. Then the home decides, all lines or none, and the parts follow.

Whoever dies on the way leaves a part that nobody asked for. It is looked after by whoever comes
first: the same event once more, somebody who finds too few units, the sweep. Before anybody looks
what the home has decided, he raises its fence, so that a decision that was counting on the part as
it was is refused, and made anew.
"""

import asyncio
import random
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any, Self
from uuid import UUID

from msgspec import Struct
from redis.asyncio import Redis

from chassis.problems import Unavailable
from shop_contracts.envelope import derived_id
from stock.scripts import Script
from stock.slots import CART, PART, Slot, Slots

DAY_MS = 86_400_000
KEEP_MS = 30 * DAY_MS  # of inbox markers and of ended holds: longer than any replay
FEW_PASSES = 3
PART_SECONDS = 0.02
MAX_PASSES = 1_000  # of one step, each behind 100 holds that were over, or a change meanwhile
TAKE_MS = 10_000  # until a part is looked after that its home may never have decided on
LATER_MS = 1_000  # after the end of its home's hold a part is looked after again

Change = tuple[str, int, int]
"""A SKU, the units wanted of it, and those that are given up for them."""


class Taken(Struct, frozen=True):
    """What was taken in other partitions: by SKU "ok", or how many are free of too few."""

    fence: str = ""
    there: Mapping[str, str] = {}


class Parts:
    """The steps of holds on one Redis, or on a cluster."""

    def __init__(self, redis: Redis, slots: Slots) -> None:
        self._redis: Any = redis
        self._slots = slots
        self.holding = Script(redis, "hold")
        self.finishing = Script(redis, "finish")
        self._fence = Script(redis, "fence")

    def keys(
        self,
        slot: Slot,
        name: UUID | str,
        lines: Sequence[Change],
        *,
        marker: UUID | str | None = None,
        more: Sequence[str] = (),
        whole: Iterable[str] = (),
    ) -> list[str]:
        """The keys of a step, with those of the lines that are moved in it.

        `whole`: all SKUs of the order, where the lines are only some of its.
        """
        keys = [slot.hold(name), slot.exp, slot.ledger, slot.outbox]
        if marker is not None:
            keys.append(slot.marker(marker))
        keys += more
        keys.append(slot.fence(name))
        for sku in self._here(str(name), lines, whole):
            keys += (slot.quantity(sku), slot.moves(sku))
        return keys

    def flat(
        self,
        name: str,
        cause: UUID | str,
        lines: Sequence[Change],
        there: Mapping[str, str] | None = None,
        whole: Iterable[str] = (),
    ) -> list[Any]:
        """The number of lines, then each with the id of its `stock.changed` and where it is."""
        flat: list[Any] = [len(lines)]
        here = self._here(name, lines, whole)
        for sku, qty, given in lines:
            where = "" if sku in here else (there or {}).get(sku, "?")
            flat += (sku, qty, given, str(derived_id(cause, f"stock.changed:{sku}")), where)
        return flat

    def _here(self, name: str, lines: Sequence[Change], whole: Iterable[str]) -> list[str]:
        """The SKUs of lines that a step moves itself: a part all, a home those without one."""
        skus = [sku for sku, _, _ in lines]
        if name.startswith(PART):
            return skus
        parts = self._slots.parts(name, [*skus, *whole])
        return [sku for sku in skus if self._slots.at(sku) not in parts]

    async def decide(
        self, slot: Slot, script: Script, keys: Sequence[str], args: Sequence[Any]
    ) -> list[Any]:
        """The script's answer; holds that are over and in its way are ended first."""
        async for _ in Passes():
            reply = await script(keys, args)
            if reply[0] != "due":
                return list(reply)
            await self.expire(slot, reply[1:])
        raise Unavailable("Too many holds are over at once.")

    async def expire(self, slot: Slot, names: Sequence[str]) -> int:
        """End those holds of the slot that are over; parts follow their home."""
        ended = 0
        for name in names:
            if name.startswith(PART):
                ended += await self._follow(slot, name[len(PART) :], indexed=True)
                continue
            hold = await self._redis.hgetall(slot.hold(name))
            lines = [(sku, qty, 0) for sku, qty in held(hold)]
            cart = name.startswith(CART)
            cause = f"{name}:{int(hold.get('ver', 0)) + 1}" if cart else name
            said = "" if cart else str(derived_id(name, "expired"))
            args = ["expire", name, name[len(CART) :] if cart else "", said, KEEP_MS, "", "", ""]
            keys = self.keys(slot, name, lines, marker=f"expired:{name}")
            reply = await self.finishing(keys, [*args, *self.flat(name, cause, lines)])
            ended += reply[0] == "expired"
            await self.follow(name, [sku for sku, _, _ in lines])
        return ended

    async def take(
        self,
        name: str,
        wanted: Sequence[tuple[str, int]],
        cause: UUID | str,
        traceparent: str = "",
        states: Container[str] | None = None,
    ) -> Taken:
        """Take the units of lines that lie in other partitions, as long as none is short.

        Nothing is taken when the home has decided already: its state is none of `states`. Whatever
        was taken stays taken: once the home has decided, `follow` must be called.
        """
        parts, home = self._slots.parts(name, (sku for sku, _ in wanted)), self._slots.home(name)
        if not parts:
            return Taken()
        pipe = self._redis.pipeline(transaction=False)
        pipe.get(home.fence(name))
        pipe.hget(home.hold(name), "state")
        fence, state = await pipe.execute()
        there: dict[str, str] = {}
        if states is not None and (state or "none") not in states:
            return Taken(fence or "0", there)
        for slot in parts:
            here = {sku: qty for sku, qty in wanted if self._slots.at(sku) is slot}
            missing = any(free != "ok" for free in there.values())
            free = await self._take(slot, name, here, cause, traceparent, only_look=missing)
            there |= {sku: free.get(sku, "ok") for sku in here}
        return Taken(fence or "0", there)

    async def follow(
        self, name: str, skus: Iterable[str], cause: str = "", traceparent: str = ""
    ) -> None:
        """Make the parts agree with what the home has decided."""
        for slot in self._slots.parts(name, skus):
            await self._follow(slot, name, (cause, traceparent))

    async def _take(
        self,
        slot: Slot,
        name: str,
        wanted: Mapping[str, int],
        cause: UUID | str,
        traceparent: str,
        *,
        only_look: bool,
    ) -> dict[str, str]:
        """Let the part have at least those units; how many are free of each SKU that is short."""
        part = PART + name
        version, has = 0, dict[str, int]()
        async for _ in Passes():
            lines = [
                (sku, max(wanted.get(sku, 0), has.get(sku, 0)), has.get(sku, 0))
                for sku in sorted(wanted.keys() | has.keys())
            ]
            order = "" if name.startswith(CART) else name
            args = [part, str(cause), version, "" if only_look else TAKE_MS, traceparent, order, ""]
            reply = await self.decide(
                slot,
                self.holding,
                self.keys(slot, part, lines),
                [*args, *self.flat(part, _movement(slot, part, version), lines)],
            )
            if reply[0] == "short":
                return {sku: free for sku, _, free in (each.split(":") for each in reply[1:])}
            if reply[0] != "moved":
                return {}
            hold = await self._redis.hgetall(slot.hold(part))
            if hold.get("state") == "committed":
                return {}  # sold already: the home says that this came before
            version = int(hold.get("ver", 0))
            has = dict(held(hold)) if hold.get("state") == "held" else {}
        raise Unavailable(RESTLESS)

    async def _follow(
        self, slot: Slot, name: str, why: tuple[str, str] = ("", ""), *, indexed: bool = False
    ) -> int:
        """Let one part follow; how many holds ended on the way."""
        home, part = self._slots.home(name), PART + name
        ended = 0
        async for _ in Passes():
            has = await self._redis.hgetall(slot.hold(part))
            if has.get("state") not in {"held", "committed"}:
                if indexed:
                    await self._end(slot, part, "expire", has, why)
                return ended
            flat = await self._fence((home.fence(name), home.hold(name)), (DAY_MS,))
            hold = dict(zip(flat[::2], flat[1::2], strict=True))
            left = 0
            if hold.get("state") == "held":
                left = int(hold["exp"]) - clock(await time(self._redis))
                if left <= 0 and await self.expire(home, [name]):
                    ended += 1
                    continue
            if await self._agree(slot, name, has, hold, why, left_ms=max(left, 0)):
                return ended
        raise Unavailable(RESTLESS)

    async def _agree(
        self,
        slot: Slot,
        name: str,
        has: Mapping[str, str],
        hold: Mapping[str, str],
        why: tuple[str, str],
        *,
        left_ms: int,
    ) -> bool:
        """Let the part follow what the home was read to be; False: read both once more."""
        part, version = PART + name, int(has["ver"])
        state = hold.get("state", "none")
        if state == "held":
            wanted = {sku: qty for sku, qty in held(hold) if self._slots.at(sku) is slot}
            if wanted:
                given = dict(held(has))
                lines = [
                    (sku, wanted.get(sku, 0), given.get(sku, 0))
                    for sku in sorted(wanted.keys() | given.keys())
                ]
                order = "" if name.startswith(CART) else name
                args = [part, why[0], version, left_ms + LATER_MS, why[1], order, ""]
                reply = await self.holding(
                    self.keys(slot, part, lines),
                    [*args, *self.flat(part, _movement(slot, part, version), lines)],
                )
                return str(reply[0]) != "moved"
        op = {"committed": "commit", "returned": "return"}.get(state, "release")
        if has["state"] == "committed" and op != "return":
            return True
        return await self._end(slot, part, op, has, why) != "moved"

    async def _end(
        self, slot: Slot, part: str, op: str, has: Mapping[str, str], why: tuple[str, str]
    ) -> str:
        lines = [(sku, qty, 0) for sku, qty in held(has)]
        version = has.get("ver", "0")
        reply = await self.finishing(
            self.keys(slot, part, lines, marker=part),
            [
                *(op, part, why[0], "", KEEP_MS, why[1], version, ""),
                *self.flat(part, _movement(slot, part, int(version)), lines),
            ],
        )
        return str(reply[0])


class Passes:
    """Tries at what others change meanwhile; after a few each waits a little, so that they part.

    No async generator: one that is left before its end costs a task of the loop to close it.
    """

    def __init__(self) -> None:
        self._left = MAX_PASSES

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> None:
        if not self._left:
            raise StopAsyncIteration
        self._left -= 1
        if self._left < MAX_PASSES - FEW_PASSES - 1:
            await asyncio.sleep(random.uniform(0, PART_SECONDS))  # noqa: S311 - jitter


RESTLESS = "The reservation changes all the time."


def held(hold: Mapping[str, str]) -> list[tuple[str, int]]:
    """The lines of a hold as it was read."""
    return [(hold[f"s{i}"], int(hold[f"q{i}"])) for i in range(1, int(hold.get("n", 0)) + 1)]


async def time(redis: Any) -> tuple[int, int]:
    """Redis's own time; of a cluster any node's."""
    found: tuple[int, int] = await redis.time(**anywhere(redis))
    return found


def anywhere(redis: Any) -> dict[str, str]:
    """What a command without a key is asked with: a cluster's is sent to one node."""
    return {"target_nodes": "default-node"} if hasattr(redis, "nodes_manager") else {}


def ask_time(pipe: Any, redis: Any) -> None:
    """Let a pipeline begin with Redis's own time."""
    # a cluster's pipeline has no method for what has no key
    pipe.execute_command("TIME", **anywhere(redis))


def changes_between(wanted: Sequence[tuple[str, int]], given: Mapping[str, int]) -> list[Change]:
    """For each SKU in order: the units wanted, and those that another hold gives up."""
    units = dict(wanted)
    return [
        (sku, units.get(sku, 0), given.get(sku, 0)) for sku in sorted(units.keys() | given.keys())
    ]


def clock(time: tuple[int, int]) -> int:
    """Milliseconds of Redis's clock."""
    seconds, micros = time
    return seconds * 1000 + micros // 1000


def _movement(slot: Slot, part: str, version: int) -> str:
    """What names the next movement of a part: its version is raised with each."""
    return f"{slot.number}:{part}:{version + 1}"
