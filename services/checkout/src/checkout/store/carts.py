"""Carts in Redis: one hash per cart, every change one script. Knows nothing of prices or orders.

Each cart is in a hash slot of its own: all that is one command's lies there (`merging.py` moves
lines from one to another).

Whoever knows the id of a guest's cart may change it, so it is 192 random bits. A customer has one
cart, whose id is the customer's own: it is theirs alone, and comes back after the cart is gone.
Carts live for `ttl` after their last change; one that is gone answers like one that never was.
"""

import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

from redis.asyncio import Redis

from chassis.problems import NotFound, PreconditionFailed, Unavailable
from chassis.redis import FAILED, Script
from checkout.quotes import MAX_LINES, MAX_QTY, Cart
from checkout.store.merging import Merge, Merging
from checkout.store.problems import CartFull
from shop_contracts.types import PricedLine

HERE = Path(__file__).parent
ID_BYTES = 24

Prices = Mapping[str, int]
"""What one unit costs, in minor units by currency."""
UNSEEN: Prices = {}
_CUSTOMERS = re.compile(r"[0-9a-f]{32}")


def own(customer: UUID) -> str:
    """The id of the customer's cart."""
    return customer.hex


def is_a_customers(cart_id: str) -> bool:
    """Whether the cart is some customer's. A guest's id looks so once in 2**64."""
    return _CUSTOMERS.fullmatch(cart_id) is not None


class Carts:
    """The carts of one Redis, under one prefix."""

    def __init__(self, redis: Redis, prefix: str, ttl_s: int) -> None:
        self.redis = redis
        self._prefix = prefix
        self._ttl_s = ttl_s
        self._beginning = Script(redis, (HERE / "begin.lua").read_text())
        self._reading = Script(redis, (HERE / "read.lua").read_text())
        self._changing = Script(redis, (HERE / "cart.lua").read_text())
        self._using_coupon = Script(redis, (HERE / "coupon.lua").read_text())
        self._settling = Script(redis, (HERE / "settle.lua").read_text())
        self._merging = Merging(redis, self._key, ttl_s)

    async def create(self) -> Cart:
        """A new, empty cart."""
        return await self._begin(secrets.token_urlsafe(ID_BYTES))

    async def get(self, id_: str) -> Cart:
        """The cart. Raises NotFound."""
        outcome, *found = await self._ask(self._reading, id_)
        _refuse(outcome)
        return _read(id_, found)

    async def use_coupon(self, id_: str, code: str, version: int | None = None) -> None:
        """Let the cart have this coupon, or none when it is empty.

        Raises NotFound, PreconditionFailed.
        """
        expected = "" if version is None else version
        (outcome,) = await self._ask(self._using_coupon, id_, code, expected, self._ttl_s)
        _refuse(outcome)

    async def ensure(self, customer: UUID) -> Cart:
        """The customer's cart, which begins to exist when it has to."""
        return await self._begin(own(customer))

    async def merge(self, guest: str, customer: UUID) -> Merge:
        """Put a guest's cart into the customer's: units of one SKU add up, to 999 at most.

        No line is lost: one that finds no room stays in the guest's cart. Again changes nothing.
        """
        with _reachable():
            return await self._merging.merge(guest, own(customer))

    async def forget(self, customer: UUID) -> None:
        """Nothing is left of the customer's cart."""
        with _reachable():
            await self.redis.unlink(self._key(own(customer)), self._coupon(own(customer)))

    async def put(
        self, id_: str, sku: str, qty: int, version: int | None = None, *, seen: Prices = UNSEEN
    ) -> Cart:
        """Set a line's units at the prices `seen`.

        Raises NotFound, PreconditionFailed, CartFull.
        """
        return await self._changed(id_, "put", version, sku, qty, seen)

    async def add(self, id_: str, sku: str, qty: int, *, seen: Prices = UNSEEN) -> Cart:
        """Add units to a line, at the prices `seen`. Raises NotFound, CartFull."""
        return await self._changed(id_, "add", None, sku, qty, seen)

    async def remove(self, id_: str, sku: str, version: int | None = None) -> Cart:
        """Take a line out; one that is not there is out already."""
        return await self._changed(id_, "remove", version, sku, 0)

    async def drop(self, id_: str, version: int | None = None) -> None:
        """Forget the cart. Raises NotFound, PreconditionFailed."""
        await self._run(id_, "drop", version, "", 0)

    async def settle(self, id_: str, order_id: str, lines: Sequence[PricedLine]) -> None:
        """Take a confirmed order's units out, however often it is called."""
        pairs = [value for line in lines for value in (line.sku, line.qty)]
        outcome, *to = await self._ask(self._settling, id_, order_id, _comes_back(id_), *pairs)
        with _reachable():
            # a coupon is for one order
            await self.redis.unlink(self._coupon(id_))
        if outcome == "moved":
            await self.settle(to[0], order_id, lines)

    async def ping(self) -> None:
        """Raise when Redis does not answer."""
        await self.redis.ping()

    async def _changed(
        self, id_: str, op: str, version: int | None, sku: str, qty: int, seen: Prices = UNSEEN
    ) -> Cart:
        return _read(id_, await self._run(id_, op, version, sku, qty, seen))

    async def _run(
        self, id_: str, op: str, version: int | None, sku: str, qty: int, seen: Prices = UNSEEN
    ) -> list[str]:
        expected = "" if version is None else version
        prices = ",".join(f"{currency}={minor}" for currency, minor in seen.items())
        outcome, *found = await self._ask(
            *(self._changing, id_, op, expected, sku, qty, self._ttl_s, MAX_LINES, MAX_QTY),
            *(_comes_back(id_), prices),
        )
        _refuse(outcome)
        return found

    async def _begin(self, id_: str) -> Cart:
        _, *found = await self._ask(self._beginning, id_, self._ttl_s)
        return _read(id_, found)

    async def _ask(self, script: Script, id_: str, *args: str | int) -> list[str]:
        """What the script says of the cart; a merge that has frozen it is ended before."""
        keys = self._key(id_), self._coupon(id_)
        with _reachable():
            reply: list[str] = await script(keys, args)
            while reply[0] == "frozen":
                await self._merging.finish(id_)
                reply = await script(keys, args)
        return reply

    def _key(self, id_: str) -> str:
        return f"{self._prefix}cart:{{{id_}}}"

    def _coupon(self, id_: str) -> str:
        return f"{self._prefix}coupon:{{{id_}}}"


def _refuse(outcome: str) -> None:
    match outcome:
        case "missing":
            raise NotFound("There is no such cart.")
        case "stale":
            raise PreconditionFailed
        case "full":
            raise CartFull


def _comes_back(id_: str) -> int:
    return int(is_a_customers(id_))


@contextmanager
def _reachable() -> Iterator[None]:
    try:
        yield
    except FAILED as error:
        raise Unavailable("Carts cannot be reached.") from error


def _read(id_: str, found: Sequence[str]) -> Cart:
    """The cart of its coupon and its fields, one after the other."""
    coupon, *flat = found
    return _cart(id_, dict(zip(flat[::2], flat[1::2], strict=True)), coupon or None)


def _cart(id_: str, fields: Mapping[Any, Any], coupon: str | None) -> Cart:
    lines = {name[1:]: line.partition(" ") for name, line in fields.items() if name[0] == "="}
    return Cart(
        id=id_,
        version=int(fields["v"]),
        lines={sku: int(qty) for sku, (qty, _, _) in lines.items()},
        seen={sku: _prices(seen) for sku, (_, _, seen) in lines.items()},
        coupon=coupon,
    )


def _prices(seen: str) -> dict[str, int]:
    pairs = (each.partition("=") for each in seen.split(",") if each)
    return {currency: int(minor) for currency, _, minor in pairs}
