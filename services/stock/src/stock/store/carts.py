"""What carts hold in Redis until an order takes it over or its time is over. Knows no order."""

from collections.abc import Iterable
from typing import Any, Literal
from uuid import UUID

from msgspec import Struct
from redis.asyncio import Redis

from chassis.problems import Unavailable
from shop_contracts.types import Line
from stock.domain import Reservation, merged
from stock.install import Install
from stock.parts import KEEP_MS, RESTLESS, Parts, Passes, ask_time, changes_between, clock, held
from stock.prices import moment
from stock.scripts import Script
from stock.slots import CART, Slot, Slots, answering
from stock.store.problems import HoldOver, HoldTaken, InsufficientStock, UnknownHold


class CartHold(Struct, frozen=True):
    """A cart's hold as it was read."""

    name: str
    state: str
    version: int


class Carts:
    """The reservations of carts."""

    def __init__(
        self, redis: Redis, slots: Slots, install: Install, parts: Parts, hold_ms: int
    ) -> None:
        self._redis: Any = redis
        self._slots = slots
        self._install = install
        self._parts = parts
        self._hold_ms = hold_ms
        self._extend = Script(redis, "extend")

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
        home = self._slots.home(name)
        hold_ms = seconds * 1000 if seconds else self._hold_ms
        async for _ in Passes():
            now, given = await self.given(home, reservation)
            if now.state == "taken":
                raise HoldTaken
            changes = changes_between(wanted, given)
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
            pipe.hgetall(self._slots.home(name).hold(name))
            now, hold = await pipe.execute()
        if not hold:
            await self._install.refuse_empty([name])
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
        slot = self._slots.home(name)
        hold_ms = seconds * 1000 if seconds else self._hold_ms
        with answering:
            reply = await self._extend((slot.hold(name), slot.exp, slot.ledger), (name, hold_ms))
        _refuse_ended(reply[0])
        return await self.reservation(reservation)

    async def release(self, reservation: UUID, traceparent: str = "") -> None:
        """Give back what is held; repeating it changes nothing.

        Raises `UnknownHold`, `HoldTaken`, `HoldOver`.
        """
        state = await self.give_back("release", reservation, traceparent)
        if state != "released":
            _refuse_ended(state)

    async def give_back(
        self, how: Literal["release", "take"], reservation: UUID, traceparent: str
    ) -> str:
        """What became of a cart's hold that was to end now."""
        name = _cart(reservation)
        home = self._slots.home(name)
        async for _ in Passes():
            now, given = await self.given(home, reservation)
            if now.state == "none":
                await self._install.refuse_empty([name])
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

    async def given(self, slot: Slot, reservation: UUID | None) -> tuple[CartHold, dict[str, int]]:
        """A cart's hold as it stands, and the units it gives up to whoever takes its place."""
        if reservation is None:
            return CartHold("", "none", 0), {}
        name = _cart(reservation)
        with answering:
            hold = await self._redis.hgetall(slot.hold(name))
        state = hold.get("state", "none")
        given = dict(held(hold)) if state == "held" else {}
        return CartHold(name, state, int(hold.get("ver", 0))), given


def _cart(reservation: UUID) -> str:
    return f"{CART}{reservation}"


def _refuse_ended(state: str) -> None:
    if state == "none":
        raise UnknownHold
    if state == "taken":
        raise HoldTaken
    if state != "held":
        raise HoldOver


def _shortage(text: str) -> dict[str, object]:
    sku, requested, available = text.split(":")
    return {"sku": sku, "requested": int(requested), "available": int(available)}
