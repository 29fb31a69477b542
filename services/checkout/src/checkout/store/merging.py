"""A guest's cart goes into a customer's: three scripts, for the two carts are in two hash slots.

The guest's cart is frozen under the id of this merge; the customer's takes its lines, once for that
id; then the guest's is what found no room, or says where all went. Who dies on the way leaves a
frozen cart. Whoever meets it next, by whatever command, ends its merge first, and so does a second
sign-in: each step that was done answers as it did. Knows no line but as a field and its value.
"""

import secrets
from collections.abc import Callable, Mapping
from pathlib import Path

from msgspec import Struct
from redis.asyncio import Redis

from bus import failpoints
from chassis.redis import Script
from checkout.quotes import MAX_LINES, MAX_QTY

HERE = Path(__file__).parent
ID_BYTES = 12
DAY_S = 86_400


class Merge(Struct, frozen=True, kw_only=True):
    """What became of a guest's lines: moved, left for want of room, cut to the most units."""

    moved: int = 0
    left: int = 0
    cut: int = 0


class _Frozen(Struct, frozen=True):
    """The merge that froze a guest's cart, the cart that takes its lines, and the lines."""

    merge: str
    customer: str
    lines: Mapping[str, str]


class Merging:
    """Merges of carts, whose keys `key` tells by their ids."""

    def __init__(self, redis: Redis, key: Callable[[str], str], ttl_s: int) -> None:
        self._key = key
        self._ttl_s = ttl_s
        self._freezing = Script(redis, (HERE / "freeze.lua").read_text())
        self._taking = Script(redis, (HERE / "take.lua").read_text())
        self._releasing = Script(redis, (HERE / "release.lua").read_text())

    async def merge(self, guest: str, customer: str) -> Merge:
        """Put the cart `guest` into the cart `customer`; one that is gone changes nothing."""
        id_ = secrets.token_urlsafe(ID_BYTES)
        while frozen := await self._freeze(guest, id_, customer):
            failpoints.reach("checkout.merge.frozen")
            merge = await self._move(guest, frozen)
            # it may have been frozen for somebody else, who died
            if frozen.customer == customer:
                return merge
        return Merge()

    async def finish(self, guest: str) -> None:
        """End the merge that has frozen this cart, if there is one."""
        if frozen := await self._freeze(guest):
            await self._move(guest, frozen)

    async def _freeze(self, guest: str, merge: str = "", customer: str = "") -> _Frozen | None:
        found = await self._freezing(keys=[self._key(guest)], args=[merge, customer, self._ttl_s])
        if not found:
            return None
        merge, customer, *flat = found
        fields = zip(flat[::2], flat[1::2], strict=True)
        return _Frozen(merge, customer, {name: value for name, value in fields if name[0] == "="})

    async def _move(self, guest: str, frozen: _Frozen) -> Merge:
        cart = self._key(frozen.customer)
        lines = [each for line in sorted(frozen.lines.items()) for each in line]
        # what became of the merge is known for longer than the frozen cart could ask for it
        told = await self._taking(
            keys=[cart, f"{cart}:merge:{frozen.merge}"],
            args=[self._ttl_s, max(self._ttl_s, DAY_S), MAX_LINES, MAX_QTY, *lines],
        )
        failpoints.reach("checkout.merge.taken")
        moved, cut, *left = told.split(" ")
        await self._releasing(
            keys=[self._key(guest)], args=[frozen.merge, frozen.customer, self._ttl_s, *left]
        )
        failpoints.reach("checkout.merge.released")
        return Merge(moved=int(moved), left=len(left), cut=int(cut))
