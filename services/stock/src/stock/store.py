"""Quantities, holds and prices in Redis: one Lua script per atomic step. Knows no HTTP, no broker.

All keys share one hash slot. Every step writes counters, ledger, inbox marker and outbox entry in
its script or nothing at all; time is Redis's own. The scripts stand beside this file.

Problem (chassis)
+-- InsufficientStock 409   fewer units are available than the step takes
+-- TooManyUnits 409        the SKU would have received more than JSON can count
+-- UnknownSku 404          nothing was ever said about this SKU
+-- KeyReused 422           the Idempotency-Key came with another command
"""

from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from types import TracebackType
from typing import Any, Literal
from uuid import UUID

import uuid_utils.compat as uuids
from msgspec import Struct
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as Unreachable
from redis.exceptions import OutOfMemoryError, ReadOnlyError
from redis.exceptions import TimeoutError as TooSlow

from chassis.problems import Conflict, Invalid, NotFound, Unavailable
from shop_contracts.envelope import derived_id
from stock.domain import (
    Action,
    Adjust,
    Level,
    Movement,
    Priced,
    PriceEntry,
    flat_prices,
    level,
    merged,
    moment,
    read_prices,
)

DAY_MS = 86_400_000
KEEP_MS = 30 * DAY_MS  # of inbox markers and of ended holds: longer than any replay
MAX_PASSES = 1_000  # of 100 holds that are over and stand in the way of one step

Step = Literal["commit", "release", "return"]
Change = Literal["created", "updated", "unchanged", "short"]


class InsufficientStock(Conflict):
    """Fewer units are available than the step takes."""

    slug = "insufficient-stock"
    title = "There is not enough stock"


class TooManyUnits(Conflict):
    """The SKU would have received more units than JSON can count."""

    slug = "too-many-units"
    title = "That is more than can be counted"


class UnknownSku(NotFound):
    """Nothing was ever said about this SKU."""


class KeyReused(Invalid):
    """The Idempotency-Key came with another command before."""

    slug = "idempotency-key-reused"
    title = "This Idempotency-Key belongs to another request"


class Adjusted(Struct, frozen=True):
    """The level after a command, and whether the command had been carried out before."""

    level: Level
    replayed: bool


class Offer(Struct, frozen=True, kw_only=True):
    """What a feed says of one SKU: units on hand (None = nothing) and prices for everybody."""

    sku: str
    stock: int | None = None
    prices: Sequence[PriceEntry] = ()


class StockStore:
    """The one way to the stock Redis; `redis` decodes responses and never retries by itself."""

    def __init__(self, redis: Redis, key_prefix: str = "", hold_ms: int = 900_000) -> None:
        # redis-py types every reply for bytes and text, sync and async at once.
        self._redis: Any = redis
        self._slot = f"{key_prefix}{{s0}}:"
        self._hold_ms = hold_ms
        self._exp = f"{self._slot}exp"
        self._ledger = f"{self._slot}ledger"
        self.outbox = f"{self._slot}outbox"
        self._adjust = _script(redis, "adjust")
        self._reserve = _script(redis, "reserve")
        self._finish = _script(redis, "finish")
        self._price = _script(redis, "price")

    async def ping(self) -> None:
        with _answering:
            await self._redis.ping()

    async def level(self, sku: str) -> Level:
        """How much there is; raises `UnknownSku`."""
        with _answering:
            available, reserved, version = await self._redis.hmget(
                f"{self._slot}q:{sku}", ("avail", "resv", "ver")
            )
        if version is None:
            raise UnknownSku
        return level(sku, int(available), int(reserved), int(version))

    async def adjust(
        self, sku: str, command: Adjust, *, key: str | None = None, traceparent: str = ""
    ) -> Adjusted:
        """Change the units on hand. With a `key`, repeating the command changes nothing."""
        with _answering:
            reply = await self._decide(
                self._adjust, *self._adjusting(sku, command, key, traceparent)
            )
        match reply:
            case ["short", available]:
                raise InsufficientStock(available=available)
            case ["full"]:
                raise TooManyUnits
            case ["reused"]:
                raise KeyReused
        outcome, available, reserved, version, _ = reply
        return Adjusted(level(sku, available, reserved, version), outcome == "replay")

    async def reserve(
        self, order: UUID, lines: Iterable[tuple[str, int]], cause: UUID, traceparent: str = ""
    ) -> str:
        """Hold all lines or none: "held", "rejected", or "dup" when that was decided before."""
        wanted = merged(lines)
        args = [str(order), str(cause), str(derived_id(cause, "reservation"))]
        with _answering:
            reply = await self._decide(
                self._reserve,
                self._step_keys(order, cause, wanted),
                [*args, self._hold_ms, KEEP_MS, traceparent, *_flat(cause, wanted)],
            )
        return str(reply[0])

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
        wanted = merged(lines)
        args = [step, str(order), str(cause), str(derived_id(cause, "reservation"))]
        with _answering:
            reply = await self._decide(
                self._finish,
                self._step_keys(order, cause, wanted),
                [*args, KEEP_MS, traceparent, *_flat(cause, wanted)],
            )
        return str(reply[0])

    async def expire_due(self) -> int:
        """End the holds whose time is over, 100 at most; says how many ended."""
        with _answering:
            seconds, micros = await self._redis.time()
            now = seconds * 1000 + micros // 1000
            orders = await self._redis.zrangebyscore(self._exp, "-inf", now, start=0, num=100)
            return await self._expire(orders)

    async def set_prices(
        self, sku: str, prices: Sequence[PriceEntry], traceparent: str = ""
    ) -> Priced:
        """Make these all prices of the SKU; prices that stand already change nothing."""
        with _answering:
            _, version, flat, _ = await self._price(
                *self._pricing(sku, "replace", prices, traceparent)
            )
        return Priced(sku=sku, prices=read_prices(flat), version=version)

    async def prices(self, skus: Sequence[str]) -> list[Priced]:
        """The prices of those SKUs that have been given any, in the order asked for."""
        with _answering:
            pipe = self._redis.pipeline(transaction=False)
            for sku in skus:
                pipe.hmget(f"{self._slot}price:{sku}", ("prices", "ver"))
            replies = await pipe.execute()
        return [
            Priced(sku=sku, prices=read_prices(flat), version=int(version))
            for sku, (flat, version) in zip(skus, replies, strict=True)
            if version is not None
        ]

    async def offer(self, sku: str) -> tuple[int, Sequence[PriceEntry]]:
        """Units available (0 for an unknown SKU) and prices, in one round trip."""
        with _answering:
            pipe = self._redis.pipeline(transaction=False)
            pipe.hget(f"{self._slot}q:{sku}", "avail")
            pipe.hget(f"{self._slot}price:{sku}", "prices")
            available, flat = await pipe.execute()
        return int(available or 0), read_prices(flat or "")

    async def ledger(
        self, sku: str, *, before: int | None = None, limit: int = 50
    ) -> list[Movement]:
        """The newest movements of a SKU first, those older than version `before`."""
        index = f"{self._slot}moves:{sku}"
        # The n-th movement of a SKU made its version n, so a version is a place in the index.
        last = -1 if before is None else before - 2
        first = -limit if before is None else max(0, last - limit + 1)
        with _answering:
            pipe = self._redis.pipeline(transaction=False)
            pipe.exists(index)
            if last >= first or before is None:
                pipe.lrange(index, first, last)
            known, *found = await pipe.execute()
            if not known:
                raise UnknownSku
            pipe = self._redis.pipeline(transaction=False)
            for entry in reversed(found[0] if found else []):
                pipe.xrange(self._ledger, entry, entry)
            entries = await pipe.execute()
        return [_movement(entry, fields) for found in entries for entry, fields in found]

    async def put_offers(self, offers: Sequence[Offer], traceparent: str = "") -> list[Change]:
        """Set the units on hand and merge the prices of many SKUs, in one round trip.

        "short": fewer units than are reserved, so nothing of that offer's stock was changed.
        """
        with _answering:
            pipe = self._redis.pipeline(transaction=False)
            places: list[int] = []
            for place, offer in enumerate(offers):
                if offer.stock is not None:
                    command = Adjust(stock=offer.stock, action=Action.SET, reason="import")
                    keys, args = self._adjusting(offer.sku, command, None, traceparent)
                    await self._adjust(keys=keys, args=args, client=pipe)
                    places.append(place)
                if offer.prices:
                    keys, args = self._pricing(offer.sku, "merge", offer.prices, traceparent)
                    await self._price(keys=keys, args=args, client=pipe)
                    places.append(place)
            replies = await pipe.execute() if places else []
        changes: list[set[Change]] = [set() for _ in offers]
        for place, reply in zip(places, replies, strict=True):
            changes[place].add(_change(reply))
        ranked: tuple[Change, ...] = ("short", "created", "updated")
        return [next((r for r in ranked if r in seen), "unchanged") for seen in changes]

    async def _decide(self, script: Any, keys: list[str], args: list[Any]) -> list[Any]:
        """The script's answer; holds that are over and in its way are ended first."""
        for _ in range(MAX_PASSES):
            reply = await script(keys, args)
            if reply[0] != "due":
                return list(reply)
            await self._expire(reply[1:])
        raise Unavailable("Too many holds are over at once.")

    async def _expire(self, orders: Sequence[str]) -> int:
        ended = 0
        for order in orders:
            hold = await self._redis.hgetall(f"{self._slot}r:{order}")
            lines = _held(hold)
            args = ["expire", order, "", str(derived_id(order, "expired")), KEEP_MS, ""]
            reply = await self._finish(
                self._step_keys(order, f"expired:{order}", lines), [*args, *_flat(order, lines)]
            )
            ended += reply[0] == "expired"
        return ended

    def _step_keys(
        self, order: UUID | str, marker: UUID | str, lines: Sequence[tuple[str, int]]
    ) -> list[str]:
        slot = self._slot
        keys = [f"{slot}r:{order}", self._exp, self._ledger, self.outbox, f"{slot}in:{marker}"]
        for sku, _ in lines:
            keys += (f"{slot}q:{sku}", f"{slot}moves:{sku}")
        return keys

    def _adjusting(
        self, sku: str, command: Adjust, key: str | None, traceparent: str
    ) -> tuple[list[str], list[Any]]:
        slot = self._slot
        return (
            [
                f"{slot}q:{sku}",
                f"{slot}moves:{sku}",
                self._ledger,
                self.outbox,
                self._exp,
                f"{slot}in:{key or ''}",
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
            ],
        )

    def _pricing(
        self,
        sku: str,
        how: Literal["replace", "merge"],
        prices: Sequence[PriceEntry],
        traceparent: str,
    ) -> tuple[list[str], list[Any]]:
        return (
            [f"{self._slot}price:{sku}", self.outbox],
            [sku, how, str(uuids.uuid7()), traceparent, *flat_prices(prices)],
        )


class _Answering:
    """A Redis that does not answer, or may not write, is a 503 to whoever asked."""

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None
    ) -> None:
        if isinstance(error, Unreachable | TooSlow | OutOfMemoryError | ReadOnlyError):
            raise Unavailable("The stock store does not answer.") from error


_answering = _Answering()


def script_text(name: str) -> str:
    """The script with what all share in front of it; only the first line may be the shebang."""
    shared, own = ((files("stock") / f"{part}.lua").read_text() for part in ("step", name))
    return shared + own.removeprefix("#!lua")


def _script(redis: Redis, name: str) -> Any:
    return redis.register_script(script_text(name))


def _flat(cause: UUID | str, lines: Sequence[tuple[str, int]]) -> list[Any]:
    """The number of lines, then each with the id of the `stock.changed` that it makes."""
    flat: list[Any] = [len(lines)]
    for sku, qty in lines:
        flat += (sku, qty, str(derived_id(cause, f"stock.changed:{sku}")))
    return flat


def _held(hold: Mapping[str, str]) -> list[tuple[str, int]]:
    return [(hold[f"s{i}"], int(hold[f"q{i}"])) for i in range(1, int(hold.get("n", 0)) + 1)]


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


def _change(reply: Sequence[Any]) -> Change:
    if reply[0] == "same":
        return "unchanged"
    if reply[0] == "ok":
        return "created" if reply[-1] else "updated"
    return "short"
