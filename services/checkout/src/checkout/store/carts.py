"""Carts in Redis: one hash per cart, every change one script. Knows nothing of prices or orders.

Whoever knows a cart's id may change it, so an id is 192 random bits. Carts live for `ttl` after
their last change; a cart that is gone answers like one that never was.
"""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from chassis.problems import NotFound, PreconditionFailed, Unavailable
from checkout.domain import MAX_LINES, MAX_QTY, Cart
from checkout.store.problems import CartFull
from shop_contracts.types import PricedLine

HERE = Path(__file__).parent
ID_BYTES = 24


class Carts:
    """The carts of one Redis, under one prefix."""

    def __init__(self, redis: Redis, prefix: str, ttl_s: int) -> None:
        self._redis = redis
        self._prefix = prefix
        self._ttl_s = ttl_s
        self._change = redis.register_script((HERE / "cart.lua").read_text())
        self._settle = redis.register_script((HERE / "settle.lua").read_text())

    async def create(self) -> Cart:
        """A new, empty cart."""
        id_ = secrets.token_urlsafe(ID_BYTES)
        with _reachable():
            async with self._redis.pipeline(transaction=True) as pipe:
                # a pipeline's commands are sent by `execute`
                _ = pipe.hset(self._key(id_), mapping={"v": "1", "s": ""})
                _ = pipe.expire(self._key(id_), self._ttl_s)
                await pipe.execute()
        return Cart(id=id_, version=1, lines={})

    async def get(self, id_: str) -> Cart:
        """The cart. Raises NotFound."""
        with _reachable():
            fields = await self._redis.hgetall(self._key(id_))
        if not fields:
            raise NotFound("There is no such cart.")
        return _cart(id_, fields)

    async def put(self, id_: str, sku: str, qty: int, version: int | None = None) -> Cart:
        """Set a line's units. Raises NotFound, PreconditionFailed, CartFull."""
        return await self._changed(id_, "put", version, sku, qty)

    async def add(self, id_: str, sku: str, qty: int) -> Cart:
        """Add units to a line. Raises NotFound, CartFull."""
        return await self._changed(id_, "add", None, sku, qty)

    async def remove(self, id_: str, sku: str, version: int | None = None) -> Cart:
        """Take a line out; one that is not there is out already."""
        return await self._changed(id_, "remove", version, sku, 0)

    async def drop(self, id_: str, version: int | None = None) -> None:
        """Forget the cart. Raises NotFound, PreconditionFailed."""
        await self._run(id_, "drop", version, "", 0)

    async def settle(self, id_: str, order_id: str, lines: Sequence[PricedLine]) -> None:
        """Take a confirmed order's units out, however often it is called."""
        pairs = [value for line in lines for value in (line.sku, line.qty)]
        with _reachable():
            await self._settle(keys=[self._key(id_)], args=[order_id, *pairs])

    async def ping(self) -> None:
        """Raise when Redis does not answer."""
        await self._redis.ping()

    async def _changed(self, id_: str, op: str, version: int | None, sku: str, qty: int) -> Cart:
        flat = await self._run(id_, op, version, sku, qty)
        return _cart(id_, dict(zip(flat[::2], flat[1::2], strict=True)))

    async def _run(self, id_: str, op: str, version: int | None, sku: str, qty: int) -> list[str]:
        expected = "" if version is None else version
        with _reachable():
            outcome, *rest = await self._change(
                keys=[self._key(id_)],
                args=[op, expected, sku, qty, self._ttl_s, MAX_LINES, MAX_QTY],
            )
        match outcome:
            case "missing":
                raise NotFound("There is no such cart.")
            case "stale":
                raise PreconditionFailed
            case "full":
                raise CartFull
        flat: list[str] = rest
        return flat

    def _key(self, id_: str) -> str:
        return f"{self._prefix}cart:{{{id_}}}"


@contextmanager
def _reachable() -> Iterator[None]:
    try:
        yield
    except (RedisError, OSError) as error:
        raise Unavailable("Carts cannot be reached.") from error


def _cart(id_: str, fields: Mapping[Any, Any]) -> Cart:
    return Cart(
        id=id_,
        version=int(fields["v"]),
        lines={name[1:]: int(qty) for name, qty in fields.items() if name.startswith("=")},
    )
